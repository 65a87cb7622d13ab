//! A tinytask started by us and spoken to over its standard input and output.
//!
//! It gets end-of-file when we end, however we end, and leaves. Its standard error is kept for messages, not shown: a server
//! that logs would write over the daemon's own log.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8Path;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rmcp::service::RoleClient;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::Error;
use super::connect::LARGEST_ANSWER;
use super::error::Cause;

/// Bytes of standard error that are kept.
const KEPT: usize = 4096;

/// From end-of-file to SIGTERM, and from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The process of a tinytask.
pub(super) struct Child {
    program: String,
    process: Option<tokio::process::Child>,
    said: Arc<Mutex<VecDeque<u8>>>,
}

/// Starts it. Its standard input and output are the transport.
pub(super) fn start(
    command: &[String],
    env: &[(String, String)],
    cwd: Option<&Utf8Path>,
) -> Result<(AsyncRwTransport<RoleClient, ChildStdout, ChildStdin>, Child), Error> {
    let failed = |program: &str, source| Error::Command {
        program: program.to_owned(),
        source,
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed("", Cause::new("it is empty")));
    };
    let mut starting = Command::new(program);
    starting
        .args(arguments)
        // Without a mode it would listen on all addresses too, and stay when its input ends. Its chattier log levels write to
        // standard output, into the protocol.
        .env("TINYTASK_MODE", "stdio")
        .env("TINYTASK_LOG_LEVEL", "error")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C ends us first; then its input ends.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(cwd) = cwd {
        starting.current_dir(cwd);
    }
    let mut process = starting
        .spawn()
        .map_err(|error| failed(program, Cause::root(&error)))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (
        process.stdin.take(),
        process.stdout.take(),
        process.stderr.take(),
    ) else {
        return Err(failed(program, Cause::new("it has no pipes")));
    };
    let said = Arc::new(Mutex::new(VecDeque::new()));
    drop(tokio::spawn(listen(stderr, said.clone())));
    Ok((
        AsyncRwTransport::new_client(stdout, stdin).with_max_line_length(LARGEST_ANSWER),
        Child {
            program: program.clone(),
            process: Some(process),
            said,
        },
    ))
}

/// Keeps the last of what it says on standard error, until end-of-file.
async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(&buffer[..n]);
        let surplus = said.len().saturating_sub(KEPT);
        drop(said.drain(..surplus));
    }
}

impl Child {
    /// Why its output ended: its exit status and last words. They may come a moment after the end of its output.
    pub(super) async fn why_ended(&mut self) -> Error {
        let mut ended = None;
        if let Some(process) = &mut self.process {
            // An error means somebody else reaped it; then only its words are left.
            ended = timeout(Duration::from_millis(500), process.wait())
                .await
                .ok()
                .map(|status| status.ok());
            // Its words may still be in the pipe.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let how = match ended {
            Some(Some(status)) => exit_text(status),
            Some(None) => "it ended".to_owned(),
            None => "it closed its output".to_owned(),
        };
        let text = match self.last_line() {
            Some(line) => format!("{how}: {line}"),
            None => how,
        };
        Error::Command {
            program: self.program.clone(),
            source: Cause::new(text),
        }
    }

    fn last_line(&self) -> Option<String> {
        let bytes: Vec<u8> = self
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes)
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(str::to_owned)
    }

    /// Waits for it to leave by itself, then asks, then insists.
    pub(super) async fn end(mut self) {
        if let Some(process) = self.process.take() {
            leave(process).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Without a runtime, `kill_on_drop` ends it.
        if let Some(process) = self.process.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(leave(process)));
        }
    }
}

async fn leave(mut process: tokio::process::Child) {
    if timeout(GRACE, process.wait()).await.is_ok() {
        return;
    }
    // Not waited for yet, so the number is still its own.
    if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
    if timeout(GRACE, process.wait()).await.is_err() {
        process.kill().await.ok();
    }
}

fn exit_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}
