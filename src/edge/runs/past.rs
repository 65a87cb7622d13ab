//! Runs that are over: their verdicts, the history of a subject and of the base path, and when they are forgotten.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use camino::Utf8Path;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{
    CLEARED, Error, Mark, RECORD_LIMIT, io_error, make_dirs, names, read_marks, read_verdict,
    remove, settle_cleared,
};
use crate::core::History;
use crate::core::history::{Past, in_order};
use crate::core::layout::{Layout, MARKS, RunDir, parse_subject_dir, subject_dir};
use crate::core::model::{Millis, Moment, RunId, RunSubject, TaskId, Timestamp};
use crate::core::record::{FORMAT, FileVerdict, Verdict, VerdictRecord};
use crate::edge::{clock, files, kill_point};

/// history.jsonl begins anew at this size, one older one is kept: some ten thousand verdicts each. Runs of open tasks keep their own
/// verdicts; this file only informs.
const TURN_OVER: u64 = 16 << 20;
/// How far back [`finish`] looks for the line of a run whose finishing was cut short.
const TAIL: usize = 100;
/// So many subjects' records are read by one thread in a few milliseconds.
const SHARE: usize = 250;

/// Has any of a verdict's finishing been done before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finishing {
    /// By whoever has just made the verdict: nobody else can have begun.
    First,
    /// Perhaps: the verdict was found on disk.
    Again,
}

/// Finishes a verdict that is durable: links it to the other tasks it touched, appends its line to history.jsonl, and ends the
/// run's entry in live/, which is last: until then the next daemon does all of it again, and each step bears being repeated.
pub fn finish(
    layout: &Layout,
    dir: &RunDir,
    verdict: &VerdictRecord,
    finishing: Finishing,
) -> Result<(), Error> {
    let own = layout.run(dir).verdict();
    for touched in &verdict.tasks {
        let task = touched.key.id;
        if RunSubject::Task(task) == dir.id.subject {
            continue;
        }
        make_dirs(&layout.subject_runs(RunSubject::Task(task)))?;
        let link = layout.touched_by(task, dir);
        match std::fs::hard_link(&own, &link) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("link", &link)(error)),
        }
        kill_point::reach("finish:linked");
    }
    let path = layout.history();
    let is_written = finishing == Finishing::Again
        && last::<Told>(&path, TAIL, Timestamp(i64::MIN))?
            .iter()
            .any(|line| line.run == verdict.run && line.judged == verdict.judged);
    if !is_written {
        if files::is_larger(&path, TURN_OVER) {
            files::turn_over(&path).map_err(io_error("turn over", &path))?;
        }
        let line = serde_json::to_string(verdict)
            .map_err(|error| io_error("write", &path)(error.into()))?;
        // A power cut may have torn the last line; ours must not become its continuation.
        let line = if ends_in_newline(&path)? {
            line
        } else {
            format!("\n{line}")
        };
        kill_point::reach("finish:before-history");
        files::append_line(&path, &line, 0o644).map_err(io_error("append to", &path))?;
        kill_point::reach("finish:history-told");
    }
    // What killed writers left behind: nobody writes a record of this run any more, and nobody but its caller the marks.
    for folder in [layout.run(dir).dir, layout.subject_runs(dir.id.subject)] {
        for name in names(&folder)?.iter().filter(|n| files::is_temporary(n)) {
            let path = folder.join(name);
            if files::name_of_temporary(name) == Some(CLEARED) {
                settle_cleared(layout, dir, &path)?;
            } else {
                remove(&path)?;
            }
        }
    }
    kill_point::reach("finish:half-written-gone");
    remove(&layout.live_entry(dir))?;
    kill_point::reach("finish:entry-removed");
    Ok(())
}

/// The subjects' records, of which one look may ask for ten thousand: most have none, which one call tells of each.
#[derive(Debug)]
pub struct Recorded<'a> {
    layout: &'a Layout,
    /// None where there is no runs/ yet.
    runs: Option<files::Folder>,
}

impl<'a> Recorded<'a> {
    /// Those below `layout`'s runs/.
    pub fn open(layout: &'a Layout) -> Result<Self, Error> {
        let path = layout.runs();
        let runs = match files::Folder::open(&path) {
            Ok(runs) => Some(runs),
            Err(error) if files::is_absent(&error) => None,
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        Ok(Self { layout, runs })
    }

    /// As [`history`] of each, in any order. Thousands, which is what a look at everything asks for first, are shared among the machine's
    /// cores: each is a handful of system calls.
    pub fn histories(
        &self,
        subjects: &[(RunSubject, Earlier)],
    ) -> Vec<(RunSubject, Result<Read, Error>)> {
        let read = |(subject, earlier): &(RunSubject, Earlier)| {
            (*subject, self.history(*subject, earlier))
        };
        if subjects.len() <= SHARE {
            return subjects.iter().map(read).collect();
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = subjects.len().div_ceil(cores).max(SHARE);
        let mut shares = subjects.chunks(share);
        let own = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let read = &read;
            let others: Vec<_> = shares
                .map(|share| {
                    let work = move || share.iter().map(read).collect::<Vec<_>>();
                    (share, std::thread::Builder::new().spawn_scoped(scope, work))
                })
                .collect();
            let mut all: Vec<_> = own.iter().map(read).collect();
            for (share, other) in others {
                match other {
                    Ok(other) => all.extend(other.join().expect("reading does not panic")),
                    // No more threads for this user.
                    Err(_) => all.extend(share.iter().map(read)),
                }
            }
            all
        })
    }

    fn history(&self, subject: RunSubject, earlier: &Earlier) -> Result<Read, Error> {
        let Some(runs) = &self.runs else {
            return Ok(Read::default());
        };
        let name = subject_dir(subject);
        // Before it is read: what happens afterwards has another stamp.
        let stamp = runs.stamp(&name);
        let mark = stamp.as_ref().map(Mark::of);
        if let Earlier::Indexed(indexed, packed) = earlier
            && Some(*indexed) == mark
        {
            let past = Past::from_packed(packed.clone());
            return Ok(Read { past, mark });
        }
        let path = self.layout.subject_runs(subject);
        let folder = match runs.below(&name) {
            Ok(Some(folder)) => folder,
            Ok(None) => return Ok(Read::default()),
            Err(error) => {
                super::no_link(&path)?;
                return Err(io_error("list", &path)(error));
            }
        };
        let verdict = |name: &Utf8Path, whose: &dyn Fn() -> String| {
            let open = folder.open_regular(name);
            let bytes = open.and_then(|file| files::read_all(&file, RECORD_LIMIT));
            let verdict: Option<VerdictRecord> = super::record(bytes, &path.join(name), whose)?;
            Ok(verdict.map(Arc::new))
        };
        let known: HashMap<RunId, &Arc<VerdictRecord>> = match earlier {
            Earlier::Known(past) => {
                let verdicts = past.verdicts.iter();
                verdicts.map(|verdict| (verdict.run, verdict)).collect()
            }
            Earlier::Indexed(..) | Earlier::Nothing => HashMap::new(),
        };
        let (mut verdicts, mut last_run, mut is_marked) = (Vec::new(), 0, false);
        let mut is_settled = stamp.is_some_and(|stamp| !stamp.is_fresh(clock::wall()));
        for name in folder.names().map_err(io_error("list", &path))? {
            let name = super::printable(&name);
            is_marked |= name == MARKS;
            if let Some(dir) = RunDir::parse_dir(subject, &name) {
                last_run = last_run.max(dir.id.number);
                let judged = match known.get(&dir.id).filter(|v| v.queue == dir.queue) {
                    Some(verdict) => Some(Arc::clone(verdict)),
                    None => verdict(&dir.verdict_below_subject(), &|| dir.id.to_string())?,
                };
                is_settled &= judged.is_some();
                verdicts.extend(judged);
            } else if is_link_name(&name) {
                verdicts.extend(verdict(name.as_str().into(), &|| {
                    format!("{subject}/{name}")
                })?);
            }
        }
        let marks = if is_marked {
            read_marks(self.layout, subject)?
        } else {
            None
        };
        let history = History {
            verdicts: in_order(subject, verdicts),
            marks: marks.unwrap_or_default(),
            last_run,
        };
        Ok(Read {
            past: history.into(),
            mark: mark.filter(|_| is_settled),
        })
    }
}

/// What was known of a subject's history before it is read.
#[derive(Debug)]
pub enum Earlier {
    Nothing,
    /// A verdict is written once, so only those that are not in it are read.
    Known(Past),
    /// By the index, which may be older than what has happened since.
    Indexed(Mark, Bytes),
}

/// A subject's history.
#[derive(Debug, Default)]
pub struct Read {
    pub past: Past,
    /// As long as the folder of its runs is as it was, nothing is added: for the index. None where that cannot be told.
    pub mark: Option<Mark>,
}

/// Verdicts of a subject's own runs and of others' that touched it, oldest first; marks; the highest run number there is. Empty where
/// nothing is on record.
pub fn history(layout: &Layout, subject: RunSubject) -> Result<Past, Error> {
    let read = Recorded::open(layout)?.history(subject, &Earlier::Nothing)?;
    Ok(read.past)
}

fn is_link_name(name: &str) -> bool {
    name.starts_with("by-") && name.ends_with(".json")
}

/// All run directories of a subject, in order.
pub fn list_runs(layout: &Layout, subject: RunSubject) -> Result<Vec<RunDir>, Error> {
    let mut runs: Vec<RunDir> = names(&layout.subject_runs(subject))?
        .iter()
        .filter_map(|name| RunDir::parse_dir(subject, name))
        .collect();
    runs.sort();
    Ok(runs)
}

/// Subjects that have runs, or were touched by one.
pub fn subjects(layout: &Layout) -> Result<Vec<RunSubject>, Error> {
    let mut subjects: Vec<RunSubject> = names(&layout.runs())?
        .iter()
        .filter_map(|name| parse_subject_dir(name))
        .collect();
    subjects.sort();
    Ok(subjects)
}

/// What sums over many verdicts need of each.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    pub format: u32,
    pub run: RunId,
    pub judged: Moment,
    pub tasks: Vec<ToldTask>,
    /// Is there one?
    pub failure: Option<IgnoredAny>,
    pub cost: Option<f64>,
}

/// See [`Told`].
#[derive(Debug, Clone, Deserialize)]
pub struct ToldTask {
    pub verdict: Verdict,
}

/// A verdict's line in history.jsonl, or as much of it as is wanted.
trait Line: DeserializeOwned {
    fn about(&self) -> (u32, RunId, &Moment);
}

impl Line for VerdictRecord {
    fn about(&self) -> (u32, RunId, &Moment) {
        (self.format, self.run, &self.judged)
    }
}

impl Line for Told {
    fn about(&self) -> (u32, RunId, &Moment) {
        (self.format, self.run, &self.judged)
    }
}

impl From<VerdictRecord> for Told {
    fn from(record: VerdictRecord) -> Self {
        let tasks = record.tasks.into_iter();
        Self {
            format: record.format,
            run: record.run,
            judged: record.judged,
            tasks: tasks
                .map(|task| ToldTask {
                    verdict: task.verdict,
                })
                .collect(),
            failure: record.failure.map(|_| IgnoredAny),
            cost: record.cost,
        }
    }
}

/// The verdicts from `since` on, at most the last `limit`, oldest first, from history.jsonl; when that is gone, from runs/.
pub fn told_since(layout: &Layout, since: Timestamp, limit: usize) -> Result<Vec<Told>, Error> {
    let mut told: Vec<Told> = if has_history(layout)? {
        last(&layout.history(), limit, since)?
    } else {
        let all = recent(layout, limit)?;
        all.into_iter().map(Told::from).collect()
    };
    told.retain(|told| told.judged.wall >= since);
    Ok(told)
}

/// Is there a history.jsonl, or one that was turned over?
fn has_history(layout: &Layout) -> Result<bool, Error> {
    let path = layout.history();
    for written in [&path, &files::turned_over(&path)] {
        let found = files::identity(written).map_err(io_error("look at", written))?;
        if found.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The last `limit` verdicts, oldest first, from history.jsonl; when that is gone it is made anew from runs/.
pub fn recent(layout: &Layout, limit: usize) -> Result<Vec<VerdictRecord>, Error> {
    if has_history(layout)? {
        return last(&layout.history(), limit, Timestamp(i64::MIN));
    }
    let mut all = Vec::new();
    for subject in subjects(layout)? {
        for dir in list_runs(layout, subject)? {
            all.extend(read_verdict(layout, &dir)?);
        }
    }
    all.sort_by_key(|verdict| (verdict.judged.wall, verdict.run));
    let from = all.len().saturating_sub(limit);
    all.drain(..from);
    Ok(all)
}

/// The last `limit` verdicts, oldest first, of a file that is turned over; as far as back to `since`, and perhaps some older ones.
fn last<T: Line>(path: &Utf8Path, limit: usize, since: Timestamp) -> Result<Vec<T>, Error> {
    let newer: Vec<T> = tail(path, limit, since)?;
    let is_older = |first: &T| first.about().2.wall < since;
    if newer.len() == limit || newer.first().is_some_and(is_older) {
        return Ok(newer);
    }
    let mut all = tail(&files::turned_over(path), limit - newer.len(), since)?;
    all.extend(newer);
    Ok(all)
}

/// Reads lines from the end in blocks until there are `limit` verdicts, or one from before `since`. Lines that are torn or foreign are
/// skipped, and of two lines for one verdict one counts.
fn tail<T: Line>(path: &Utf8Path, limit: usize, since: Timestamp) -> Result<Vec<T>, Error> {
    const BLOCK: u64 = 64 << 10;
    // Grows within a line, so that a long one is not copied once for each block of it.
    let mut block = BLOCK;
    let mut file = match files::open_regular(path) {
        Ok(file) => file,
        Err(error) if files::is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let mut start = file
        .seek(SeekFrom::End(0))
        .map_err(io_error("read", path))?;
    let mut newest_first: Vec<T> = Vec::new();
    let mut is_enough = false;
    let mut known = HashSet::new();
    // What was read of the line that began before `start`.
    let mut rest: Vec<u8> = Vec::new();
    while newest_first.len() < limit && start > 0 && !is_enough {
        let from = start.saturating_sub(block);
        let mut bytes = Vec::with_capacity((start - from) as usize + rest.len());
        file.seek(SeekFrom::Start(from))
            .and_then(|_| (&mut file).take(start - from).read_to_end(&mut bytes))
            .map_err(io_error("read", path))?;
        start = from;
        bytes.append(&mut rest);
        let complete = if from == 0 {
            Some(&bytes[..])
        } else {
            // The first piece may lack its beginning; a line beyond any record's size is given up.
            let mut pieces = bytes.splitn(2, |&byte| byte == b'\n');
            rest = pieces.next().unwrap_or_default().to_vec();
            if rest.len() as u64 > RECORD_LIMIT {
                rest.clear();
            }
            pieces.next()
        };
        block = if complete.is_none() { block * 2 } else { BLOCK };
        // All at once: thousands of lines are found, and read, more quickly in what is known to be UTF-8; and that is known more quickly
        // where nothing is to be replaced.
        let complete = complete.unwrap_or_default();
        let complete = str::from_utf8(complete)
            .map_or_else(|_| String::from_utf8_lossy(complete), Cow::Borrowed);
        for line in complete.rsplit('\n') {
            if newest_first.len() == limit {
                break;
            }
            // A newer line is skipped as a foreign one: history only informs; the run's own records are what refuses.
            let Ok(verdict) = serde_json::from_str::<T>(line) else {
                continue;
            };
            let (format, run, judged) = verdict.about();
            is_enough |= judged.wall < since;
            let is_known = |known: &mut HashSet<_>| !known.insert((run, judged.wall, judged.boot));
            if format <= FORMAT && !is_known(&mut known) {
                newest_first.push(verdict);
            }
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

fn ends_in_newline(path: &Utf8Path) -> Result<bool, Error> {
    let ends = || -> io::Result<bool> {
        let mut file = files::open_regular(path)?;
        if file.seek(SeekFrom::End(0))? == 0 {
            return Ok(true);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last == *b"\n")
    };
    match ends() {
        Err(error) if files::is_absent(&error) => Ok(true),
        other => other.map_err(io_error("read", path)),
    }
}

/// Forgets runs of closed tasks: those older than `keep`, and the oldest beyond `keep_per_subject`. Never one with an entry in
/// live/, never one of an open task, never one whose verdict on a file in inbound/ `still_tells` something. Returns how many run
/// directories went.
pub fn prune(
    layout: &Layout,
    now: Timestamp,
    keep: Millis,
    keep_per_subject: usize,
    is_open: impl Fn(TaskId) -> bool,
    still_tells: impl Fn(&FileVerdict) -> bool,
) -> Result<usize, Error> {
    let (live, _) = super::list_live(layout)?;
    let mut gone = 0;
    for subject in subjects(layout)? {
        if subject.task().is_some_and(&is_open) {
            continue;
        }
        let folder = layout.subject_runs(subject);
        // What lies behind a link is not ours to remove.
        if folder.is_symlink() {
            continue;
        }
        let runs = list_runs(layout, subject)?;
        let beyond = runs.len().saturating_sub(keep_per_subject);
        // One that cannot be read may tell it too.
        let is_needed = |dir: &RunDir| match read_verdict(layout, dir) {
            Ok(Some(verdict)) => verdict.files.iter().any(&still_tells),
            Ok(None) => false,
            Err(_) => true,
        };
        for (place, dir) in runs.iter().enumerate() {
            let paths = layout.run(dir);
            // The last inbound run stays, as the next one's number follows from it.
            if subject == RunSubject::Inbound && (place + 1 == runs.len() || is_needed(dir)) {
                continue;
            }
            let is_old = age(&paths.verdict(), now)
                .or_else(|| age(&paths.dir, now))
                .is_some_and(|age| age > keep);
            if (place < beyond || is_old) && !live.contains(dir) {
                kill_point::reach("prune:before-run");
                std::fs::remove_dir_all(&paths.dir).map_err(io_error("remove", &paths.dir))?;
                kill_point::reach("prune:run-gone");
                gone += 1;
            }
        }
        for name in names(&folder)?.iter().filter(|name| is_link_name(name)) {
            let link = folder.join(name);
            if age(&link, now).is_some_and(|age| age > keep) {
                remove(&link)?;
            }
        }
        // Marks say nothing once no run is left for them to be about. rmdir(2) refuses a folder that holds anything else.
        if subject.task().is_some() && names(&folder)? == [MARKS] {
            remove(&layout.marks(subject))?;
            kill_point::reach("prune:marks-gone");
        }
        std::fs::remove_dir(&folder).ok();
    }
    Ok(gone)
}

fn age(path: &Utf8Path, now: Timestamp) -> Option<Millis> {
    let modified = std::fs::symlink_metadata(path).ok()?.modified().ok()?;
    let since_epoch = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(now.since(Timestamp(since_epoch.as_millis() as i64)))
}
