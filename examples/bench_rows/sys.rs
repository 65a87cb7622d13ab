//! The few system calls that the standard library does not offer; it brings the libc that has them.

use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const KILL: c_int = 9;
pub(crate) const HUP: c_int = 1;
pub(crate) const CONT: c_int = 18;
pub(crate) const STOP: c_int = 19;

const IN_CLOEXEC: c_int = 0o2_000_000;
const IN_CLOSE_WRITE: u32 = 0x8;
const IN_MOVED_TO: u32 = 0x80;

unsafe extern "C" {
    safe fn inotify_init1(flags: c_int) -> c_int;
    fn inotify_add_watch(fd: c_int, path: *const c_char, mask: u32) -> c_int;
    #[link_name = "kill"]
    safe fn kill_process(pid: c_int, signal: c_int) -> c_int;
}

/// CLOCK_REALTIME in nanoseconds, which is what the agents stamp.
pub(crate) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |span| span.as_nanos() as u64)
}

/// kill(2) of one process.
pub(crate) fn kill(pid: u32, signal: c_int) -> io::Result<()> {
    match kill_process(pid as c_int, signal) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// kill(2) of the process group that this process leads, for good.
pub(crate) fn kill_group(leader: u32) -> io::Result<()> {
    match kill_process(-(leader as c_int), KILL) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads as inotify(7) says; wakes at closed and at renamed files of one directory.
pub(crate) fn watch(dir: &Path) -> io::Result<File> {
    let fd = inotify_init1(IN_CLOEXEC);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: inotify_init1(2) has just made this descriptor, and nobody else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(dir.as_os_str().as_encoded_bytes())?;
    // SAFETY: the text is closed by a zero, and lives until the call is over.
    let watched = unsafe {
        inotify_add_watch(
            std::os::fd::AsRawFd::as_raw_fd(&fd),
            path.as_ptr(),
            IN_CLOSE_WRITE | IN_MOVED_TO,
        )
    };
    match watched {
        0.. => Ok(fd.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
