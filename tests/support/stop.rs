//! A process that stands still.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Stops a process, and waits until none of its threads goes on: kill(2) returns when the signal is pending, and one that runs on
/// another processor may do a good deal until it meets it.
pub(crate) fn stop(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it lives");
    let stopped = (0..20_000).find(|_| {
        std::thread::sleep(Duration::from_millis(1));
        stands_still(pid)
    });
    assert!(stopped.is_some(), "{pid} does not stop");
}

fn stands_still(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything; proc_pid_stat(5). One that is gone says nothing.
        stat.rsplit(") ")
            .next()
            .is_none_or(|rest| rest.is_empty() || rest.starts_with(['T', 'Z', 'X']))
    })
}
