//! One daemon for one base path: `.calypso/lock`, and what the daemon says of itself in `.calypso/daemon.json`.
//!
//! The lock is an OFD lock (fcntl(2)), which the kernel drops with the last descriptor, so it never outlives its holder; the
//! text in the file only tells who that is. It is taken before anything is written and never given back.
//!
//! Interleaving survived: two daemons start at once. Both open the file, one gets the lock and writes its record; the other
//! fails to lock and reads the record, perhaps before it is written: it then names no pid, but refuses all the same.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::core::layout::Layout;
use crate::core::model::{Millis, Moment, ProcessId};
use crate::core::{Decision, Hold, Snapshot, Subject, Tinytask};
use crate::edge::files::{self, Durability};
use crate::edge::{clock, process};

const LIMIT: u64 = 16 << 20;

/// `.calypso/lock`: who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    pub process: ProcessId,
    pub since: Moment,
    pub host: String,
    /// /etc/machine-id, as one base path belongs to one machine.
    pub machine: String,
    pub version: String,
}

/// `.calypso/daemon.json`: replaced only when it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonRecord {
    pub format: u32,
    pub process: ProcessId,
    pub since: Moment,
    pub version: String,
    /// How it learns of changes: "inotify", or "once".
    pub watch: String,
    /// What it last saw of tinytask, in words.
    pub tinytask: String,
    /// Why nothing happens, for readers who do not want to look themselves.
    pub holds: Vec<(String, Hold)>,
}

impl DaemonRecord {
    pub(super) fn new(since: &Moment, watch: &str, seen: &Snapshot, decision: &Decision) -> Self {
        let tinytask = match &seen.tinytask {
            Tinytask::Fresh { .. } | Tinytask::NotAsked => "ok".to_owned(),
            Tinytask::Unreachable { error, .. } => format!("unreachable: {error}"),
            Tinytask::Suspicious { vanished, of } => {
                format!("suspicious: {vanished} of {of} open tasks vanished at once")
            }
        };
        let holds = decision
            .holds
            .iter()
            .map(|(subject, hold)| (name(subject), hold.clone()))
            .collect();
        Self {
            format: crate::core::record::FORMAT,
            process: process::own(),
            since: since.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            watch: watch.to_owned(),
            tinytask,
            holds,
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

/// The lock, held.
pub struct Lock {
    file: File,
    layout: Layout,
    last: Option<DaemonRecord>,
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
        if !files::try_lock(&file).map_err(write)? {
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
        // What a killed daemon left behind of its own records; here is no other writer.
        for entry in std::fs::read_dir(layout.state()).into_iter().flatten() {
            let Ok(entry) = entry else { continue };
            if files::is_temporary(&entry.file_name().to_string_lossy()) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        let record = LockRecord {
            process: process::own(),
            since: (&clock::now()).into(),
            host: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            machine: std::fs::read_to_string("/etc/machine-id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // In place: the lock belongs to this inode, so the file cannot be replaced by another.
        let text = serde_json::to_string(&record).map_err(|error| write(error.into()))?;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(write)?;
        file.write_all(format!("{text}\n").as_bytes())
            .map_err(write)?;
        Ok(Self {
            file,
            layout: layout.clone(),
            last: None,
        })
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
