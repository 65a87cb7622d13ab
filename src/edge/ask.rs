//! Asks another program something, for a bounded time: `goose run --help`, `systemctl show`.
//!
//! Knows nothing of what is asked. A program that does not end in time is killed with its children, and gives no answer.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use camino::Utf8Path;

use crate::edge::clock;

/// More than any answer; what a program says beyond it is not read.
const MOST: u64 = 1 << 20;

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub is_success: bool,
    pub out: String,
    pub err: String,
}

/// Runs it with nothing on standard input; `env` is added to this process's environment. `None` when it did not end within `limit`.
///
/// # Errors
/// It cannot be started.
pub fn ask(
    program: &Utf8Path,
    args: &[&str],
    env: &[(&str, &str)],
    limit: Duration,
) -> io::Result<Option<Answer>> {
    let end = clock::monotonic() + limit;
    let left = || end.saturating_sub(clock::monotonic());
    let mut child = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = read(child.stdout.take());
    let err = read(child.stderr.take());
    let said = out
        .recv_timeout(left())
        .and_then(|out| Ok((out, err.recv_timeout(left())?)));
    let Ok((out, err)) = said else {
        kill(&mut child)?;
        return Ok(None);
    };
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // It closed its output and goes on all the same.
        if left().is_zero() {
            kill(&mut child)?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Ok(Some(Answer {
        is_success: status.success(),
        out,
        err,
    }))
}

/// A thread of its own, as a read from a pipe has no time limit. It ends when the pipe does: at the latest when the killed
/// child's last heir closes it.
fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.take(MOST).read_to_end(&mut bytes).ok();
        }
        sender
            .send(String::from_utf8_lossy(&bytes).into_owned())
            .ok();
    });
    receiver
}

/// Its group, while its number is pinned: it was not collected yet.
fn kill(child: &mut Child) -> io::Result<()> {
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
    child.wait().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Option<Answer> {
        ask(
            Utf8Path::new("/bin/sh"),
            &["-c", script],
            &[("GREETING", "hello")],
            limit,
        )
        .expect("a shell is there")
    }

    #[test]
    fn a_program_answers_or_is_ended() {
        let said = sh(
            "echo $GREETING; echo no >&2; exit 3",
            Duration::from_secs(30),
        );
        let said = said.expect("in time");
        assert_eq!(
            (said.is_success, said.out.as_str(), said.err.as_str()),
            (false, "hello\n", "no\n")
        );
        let began = clock::monotonic();
        assert_eq!(sh("sleep 600 & sleep 600", Duration::from_millis(50)), None);
        assert_eq!(
            sh("exec >&- 2>&-; sleep 600", Duration::from_millis(50)),
            None
        );
        assert!(clock::monotonic() - began < Duration::from_secs(300));
    }
}
