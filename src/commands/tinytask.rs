//! `tinytask serve | stop`: the built-in tinytask.

use camino::Utf8Path;

use crate::cli::TinytaskCommand;
use crate::report::{Exit, Failure};

/// Serves or ends the built-in tinytask.
pub fn call(_base: Option<&Utf8Path>, _command: TinytaskCommand) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "not built yet"))
}
