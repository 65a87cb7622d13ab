//! What each subcommand means. One file for each that has a body of its own; the one-liners are here.

use crate::cli::{Cli, Command};
use crate::report::{Exit, Failure};

pub mod task;
pub mod tinytask;

/// Does what was typed.
pub fn call(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Tinytask(command) => tinytask::call(cli.base_path.as_deref(), command),
        _ => Err(Failure::new(Exit::Failed, "not built yet")),
    }
}
