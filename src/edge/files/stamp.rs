//! What stat(2) tells of a file, so that what was read of it once need not be read again: stat makes no inotify event and costs a
//! fifth of a listing.
//!
//! Known gap: a clock that is set back to the very nanosecond of an earlier change hides a later one.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use camino::Utf8Path;
use rustix::fs::Stat;

use crate::core::model::{Millis, Timestamp};

/// No change leaves it as it is: a write alters mtime and ctime, whatever alters the inode alters ctime, which nobody can set
/// (inode(7)), and another file of the same name has another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    mode: u32,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    /// Of what `path` leads to, through symlinks; `None` where nothing is there, or it cannot be seen.
    pub fn of(path: impl AsRef<Path>) -> Option<Self> {
        Some(Self::from(&std::fs::metadata(path).ok()?))
    }

    /// The inode, and when it was last changed in nanoseconds since 1970: as much as tells one state of a folder from all others.
    pub fn inode_and_change(&self) -> (u64, i64) {
        let (seconds, nanos) = self.ctime;
        (
            self.inode,
            seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        )
    }

    /// May a change since `now`, when this was taken, have left it the same? File times come from a clock that ticks each few
    /// milliseconds (clock_getres(2)), on some file systems each second or two. Times in the future tell nothing.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let (seconds, nanos) = self.mtime.max(self.ctime);
        let tick = if self.mtime.1 == 0 && self.ctime.1 == 0 {
            Millis(2500)
        } else {
            Millis(30)
        };
        Timestamp(seconds * 1000 + nanos / 1_000_000).plus(tick) > now
    }
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            size: stat.st_size.cast_unsigned(),
            mtime: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            ctime: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        }
    }
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            mode: meta.mode(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The names in a directory as they were last read; read anew when one may have come or gone since.
#[derive(Debug, Default)]
pub struct Names {
    stamp: Option<Stamp>,
    names: Vec<OsString>,
}

impl Names {
    /// All names but `.` and `..`, in no order.
    ///
    /// # Errors
    /// What opendir(3) and readdir(3) say; a missing directory is one.
    pub fn read(&mut self, dir: &Utf8Path, now: Timestamp) -> io::Result<&[OsString]> {
        // Taken before the names are read: what comes in between alters the stamp that the next look takes.
        let stamp = Stamp::of(dir);
        if stamp.is_none() || stamp != self.stamp {
            self.stamp = None;
            self.names = std::fs::read_dir(dir)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<_>>()?;
            self.stamp = stamp.filter(|stamp| !stamp.is_fresh(now));
        }
        Ok(&self.names)
    }

    /// As they were last read.
    pub fn last(&self) -> &[OsString] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::clock;

    fn folder() -> (tempfile::TempDir, camino::Utf8PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = Utf8Path::from_path(dir.path()).expect("UTF-8").to_owned();
        (dir, path)
    }

    /// Long after whatever was done here.
    fn later() -> Timestamp {
        clock::wall().plus(Millis::secs(60))
    }

    #[test]
    fn a_name_that_comes_or_goes_is_seen_and_else_nothing_is_read() {
        let (_dir, path) = folder();
        let mut names = Names::default();
        assert!(names.read(&path, later()).expect("readable").is_empty());
        std::fs::create_dir(path.join("a")).expect("a folder");
        assert_eq!(names.read(&path, later()).expect("readable"), ["a"]);
        let stamp = names.stamp;
        assert!(stamp.is_some());
        // A lie, which only a new reading would find out.
        names.names.clear();
        assert!(names.read(&path, later()).expect("readable").is_empty());
        std::fs::remove_dir(path.join("a")).expect("it is there");
        std::fs::create_dir(path.join("b")).expect("a folder");
        assert_eq!(names.read(&path, later()).expect("readable"), ["b"]);
        std::fs::remove_dir_all(&path).expect("it is there");
        assert!(names.read(&path, later()).is_err());
    }

    #[test]
    fn what_was_changed_a_moment_ago_is_read_again() {
        let (_dir, path) = folder();
        let mut names = Names::default();
        std::fs::create_dir(path.join("a")).expect("a folder");
        let now = clock::wall();
        assert_eq!(names.read(&path, now).expect("readable"), ["a"]);
        assert_eq!(names.stamp, None, "another may come within the same tick");
    }

    #[test]
    fn a_stamp_tells_an_edit_that_keeps_size_and_mtime() {
        let (_dir, path) = folder();
        let file = path.join("f");
        let write = |text: &str| {
            let mut open = std::fs::OpenOptions::new();
            let mut file = open.write(true).create(true).truncate(true).open(&file)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.set_modified(std::time::UNIX_EPOCH)
        };
        write("one").expect("written");
        let before = Stamp::of(&file);
        std::thread::sleep(std::time::Duration::from_millis(30));
        write("two").expect("written");
        assert_ne!(Stamp::of(&file), before);
        assert!(Stamp::of(&file).is_some_and(|stamp| stamp.is_fresh(clock::wall())));
    }
}
