//! What the file system under a base path can do, and what that means. `edge::mount` tries each deed once; here locks are tried
//! between two processes, one of which is killed, and syncs often enough to tell their spread.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use camino::Utf8Path;

use super::WORD;
use super::latency::Spread;
use super::world::within;
use crate::core::layout::Layout;
use crate::edge::files::{self, Durability};
use crate::edge::{clock, config, mount};

const LOCK_LIMIT: Duration = Duration::from_secs(20);
/// Synced writes measured.
const SYNCS: usize = 30;

/// One ability.
pub struct Check {
    pub name: &'static str,
    /// Why it does not work, and what calypso-watch needs it for.
    pub result: Result<(), String>,
}

/// Everything about the mount.
pub struct Mount {
    /// `ext4`, `fuse.sshfs`
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
    let probed = mount::probe(folder);
    let (synced, fsync) = fsync(folder);
    let both = |one: io::Result<()>, other: io::Result<()>| one.and(other);
    let tried = [
        (
            "rename",
            probed.rename,
            "records are replaced by it, so that nobody reads half of one",
        ),
        (
            "hard link",
            probed.link,
            "a task is taken by it, so that two runs cannot have one task",
        ),
        (
            "locks",
            both(probed.ofd_lock, locks(folder, exe)),
            "they say who lives, also after `kill -9`",
        ),
        ("inotify", probed.inotify, "it tells of a drop at once"),
        (
            "fsync",
            both(probed.fsync.map(drop), synced),
            "the end of a run is to survive a power cut",
        ),
    ];
    let checks = tried.map(|(name, tried, purpose)| Check {
        name,
        result: tried.map_err(|error| format!("{error}; {purpose}")),
    });
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
        file_system: probed.fs_type,
        checks: checks.into(),
        fsync,
        mode,
        hint,
    }
}

fn other(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

/// Another process takes the lock, and is killed with it.
fn locks(folder: &Utf8Path, exe: &Utf8Path) -> io::Result<()> {
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
        Ok(())
    } else {
        Err(other("the lock of a killed process stays"))
    }
}

fn fsync(folder: &Utf8Path) -> (io::Result<()>, Spread) {
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
    (Ok(()), Spread::of(took))
}
