//! What others can do to us by what they write, link, name and send: on the real program. docs/security.md names these tests.
#![expect(
    clippy::disallowed_methods,
    reason = "tests write files, read clocks and start programs themselves"
)]

#[path = "../../fuzz/targets/mod.rs"]
mod targets;
#[path = "../support/tinytask.rs"]
mod tinytask;
#[expect(dead_code, reason = "shared with tests that ask more of it")]
#[path = "../support/world.rs"]
mod world;

mod bombs;
mod inputs;
mod links;
mod modes;
mod names;
mod secrets;
mod strangers;
mod web;
