//! The past of one subject, in few bytes until somebody asks for more than its gist.
//!
//! A look meets the past of each task it sees, which may be ten thousand, and most of them wait for something that has nothing to do with
//! theirs.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::History;
use crate::core::model::RunSubject;
use crate::core::record::{Marks, TaskVerdict, VerdictRecord, Write};

/// A [`History`]: cloned without a copy, and unpacked when it is first used as one.
#[derive(Clone, Default)]
pub struct Past(Arc<Form>);

#[derive(Default)]
struct Form {
    /// As postcard writes it: the gist, then the rest. None: `whole` is what there is.
    packed: Option<Bytes>,
    whole: OnceLock<Box<History>>,
}

/// What is wanted of each task's past, whatever the task waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gist {
    /// Of the tasks of this number that the verdicts are about, when the oldest and the youngest were created: seconds since 1970.
    pub born: Option<(i64, i64)>,
    /// The last verdict on the task parked it.
    pub is_parked: bool,
}

impl Gist {
    fn of(subject: RunSubject, history: &History) -> Self {
        let entries = |record| entries_about(record, subject);
        let of_all = history.verdicts.iter().flat_map(|record| entries(record));
        let born = of_all.map(|entry| entry.key.created_at);
        let last = history.verdicts.last();
        let last = last.and_then(|record| entries(record).next());
        Self {
            born: born.clone().min().zip(born.max()),
            is_parked: last.is_some_and(|entry| matches!(entry.write, Some(Write::Park { .. }))),
        }
    }
}

fn entries_about(
    record: &VerdictRecord,
    subject: RunSubject,
) -> impl Iterator<Item = &TaskVerdict> + Clone {
    let entries = record.tasks.iter();
    entries.filter(move |entry| subject == RunSubject::Task(entry.key.id))
}

impl Past {
    /// Of what [`packed`](Self::packed) gave, in this very program; nothing, of any other bytes.
    pub fn from_packed(packed: Bytes) -> Self {
        Self(Arc::new(Form {
            packed: Some(packed),
            whole: OnceLock::new(),
        }))
    }

    /// Nothing is on record.
    pub fn is_empty(&self) -> bool {
        match &self.0.packed {
            Some(packed) => packed.is_empty(),
            None => **self == History::default(),
        }
    }

    /// Without unpacking the rest.
    pub fn gist(&self, subject: RunSubject) -> Gist {
        match &self.0.packed {
            Some(packed) => postcard::take_from_bytes(packed)
                .map(|(gist, _)| gist)
                .unwrap_or_default(),
            None => Gist::of(subject, self),
        }
    }

    /// In few bytes; in none, where nothing is on record.
    pub fn packed(&self, subject: RunSubject) -> Cow<'_, [u8]> {
        if let Some(packed) = &self.0.packed {
            return Cow::Borrowed(packed);
        }
        if self.is_empty() {
            return Cow::default();
        }
        let verdicts: Vec<&VerdictRecord> = self.verdicts.iter().map(AsRef::as_ref).collect();
        let whole = (
            Gist::of(subject, self),
            verdicts,
            &self.marks,
            self.last_run,
        );
        // Into memory, and of shapes that have no maps and no floats in keys.
        Cow::Owned(postcard::to_allocvec(&whole).expect("a history can be written"))
    }

    /// The same in few bytes; `None` where it is that already, and no more.
    pub fn repacked(&self, subject: RunSubject) -> Option<Self> {
        self.0.whole.get()?;
        let packed = Bytes::from(self.packed(subject).into_owned());
        Some(Self::from_packed(packed))
    }

    /// To be changed, for this holder alone.
    pub fn make_mut(&mut self) -> &mut History {
        *self = Self::from(History::clone(self));
        let form = Arc::get_mut(&mut self.0);
        (form.and_then(|form| form.whole.get_mut())).expect("it was made whole right here")
    }
}

impl From<History> for Past {
    fn from(history: History) -> Self {
        Self(Arc::new(Form {
            packed: None,
            whole: OnceLock::from(Box::new(history)),
        }))
    }
}

impl Deref for Past {
    type Target = History;
    fn deref(&self) -> &History {
        let packed = self.0.packed.as_deref().unwrap_or_default();
        (self.0.whole).get_or_init(|| Box::new(unpack(packed).unwrap_or_default()))
    }
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

fn unpack(packed: &[u8]) -> Option<History> {
    let (_, verdicts, marks, last_run): (Gist, Vec<VerdictRecord>, Marks, u32) =
        postcard::from_bytes(packed).ok()?;
    Some(History {
        verdicts: verdicts.into_iter().map(Into::into).collect(),
        marks,
        last_run,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::given::{history, id};

    fn subject() -> RunSubject {
        RunSubject::Task(id(7))
    }

    #[test]
    fn it_is_the_same_after_it_was_packed() {
        let past = Past::from(history());
        let packed = past.repacked(subject()).expect("it was whole");
        assert!(packed.repacked(subject()).is_none(), "nobody has used it");
        let bytes = packed.packed(subject()).into_owned();
        assert!(bytes.len() < 1000, "{}", bytes.len());
        assert_eq!(*packed, history());
        let again = packed.repacked(subject()).expect("it was used");
        assert_eq!(*again.packed(subject()), bytes);

        let none = Past::default();
        assert!(none.is_empty() && none.packed(subject()).is_empty());
        let none = Past::from_packed(Bytes::new());
        assert!(none.is_empty());
        assert_eq!(*none, History::default());
    }

    #[test]
    fn what_is_changed_is_a_copy() {
        let shown = Past::from(history()).repacked(subject()).expect("whole");
        let mut changed = shown.clone();
        changed.make_mut().verdicts.clear();
        assert_eq!(changed.gist(subject()), Gist::default());
        assert_eq!(*shown, history());
    }

    #[test]
    fn its_gist_is_that_of_the_whole() {
        let mut parked = history();
        let other = Arc::make_mut(&mut parked.verdicts[0]);
        other.tasks[0].key.created_at -= 5;
        let last = Arc::make_mut(&mut parked.verdicts[1]);
        let created_at = last.tasks[0].key.created_at;
        let mut besides = last.tasks[0].clone();
        besides.key.id = id(8);
        besides.key.created_at = 1;
        last.tasks.insert(0, besides);
        last.tasks[1].write = Some(Write::Park {
            comment: "why".into(),
            put_back: false,
        });
        let gist = Gist {
            born: Some((created_at - 5, created_at)),
            is_parked: true,
        };
        for history in [parked, history(), History::default()] {
            let whole = Past::from(history);
            let packed = whole.repacked(subject()).expect("whole");
            assert_eq!(packed.gist(subject()), whole.gist(subject()));
            if !whole.is_empty() && whole.gist(subject()).is_parked {
                assert_eq!(whole.gist(subject()), gist);
            } else {
                assert!(!whole.gist(subject()).is_parked);
            }
        }
    }

    #[test]
    fn of_foreign_bytes_it_is_empty() {
        let past = Past::from_packed(Bytes::from_static(b"\xff\xff\xff\xff\xff\xff"));
        assert_eq!(past.gist(subject()), Gist::default());
        assert_eq!(*past, History::default());
    }
}
