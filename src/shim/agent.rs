//! The agent's process: forked behind a gate, made clean for exec(3), told to go.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use camino::Utf8Path;
use nix::fcntl::{FcntlArg, FdFlag, OFlag};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid};

use crate::core::record::SpecHead;
use crate::edge::process::TOKEN_VARIABLE;
use crate::edge::{files, kill_point};

/// An agent that waits at its gate, or has passed it. Its number is pinned until `sweep` collects it.
pub(super) struct Gated {
    pub(super) pid: Pid,
    /// Readable once it is over.
    pub(super) pidfd: OwnedFd,
    gate: File,
    errors: File,
    what: String,
}

/// What the child was about when a system call failed; its second byte on the errno pipe's message.
const AT_CWD: u8 = 1;
const AT_EXEC: u8 = 2;
const AT_STDIO: u8 = 3;

impl Gated {
    /// S4. `shim_lock`'s copy is closed by the child at once, so that a child at the gate does not look like a shim.
    pub(super) fn fork(
        spec: &SpecHead,
        log: &File,
        agent_lock: &File,
        shim_lock: &OwnedFd,
    ) -> io::Result<Self> {
        let image = Image::new(spec)?;
        let (gate_read, gate_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (errors_read, errors_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // SAFETY: the process has one thread, so the child may do whatever the parent could.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => {
                // A writing end of its own would keep the gate from ever seeing end-of-file; the shim's lock would keep it held.
                drop(gate_write);
                close(shim_lock.as_raw_fd());
                kill_point::reach("S4:child-begins");
                let failed = image.become_it(gate_read.as_fd(), log, agent_lock);
                let (at, error) = failed;
                let mut message = vec![at];
                message.extend(error.to_ne_bytes());
                nix::unistd::write(&errors_write, &message).ok();
                exit_now()
            }
            ForkResult::Parent { child } => {
                kill_point::reach("S4:forked");
                // Here too, as nobody knows which side comes first.
                nix::unistd::setpgid(child, child).ok();
                kill_point::reach("S4:grouped");
                let gated = rustix::process::Pid::from_raw(child.as_raw())
                    .ok_or(rustix::io::Errno::SRCH)
                    .and_then(|pid| {
                        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                    });
                match gated {
                    Ok(pidfd) => Ok(Self {
                        pid: child,
                        pidfd,
                        gate: gate_write.into(),
                        errors: errors_read.into(),
                        what: spec.argv.first().cloned().unwrap_or_default(),
                    }),
                    Err(error) => {
                        end_child(child);
                        Err(error.into())
                    }
                }
            }
        }
    }

    /// S7. A child that died at the gate is met by the wait that follows.
    pub(super) fn open_gate(&self) {
        (&self.gate).write_all(b"g").ok();
    }

    /// Ends a child whose gate stays shut.
    pub(super) fn kill(self) {
        end_child(self.pid);
    }

    /// Why its program never began, once it is over.
    pub(super) fn exec_error(&self, cwd: &str) -> Option<String> {
        let mut message = [0; 5];
        (&self.errors).read_exact(&mut message).ok()?;
        let [at, errno @ ..] = message;
        let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        Some(match at {
            AT_CWD => format!("cannot go to `{cwd}`: {error}"),
            AT_EXEC => format!("exec `{}`: {error}", self.what),
            _ => format!("cannot prepare it: {error}"),
        })
    }
}

/// Not collected yet, so its number is its own.
fn end_child(child: Pid) {
    nix::sys::signal::kill(child, Signal::SIGKILL).ok();
    while nix::sys::wait::waitpid(child, None) == Err(nix::Error::EINTR) {}
}

/// All that exec(3) needs, made before the fork.
struct Image {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
}

impl Image {
    fn new(spec: &SpecHead) -> io::Result<Self> {
        let token = CString::new(format!("{TOKEN_VARIABLE}={}", spec.token))?;
        let mut env = vec![token];
        for (name, value) in std::env::vars_os() {
            if name != OsStr::new(TOKEN_VARIABLE) {
                let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
                env.push(CString::new(entry)?);
            }
        }
        let argv = spec
            .argv
            .iter()
            .map(|arg| CString::new(arg.as_str()))
            .collect::<Result<Vec<_>, _>>()?;
        if argv.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the command is empty",
            ));
        }
        Ok(Self {
            argv,
            env,
            cwd: CString::new(spec.cwd.as_str())?,
        })
    }

    /// In the child: clean up, wait at the gate, exec. Comes back only with what failed. The umask and the limits are untouched here and in
    /// the shim, so they are those of whoever started the daemon.
    fn become_it(&self, gate: BorrowedFd<'_>, log: &File, agent_lock: &File) -> (u8, i32) {
        let failed = |at| move |error: nix::Error| (at, error as i32);
        let prepared = (|| {
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed(AT_STDIO))?;
            kill_point::reach("S4:child-in-group");
            // Standard input is /dev/null already.
            nix::unistd::dup2_stdout(log).map_err(failed(AT_STDIO))?;
            nix::unistd::dup2_stderr(log).map_err(failed(AT_STDIO))?;
            nix::fcntl::fcntl(agent_lock, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(failed(AT_STDIO))?;
            nix::unistd::chdir(self.cwd.as_c_str()).map_err(failed(AT_CWD))?;
            reset_signals().map_err(failed(AT_STDIO))
        })();
        kill_point::reach("S4:child-at-gate");
        // At the gate also with a failure to tell: the record has to say `running` before the run can end.
        if !is_told_to_go(gate) {
            exit_now();
        }
        kill_point::reach("S7:child-through");
        if let Err(failure) = prepared {
            return failure;
        }
        let Err(error) = nix::unistd::execvpe(&self.argv[0], &self.argv, &self.env);
        (AT_EXEC, error as i32)
    }
}

/// One byte is "go"; end-of-file, or anything else, is "die".
fn is_told_to_go(gate: BorrowedFd<'_>) -> bool {
    if kill_point::is_planted("gate-open") {
        return true;
    }
    let mut byte = [0];
    loop {
        match nix::unistd::read(gate, &mut byte) {
            Err(nix::Error::EINTR) => {}
            answer => return answer == Ok(1) && byte == *b"g",
        }
    }
}

/// Default actions for all signals and none blocked: Rust ignores SIGPIPE, the shim blocks what it reads, and nohup(1) may have
/// ignored SIGHUP; all of it would pass through exec(3).
///
/// By the system call itself, as libc keeps two real-time signals from its callers, and a starter may have ignored those too.
fn reset_signals() -> nix::Result<()> {
    // Large enough for the kernel's sigaction on every architecture; all zeroes are SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 8];
    for signal in 1..=64 {
        // SAFETY: the kernel reads at most as much as is there, and writes nothing; no handler is installed. It refuses SIGKILL and SIGSTOP.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8,
            )
        };
    }
    SigSet::empty().thread_set_mask()
}

/// The agent's output goes straight to the file: no pipe that a dead shim could break. Not into one that has another name somewhere.
pub(super) fn open_log(path: &Utf8Path) -> io::Result<File> {
    // The blank one, if there is one, and no log yet.
    files::rename_new(&files::blank(path, ""), path).ok();
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    if log.metadata()?.nlink() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a hard link of another file: remove it",
        ));
    }
    Ok(log)
}

/// The run's own `pid`, which becomes the pid file by a second link: complete before anybody can see it there.
pub(super) fn write_pid(path: &Utf8Path, pid: Pid) -> io::Result<()> {
    let mut file = files::create_new(path, 0o644)?;
    kill_point::reach("S5:pid-made");
    file.write_all(format!("{pid}\n").as_bytes())
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: u32) {
    // SAFETY: called before this process has opened anything of its own, so nobody's descriptor is pulled away.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed == 0 {
        return;
    }
    // Before Linux 5.9, or where a sandbox forbids it.
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        if fd.cast_unsigned() >= first {
            close(fd);
        }
    }
}

fn close(fd: RawFd) {
    // SAFETY: closing a number that is not open is harmless; the two callers know that no Rust owner uses it afterwards.
    unsafe { libc::close(fd) };
}

/// Ends the child without anything of the shim's: no destructors, no buffers.
fn exit_now() -> ! {
    // SAFETY: _exit(2) only ends the process.
    unsafe { libc::_exit(127) }
}
