//! /proc/PID/stat and the tree of processes, read without trust: a process chooses its own name.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use crate::core::model::{Leftover, Millis, ProcessId};
use crate::edge::files;

/// What proc_pid_stat(5) says, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    /// Printable: control characters are replaced.
    pub comm: String,
    /// The state letter.
    pub state: u8,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    /// Ticks: user and system time of it and of the children it waited for.
    pub ticks: u64,
    /// Ticks since boot at its start.
    pub start: u64,
    pub rss_pages: u64,
    /// Owner of its /proc directory: its effective uid, or root's where it may not be dumped.
    pub uid: Option<u32>,
}

impl Stat {
    /// Pid and start time.
    pub fn id(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            start: self.start,
        }
    }
    /// As a leftover.
    pub fn leftover(&self) -> Leftover {
        Leftover {
            process: self.id(),
            comm: self.comm.clone(),
        }
    }
    /// A zombie runs no more, and holds neither locks nor files.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
    /// CPU time.
    pub fn cpu(&self) -> Millis {
        Millis(ticks_to_ms(self.ticks))
    }
    /// Resident memory.
    pub fn rss_kb(&self) -> u64 {
        // SAFETY: sysconf(3) reads a constant of the system; it touches no memory of ours.
        let page = unsafe { nix::libc::sysconf(nix::libc::_SC_PAGESIZE) };
        self.rss_pages
            .saturating_mul(u64::try_from(page).unwrap_or(4096) / 1024)
    }
    /// On CLOCK_BOOTTIME.
    pub fn started(&self) -> Millis {
        Millis(ticks_to_ms(self.start))
    }
}

fn ticks_to_ms(ticks: u64) -> u64 {
    // SAFETY: sysconf(3) reads a constant of the system; it touches no memory of ours.
    let per_second = unsafe { nix::libc::sysconf(nix::libc::_SC_CLK_TCK) };
    ticks.saturating_mul(1000) / u64::try_from(per_second).unwrap_or(100).max(1)
}

/// Reads one process; `None` when there is none of that number.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    let dir = format!("/proc/{pid}");
    let path = format!("{dir}/stat");
    match files::read_proc(&path) {
        Ok(bytes) => {
            let uid = std::fs::metadata(&dir).ok().map(|meta| meta.uid());
            Ok(parse_stat(&bytes).map(|stat| Stat { uid, ..stat }))
        }
        // ESRCH: it went between open(2) and read(2).
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `pid (comm) S ppid …`. The name may hold blanks, newlines and parentheses, so the fields begin after the **last** `)`.
pub fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|&byte| byte == b'(')?;
    let close = bytes.iter().rposition(|&byte| byte == b')')?;
    let pid = std::str::from_utf8(&bytes[..open])
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let name = String::from_utf8_lossy(bytes.get(open + 1..close)?);
    let rest = std::str::from_utf8(&bytes[close + 1..]).ok()?;
    // Field 3 of proc_pid_stat(5) is number 0 here.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| -> Option<u64> { fields.get(at)?.parse().ok() };
    let signed = |at: usize| -> Option<i64> { fields.get(at)?.parse().ok() };
    let waited = signed(13)?.max(0).cast_unsigned() + signed(14)?.max(0).cast_unsigned();
    Some(Stat {
        pid,
        comm: name
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        state: *fields.first()?.as_bytes().first()?,
        ppid: fields.get(1)?.parse().ok()?,
        pgrp: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        ticks: number(11)?
            .saturating_add(number(12)?)
            .saturating_add(waited),
        start: number(19)?,
        rss_pages: signed(21)?.max(0).cast_unsigned(),
        uid: None,
    })
}

/// All processes that this user can see.
///
/// # Errors
/// What keeps it from being all: no descriptor left, say. An answer cut short would pass for "nobody lives".
pub(super) fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        if let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            match stat(pid) {
                Ok(stat) => found.extend(stat),
                // Another user's, under hidepid.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// The numbers of a process's children, of all its threads, dead ones included.
///
/// Where the kernel was built without /proc/PID/task/TID/children, every process is asked for its parent.
pub(super) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(
                text.split_ascii_whitespace()
                    .filter_map(|n| n.parse::<i32>().ok()),
            ),
            Err(_) if thread.path().join("stat").exists() => {
                let all = all().unwrap_or_default();
                return all
                    .iter()
                    .filter(|stat| stat.ppid == pid)
                    .map(|stat| stat.pid)
                    .collect();
            }
            Err(_) => {}
        }
    }
    found
}

/// Everything below a process, dead ones included, parents before children. A subreaper's tree is complete: whatever loses its
/// parent becomes its child.
///
/// A number read from a list may be another process's by the time it is looked at. So a child counts only while its parent is
/// the one whose list it stood in, and a list counts only if its owner is still the same process after it was read.
pub fn descendants(root: &ProcessId) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut todo = vec![root.clone()];
    while let Some(parent) = todo.pop() {
        let listed: Vec<Stat> = children(parent.pid)
            .into_iter()
            .filter_map(|pid| stat(pid).ok()?)
            .filter(|child| child.ppid == parent.pid || child.ppid == root.pid)
            .collect();
        if !matches!(stat(parent.pid), Ok(Some(again)) if again.id() == parent) {
            continue;
        }
        for child in listed {
            if found.iter().all(|known| known.id() != child.id()) {
                todo.push(child.id());
                found.push(child);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(comm: &[u8]) -> Vec<u8> {
        let mut line = b"4711 (".to_vec();
        line.extend(comm);
        line.extend(
            b") S 1 4700 4699 0 -1 4194560 100 0 0 0 7 5 2 1 20 0 1 0 123456 9000000 250 18446744073709551615 1 1 0\n",
        );
        line
    }

    #[test]
    fn the_fields_are_those_of_proc_pid_stat() {
        let stat = parse_stat(&line(b"goose")).expect("a stat line");
        assert_eq!(stat.comm, "goose");
        assert_eq!(
            (stat.pid, stat.state, stat.ppid, stat.pgrp, stat.session),
            (4711, b'S', 1, 4700, 4699)
        );
        assert_eq!((stat.ticks, stat.start, stat.rss_pages), (15, 123_456, 250));
    }

    #[test]
    fn a_name_cannot_pose_as_fields() {
        for comm in [
            "a) R 1 (",
            ") Z 1 1 1",
            "((((",
            "))))",
            "",
            "a\nb",
            "4711 (x) S",
        ] {
            let stat = parse_stat(&line(comm.as_bytes())).expect("a stat line");
            assert_eq!(
                (stat.state, stat.ppid, stat.start),
                (b'S', 1, 123_456),
                "{comm}"
            );
        }
        let odd = parse_stat(&line(b"\xff\x1b[31m")).expect("a stat line");
        assert_eq!(odd.comm, "\u{fffd}?[31m");
    }

    #[test]
    fn our_own_line_agrees_with_the_kernel() {
        let pid = std::process::id().cast_signed();
        let own = stat(pid).expect("a look").expect("this process");
        assert_eq!(own.pid, pid);
        assert_eq!(own.ppid, std::os::unix::process::parent_id().cast_signed());
        assert!(own.rss_kb() > 0 && !own.is_dead());
        assert!(own.started() <= crate::edge::clock::boot());
    }

    proptest! {
        #[test]
        fn any_name_leaves_the_fields_alone(comm in proptest::collection::vec(any::<u8>(), 0..16)) {
            let stat = parse_stat(&line(&comm)).expect("a stat line");
            prop_assert_eq!((stat.pid, stat.state, stat.start), (4711, b'S', 123_456));
            prop_assert!(!stat.comm.chars().any(char::is_control));
        }

        #[test]
        fn no_line_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_stat(&bytes);
        }

        #[test]
        fn no_cut_line_makes_it_panic(cut in 0..130_usize) {
            let mut bytes = line(b"goose");
            bytes.truncate(cut);
            parse_stat(&bytes);
        }
    }
}
