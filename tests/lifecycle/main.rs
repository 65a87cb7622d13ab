//! Does the wired program keep its promises? The real daemon, shims and tinytask; agents are small shell scripts that wait for
//! gates the tests open.
//!
//! Each agent notes when it starts and ends, and whether another agent of its task lives at that moment: no test may ever see that.

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its scripts and waits by the clock"
)]

#[path = "../support/client.rs"]
mod client;
mod commands;
mod doubles;
mod idle;
mod inbound;
mod orphans;
mod restart;
mod server;
mod slots;
#[path = "../support/stop.rs"]
mod stop;
mod verdicts;
mod world;

use serde_json::json;
use world::World;
