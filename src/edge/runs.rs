//! Run directories and their records: created, written atomically, read without trust, listed, forgotten.
//!
//! A record has one writer (DESIGN: the daemon writes spec, ended, verdict and marks; the shim writes state and pid). Knows nothing of
//! processes; whether a lock is held is all it asks. Decides nothing: what a combination of records means is `core::verdict`.
//!
//! Known gap: a name cannot be unlinked by inode, so a pid file is first moved aside and looked at there; a person's own, which took
//! the name in that very moment, is moved back, and is out of sight for some microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::layout::{Layout, RunDir, parse_subject_dir};
use crate::core::model::{RunState, RunSubject, Timestamp};
use crate::core::record::{
    EndedRecord, FORMAT, Known, Marks, Spec, SpecHead, StateRecord, VerdictRecord,
};
use crate::core::{Observed, ObservedState};
use crate::edge::files::{self, Durability};
use crate::edge::kill_point::{self, is_planted};

mod blanks;
mod index;
mod past;
mod specs;

pub use blanks::Blanks;
pub use index::{Index, Mark, read_index, write_index};
pub use past::{
    Earlier, Finishing, Read, Recorded, Told, finish, history, list_runs, prune, recent, subjects,
    told_since,
};
pub use specs::Specs;

/// What is larger is no record: [`read`] does not take it, and so [`write()`] refuses it. A run over
/// [`MOST_REQUEST_BYTES`](crate::core::policy::MOST_REQUEST_BYTES) of requests stays below, with a good part to spare for tasks.
const RECORD_LIMIT: u64 = 128 << 20;
/// Records beyond this size are written without line breaks, little more than half as long: an agent waits for the spec that tells of
/// hundreds of tasks, and nobody reads it with `cat`.
const PRETTY_LIMIT: usize = 8 << 10;

/// What went wrong with a run's directory or records.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number is taken: look again.
    #[error("run `{run}` has a directory already")]
    AlreadyThere { run: String },
    /// Not to be touched by this version.
    #[error(
        "record of run `{run}` was written by a newer calypso-watch (format {format}, this one reads up to {FORMAT})"
    )]
    Newer { run: String, format: u32 },
    /// It could not be read again.
    #[error("`{path}` would be {} MiB, more than a record may have", bytes >> 20)]
    TooLarge { path: Utf8PathBuf, bytes: u64 },
    #[error("cannot {deed} `{path}`")]
    Io {
        deed: &'static str,
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The way out.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Newer { .. } => Some("use the newer calypso-watch, or another base path"),
            Self::TooLarge { .. } => {
                Some("complete or archive tasks of the queue, or move requests out of inbound/")
            }
            Self::AlreadyThere { .. } | Self::Io { .. } => None,
        }
    }
    /// The disk is full, a quota is reached, or it can only be read for now: trying again later may help.
    pub fn is_no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
    }
}

fn io_error(deed: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { deed, path, source }
}

/// D1: the entry in live/, the run directory, and its shim.lock, locked. Whoever gets the descriptor is the shim; while nobody
/// has it and a spec stands there, the shim is dead.
///
/// mkdir(2) is what claims the number: an entry in live/ without a directory is what a daemon leaves that was killed in between.
///
/// `blanks` are directories made ahead, of which one becomes this one where there are any.
pub fn create(layout: &Layout, dir: &RunDir, blanks: &mut Blanks) -> Result<OwnedFd, Error> {
    let entry = layout.live_entry(dir);
    let paths = layout.run(dir);
    make_dirs(&layout.live())?;
    make_dirs(&layout.subject_runs(dir.id.subject))?;
    // D1
    let is_new_entry = match blanks.enter(layout, &entry) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io_error("create", &entry)(error)),
    };
    kill_point::reach("D1:entry-made");
    if let Err(error) = blanks.become_dir(layout, &paths.dir) {
        if is_new_entry {
            std::fs::remove_file(&entry).ok();
        }
        return Err(if error.kind() == io::ErrorKind::AlreadyExists {
            Error::AlreadyThere {
                run: dir.id.to_string(),
            }
        } else {
            io_error("create", &paths.dir)(error)
        });
    }
    kill_point::reach("D1:folder-made");
    let path = paths.shim_lock();
    let lock = files::create_new(&path, 0o644).map_err(io_error("create", &path))?;
    kill_point::reach("D1:lock-made");
    if is_planted("no-lock") {
        return Ok(lock.into());
    }
    match files::try_lock(&lock) {
        Ok(true) => {
            kill_point::reach("D1:locked");
            Ok(lock.into())
        }
        Ok(false) => Err(Error::AlreadyThere {
            run: dir.id.to_string(),
        }),
        Err(error) => Err(io_error("lock", &path)(error)),
    }
}

/// D2: what the shim is to run.
pub fn write_spec(layout: &Layout, dir: &RunDir, spec: &Spec) -> Result<(), Error> {
    // D2
    let path = layout.run(dir).spec();
    write_by(&files::blank(&path, ""), &path, spec, Durability::Crash)
}

/// The shim's word on how far it has got.
pub fn write_state(
    layout: &Layout,
    dir: &RunDir,
    state: &StateRecord,
    durability: Durability,
) -> Result<(), Error> {
    let path = layout.run(dir).state();
    let step = match state.state {
        RunState::Starting => blanks::STARTING,
        RunState::Running { .. } => blanks::RUNNING,
        RunState::Ended { .. } => blanks::ENDED,
    };
    write_by(&files::blank(&path, step), &path, state, durability)
}

/// The daemon's word on an end that the shim could not record.
pub fn write_ended(layout: &Layout, dir: &RunDir, ended: &EndedRecord) -> Result<(), Error> {
    write(&layout.run(dir).ended(), ended, Durability::Crash)
}

/// The verdict; before its writes to tinytask, with [`Durability::PowerCut`].
pub fn write_verdict(
    layout: &Layout,
    dir: &RunDir,
    verdict: &VerdictRecord,
    durability: Durability,
) -> Result<(), Error> {
    let path = layout.run(dir).verdict();
    write_by(&files::blank(&path, ""), &path, verdict, durability)
}

/// What people said of a subject.
pub fn write_marks(layout: &Layout, subject: RunSubject, marks: &Marks) -> Result<(), Error> {
    make_dirs(&layout.subject_runs(subject))?;
    write(&layout.marks(subject), marks, Durability::PowerCut)
}

/// What tinytask last showed open.
pub fn write_known(layout: &Layout, known: &Known) -> Result<(), Error> {
    write(&layout.known(), known, Durability::Crash)
}

/// `None`: absent, empty or torn.
pub fn read_known(layout: &Layout) -> Result<Option<Known>, Error> {
    read(&layout.known(), || "known.json".into())
}

/// `None`: absent, empty or torn.
pub fn read_spec(layout: &Layout, dir: &RunDir) -> Result<Option<Spec>, Error> {
    read(&layout.run(dir).spec(), || dir.id.to_string())
}

/// The part of a spec that is short. `None` as above.
pub fn read_spec_head(layout: &Layout, dir: &RunDir) -> Result<Option<SpecHead>, Error> {
    read(&layout.run(dir).spec(), || dir.id.to_string())
}

/// `None`: absent, empty or torn.
pub fn read_state(layout: &Layout, dir: &RunDir) -> Result<Option<StateRecord>, Error> {
    read(&layout.run(dir).state(), || dir.id.to_string())
}

/// `None`: absent, empty or torn.
pub fn read_ended(layout: &Layout, dir: &RunDir) -> Result<Option<EndedRecord>, Error> {
    read(&layout.run(dir).ended(), || dir.id.to_string())
}

/// `None`: absent, empty or torn.
pub fn read_verdict(layout: &Layout, dir: &RunDir) -> Result<Option<VerdictRecord>, Error> {
    read(&layout.run(dir).verdict(), || dir.id.to_string())
}

/// `None`: nobody said anything.
pub fn read_marks(layout: &Layout, subject: RunSubject) -> Result<Option<Marks>, Error> {
    read(&layout.marks(subject), || format!("{subject}/marks.json"))
}

/// A run's spec and state, and what was observed with them at one moment.
#[derive(Debug)]
pub struct Seen {
    pub spec: Option<Arc<Spec>>,
    /// Only with the spec's token.
    pub state: Option<StateRecord>,
    /// Without `alive`, which is `edge::process`'s to say.
    pub observed: Observed,
}

/// Looks at one run while its shim goes on working.
///
/// The lock is asked first: when it is free the shim is dead and nothing below moves any more; when it is held and the shim dies
/// meanwhile, the next look says so. The state is read before and after the pid file: a shim that links the file and then writes
/// `running` (S5, S6) between our two reads would else look like a run whose pid file somebody removed, and one that writes `ended`
/// and then unlinks (X2, X3) likewise. Each state comes once, so the same one twice means it stood still in between.
pub fn observe(layout: &Layout, dir: &RunDir) -> Result<Seen, Error> {
    observe_again(layout, dir, &mut Specs::default())
}

/// [`observe`], for whoever looks at the same runs again and again.
pub fn observe_again(layout: &Layout, dir: &RunDir, specs: &mut Specs) -> Result<Seen, Error> {
    let paths = layout.run(dir);
    no_link(&layout.subject_runs(dir.id.subject))?;
    no_link(&paths.dir)?;
    let lock = paths.shim_lock();
    let shim = files::is_held_at(&lock).map_err(io_error("look at", &lock))?;
    let spec = specs.read(layout, dir)?;
    let mut before = read_state(layout, dir)?;
    let mut changes = 0;
    loop {
        let pid_file = is_own_pid_file(layout, dir)?;
        let after = read_state(layout, dir)?;
        let stood_still = kind(before.as_ref()) == kind(after.as_ref());
        // A shim's state changes three times at most; whoever plays with the file more often gets the answer of one moment.
        if !stood_still && changes < 3 {
            before = after;
            changes += 1;
            continue;
        }
        let state = after.filter(|state| {
            spec.as_ref()
                .is_some_and(|spec: &Arc<Spec>| spec.token == state.token)
        });
        return Ok(Seen {
            observed: Observed {
                spec: spec.is_some(),
                pid_file,
                shim,
                state: kind(state.as_ref()),
                alive: None,
            },
            spec,
            state,
        });
    }
}

fn kind(state: Option<&StateRecord>) -> ObservedState {
    match state.map(|record| &record.state) {
        None => ObservedState::None,
        Some(RunState::Starting) => ObservedState::Starting,
        Some(RunState::Running { .. }) => ObservedState::Running,
        Some(RunState::Ended { .. }) => ObservedState::Ended,
    }
}

/// Is the subject's pid file a link of this run's own?
pub fn is_own_pid_file(layout: &Layout, dir: &RunDir) -> Result<bool, Error> {
    let own = layout.run(dir).pid();
    let Some(ours) = files::identity(&own).map_err(io_error("look at", &own))? else {
        return Ok(false);
    };
    let shared = layout.pid_file(dir.id.subject);
    let there = files::identity(&shared).map_err(io_error("look at", &shared))?;
    Ok(there == Some(ours))
}

/// What a pid file that is being cleared is called in its run directory.
const CLEARED: &str = "cleared";

/// Removes the pid file if it is the run's own; `false` when it is another's, or gone.
///
/// Interleaving survived: the shim finds the file to be its own, and is stopped there. The daemon clears it and judges the run; the
/// next run of the task links its own, or a person writes one. Continued, the shim moves aside what now has the name, sees that it
/// is another's, and moves it back.
pub fn clear_pid_file(layout: &Layout, dir: &RunDir) -> Result<bool, Error> {
    if !is_own_pid_file(layout, dir)? && !is_planted("clear-any-pid-file") {
        return Ok(false);
    }
    let own = layout.run(dir).pid();
    let ours = files::identity(&own).map_err(io_error("look at", &own))?;
    let shared = layout.pid_file(dir.id.subject);
    // Beside `own`, which is on the same file system, or it could not be a link of it.
    let aside = files::temporary(&own.with_file_name(CLEARED));
    kill_point::reach("pid-file:is-ours");
    let removed = remove_if(&shared, &aside, || {
        Ok(files::identity(&aside)? == ours || is_planted("clear-any-pid-file"))
    })?;
    kill_point::reach("pid-file:removed");
    Ok(removed)
}

/// Removes what has this name if it is what it is taken for, which `is_it` is asked when nobody can exchange it any more: in
/// `aside`. Else it gets its name back, unless somebody has that by now.
fn remove_if(
    path: &Utf8Path,
    aside: &Utf8Path,
    is_it: impl FnOnce() -> io::Result<bool>,
) -> Result<bool, Error> {
    match std::fs::rename(path, aside) {
        Ok(()) => {}
        Err(error) if files::is_absent(&error) => return Ok(false),
        Err(error) => return Err(io_error("remove", path)(error)),
    }
    if is_it().map_err(io_error("look at", aside))? {
        return remove(aside);
    }
    match files::rename_new(aside, path) {
        Ok(()) => {}
        // Whoever wrote this one has been overtaken by another, as if that one had written over it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(remove(aside)?),
        Err(error) => return Err(io_error("put back", path)(error)),
    }
    Ok(false)
}

/// What a process that was killed while it cleared a run's pid file had moved aside: the run's own goes, another's gets its name back.
fn settle_cleared(layout: &Layout, dir: &RunDir, aside: &Utf8Path) -> Result<(), Error> {
    let own = layout.run(dir).pid();
    let identity = |path: &Utf8Path| files::identity(path).map_err(io_error("look at", path));
    if identity(aside)? != identity(&own)? {
        match files::rename_new(aside, &layout.pid_file(dir.id.subject)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            put_back => return put_back.map_err(io_error("put back", aside)),
        }
    }
    remove(aside).map(drop)
}

/// Can what the shim does at S5 be done here? Not across mounts, and not on every file system.
pub fn try_link(layout: &Layout) -> io::Result<()> {
    let own = files::temporary(&layout.state().join("link"));
    let shared = files::temporary(&layout.running_tasks().join("link"));
    for left in [&own, &shared] {
        std::fs::remove_file(left).ok();
    }
    files::create_new(&own, 0o644)?;
    let linked = std::fs::hard_link(&own, &shared);
    std::fs::remove_file(&own).ok();
    linked?;
    std::fs::remove_file(&shared)
}

/// Gives pid files their names back that a daemon had moved aside when it was killed: see [`clear_stranger`]. Called by the one
/// daemon there is, at its start.
pub fn restore_pid_files(layout: &Layout) -> Result<(), Error> {
    let folder = layout.running_tasks();
    for name in names(&folder)?.iter().filter(|n| files::is_temporary(n)) {
        let aside = folder.join(name);
        match files::name_of_temporary(name)
            .filter(|name| name.ends_with(".pid"))
            .map(|name| files::rename_new(&aside, &folder.join(name)))
        {
            Some(Ok(())) => {}
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("put back", &aside)(error));
            }
            // Another has the name by now; or it is what `try_link` left.
            Some(Err(_)) | None => drop(remove(&aside)?),
        }
    }
    Ok(())
}

/// Removes a stranger's pid file if it is still the one that was looked at.
///
/// Interleaving survived: between the look and here somebody starts an agent by hand and writes its pid into the file that is
/// there, or into a new one that got the same inode number. Either has another mtime.
pub fn clear_stranger(
    layout: &Layout,
    subject: RunSubject,
    inode: u64,
    modified: Timestamp,
) -> Result<bool, Error> {
    let path = layout.pid_file(subject);
    let is_it = |path: &Utf8Path| -> io::Result<bool> {
        let found = files::identity(path)?;
        let is_same = found.is_some_and(|(_, found)| found == inode);
        Ok(is_same && files::modified(path) == Some(modified))
    };
    if !is_it(&path).map_err(io_error("look at", &path))? {
        return Ok(false);
    }
    kill_point::reach("stranger:is-same");
    let aside = files::temporary(&path);
    remove_if(&path, &aside, || is_it(&aside))
}

/// A file of running_tasks/ with a pid file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    pub modified: Timestamp,
    pub inode: u64,
    /// Who wrote it.
    pub uid: u32,
    /// The number in it; else what is odd about it.
    pub pid: Result<i32, String>,
}

/// What lies in running_tasks/ besides pid files of `runs`, and the names there that mean nothing to us. They are read again only
/// when `names`, which are those of the look before, may be others by now.
pub fn foreign_pid_files(
    layout: &Layout,
    runs: &[RunDir],
    names: &mut files::Names,
    now: Timestamp,
) -> Result<(BTreeMap<RunSubject, PidFile>, Vec<String>), Error> {
    let ours: BTreeSet<(u64, u64)> = runs
        .iter()
        .filter_map(|dir| files::identity(&layout.run(dir).pid()).ok().flatten())
        .collect();
    let mut found = BTreeMap::new();
    let mut odd = Vec::new();
    let folder = layout.running_tasks();
    let names = match names.read(&folder, now) {
        Ok(names) => names,
        Err(error) if files::is_absent(&error) => &[],
        Err(error) => return Err(io_error("list", &folder)(error)),
    };
    for name in names.iter().map(|name| printable(name)) {
        let Some(subject) = name.strip_suffix(".pid").and_then(parse_subject_dir) else {
            // One that is being cleared is nobody's concern.
            if !files::is_temporary(&name) {
                odd.push(name);
            }
            continue;
        };
        let path = layout.pid_file(subject);
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if ours.contains(&(meta.dev(), meta.ino())) {
            continue;
        }
        found.insert(
            subject,
            PidFile {
                modified: Timestamp(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000),
                inode: meta.ino(),
                uid: meta.uid(),
                pid: read_pid(&path, &meta),
            },
        );
    }
    Ok((found, odd))
}

fn read_pid(path: &Utf8Path, meta: &std::fs::Metadata) -> Result<i32, String> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        return Err("a symlink".into());
    }
    if kind.is_dir() {
        return Err("a directory".into());
    }
    if !kind.is_file() {
        return Err("not a regular file".into());
    }
    if meta.len() > 64 {
        return Err(format!("{} bytes long, so it is no pid", meta.len()));
    }
    let bytes = files::read_bounded(path, 64).map_err(|error| format!("unreadable: {error}"))?;
    parse_pid(&bytes)
}

/// A pid file's content; else what is odd about it, printable. Strict: a number as kill(2) takes one, and white space around it.
/// `0` and negative numbers would mean process groups there.
pub fn parse_pid(bytes: &[u8]) -> Result<i32, String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    if text.is_empty() {
        return Err("empty".into());
    }
    match text.parse::<i32>() {
        Ok(pid) if pid > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(pid),
        _ => Err(format!("not a pid: `{}`", text.escape_debug())),
    }
}

/// Runs with an entry in live/, in order; and the names there that are none.
pub fn list_live(layout: &Layout) -> Result<(Vec<RunDir>, Vec<String>), Error> {
    let mut live = Vec::new();
    let mut odd = Vec::new();
    for name in names(&layout.live())? {
        let is_file = |dir: &RunDir| !layout.live_entry(dir).is_dir();
        match RunDir::parse_live(&name).filter(is_file) {
            Some(dir) => live.push(dir),
            None => odd.push(name),
        }
    }
    live.sort();
    Ok((live, odd))
}

/// Removes what a daemon left that was killed between D1 and D2: a directory without a spec, and its entry in live/. A spec
/// that was torn by a power cut ended its run too; then only the entry goes, and the directory stays for people to look at.
/// Nothing is removed while somebody holds shim.lock, or where there is a spec that can be read.
pub fn clear_litter(layout: &Layout, dir: &RunDir) -> Result<bool, Error> {
    let paths = layout.run(dir);
    let lock = paths.shim_lock();
    let spec = paths.spec();
    let is_held = files::is_held_at(&lock).map_err(io_error("look at", &lock))?;
    if is_held || read_spec(layout, dir)?.is_some() {
        return Ok(false);
    }
    if files::identity(&spec)
        .map_err(io_error("look at", &spec))?
        .is_some()
    {
        return remove(&layout.live_entry(dir));
    }
    for name in names(&paths.dir)? {
        if name == "shim.lock" || files::is_temporary(&name) {
            remove(&paths.dir.join(name))?;
            kill_point::reach("litter:file-removed");
        }
    }
    match std::fs::remove_dir(&paths.dir) {
        Ok(()) => {}
        Err(error) if files::is_absent(&error) => {}
        Err(error) => return Err(io_error("remove", &paths.dir)(error)),
    }
    kill_point::reach("litter:folder-removed");
    remove(&layout.live_entry(dir))?;
    kill_point::reach("litter:entry-removed");
    Ok(true)
}

/// Undoes D1 and D2 where no shim was started, and so none will be. `create`'s lock must be closed.
pub fn withdraw(layout: &Layout, dir: &RunDir) -> Result<(), Error> {
    remove(&layout.run(dir).spec())?;
    clear_litter(layout, dir)?;
    Ok(())
}

fn make_dirs(path: &Utf8Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(io_error("create", path))?;
    no_link(path)
}

/// Records are written and removed in folders of ours, never where a symlink in their place leads.
fn no_link(path: &Utf8Path) -> Result<(), Error> {
    if path.is_symlink() {
        let error = io::Error::new(io::ErrorKind::InvalidData, "a symlink: remove it");
        return Err(io_error("use", path)(error));
    }
    Ok(())
}

/// `false`: it was gone already.
fn remove(path: &Utf8Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if files::is_absent(&error) => Ok(false),
        Err(error) => Err(io_error("remove", path)(error)),
    }
}

/// The names in a directory, those that are not UTF-8 escaped; none in one that is not there.
fn names(dir: &Utf8Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if files::is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        names.push(printable(&name));
    }
    Ok(names)
}

fn printable(name: &OsStr) -> String {
    name.to_str().map_or_else(
        || name.as_encoded_bytes().escape_ascii().to_string(),
        str::to_owned,
    )
}

fn write<T: Serialize>(path: &Utf8Path, record: &T, durability: Durability) -> Result<(), Error> {
    write_by(&files::temporary(path), path, record, durability)
}

fn write_by<T: Serialize>(
    temporary: &Utf8Path,
    path: &Utf8Path,
    record: &T,
    durability: Durability,
) -> Result<(), Error> {
    let written = (|| {
        let mut bytes = serde_json::to_vec(record)?;
        if bytes.len() <= PRETTY_LIMIT {
            bytes = serde_json::to_vec_pretty(record)?;
        }
        bytes.push(b'\n');
        Ok(bytes)
    })();
    let bytes = written.map_err(io_error("write", path))?;
    let size = bytes.len() as u64;
    if size > RECORD_LIMIT {
        let path = path.to_owned();
        return Err(Error::TooLarge { path, bytes: size });
    }
    files::replace_by(temporary, path, &bytes, 0o644, durability).map_err(io_error("write", path))
}

fn read<T: DeserializeOwned>(
    path: &Utf8Path,
    run: impl FnOnce() -> String,
) -> Result<Option<T>, Error> {
    record(files::read_bounded(path, RECORD_LIMIT), path, run)
}

/// What became of reading the record at `path`.
fn record<T: DeserializeOwned>(
    bytes: io::Result<Vec<u8>>,
    path: &Utf8Path,
    run: impl FnOnce() -> String,
) -> Result<Option<T>, Error> {
    match bytes {
        Ok(bytes) => parse(&bytes, run),
        Err(error) if files::is_absent(&error) => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// A record's bytes; `None` for empty, torn and foreign ones. The format comes first, so that a newer record is not mistaken for a
/// torn one.
///
/// # Errors
/// [`Error::Newer`], which names the run as `run` does.
pub fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    run: impl FnOnce() -> String,
) -> Result<Option<T>, Error> {
    /// How records begin that this version wrote.
    const OURS: [&[u8]; 2] = [b"{\n  \"format\": 1,\n", b"{\"format\":1,"];
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    const { assert!(FORMAT == 1) };
    // As this version writes them: it need not be looked for.
    if OURS.iter().any(|ours| bytes.starts_with(ours)) {
        return Ok(serde_json::from_slice(bytes).ok());
    }
    match serde_json::from_slice::<Format>(bytes) {
        Ok(Format { format }) if format > FORMAT => Err(Error::Newer { run: run(), format }),
        Ok(_) => Ok(serde_json::from_slice(bytes).ok()),
        Err(_) => Ok(None),
    }
}
