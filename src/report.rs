//! Errors for people: what was tried, why it failed, the way out; and the exit codes.
//!
//! Each `edge` file has its own error enum with a `hint`; here each gets its exit code, and the chain is printed, once.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use crate::edge::{config, runs};
use crate::{daemon, look};

/// What the program ends with. Documented in `--help` and the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// It failed, or `doctor` and `selftest` found something.
    Failed,
    /// What was typed, or what stands in the settings, cannot be used.
    Usage,
    /// The daemon is not running, or is running already.
    NotRunning,
    TinytaskUnreachable,
}

impl Exit {
    /// The number itself.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::TinytaskUnreachable => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error on its way to a person.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: Box<dyn Error>,
    hint: Option<String>,
}

impl Failure {
    /// `error` ends the program with `exit`.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error>>) -> Self {
        Self {
            exit,
            error: error.into(),
            hint: None,
        }
    }
    /// With the way out: a sentence, or a command to type.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
    /// How it ends the program.
    pub fn exit(&self) -> Exit {
        self.exit
    }
    /// `error: …`, a `caused by: …` for each cause, `hint: …`; each on lines of their own, with a newline at the end.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.error);
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let _ = writeln!(text, "  caused by: {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
    /// Prints it on standard error and gives the exit code.
    #[expect(clippy::print_stderr, reason = "the one place where an error is told")]
    pub fn report(self) -> ExitCode {
        eprint!("{}", self.text());
        self.exit.into()
    }
}

// ── which error ends the program how ───────────────────────────────────────────────────────────────────────────────────

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let exit = match error {
            config::Error::NetworkFileSystem { .. } => Exit::Failed,
            _ => Exit::Usage,
        };
        let hint = error.hint();
        Self::new(exit, error).hint(hint)
    }
}

impl From<runs::Error> for Failure {
    fn from(error: runs::Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self::new(Exit::Failed, error).hint(hint)
    }
}

impl From<look::Error> for Failure {
    fn from(error: look::Error) -> Self {
        match error {
            look::Error::Runs(error) => error.into(),
            error @ look::Error::Io { .. } => Self::new(Exit::Failed, error),
        }
    }
}

impl From<daemon::Error> for Failure {
    fn from(error: daemon::Error) -> Self {
        match error {
            daemon::Error::Config(error) => error.into(),
            daemon::Error::Look(error) => error.into(),
            daemon::Error::AlreadyRunning { .. } => Self::new(Exit::NotRunning, error).hint(
                "`calypso-watch status` shows its runs; `calypso-watch quit` ends it".to_owned(),
            ),
            daemon::Error::OtherMachine { .. } => Self::new(Exit::NotRunning, error).hint(
                "one machine owns a base path; end the other one there, this one may start 90 s after its last look"
                    .to_owned(),
            ),
            daemon::Error::Unseen { .. } => Self::new(Exit::Failed, error).hint(
                "start calypso-watch where that run was started, or here once it is over".to_owned(),
            ),
            daemon::Error::Watch(error) => {
                let hint = error.hint();
                Self::new(Exit::Failed, error).hint(hint)
            }
            daemon::Error::Builtin { .. } => Self::new(Exit::TinytaskUnreachable, error).hint(
                "its own words are in `.calypso/tinytask.log`; `listen` in calypso.toml, [tinytask], gives it another port"
                    .to_owned(),
            ),
            daemon::Error::Write { .. } => Self::new(Exit::Failed, error)
                .hint("is the disk full, or the folder another user's?".to_owned()),
            daemon::Error::NoLinks { .. } => Self::new(Exit::Failed, error).hint(
                "a pid file is a hard link: keep both folders on one file system and one mount that has these"
                    .to_owned(),
            ),
            daemon::Error::Signals(_) | daemon::Error::Displaced { .. } => {
                Self::new(Exit::Failed, error)
            }
        }
    }
}
