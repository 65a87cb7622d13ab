//! Writing so that no reader, crash or power cut sees half a file; reading what others write without trusting it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};

use crate::core::model::Timestamp;
use crate::edge::kill_point;

mod folder;
mod stamp;

pub use folder::Folder;
pub use stamp::{Names, Stamp};

/// How much a write has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of any process: the file is whole, or the old one stands.
    Crash,
    /// A power cut too: file and directory are synced, which costs a few milliseconds on a disk.
    PowerCut,
}

/// Replaces `path` by `bytes` in one step: a temporary file beside it, then rename(2). The temporary name carries the pid,
/// so that two writers do not meet; a killed writer leaves it behind, and [`is_temporary`] knows it.
pub fn replace(path: &Utf8Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    replace_by(&temporary(path), path, bytes, mode, durability)
}

/// [`replace`] by way of this temporary file, which may be a [`blank`] one. For a path that has one writer at a time.
pub fn replace_by(
    temporary: &Utf8Path,
    path: &Utf8Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let written = (|| {
        let open = |is_new: bool| {
            OpenOptions::new()
                .write(true)
                .create(!is_new)
                .create_new(is_new)
                .truncate(false)
                .mode(mode)
                .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
                .open(temporary)
        };
        let mut file = open(false)?;
        let meta = file.metadata()?;
        if meta.nlink() > 1 {
            // O_NOFOLLOW does not see hard links: what is written here would be written under the other name too.
            std::fs::remove_file(temporary)?;
            file = open(true)?;
        } else if meta.is_file() && meta.len() > 0 {
            // A killed writer left it. Not where it is empty: ext4 writes a file that was truncated to the disk when it
            // is closed (auto_da_alloc, ext4(5)).
            file.set_len(0)?;
        }
        kill_point::reach_writing(path, "opened");
        file.write_all(bytes)?;
        kill_point::reach_writing(path, "written");
        if durability == Durability::PowerCut {
            file.sync_all()?;
            kill_point::reach_writing(path, "synced");
        }
        std::fs::rename(temporary, path)
    })();
    if let Err(error) = written {
        std::fs::remove_file(temporary).ok();
        return Err(error);
    }
    kill_point::reach_writing(path, "renamed");
    if durability == Durability::PowerCut
        && let Some(dir) = path.parent()
    {
        File::open(dir)?.sync_all()?;
        kill_point::reach_writing(path, "folder-synced");
    }
    Ok(())
}

/// A name beside `path` that only this process uses.
pub fn temporary(path: &Utf8Path) -> Utf8PathBuf {
    let name = path.file_name().unwrap_or("file");
    path.with_file_name(format!(".{name}.{}.new", std::process::id()))
}

/// The name beside `path` of an empty file that is made ahead, to become `path` without a new inode (see `edge::runs::Blanks`); a temporary one
/// until then. `step` tells those apart that become one path in turn.
pub fn blank(path: &Utf8Path, step: &str) -> Utf8PathBuf {
    let name = path.file_name().unwrap_or("file");
    path.with_file_name(format!(".{name}{step}.new"))
}

/// A name [`temporary`] or [`blank`] gives.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".new")
}

/// What [`temporary`] was given.
pub fn name_of_temporary(name: &str) -> Option<&str> {
    let (name, pid) = name
        .strip_prefix('.')?
        .strip_suffix(".new")?
        .rsplit_once('.')?;
    (!name.is_empty() && pid.parse::<u32>().is_ok()).then_some(name)
}

/// Is there a file of more than `limit` bytes?
pub fn is_larger(path: &Utf8Path, limit: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.len() > limit)
}

/// Lets a file that is appended to begin anew; what was there stays beside it, as `.1`. One writer, so that nobody appends in between.
pub fn turn_over(path: &Utf8Path) -> io::Result<()> {
    std::fs::rename(path, turned_over(path))
}

/// Where [`turn_over`] puts what was there.
pub fn turned_over(path: &Utf8Path) -> Utf8PathBuf {
    path.with_file_name(format!("{}.1", path.file_name().unwrap_or("file")))
}

/// Removes what killed writers left in a folder. Only for whoever is sure that nobody else writes there now.
pub fn remove_temporary(folder: &Utf8Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// Reads a regular file of at most `limit` bytes, not through a symlink, never waiting on a FIFO.
///
/// # Errors
/// `InvalidData` for a larger one or anything that is not a regular file; else what open(2) and read(2) say.
pub fn read_bounded(path: &Utf8Path, limit: u64) -> io::Result<Vec<u8>> {
    read_all(&open_regular(path)?, limit)
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// `InvalidData` for a larger one; else what read(2) says.
pub fn read_all(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let problem = format!("larger than {limit} bytes");
        io::Error::new(io::ErrorKind::InvalidData, problem)
    };
    // Seen before a byte is read: a look may meet it again and again. And afterwards, as it may grow meanwhile.
    let length = file.metadata()?.len();
    if length > limit {
        return Err(too_large());
    }
    // One read for the whole, one that finds its end.
    let mut bytes = Vec::with_capacity(length as usize + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// The whole of a file in /proc, which tells no length: in one read for those of a few hundred bytes.
pub fn read_proc(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file for reading, not through a symlink, never waiting on a FIFO.
///
/// # Errors
/// `InvalidData` for anything else; what open(2) says.
pub fn open_regular(path: &Utf8Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)?;
    regular(file)
}

fn regular(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// Creates a file for writing that must not be there yet: the [`blank`] one, where there is one, under a new name.
///
/// Interleaving survived: two create the same file, and both have opened the blank one. One rename(2) finds it; to the other it is gone,
/// and then the file is there.
///
/// # Errors
/// `AlreadyExists`; else what open(2) says.
pub fn create_new(path: &Utf8Path, mode: u32) -> io::Result<File> {
    let blank = blank(path, "");
    if let Some(file) = open_blank(&blank) {
        match rename_new(&blank, path) {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // Gone; or a file system without this kind of rename.
            Err(_) => {}
        }
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)
}

/// `None` for anything but an empty file without another name.
fn open_blank(path: &Utf8Path) -> Option<File> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    (meta.is_file() && meta.nlink() == 1 && meta.len() == 0).then_some(file)
}

/// Gives what is at `from` the name `to`, which nothing may have (RENAME_NOREPLACE, renameat2(2)).
///
/// # Errors
/// `AlreadyExists`; `InvalidInput` on a file system that cannot do that; else what rename(2) says.
pub fn rename_new(from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let (from, to) = (from.as_std_path(), to.as_std_path());
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Appends `line` and a newline in one write(2) with O_APPEND, so that two writers' lines do not mix.
///
/// # Errors
/// As [`only_name`]; what open(2) and write(2) say.
pub fn append_line(path: &Utf8Path, line: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)?;
    only_name(&file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Refuses a file that has another name somewhere: what is written into it in place would be written there too, and O_NOFOLLOW
/// does not see hard links.
///
/// # Errors
/// `InvalidData` for such a file, and for one that is not regular.
pub fn only_name(file: &File) -> io::Result<()> {
    let meta = file.metadata()?;
    let problem = if !meta.is_file() {
        "not a regular file"
    } else if meta.nlink() > 1 {
        "a hard link of another file: remove it"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// Takes a whole-file write lock of the open file description (F_OFD_SETLK, fcntl_locking(2)) without waiting; `false` when
/// somebody has it. It lasts until the last descriptor of this description, inherited ones included, is closed. Nobody unlocks: only close.
pub fn try_lock(file: impl AsFd) -> io::Result<bool> {
    let lock = whole_file(nix::libc::F_WRLCK);
    match nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Does another open file description hold a lock on this file? F_OFD_GETLK takes nothing, so that two who ask at once do not
/// see each other, and it works on a read-only descriptor.
pub fn is_held(file: impl AsFd) -> io::Result<bool> {
    let mut lock = whole_file(nix::libc::F_WRLCK);
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != nix::libc::F_UNLCK)
}

/// [`is_held`] by path, which is not followed where it is a symlink; a missing file is held by nobody.
pub fn is_held_at(path: &Utf8Path) -> io::Result<bool> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path);
    match opened {
        Ok(file) => is_held(&file),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn whole_file(kind: i32) -> nix::libc::flock {
    nix::libc::flock {
        l_type: kind as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Which file a name leads to: device and inode. The name itself is looked at, not what a symlink points to; `None` when nothing has that name.
pub fn identity(path: &Utf8Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// No file of that name, or no directory on the way to it.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Why nothing can be written in a directory, for people: it is on a full disk, or on one that can only be read.
pub fn no_room(dir: &Utf8Path) -> Option<String> {
    /// Less than this is no room: a run writes some ten small files, each a block.
    const LEAST: u64 = 64 << 10;
    let disk = rustix::fs::statvfs(dir.as_std_path()).ok()?;
    let is_read_only = disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    // What is kept back for root does not count: it is not there to be used up.
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    // A file system without a fixed number of inodes says 0 of 0.
    let no_inodes = disk.f_files > 0 && disk.f_favail == 0;
    if is_read_only {
        Some(format!(
            "`{dir}` can only be read: nothing can be recorded, so nothing is started or judged until it can be written"
        ))
    } else if room < LEAST || no_inodes {
        let what = if room < LEAST {
            format!("{} kB left", room >> 10)
        } else {
            "no inode left".into()
        };
        Some(format!(
            "the disk of `{dir}` is full ({what}): nothing can be recorded, so nothing is started or judged until there is room"
        ))
    } else {
        None
    }
}

/// Is there so much room on a directory's disk that some empty files do not matter?
pub fn has_plenty(dir: &Utf8Path) -> bool {
    const BYTES: u64 = 64 << 20;
    const INODES: u64 = 10_000;
    rustix::fs::statvfs(dir.as_std_path()).is_ok_and(|disk| {
        let has_inodes = disk.f_files == 0 || disk.f_favail >= INODES;
        has_inodes && disk.f_bavail.saturating_mul(disk.f_frsize) >= BYTES
    })
}

/// When what stands at `path` (a symlink itself, not its target) was last changed; `None` where nothing does.
pub fn modified(path: &Utf8Path) -> Option<Timestamp> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some(Timestamp(
        meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000,
    ))
}
