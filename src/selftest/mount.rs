//! What the file system under a base path can do, each tried by doing it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

use super::WORD;
use super::latency::Spread;
use super::world::within;
use crate::core::layout::Layout;
use crate::edge::files::{self, Durability};
use crate::edge::{clock, config};

/// An event that takes longer has not come.
const EVENT_LIMIT: Duration = Duration::from_secs(3);
const LOCK_LIMIT: Duration = Duration::from_secs(20);
/// Synced writes measured.
const SYNCS: usize = 30;

/// One ability.
pub struct Check {
    pub name: &'static str,
    /// What it showed, where it is more than "works"; else why not, and what calypso-watch needs it for.
    pub result: Result<String, String>,
}

/// Everything about the mount.
pub struct Mount {
    /// `ext4 on /dev/vda1`
    pub file_system: String,
    pub checks: Vec<Check>,
    /// File and folder synced, as at the end of each run.
    pub fsync: Spread,
    /// What that means: how calypso-watch works here, or why it refuses to.
    pub mode: Result<String, String>,
    /// Where it refuses or something fails: the way out.
    pub hint: Option<String>,
}

impl Mount {
    /// Nothing is missing.
    pub fn is_fit(&self) -> bool {
        self.mode.is_ok()
    }
}

/// Tries everything in `folder`, which is there and empty.
pub fn try_out(folder: &Utf8Path, exe: &Utf8Path) -> Mount {
    let (sync, fsync) = fsync(folder);
    let tried = [
        (
            "rename",
            rename(folder),
            "records are replaced by it, so that nobody reads half of one",
        ),
        (
            "hard link",
            link(folder),
            "a task is taken by it, so that two runs cannot have one task",
        ),
        (
            "locks",
            locks(folder, exe),
            "they say who lives, also after `kill -9`",
        ),
        (
            "inotify",
            events(folder),
            "it tells of a drop at once; without it only the slow rescan would",
        ),
        ("fsync", sync, "the end of a run is to survive a power cut"),
    ];
    let checks: Vec<Check> = tried
        .into_iter()
        .map(|(name, tried, purpose)| Check {
            name,
            result: tried.map_err(|error| format!("{error}; {purpose}")),
        })
        .collect();
    let refused = config::check_permissions(&Layout::new(folder)).err();
    let missing: Vec<&str> = checks
        .iter()
        .filter(|check| check.result.is_err())
        .map(|check| check.name)
        .collect();
    let (mode, hint) = match refused {
        Some(error) => (Err(format!("refused: {error}")), error.hint()),
        None if missing.is_empty() => (Ok("watching by inotify, with a slow rescan as a net".to_owned()), None),
        None => (
            Err(format!("cannot be used: {} missing here", missing.join(", "))),
            Some("put the base path on a local disk (ext4, xfs, btrfs, tmpfs); `workqueue/` may be a link to elsewhere".to_owned()),
        ),
    };
    Mount {
        file_system: file_system(folder),
        checks,
        fsync,
        mode,
        hint,
    }
}

fn other(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

/// Over a file that is there: whoever opens the name gets the old one or the new one.
fn rename(folder: &Utf8Path) -> io::Result<String> {
    let path = folder.join("renamed");
    for text in ["old", "new"] {
        files::replace(&path, text.as_bytes(), 0o644, Durability::Crash)?;
    }
    match std::fs::read(&path)?.as_slice() {
        b"new" => Ok(String::new()),
        _ => Err(other("the old file is still there")),
    }
}

/// The second link of a name must fail: that is what the daemon relies on.
fn link(folder: &Utf8Path) -> io::Result<String> {
    let (own, shared) = (folder.join("own"), folder.join("shared"));
    File::create(&own)?;
    std::fs::hard_link(&own, &shared)?;
    if files::identity(&own)? != files::identity(&shared)? {
        return Err(other("the link is another file"));
    }
    match std::fs::hard_link(&own, &shared) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(String::new()),
        Err(error) => Err(error),
        Ok(()) => Err(other("a second link to a name that is taken succeeds")),
    }
}

/// Another process takes the lock, and is killed with it.
fn locks(folder: &Utf8Path, exe: &Utf8Path) -> io::Result<String> {
    let path = folder.join("locked");
    let file = File::create(&path)?;
    let mut holder = Command::new(exe.as_str())
        .args([WORD, "hold", path.as_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let tried = (|| {
        let mut said = [0];
        let holds = holder
            .stdout
            .take()
            .is_some_and(|mut out| out.read_exact(&mut said).is_ok());
        if !holds {
            return Err(other("a process that asks for a lock does not get it"));
        }
        if !files::is_held(&file)? || files::try_lock(&file)? {
            return Err(other("a lock that another process holds is not seen"));
        }
        Ok(())
    })();
    holder.kill()?;
    let status = holder.wait()?;
    tried?;
    let comes_free = within(LOCK_LIMIT, || !files::is_held(&file).unwrap_or(true));
    if status.signal() == Some(9) && comes_free {
        Ok(String::new())
    } else {
        Err(other("the lock of a killed process stays"))
    }
}

fn events(folder: &Utf8Path) -> io::Result<String> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, folder.as_std_path(), inotify::WatchFlags::MOVED_TO)?;
    let began = clock::boot_us();
    files::replace(&folder.join("moved"), b"", 0o644, Durability::Crash)?;
    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
    let limit = rustix::time::Timespec {
        tv_sec: EVENT_LIMIT.as_secs() as i64,
        tv_nsec: 0,
    };
    match poll(&mut fds, Some(&limit))? {
        0 => Err(other("no event came")),
        _ => Ok(format!(
            "an event after {} ms",
            super::latency::ms(clock::boot_us() - began)
        )),
    }
}

fn fsync(folder: &Utf8Path) -> (io::Result<String>, Spread) {
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        let began = clock::boot_us();
        if let Err(error) =
            files::replace(&folder.join("synced"), b"{}", 0o644, Durability::PowerCut)
        {
            return (Err(error), Spread::of(took));
        }
        took.push(clock::boot_us() - began);
    }
    (Ok(String::new()), Spread::of(took))
}

/// Type and source of the mount that holds `path`: the longest mount point above it (proc_pid_mountinfo(5)).
fn file_system(path: &Utf8Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let point = Utf8PathBuf::from(head.split(' ').nth(4)?.replace("\\040", " "));
        let mut tail = tail.split(' ');
        let (kind, source) = (tail.next()?, tail.next()?);
        path.starts_with(&point)
            .then(|| (point.as_str().len(), format!("{kind} on {source}")))
    });
    // Of two mounts on one point the later covers the earlier.
    mounts
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name)
}
