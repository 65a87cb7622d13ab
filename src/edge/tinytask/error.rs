//! What can go wrong with tinytask, named for what the caller can do about it.

use std::error::Error as StdError;
use std::time::Duration;

use crate::core::model::TaskId;

/// Why a call to tinytask gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("cannot reach tinytask at `{endpoint}`")]
    Unreachable { endpoint: String, source: Cause },
    #[error("tinytask at `{endpoint}` did not answer `{call}` within {after:?}")]
    Timeout {
        endpoint: String,
        call: &'static str,
        after: Duration,
    },
    #[error("v1 of tinytask over HTTP cannot be used: it speaks the old SSE transport")]
    LegacySse,
    #[error("what answers at `{endpoint}` is not a tinytask that can be used")]
    NotTinytask {
        endpoint: String,
        #[source]
        why: Cause,
    },
    #[error("cannot use `{endpoint}`: this build speaks http:// only, not https://")]
    Tls { endpoint: String },
    #[error("cannot use tinytask's command `{program}`")]
    Command { program: String, source: Cause },
    /// Deleted, or never there.
    #[error("tinytask has no task {0}")]
    NotFound(TaskId),
    #[error("tinytask's database stays locked by another process")]
    Locked,
    /// Somebody else moved or finished the task first.
    #[error("somebody was faster: {0}")]
    LostRace(String),
    /// tinytask's own words.
    #[error("tinytask refused: {0}")]
    Refused(String),
    #[error("tinytask's answer to `{call}` cannot be read")]
    BadAnswer { call: &'static str, source: Cause },
}

impl Error {
    /// The way out, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } => {
                "start it, or use the built-in one: in calypso.toml, `[tinytask] builtin = true`"
            }
            Self::Timeout { .. } => {
                "it is there but busy or stuck; restart it, or raise `timeout` in calypso.toml, [tinytask]"
            }
            Self::LegacySse => {
                "start it over stdio: in calypso.toml, [tinytask] command = [\"node\", \"…/build/index.js\"], \
                 env = { TINYTASK_MODE = \"stdio\", … }; or move to tinytask v2"
            }
            Self::NotTinytask { .. } => {
                "check `url` or `command` in calypso.toml, [tinytask]; a tinytask address looks like http://127.0.0.1:3000/mcp"
            }
            Self::Tls { .. } => {
                "use http:// on this machine; for one elsewhere, `ssh -L 3000:127.0.0.1:3000 HOST` and http://127.0.0.1:3000/mcp"
            }
            Self::Command { .. } => {
                "run it by hand to see what it says; it is `command` in calypso.toml, [tinytask], or the recipes' tinytask extension"
            }
            Self::Locked => {
                "several tinytask servers share one database; let one HTTP server own it"
            }
            Self::NotFound(_) => "`calypso-watch task list --all` shows all tasks",
            Self::LostRace(_) | Self::Refused(_) | Self::BadAnswer { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// No tinytask that can be used was reached, so nothing is known of any task.
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::LegacySse
            | Self::NotTinytask { .. }
            | Self::Tls { .. }
            | Self::Command { .. } => true,
            Self::NotFound(_)
            | Self::Locked
            | Self::LostRace(_)
            | Self::Refused(_)
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// The innermost cause, as one printable line. A text, because an error is remembered and told again while backing off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    /// `text` as one line of bounded length without control characters.
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self(one_line(text.as_ref()))
    }
    /// What stands at the bottom of the chain: the layers above only say that something below failed.
    pub(super) fn root(error: &(dyn StdError + 'static)) -> Self {
        let mut error = error;
        while let Some(source) = error.source() {
            error = source;
        }
        let text = error.to_string();
        // "Connection refused" begins a sentence; here it ends one.
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
                Self::new(first.to_lowercase().to_string() + &text[first.len_utf8()..])
            }
            _ => Self::new(text),
        }
    }
}

/// Some other program's words, fit for a terminal: one line, bounded, no control characters.
pub(super) fn one_line(text: &str) -> String {
    const MOST: usize = 300;
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !c.is_control()));
        if line.len() > MOST {
            let cut = line.floor_char_boundary(MOST);
            line.truncate(cut);
            line.push('…');
            break;
        }
    }
    line
}
