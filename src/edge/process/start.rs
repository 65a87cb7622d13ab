//! Starting a shim, and the program it is started from.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::spare::{Order, Spare};
use super::{SELF_EXE, TOKEN_VARIABLE};
use crate::core::layout::{Layout, RunDir};
use crate::edge::clock;

/// The hidden word that makes this program a shim.
pub const SHIM_WORD: &str = "__shim";

/// Makes `calypso-watch-shim` succeed where the word after it is its version.
pub const IS_VERSION: &str = "__is-version";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a program's word on its version may take: milliseconds are enough.
const VERSION_TIME: Duration = Duration::from_secs(5);

/// What shims are started from.
#[derive(Debug)]
pub struct ShimProgram {
    path: Utf8PathBuf,
    /// What `path` names by number: the file that was looked at, whatever an upgrade puts in its place.
    _file: Option<OwnedFd>,
    spare: Option<Spare>,
}

impl ShimProgram {
    /// `calypso-watch-shim`, where it stands beside this program and is of the same version: its exec costs half the CPU.
    /// Else this program, which is a shim where it is told so.
    pub fn find() -> Self {
        Self::beside().unwrap_or_else(|why| {
            tracing::debug!(%why, "no calypso-watch-shim beside this program; it is its own shim");
            Self::from(Utf8Path::new(SELF_EXE))
        })
    }

    /// Has a shim wait for the next run, where none does. Without one, that run starts a little later.
    pub fn have_spare(&mut self) {
        if self.spare.is_none() {
            let started = Spare::start(&self.path);
            self.spare = started
                .inspect_err(|error| tracing::debug!(%error, "no spare shim"))
                .ok();
        }
    }

    /// The number of the spare shim, if it is alive; a dead one is collected.
    pub fn spare(&mut self) -> Option<u32> {
        self.spare.take_if(|spare| !spare.is_alive());
        self.spare.as_ref().map(Spare::pid)
    }

    fn beside() -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let path = std::env::current_exe()?.with_file_name("calypso-watch-shim");
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let program = Self {
            path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            _file: Some(file),
            spare: None,
        };
        let mut asked = Command::new(program.path.as_str())
            .args([IS_VERSION, VERSION])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if !is_over_within(&asked, VERSION_TIME) {
            asked.kill()?;
        }
        match asked.wait()?.success() {
            true => Ok(program),
            false => Err(io::Error::other("it is of another version")),
        }
    }
}

/// That very file, be it this program or `calypso-watch-shim`.
impl From<&Utf8Path> for ShimProgram {
    fn from(path: &Utf8Path) -> Self {
        Self {
            path: path.to_owned(),
            _file: None,
            spare: None,
        }
    }
}

/// D3: makes the spare shim that of this run, or starts one with the run's lock as standard input. It is a child of this process, in a
/// session of its own within its first instructions. `env` is what settings add to the agent's environment.
///
/// Stays on posix_spawn(3): no `pre_exec`, no uid, no bare program name. A fork of a large daemon takes tens of milliseconds.
///
/// # Errors
/// Nothing ran at all: no process, memory or descriptor was to be had for it.
pub fn start_shim(
    program: &mut ShimProgram,
    layout: &Layout,
    dir: &RunDir,
    lock: OwnedFd,
    env: Vec<(String, String)>,
) -> io::Result<Child> {
    let dir = layout.run(dir).dir;
    let order = Order { dir, env };
    // D3
    if let Some(spare) = program.spare.take() {
        match spare.become_shim(&order, &lock) {
            Ok(shim) => return Ok(shim),
            Err(error) => tracing::debug!(%error, "the spare shim is of no use"),
        }
    }
    spawn(
        &program.path,
        [SHIM_WORD, order.dir.as_str()],
        order.env,
        lock,
    )
}

/// A shim, with what it is given as standard input.
pub(super) fn spawn(
    program: &Utf8Path,
    words: [&str; 2],
    env: Vec<(String, String)>,
    given: OwnedFd,
) -> io::Result<Child> {
    Command::new(program.as_str())
        .arg0("calypso-watch")
        .args(words)
        .envs(env)
        // A daemon that an agent started carries that run's token; the shim is none of that run's processes.
        .env_remove(TOKEN_VARIABLE)
        .stdin(Stdio::from(given))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Waits for a child's end without collecting it; where there is no pidfd to wait on, for as long as it takes.
fn is_over_within(child: &Child, limit: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let pid = rustix::process::Pid::from_child(child);
    let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return true;
    };
    let end = clock::monotonic() + limit;
    loop {
        let left = end.saturating_sub(clock::monotonic());
        let left = rustix::time::Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            // A SIGCHLD, perhaps because the child was stopped: that is not its end.
            Err(rustix::io::Errno::INTR) => {}
            answer => return answer != Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;

    extern "C" fn nothing(_: i32) {}

    #[test]
    fn a_signal_is_not_taken_for_the_end_of_a_child() {
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, and nobody else here has one for a signal that is ignored unless caught.
        unsafe { sigaction(Signal::SIGURG, &action) }.expect("a handler");
        let mut child = Command::new("sleep").arg("30").spawn().expect("a child");
        // SAFETY: asks for its own number only.
        let waiting = unsafe { libc::pthread_self() };
        let signals = std::thread::spawn(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(10));
                // SAFETY: the thread waits for this one's end before it ends.
                unsafe { libc::pthread_kill(waiting, libc::SIGURG) };
            }
        });
        assert!(!is_over_within(&child, Duration::from_millis(300)));
        signals.join().expect("it only sends");
        child.kill().expect("ours");
        assert!(is_over_within(&child, VERSION_TIME));
        child.wait().expect("ours");
    }
}
