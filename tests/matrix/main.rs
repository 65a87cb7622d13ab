//! A matrix of bad input, on the real program: each one clear line with a way out, and everything else goes on.
#![expect(
    clippy::disallowed_methods,
    reason = "tests write files, read clocks and start programs themselves"
)]

#[expect(dead_code, reason = "shared with tests that ask more of it")]
#[path = "../support/tinytask.rs"]
mod tinytask;
#[path = "../support/world.rs"]
mod world;

mod ids;
mod inbound;
mod machine;
mod pid_files;
mod recipes;
mod records;
mod servers;
mod settings;
mod words;
