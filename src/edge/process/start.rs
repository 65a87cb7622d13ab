//! Starting a shim, and the program it is started from.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::{SELF_EXE, TOKEN_VARIABLE};
use crate::core::layout::{Layout, RunDir};
use crate::edge::clock;

/// The hidden word that makes this program a shim.
pub const SHIM_WORD: &str = "__shim";

/// Makes `calypso-watch-shim` succeed where the word after it is its version.
pub const IS_VERSION: &str = "__is-version";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a shim's first stage, or its program's word on its version, may take: milliseconds are enough.
const FIRST_STAGE_TIME: Duration = Duration::from_secs(5);

/// What shims are started from.
#[derive(Debug)]
pub struct ShimProgram {
    path: Utf8PathBuf,
    /// What `path` names by number: the file that was looked at, whatever an upgrade puts in its place.
    _file: Option<OwnedFd>,
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

    fn beside() -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let path = std::env::current_exe()?.with_file_name("calypso-watch-shim");
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let program = Self {
            path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            _file: Some(file),
        };
        let mut asked = Command::new(program.path.as_str())
            .args([IS_VERSION, VERSION])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        if !is_over_within(&asked, FIRST_STAGE_TIME) {
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
        }
    }
}

/// D3: starts the shim of a run, with its lock as standard input. Its first stage forks and exits at once, which [`FirstStage::over`]
/// waits for; from then on the shim is nobody's child here. `env` is what settings add to the agent's environment.
///
/// Stays on posix_spawn(3): no `pre_exec`, no uid, no bare program name. A fork of a large daemon takes tens of milliseconds.
///
/// # Errors
/// [`StartError::NoProcess`].
pub fn start_shim(
    program: &ShimProgram,
    layout: &Layout,
    dir: &RunDir,
    lock: OwnedFd,
    env: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Result<FirstStage, StartError> {
    // D3
    let first_stage = Command::new(program.path.as_str())
        .arg0("calypso-watch")
        .arg(SHIM_WORD)
        .arg(layout.run(dir).dir.as_str())
        .envs(env)
        // A daemon that an agent started carries that run's token; the shim is none of that run's processes.
        .env_remove(TOKEN_VARIABLE)
        .process_group(0)
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(StartError::NoProcess)?;
    Ok(FirstStage(first_stage))
}

/// The first stage of a shim: a child that is about to fork the shim proper and exit.
#[derive(Debug)]
#[must_use = "a child that nobody waits for stays a zombie"]
pub struct FirstStage(Child);

impl FirstStage {
    /// Waits for its end, which takes a millisecond or two.
    ///
    /// # Errors
    /// [`StartError::Refused`], where it says that nothing was started; [`StartError::Unknown`].
    pub fn over(mut self) -> Result<(), StartError> {
        // One that is stopped before its fork would stop the daemon with it. It is our child, so its number is its own.
        if !is_over_within(&self.0, FIRST_STAGE_TIME) {
            self.0.kill().map_err(StartError::Unknown)?;
        }
        match self.0.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(StartError::Refused(status.to_string())),
            Err(error) => Err(StartError::Unknown(error)),
        }
    }
}

/// Why a shim did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing ran at all: no process, memory or descriptor was to be had for it.
    #[error("cannot start the shim")]
    NoProcess(#[source] io::Error),
    #[error("the shim refused: {0}")]
    Refused(String),
    /// It may run.
    #[error("cannot tell whether the shim started")]
    Unknown(#[source] io::Error),
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
        assert!(is_over_within(&child, FIRST_STAGE_TIME));
        child.wait().expect("ours");
    }
}
