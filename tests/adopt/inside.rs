//! A pid namespace of the test's own, in which it says who gets which number.

use std::process::Command;

use calypso_watch::core::model::ProcessId;
use calypso_watch::edge::process;
use nix::libc;

const INSIDE: &str = "CALYPSO_TEST_INSIDE";

/// Runs this test once more, alone, in a namespace whose init collects whatever nobody waits for. True in there.
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", "\"$@\" & wait $!", "sh"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("util-linux is there");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{}{said}",
        String::from_utf8_lossy(&output.stdout)
    );
    for line in said.lines().filter(|line| line.starts_with("measured: ")) {
        show(line);
    }
    false
}

/// For whoever runs it with `--nocapture`.
#[expect(
    clippy::print_stderr,
    reason = "figures are for people, not for the harness"
)]
pub(crate) fn show(line: &str) {
    eprintln!("{line}");
}

/// Whether the kernel may give these numbers out. One is taken, too, while it is that of a group or session with members, as the
/// children of the dead are for as long as they go on (fork(2): the child's number matches no existing group's or session's).
pub(crate) fn are_free(numbers: &[i32]) -> bool {
    let taken = |pid: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(pid.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: state, parent, group, session; proc_pid_stat(5).
        let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
        let of = rest.split_ascii_whitespace().skip(2).take(2);
        of.chain(pid.file_name().to_str())
            .filter_map(|number| number.parse().ok())
            .any(|number: i32| numbers.contains(&number))
    };
    let mut processes = std::fs::read_dir("/proc")
        .expect("proc is mounted")
        .flatten();
    !processes.any(taken)
}

/// A process of the test's that does nothing until it is ended. Any signal of ours would end it.
pub(crate) struct Idler {
    pub(crate) id: ProcessId,
    /// Of a leader: another process of its session.
    pub(crate) member: Option<i32>,
}

/// What it is besides alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Of a session of its own, with a member.
    Leader,
}

impl Idler {
    /// With whatever number comes next.
    pub(crate) fn new() -> Self {
        Self::forked(Kind::Plain, c"agent").expect("a process")
    }

    /// With this number and name; none where somebody else has it.
    pub(crate) fn at(pid: i32, kind: Kind, name: &std::ffi::CStr) -> Option<Self> {
        for _ in 0..20 {
            // ns_last_pid(5), proc(5): the next process of this namespace gets the number after it.
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
                .expect("root of this namespace");
            let found = Self::forked(kind, name)?;
            if found.id.pid == pid {
                return Some(found);
            }
        }
        None
    }

    fn forked(kind: Kind, name: &std::ffi::CStr) -> Option<Self> {
        let mut ends = [0; 2];
        // SAFETY: pipe(2) writes two descriptors into the array it is given.
        let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
        assert_eq!(made, 0, "a pipe");
        // SAFETY: the child calls nothing but async-signal-safe functions until it ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            idle(kind, name, ends[1]);
        }
        assert!(pid > 0, "a process");
        let mut member = [0; 4];
        // SAFETY: both descriptors are this function's own; read(2) writes four bytes at most into four bytes.
        unsafe {
            libc::close(ends[1]);
            libc::read(ends[0], member.as_mut_ptr().cast(), 4);
            libc::close(ends[0]);
        }
        let member = i32::from_ne_bytes(member);
        Some(Self {
            id: process::identity(pid)?,
            member: (member > 0).then_some(member),
        })
    }

    /// Nobody ended it, nor its session's member.
    pub(crate) fn lives(&self) -> bool {
        process::is_alive(&self.id) && self.member.is_none_or(crate::is_alive)
    }
}

impl Drop for Idler {
    /// Collected, so that its number is free.
    fn drop(&mut self) {
        // SAFETY: signals and waits for children of the test's own, whose numbers are pinned until they are collected here; the
        // member is its leader's child and dies unsignalled with nobody else.
        unsafe {
            if let Some(member) = self.member {
                libc::kill(member, libc::SIGKILL);
            }
            libc::kill(self.id.pid, libc::SIGKILL);
            libc::waitpid(self.id.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// The child: says the member's number, or 0, and waits.
fn idle(kind: Kind, name: &std::ffi::CStr, say: i32) -> ! {
    // SAFETY: async-signal-safe functions on values of this frame only.
    unsafe {
        // A shell that starts something in the background makes it deaf to INT.
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        let mut member = 0;
        if kind == Kind::Leader {
            libc::setsid();
            // Out of the way of the numbers that are wanted next.
            let path = c"/proc/sys/kernel/ns_last_pid".as_ptr();
            let file = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(file, c"30000".as_ptr().cast(), 5);
            libc::close(file);
            member = libc::fork();
            if member == 0 {
                libc::close(say);
                loop {
                    libc::pause();
                }
            }
        }
        libc::write(say, (&raw const member).cast(), 4);
        libc::close(say);
        loop {
            libc::pause();
        }
    }
}
