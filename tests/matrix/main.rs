//! A matrix of bad input, on the real program: each one clear line with a way out, and everything else goes on.
#![expect(
    clippy::disallowed_methods,
    reason = "tests write files, read clocks and start programs themselves"
)]

#[path = "../support/tinytask.rs"]
mod tinytask;
#[path = "../support/world.rs"]
mod world;

mod pid_files;
mod settings;
