//! Does a new daemon take up what another one left, and does tinytask's worst day cost nothing but time? The real daemon, shims and
//! tinytask; what stands between them, and who has whose number, is the test's.
//!
//! | file | question |
//! |---|---|
//! | `adoption.rs` | does the next daemon know every run, and how each that ended in between did? |
//! | `upgrade.rs` | may the program's file be replaced while it runs? |
//! | `daemons.rs` | is there ever more than one daemon, or one that cannot see what runs? |
//! | `orphans.rs` | are agents without a shim watched, limited, ended and swept, and are a person's own left alone? |
//! | `cut.rs`, `proxy.rs` | is anything lost or done twice when tinytask fails at some call? |
//! | `server.rs` | what if tinytask hangs, is locked, is swapped, restored, huge, or something else altogether? |
//! | `reuse.rs`, `inside.rs` | is a stranger ever taken for one of ours because it has its number? |

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its scripts and waits by the clock"
)]

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod adoption;
#[expect(dead_code, reason = "other tests use all of it, these a part")]
#[path = "../support/client.rs"]
mod client;
mod cut;
mod daemons;
mod inside;
mod orphans;
mod proxy;
mod reuse;
mod server;
#[path = "../support/stop.rs"]
mod stop;
mod upgrade;
#[expect(
    dead_code,
    reason = "tests/lifecycle uses all of it, these tests a part"
)]
#[path = "../lifecycle/world.rs"]
mod world;

use world::World;

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it lives");
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The state `status` shows of a queue's first run.
fn state_of(world: &World, queue: &str) -> String {
    let (status, _) = world.status();
    let queues = status["queues"].as_array().cloned().unwrap_or_default();
    let of_queue = queues.iter().find(|row| row["queue"] == queue);
    of_queue
        .and_then(|row| row["runs"][0]["state"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// A process that ends with the test.
struct Ends(Child);

impl Ends {
    fn new(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(child.spawn().expect("it starts"))
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// Its exit code, once it ended.
    fn code(&mut self) -> Option<Option<i32>> {
        let status = self.0.try_wait().expect("it is ours")?;
        Some(status.code())
    }

    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.end();
    }
}
