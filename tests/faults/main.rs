//! What kernel and file system may do to a running daemon: lose events, run out of everything, take folders away, stand still.
//!
//! The real daemon, shims, agents and tinytask, on real mounts. What needs a mount, a limit or a clock of its own runs in namespaces
//! ([`space`]), so that nothing of the machine is changed.

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its files and waits by the clock"
)]

#[expect(dead_code, reason = "shared with tests that ask more of it")]
#[path = "../support/client.rs"]
mod client;
mod clocks;
mod events;
mod folders;
mod full;
mod limits;
mod mounts;
mod records;
mod space;
#[path = "../support/stop.rs"]
mod stop;
#[expect(dead_code, reason = "shared with tests that ask more of it")]
#[path = "../lifecycle/world.rs"]
mod world;

use world::World;
