//! What the mount below a folder can do: asked of the mount itself, by doing each thing once.
//!
//! A file system's name promises little (FUSE may be anything, an overlay may lack links), so [`probe`] renames, links, locks, listens
//! and syncs in a folder of its own, which it removes again. Does not know what calypso-watch needs of it; decides nothing.
//!
//! Known gap: a change made on another host cannot be made from here, so that inotify works says nothing of a network's other side.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{StatVfsMountFlags, inotify};

use crate::edge::{clock, files};

/// An event of one's own deed is there at once; only a mount without any lets this pass.
const EVENT_TIME: rustix::time::Timespec = rustix::time::Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// What a mount can do. Each result is of one deed, done just now; its error is the kernel's.
#[derive(Debug)]
pub struct MountReport {
    /// As /proc/self/mountinfo names it: `ext4`, `tmpfs`, `fuse.sshfs`; `unknown` where that cannot be read.
    pub fs_type: String,
    /// Replacing a file by rename(2), which every record needs.
    pub rename: io::Result<()>,
    /// A second name by link(2), which pid files are.
    pub link: io::Result<()>,
    /// An OFD lock (fcntl_locking(2)) is taken, seen by another description, and gone with its holder.
    pub ofd_lock: io::Result<()>,
    /// inotify(7) tells of a file that was made.
    pub inotify: io::Result<()>,
    /// How long one fsync(2) of a small new file took.
    pub fsync: io::Result<Duration>,
}

/// How much is left on a mount; statvfs(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// For a user without privileges.
    pub free_bytes: u64,
    pub all_bytes: u64,
    pub free_inodes: u64,
    /// 0 where the file system makes them as needed.
    pub all_inodes: u64,
    pub is_read_only: bool,
}

/// Tries each deed in a folder of its own below `dir`, which is removed again; a killed one leaves an empty-looking
/// `.mount-probe-*.new`, which counts as a temporary file. Takes a few milliseconds, two seconds where inotify is silent.
///
/// Where the folder cannot be made, every deed has that error.
pub fn probe(dir: &Utf8Path) -> MountReport {
    let fs_type = fs_type(dir).unwrap_or_else(|| "unknown".into());
    match Folder::new(dir) {
        Ok(folder) => MountReport {
            fs_type,
            rename: folder.rename(),
            link: folder.link(),
            ofd_lock: folder.ofd_lock(),
            inotify: folder.inotify(),
            fsync: folder.fsync(),
        },
        Err(error) => {
            // An io::Error cannot be cloned; its number or its kind says the same.
            let again = || {
                error
                    .raw_os_error()
                    .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
            };
            MountReport {
                fs_type,
                rename: Err(again()),
                link: Err(again()),
                ofd_lock: Err(again()),
                inotify: Err(again()),
                fsync: Err(again()),
            }
        }
    }
}

/// Space and inodes that are left below `dir`.
pub fn room(dir: &Utf8Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(dir.as_std_path())?;
    Ok(Room {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        all_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_inodes: stat.f_favail,
        all_inodes: stat.f_files,
        is_read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

/// The file system's name in /proc/self/mountinfo (proc_pid_mountinfo(5)), of the innermost mount that holds `path`.
pub fn fs_type(path: &Utf8Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    fs_type_in(&mounts, path)
}

/// [`fs_type`], of the mounts as the kernel lists them.
pub fn fs_type_in(mounts: &str, path: &Utf8Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = unescape(left.split(' ').nth(4)?);
            let kind = right.split(' ').next()?;
            path.starts_with(&point)
                .then(|| (point.len(), kind.to_owned()))
        })
        // The last of several on one place hides the others.
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

/// Blanks, tabs, newlines and backslashes stand there in octal.
fn unescape(point: &str) -> String {
    (point.replace("\\040", " "))
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

/// The folder in which things are tried; it goes with this value.
struct Folder(Utf8PathBuf);

impl Folder {
    fn new(dir: &Utf8Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".mount-probe-{}-{number}.new", std::process::id());
        let path = dir.join(name);
        // Of a killed process with our number.
        std::fs::remove_dir_all(&path).ok();
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(self.0.join(name))
    }

    fn rename(&self) -> io::Result<()> {
        let (old, new) = (self.0.join("record.new"), self.0.join("record"));
        self.file("record")?.write_all(b"old")?;
        self.file("record.new")?.write_all(b"new")?;
        std::fs::rename(&old, &new)?;
        truth(
            files::read_bounded(&new, 16)? == b"new" && files::identity(&old)?.is_none(),
            "a renamed file did not replace the other one",
        )
    }

    fn link(&self) -> io::Result<()> {
        let (one, other) = (self.0.join("pid"), self.0.join("link"));
        self.file("pid")?.write_all(b"1\n")?;
        std::fs::hard_link(&one, &other)?;
        truth(
            files::identity(&one)? == files::identity(&other)?,
            "a linked file has two inode numbers",
        )?;
        let again = std::fs::hard_link(&one, &other).err();
        truth(
            again.is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists),
            "a link replaced a file that was there",
        )
    }

    fn ofd_lock(&self) -> io::Result<()> {
        let path = self.0.join("lock");
        let holder = self.file("lock")?;
        truth(files::try_lock(&holder)?, "a fresh lock is held already")?;
        truth(
            files::is_held_at(&path)?,
            "a lock is not seen by another description",
        )?;
        truth(
            !files::try_lock(self.file("lock")?)?,
            "a lock was given twice",
        )?;
        drop(holder);
        truth(
            !files::is_held_at(&path)?,
            "a lock stays when its holder is gone",
        )
    }

    fn inotify(&self) -> io::Result<()> {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &events,
            self.0.as_std_path(),
            inotify::WatchFlags::CLOSE_WRITE,
        )?;
        drop(self.file("event")?);
        let mut fds = [PollFd::new(&events, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut fds, Some(&EVENT_TIME)) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut reader = inotify::Reader::new(&events, &mut buffer);
        match reader.next() {
            Ok(event) => truth(
                event
                    .file_name()
                    .is_some_and(|name| name.to_bytes() == b"event"),
                "inotify tells of another file",
            ),
            Err(rustix::io::Errno::AGAIN) => Err(io::Error::other("no event came")),
            Err(error) => Err(error.into()),
        }
    }

    fn fsync(&self) -> io::Result<Duration> {
        let mut file = self.file("synced")?;
        file.write_all(b"synced\n")?;
        let began = clock::monotonic();
        file.sync_all()?;
        Ok(clock::monotonic().saturating_sub(began))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn truth(is_so: bool, otherwise: &str) -> io::Result<()> {
    if is_so {
        Ok(())
    } else {
        Err(io::Error::other(otherwise))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_disk_can_do_everything_and_nothing_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = Utf8Path::from_path(dir.path()).expect("UTF-8");
        let report = probe(path);
        report.rename.expect("rename");
        report.link.expect("link");
        report.ofd_lock.expect("OFD locks");
        report.inotify.expect("inotify");
        assert!(report.fsync.expect("fsync") < Duration::from_secs(60));
        assert_ne!(report.fs_type, "unknown");
        assert_eq!(std::fs::read_dir(path).expect("there").count(), 0);
        let room = room(path).expect("there");
        assert!(room.all_bytes >= room.free_bytes && !room.is_read_only);
    }

    #[test]
    fn where_nothing_can_be_made_each_deed_says_so() {
        let report = probe(Utf8Path::new("/proc"));
        for result in [
            report.rename,
            report.link,
            report.ofd_lock,
            report.inotify,
            report.fsync.map(drop),
        ] {
            assert!(result.is_err());
        }
        assert_eq!(report.fs_type, "proc");
    }

    #[test]
    fn the_innermost_and_last_mount_counts() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                      2 1 0:9 / /srv/my\\040team rw shared:1 - nfs4 host:/x rw\n\
                      3 1 0:8 / /srv rw - tmpfs tmpfs rw\n\
                      4 1 0:7 / /srv rw - btrfs /dev/b rw\n";
        let of = |path: &str| fs_type_in(mounts, Utf8Path::new(path));
        assert_eq!(of("/srv/my team/base").as_deref(), Some("nfs4"));
        assert_eq!(of("/srv/my").as_deref(), Some("btrfs"));
        assert_eq!(of("/home").as_deref(), Some("ext4"));
        assert_eq!(fs_type_in("", Utf8Path::new("/")), None);
    }
}
