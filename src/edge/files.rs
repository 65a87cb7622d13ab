//! Writing so that no reader, crash or power cut sees half a file; reading what others write without trusting it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use camino::Utf8Path;

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
    let temporary = path.with_file_name(format!(
        ".{}.{}.new",
        path.file_name().unwrap_or("file"),
        std::process::id()
    ));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(&temporary)?;
        file.write_all(bytes)?;
        if durability == Durability::PowerCut {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        std::fs::remove_file(&temporary).ok();
        return Err(error);
    }
    if durability == Durability::PowerCut
        && let Some(dir) = path.parent()
    {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// A name [`replace`] uses on the way.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".new")
}

/// Reads a regular file of at most `limit` bytes, not through a symlink, never waiting on a FIFO.
///
/// # Errors
/// `InvalidData` for a larger one or anything that is not a regular file; else what open(2) and read(2) say.
pub fn read_bounded(path: &Utf8Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Appends `line` and a newline in one write(2) with O_APPEND, so that two writers' lines do not mix.
pub fn append_line(path: &Utf8Path, line: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}
