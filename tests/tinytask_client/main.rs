//! The tinytask client against programs that answer as recorded from the real ones, and against every way to fail.

#![expect(
    clippy::disallowed_methods,
    reason = "tests write the fake's files as they like"
)]

mod commands;
mod failures;
mod fakes;
mod recorded;
