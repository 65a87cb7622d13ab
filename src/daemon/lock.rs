//! One daemon for one base path: `.calypso/lock`, and what the daemon says of itself in `.calypso/daemon.json`.
//!
//! The lock is an OFD lock (fcntl(2)), which the kernel drops with the last descriptor, so it never outlives its holder; the
//! text in the file only tells who that is. It is taken before anything is written and never given back.
//!
//! Interleaving survived: two daemons start at once. Both open the file, one gets the lock and writes its record; the other
//! fails to lock and reads the record, perhaps before it is written: it then names no pid, but refuses all the same.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use serde::{Deserialize, Serialize};

use super::Error;
use super::records::Holds;
use crate::core::layout::{Layout, RunDir};
use crate::core::model::{Millis, Moment, ProcessId};
use crate::core::{Hold, Snapshot, Subject, Tinytask};
use crate::edge::files::{self, Durability};
use crate::edge::{clock, kill_point, process, runs};

const LIMIT: u64 = 16 << 20;
/// A daemon on another machine that has not looked for so long is taken for gone: the slowest look comes each minute.
const SILENCE: Millis = Millis::secs(90);

/// `.calypso/lock`: who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    pub process: ProcessId,
    pub since: Moment,
    pub host: String,
    /// /etc/machine-id, as one base path belongs to one machine.
    pub machine: String,
    /// `pid:[4026531836]` (namespaces(7)): whose numbers the records speak in. Empty where it cannot be read.
    #[serde(default)]
    pub pid_namespace: String,
    pub version: String,
}

impl LockRecord {
    fn own() -> Self {
        Self {
            process: process::own(),
            since: (&clock::now()).into(),
            host: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            machine: std::fs::read_to_string("/etc/machine-id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            pid_namespace: std::fs::read_link("/proc/self/ns/pid")
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// `.calypso/daemon.json`: replaced only when it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonRecord {
    pub format: u32,
    pub process: ProcessId,
    pub since: Moment,
    pub version: String,
    /// How it learns of changes: "inotify", or "once"; and what only its rescan looks at.
    pub watch: String,
    /// What it last saw of tinytask, in words.
    pub tinytask: String,
    /// What it could not do at its last look, and tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why nothing happens, for readers who do not want to look themselves: the first [`MOST_HOLDS`].
    pub holds: Vec<(String, Hold)>,
    /// How many holds there are besides.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_holds: usize,
}

/// So many are written down; `status` tells all.
const MOST_HOLDS: usize = 200;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl DaemonRecord {
    pub(super) fn new(
        since: &Moment,
        watch: &str,
        trouble: Option<String>,
        seen: &Snapshot,
        holds: &Holds,
    ) -> Self {
        let tinytask = match &seen.tinytask {
            Tinytask::Fresh { .. } | Tinytask::NotAsked => "ok".to_owned(),
            Tinytask::Unreachable { error, .. } => format!("unreachable: {error}"),
            Tinytask::Suspicious { vanished, of } => {
                format!("suspicious: {vanished} of {of} known tasks vanished at once")
            }
        };
        let more_holds = holds.len().saturating_sub(MOST_HOLDS);
        let first = holds.iter().take(MOST_HOLDS);
        let holds = first.map(|(subject, hold)| (name(&subject), hold.clone()));
        Self {
            format: crate::core::record::FORMAT,
            process: process::own(),
            since: since.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            watch: watch.to_owned(),
            tinytask,
            trouble,
            holds: holds.collect(),
            more_holds,
        }
    }
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Everything => "everything".into(),
        Subject::Queue(queue) => format!("queue {queue}"),
        Subject::Provider(provider) => format!("provider {provider}"),
        Subject::Task(id) => format!("task {id}"),
        Subject::Inbound(file) => format!("inbound/{}", file.name),
        Subject::Run(run) => format!("run {run}"),
    }
}

/// How often, and how long apart, a lock is tried again whose daemon is dead.
const PASSING_TRIES: u32 = 400;
const PASSING_TRY: std::time::Duration = std::time::Duration::from_millis(5);

/// The lock, held.
pub struct Lock {
    file: File,
    layout: Layout,
    last: Option<DaemonRecord>,
    /// Device and inode of the lock file and of the base path, when it was taken.
    identity: Identity,
    base: Identity,
}

type Identity = Option<(u64, u64)>;

/// What has become of the folder that was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is there.
    Ours,
    /// `.calypso` was deleted or replaced, in the same base path.
    Emptied,
    /// Something else, or nothing, has the base path's name.
    Elsewhere,
}

impl Lock {
    pub(super) fn take(layout: &Layout) -> Result<Self, Error> {
        let path = layout.lock();
        let write = |source| Error::Write {
            path: layout.lock(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
            .open(&path)
            .map_err(write)?;
        files::only_name(&file).map_err(write)?;
        kill_point::reach("daemon:lock-opened");
        let mut has_it = files::try_lock(&file).map_err(write)?;
        for _ in 0..PASSING_TRIES {
            // Interleaving survived: a daemon is killed while it starts a shim. Its child has a copy of the lock until it execs, so
            // that the next daemon, started at once, finds the lock held, by nobody who would be watching.
            if has_it || read(layout).is_some_and(|holder| process::is_alive(&holder.process)) {
                break;
            }
            std::thread::sleep(PASSING_TRY);
            has_it = files::try_lock(&file).map_err(write)?;
        }
        if !has_it {
            let holder = read(layout);
            let up = holder
                .as_ref()
                .map_or(Millis(0), |h| h.since.age(&clock::now()));
            let (pid, up) = (holder.map_or(0, |h| h.process.pid), span(up));
            return Err(Error::AlreadyRunning {
                pid,
                up,
                base: layout.base().to_owned(),
            });
        }
        let meta = file.metadata().map_err(write)?;
        let (identity, base) = (Some((meta.dev(), meta.ino())), base_identity(layout));
        kill_point::reach("daemon:locked");
        let record = LockRecord::own();
        // Before anything is written: the record goes on naming a daemon that could see what it started.
        if let Some(last) = read(layout) {
            can_see_what_runs(layout, &last, &record)?;
        }
        // What a killed daemon left behind of its own records; here is no other writer.
        files::remove_temporary(&layout.state());
        // In place: the lock belongs to this inode, so the file cannot be replaced by another.
        let text = serde_json::to_string(&record).map_err(|error| write(error.into()))?;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(write)?;
        kill_point::reach("daemon:lock-emptied");
        file.write_all(format!("{text}\n").as_bytes())
            .map_err(write)?;
        kill_point::reach("daemon:lock-written");
        Ok(Self {
            file,
            layout: layout.clone(),
            last: None,
            identity,
            base,
        })
    }

    /// A lock that stands at another place than where everybody looks for it keeps nobody away.
    pub(super) fn place(&self) -> Place {
        if base_identity(&self.layout) != self.base {
            return Place::Elsewhere;
        }
        match files::identity(&self.layout.lock()) {
            Ok(found) if found == self.identity => Place::Ours,
            Ok(_) => Place::Emptied,
            // Unseen is not gone.
            Err(_) => Place::Ours,
        }
    }

    /// Its mtime tells when the daemon last looked.
    pub(super) fn touch(&self) {
        // SystemTime through the file's own call: the kernel's clock, no reading of ours.
        let now = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + wall());
        self.file.set_times(now).ok();
    }

    pub(super) fn record(&mut self, record: &DaemonRecord) -> std::io::Result<()> {
        if self.last.as_ref() == Some(record) {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(record)?;
        files::replace(
            &self.layout.daemon(),
            text.as_bytes(),
            0o644,
            Durability::Crash,
        )?;
        self.last = Some(record.clone());
        Ok(())
    }
}

/// Through a symlink, which people may keep a base path behind.
fn base_identity(layout: &Layout) -> Identity {
    let meta = std::fs::metadata(layout.base()).ok()?;
    Some((meta.dev(), meta.ino()))
}

impl Lock {
    /// The last record, with this trouble instead of the one it told: for when there is no look to tell of.
    pub(super) fn tell(&mut self, trouble: String) -> std::io::Result<()> {
        let Some(last) = self.last.clone().filter(|_| self.place() == Place::Ours) else {
            return Ok(());
        };
        self.record(&DaemonRecord {
            trouble: Some(trouble),
            ..last
        })
    }
}

/// What the daemon that holds the lock last said of itself.
pub fn said(layout: &Layout, daemon: &ProcessId) -> Option<DaemonRecord> {
    let text = files::read_bounded(&layout.daemon(), LIMIT).ok()?;
    let record: DaemonRecord = serde_json::from_slice(&text).ok()?;
    (record.process == *daemon).then_some(record)
}

/// Is this the place from which the runs of the last daemon can be watched?
///
/// In another pid namespace (a container's) of the same machine the locks are the same, but the records' numbers mean nobody, or
/// strangers: an orphan would pass for dead, and its task be started beside it. On another machine not even the locks need be the same.
fn can_see_what_runs(layout: &Layout, last: &LockRecord, own: &LockRecord) -> Result<(), Error> {
    let differs = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
    if last.since.boot_id != own.since.boot_id {
        let is_elsewhere = differs(&last.machine, &own.machine);
        let looked = files::modified(&layout.lock()).filter(|_| is_elsewhere);
        let ago = looked.map(|looked| clock::wall().since(looked));
        return match ago {
            Some(ago) if ago < SILENCE => Err(Error::OtherMachine {
                host: last.host.clone(),
                ago: span(ago),
                base: layout.base().to_owned(),
            }),
            _ => Ok(()),
        };
    }
    if !differs(&last.pid_namespace, &own.pid_namespace) {
        return Ok(());
    }
    let (live, _) = runs::list_live(layout).unwrap_or_default();
    let is_held = |dir: &RunDir| {
        let paths = layout.run(dir);
        [paths.shim_lock(), paths.agent_lock()]
            .iter()
            .any(|lock| files::is_held_at(lock).unwrap_or(true))
    };
    match live.into_iter().find(is_held) {
        Some(dir) => Err(Error::Unseen { run: dir.id }),
        None => Ok(()),
    }
}

fn wall() -> std::time::Duration {
    std::time::Duration::from_millis(clock::wall().0.max(0) as u64)
}

/// `3 h`, `12 min`, `4 s`.
fn span(span: Millis) -> String {
    match span.0 / 1000 {
        s if s >= 172_800 => format!("{} days", s / 86_400),
        s if s >= 3600 => format!("{} h", s / 3600),
        s if s >= 60 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

fn read(layout: &Layout) -> Option<LockRecord> {
    serde_json::from_slice(&files::read_bounded(&layout.lock(), LIMIT).ok()?).ok()
}

/// The daemon of this base path, if one lives; else when the last one last looked.
pub fn running(layout: &Layout) -> Result<LockRecord, Option<crate::core::model::Timestamp>> {
    let path = layout.lock();
    if files::is_held_at(&path).unwrap_or(false)
        && let Some(record) = read(layout)
    {
        return Ok(record);
    }
    Err(files::modified(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A base path whose lock somebody holds, and that names this process as the daemon.
    fn held() -> (tempfile::TempDir, Layout, Lock) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = camino::Utf8Path::from_path(folder.path()).expect("a UTF-8 name");
        let layout = Layout::new(base);
        std::fs::create_dir(layout.state()).expect("a folder");
        let lock = Lock::take(&layout).expect("nobody has it");
        (folder, layout, lock)
    }

    #[test]
    fn a_daemon_that_lives_is_not_waited_for() {
        let (_folder, layout, _lock) = held();
        assert!(matches!(
            Lock::take(&layout),
            Err(Error::AlreadyRunning { pid, .. }) if pid == process::own().pid
        ));
    }

    #[test]
    fn a_lock_that_a_dead_daemons_child_is_about_to_drop_is_waited_for() {
        let (_folder, layout, mut lock) = held();
        // The daemon that took it is dead; its copy lives on elsewhere.
        let mut record = read(&layout).expect("it has just been written");
        record.process.start += 1;
        let text = serde_json::to_string(&record).expect("it was read");
        lock.file.set_len(0).expect("it is ours");
        lock.file.seek(SeekFrom::Start(0)).expect("a file");
        lock.file.write_all(text.as_bytes()).expect("a file");
        let passing = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(lock);
        });
        assert!(Lock::take(&layout).is_ok());
        passing.join().expect("it only sleeps");
    }
}
