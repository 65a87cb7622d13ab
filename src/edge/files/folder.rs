//! A directory in which many names are asked for, by its descriptor: each path is then a name or two long.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use camino::Utf8Path;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::Stamp;
use crate::core::model::Timestamp;

/// One that is open.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Through symlinks. Not for reading, which would tell inotify: its own names cannot be listed.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: &Utf8Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path.as_std_path(), flags, Mode::empty())?;
        Ok(Self(folder))
    }

    /// A directory in this one, to be listed; not through a symlink. `None` where nothing is.
    ///
    /// # Errors
    /// What open(2) says, but that nothing is there.
    pub fn below(&self, name: &str) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(Self(folder))),
            // Not ENOTDIR, which is how a symlink is refused.
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All names but `.` and `..`, in no order.
    ///
    /// # Errors
    /// What getdents(2) says.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// As [`open_regular`](super::open_regular).
    ///
    /// # Errors
    /// The same.
    pub fn open_regular(&self, path: &Utf8Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, path.as_std_path(), flags, Mode::empty())?;
        super::regular(File::from(file))
    }

    /// Of the directory of this name, not through a symlink; `None` for anything else.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let found = rustix::fs::statat(self.0.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_dir = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        is_dir.then(|| Stamp::from(&found))
    }

    /// When the directory of this name, or what a symlink of this name leads to one, was last changed; `None` for anything else.
    pub fn changed(&self, name: &str) -> Option<Timestamp> {
        let stat = |flags| rustix::fs::statat(self.0.as_fd(), name, flags).ok();
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        let found = stat(AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = match kind(&found) {
            FileType::Directory => true,
            FileType::Symlink => kind(&stat(AtFlags::empty())?) == FileType::Directory,
            _ => false,
        };
        is_dir.then(|| Timestamp(found.st_mtime * 1000 + found.st_mtime_nsec as i64 / 1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_tells_directories_from_the_rest() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = Utf8Path::from_path(dir.path()).expect("UTF-8");
        std::fs::create_dir(path.join("task_1")).expect("a folder");
        drop(File::create(path.join("task_2")).expect("a file"));
        std::os::unix::fs::symlink("task_1", path.join("task_3")).expect("a link");
        std::os::unix::fs::symlink("nowhere", path.join("task_4")).expect("a link");
        let folder = Folder::open(path).expect("it is there");
        let is_folder = |name| folder.changed(name).is_some();
        assert!(is_folder("task_1") && is_folder("task_3"));
        assert!(!is_folder("task_2") && !is_folder("task_4") && !is_folder("task_5"));
        let below = |name| folder.below(name);
        assert!(below("task_1").expect("a folder").is_some());
        assert!(below("task_5").expect("nothing").is_none());
        assert!(below("task_2").is_err() && below("task_3").is_err());
    }

    #[test]
    fn a_folder_is_listed_and_read_by_short_names() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = Utf8Path::from_path(dir.path()).expect("UTF-8");
        std::fs::create_dir(path.join("below")).expect("a folder");
        // More than fit into one answer of the kernel.
        let mut expected: Vec<OsString> = (0..100).map(|n| format!("{n:060}").into()).collect();
        for name in &expected {
            drop(File::create(dir.path().join("below").join(name)).expect("a file"));
        }
        std::os::unix::fs::symlink("below", path.join("link")).expect("a link");
        let folder = Folder::open(path).expect("it is there");
        let below = folder.below("below").expect("seen").expect("it is there");
        let mut names = below.names().expect("listed");
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        let name = format!("below/{:060}", 7);
        assert!(folder.open_regular(Utf8Path::new(&name)).is_ok());
        assert!(folder.open_regular(Utf8Path::new("below")).is_err());
        assert!(folder.open_regular(Utf8Path::new("link")).is_err());
    }
}
