//! Does `doctor` find what is amiss, only that, and does its way out work? Each test seeds one fault into a world that is well, and
//! looks at what the real binary says.
#![expect(
    clippy::disallowed_methods,
    reason = "tests write files, read clocks and start programs themselves"
)]

mod faults;
mod living;
mod machine;
mod screen;
mod world;
