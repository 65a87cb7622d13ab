//! `.calypso/index`: the past of the open tasks, packed, so that whoever starts reads a record only where something happened since.
//!
//! The index is a cache and never the truth. An entry counts as long as the folder of its subject's runs is as it was before that was
//! read. A run that begins, one that touched the subject, and a person's word each make or replace a name in that folder, and the
//! verdict of a run that is on its way there is waited for: no entry is made before it. So is one whose folder changed too lately for
//! its times to tell (`Stamp::is_fresh`). Nobody waits for the index to reach the disk: what is torn, foreign or of another version of
//! this program counts as none.
//!
//! Interleaving survived: the daemon reads a subject's past, a run of it begins and ends, and the index is written. The entry has the
//! stamp from before, the folder another one, so its reader reads the records.

use std::hash::Hasher as _;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::Error;
use crate::core::history::Past;
use crate::core::layout::Layout;
use crate::core::model::{RunSubject, TaskId};
use crate::edge::files::{self, Durability, Stamp};

/// An index beyond this size is none: that of a hundred thousand tasks has a quarter of it.
const LARGEST: u64 = 128 << 20;
/// What an index begins with, before its digest.
const MAGIC: &[u8; 16] = b"calypso index 1\n";

/// The folder of a subject's runs as it was before it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    inode: u64,
    /// Nanoseconds since 1970: no change leaves it as it is, and nobody can set it (inode(7)).
    changed: i64,
}

impl Mark {
    pub(super) fn of(stamp: &Stamp) -> Self {
        let (inode, changed) = stamp.inode_and_change();
        Self { inode, changed }
    }
}

/// What the index tells of each task: its past, packed.
#[derive(Debug, Default)]
pub struct Index(Vec<(TaskId, Mark, Bytes)>);

impl Index {
    /// It tells of no task.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it tells of this task.
    pub fn of(&self, id: TaskId) -> Option<(Mark, &Bytes)> {
        let found = self.0.binary_search_by_key(&id, |(id, ..)| *id).ok()?;
        let (_, mark, packed) = self.0.get(found)?;
        Some((*mark, packed))
    }
}

impl IntoIterator for Index {
    type Item = (TaskId, Mark, Bytes);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The index; an empty one where there is none that counts. Its pasts share the memory of the file.
pub fn read_index(layout: &Layout) -> Index {
    let bytes = files::read_bounded(&layout.index(), LARGEST).unwrap_or_default();
    parse(&bytes.into()).unwrap_or_default()
}

/// Replaces the index; its entries are in the order of their tasks.
pub fn write_index<'a>(
    layout: &Layout,
    entries: impl Iterator<Item = (RunSubject, Mark, &'a Past)>,
) -> Result<(), Error> {
    let mut body = version().to_le_bytes().to_vec();
    for (subject, mark, past) in entries {
        let Some(id) = subject.task() else { continue };
        let packed = past.packed(subject);
        body.extend(id.number().to_le_bytes());
        body.extend(mark.inode.to_le_bytes());
        body.extend(mark.changed.to_le_bytes());
        body.extend((packed.len() as u64).to_le_bytes());
        body.extend(&*packed);
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(digest(&body).to_le_bytes());
    bytes.append(&mut body);
    let path = layout.index();
    files::replace(&path, &bytes, 0o644, Durability::Crash).map_err(super::io_error("write", &path))
}

fn parse(bytes: &Bytes) -> Option<Index> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let digest_told = number(&mut rest)?;
    if digest(rest) != digest_told || number(&mut rest)? != version() {
        return None;
    }
    let mut entries: Vec<(TaskId, Mark, Bytes)> = Vec::new();
    while !rest.is_empty() {
        let id = TaskId::try_from(number(&mut rest)?.cast_signed()).ok()?;
        let mark = Mark {
            inode: number(&mut rest)?,
            changed: number(&mut rest)?.cast_signed(),
        };
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let (packed, others) = rest.split_at_checked(length)?;
        entries.push((id, mark, bytes.slice_ref(packed)));
        rest = others;
    }
    entries
        .is_sorted_by_key(|(id, ..)| *id)
        .then_some(Index(entries))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(u64::from_le_bytes(*first))
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Which program's shapes these are: bytes of postcard do not tell. Any other build counts as another.
fn version() -> u64 {
    static VERSION: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *VERSION.get_or_init(|| {
        let program = Stamp::of("/proc/self/exe");
        digest(format!("{program:?}").as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Earlier, Read, Recorded};
    use super::*;
    use crate::core::given::{history, id};
    use crate::core::layout::RunDir;
    use crate::core::record::VerdictRecord;
    use crate::edge::clock;

    #[test]
    fn an_index_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let base = camino::Utf8Path::from_path(dir.path()).expect("UTF-8");
        let layout = Layout::new(base);
        std::fs::create_dir(layout.state()).expect("a folder");
        assert!(read_index(&layout).is_empty());
        let past = Past::from(history());
        let mark = Mark {
            inode: 5,
            changed: -3,
        };
        let entries = [
            RunSubject::Task(id(7)),
            RunSubject::Inbound,
            RunSubject::Task(id(8)),
        ];
        let entries = entries.into_iter().map(|subject| (subject, mark, &past));
        write_index(&layout, entries).expect("written");
        let index = read_index(&layout);
        assert_eq!(index.0.len(), 2);
        assert!(index.of(id(8)).is_some() && index.of(id(9)).is_none());
        let (marked, packed) = index.of(id(7)).expect("it was written");
        assert_eq!(marked, mark);
        assert_eq!(*Past::from_packed(packed.clone()), history());

        let whole = std::fs::read(layout.index()).expect("it is there");
        for length in 0..whole.len() {
            let torn = Bytes::copy_from_slice(&whole[..length]);
            assert!(parse(&torn).is_none(), "{length} bytes");
        }
        for place in 0..whole.len() {
            let mut other = whole.clone();
            other[place] ^= 1;
            assert!(parse(&other.into()).is_none(), "byte {place}");
        }
    }

    /// A run's folder below runs/, with its verdict.
    fn write_run(layout: &Layout, verdict: &VerdictRecord) {
        let dir = RunDir {
            id: verdict.run,
            queue: verdict.queue.clone(),
        };
        std::fs::create_dir_all(layout.run(&dir).dir).expect("a folder");
        super::super::write_verdict(layout, &dir, verdict, Durability::Crash).expect("written");
    }

    /// Task 7's, once its folder is old enough to be told by its times.
    fn read(layout: &Layout, earlier: &dyn Fn() -> Earlier) -> Read {
        let began = clock::monotonic();
        loop {
            let recorded = Recorded::open(layout).expect("runs/");
            let subject = RunSubject::Task(id(7));
            let mut read = recorded.histories(&[(subject, earlier())]);
            let read = read.remove(0).1.expect("readable");
            if read.mark.is_some() || clock::monotonic() > began + Duration::from_secs(5) {
                return read;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_the_index_tells_counts_until_something_happens_to_the_task() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let base = camino::Utf8Path::from_path(dir.path()).expect("UTF-8");
        let layout = Layout::new(base);
        let [first, second] = &history().verdicts[..] else {
            panic!("two were given");
        };
        write_run(&layout, first);
        let before = read(&layout, &|| Earlier::Nothing);
        assert_eq!(before.past.verdicts, [Arc::clone(first)]);
        let mark = before.mark.expect("told by its times");
        // Another history, to see which of the two is believed.
        let packed = Past::from(history())
            .packed(RunSubject::Task(id(7)))
            .into_owned();
        let indexed = || Earlier::Indexed(mark, packed.clone().into());
        assert_eq!(*read(&layout, &indexed).past, history());

        // A run begins: its verdict is still to come, so this is nothing for an index.
        let subject = layout.subject_runs(RunSubject::Task(id(7)));
        std::fs::create_dir(subject.join("0002-coder")).expect("a folder");
        let recorded = Recorded::open(&layout).expect("runs/");
        let now = recorded.histories(&[(RunSubject::Task(id(7)), indexed())]);
        let Ok(now) = &now[0].1 else {
            panic!("{now:?}");
        };
        assert_eq!((now.past.verdicts.len(), now.past.last_run), (1, 2));
        assert_eq!(now.mark, None);
        write_run(&layout, second);
        let now = read(&layout, &indexed);
        assert_eq!(now.past.verdicts, history().verdicts);
        assert!(now.mark.is_some_and(|now| now != mark));
    }
}
