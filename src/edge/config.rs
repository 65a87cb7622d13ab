//! Settings: defaults ← calypso.toml ← `CALYPSO_*` ← flags. Each value knows where it came from, so that an error can say it.
//!
//! Also what must hold before anything is started below a base path: who may write there, and which file system it is.
//!
//! Knows nothing of clap: flags come as (key, text) pairs and take the same way as the environment.
//!
//! Known gap: a variable `CALYPSO_…` with an unknown name is only warned of, as somebody else's program may own it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
use glob::Pattern;

use crate::core::Policy;
use crate::core::layout::Layout;
use crate::core::model::{Millis, ProviderName, QueueName};

mod build;
mod file;
mod safety;
mod value;

pub use file::{env_file, parse_env_file};
pub use safety::check_permissions;
pub use value::{parse_size, parse_span};

use build::build;
use file::{closest, read_toml};
use value::{Given, Values};

/// Everything a person can set.
#[derive(Debug, Clone)]
pub struct Config {
    pub base: Utf8PathBuf,
    /// What the core needs of it.
    pub policy: Policy,
    pub stop_grace: Millis,
    pub settle: Millis,
    pub rescan: Millis,
    /// Bytes of a run's log.
    pub log_limit: u64,
    pub max_turns: u32,
    pub provider: Option<ProviderName>,
    pub model: Option<String>,
    pub keep_days: u32,
    pub keep_per_task: u32,
    pub inbound: InboundConfig,
    /// `[agent] command`: replaces the goose command line of every queue.
    pub agent_command: Option<Vec<String>>,
    pub queues: BTreeMap<QueueName, QueueConfig>,
    pub tinytask: TinytaskConfig,
    /// What looks like a mistake but stops nothing.
    pub warnings: Vec<String>,
}

impl Config {
    /// Recipe files that settings name for a queue instead of `{queue}.yaml`.
    pub fn recipe_files(&self) -> BTreeMap<QueueName, String> {
        self.queues
            .iter()
            .filter_map(|(name, queue)| Some((name.clone(), queue.recipe.clone()?)))
            .collect()
    }
}

/// `[inbound]`
#[derive(Debug, Clone)]
pub struct InboundConfig {
    /// The queue whose recipe handles requests.
    pub queue: QueueName,
    /// Names that are no requests, besides the built-in ones.
    pub ignore: Vec<Pattern>,
}

/// `[queues.X]`
#[derive(Debug, Clone, Default)]
pub struct QueueConfig {
    /// File below recipes/.
    pub recipe: Option<String>,
    pub provider: Option<ProviderName>,
    pub model: Option<String>,
    pub params: BTreeMap<String, String>,
    pub env: Secrets,
    pub env_file: Option<Utf8PathBuf>,
    /// Replaces the goose command line.
    pub command: Option<Vec<String>>,
    pub leftovers: Leftovers,
    pub concurrency: Option<u32>,
    pub time_limit: Option<Millis>,
    pub max_turns: Option<u32>,
}

/// Environment variables; only their names are ever printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What happens to processes an agent leaves behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leftovers {
    #[default]
    Stop,
    Leave,
}

impl FromStr for Leftovers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "leave" => Ok(Self::Leave),
            other => Err(format!("must be \"stop\" or \"leave\", got `{other}`")),
        }
    }
}

/// `[tinytask]`
#[derive(Debug, Clone)]
pub struct TinytaskConfig {
    /// None: whatever the recipes name.
    pub chosen: Option<TinytaskChoice>,
    /// Where the choice was made, for messages.
    pub origin: Option<Origin>,
    /// Its SQLite file, where it is local.
    pub db: Option<Utf8PathBuf>,
    /// Of one call.
    pub timeout: Millis,
}

/// Which tinytask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TinytaskChoice {
    /// Streamable HTTP.
    Url(String),
    /// A child process that speaks over standard input and output.
    Command { argv: Vec<String>, env: Secrets },
    /// Ours; the address is fixed by `init`.
    Builtin { listen: Option<SocketAddr> },
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { line } => write!(f, "`calypso.toml`, line {line}"),
            Self::Environment(name) => write!(f, "`{name}`"),
            Self::Flag(name) => write!(f, "`{name}`"),
        }
    }
}

/// What is wrong with the base path or the settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no base path: neither `{from}` nor a folder above it has calypso.toml or .calypso/")]
    NoBase { from: Utf8PathBuf },
    #[error("cannot use `{path}` as base path (from {origin})")]
    Base {
        path: Utf8PathBuf,
        origin: Origin,
        source: io::Error,
    },
    #[error("cannot read `{path}`")]
    Read {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error("`{file}` line {line}, column {column}: {message}")]
    Syntax {
        file: Utf8PathBuf,
        line: usize,
        column: usize,
        message: String,
        suggestion: Option<String>,
    },
    #[error("`{key}` {problem} (from {origin})")]
    Value {
        key: String,
        problem: String,
        origin: Origin,
    },
    #[error("`{path}` can be written by everyone, so anyone could run commands as this user")]
    Unsafe { path: Utf8PathBuf },
    #[error(
        "`{path}` was found above this folder, and belongs to another user (uid {uid}), whose commands would be run"
    )]
    Stranger { path: Utf8PathBuf, uid: u32 },
    #[error("`{path}` is a symlink, and records are kept only where they are seen")]
    Linked { path: Utf8PathBuf },
    #[error("base path `{path}` is on a network file system ({kind})")]
    NetworkFileSystem { path: Utf8PathBuf, kind: String },
}

impl Error {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoBase { .. } => Some(
                "`calypso-watch init` makes one here; `--base-path DIR` or `CALYPSO_BASE_PATH` names one".into(),
            ),
            Self::Base { path, source, .. } => (source.kind() == io::ErrorKind::NotFound)
                .then(|| format!("`calypso-watch init {path}` makes it")),
            Self::Read { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!("`ls -ld {path}` shows whose it is; run as that user, or let this one read it"))
            }
            Self::Read { .. } => Some("it is to be a regular file of at most 1 MiB".into()),
            Self::Syntax { suggestion, .. } => {
                suggestion.as_ref().map(|name| format!("did you mean `{name}`?"))
            }
            Self::Unsafe { path } => Some(format!("`chmod o-w {path}`")),
            Self::Stranger { path, .. } => Some(format!(
                "`--base-path` names the base path you mean, also that one, if you trust `{path}`"
            )),
            Self::Linked { path } => Some(format!("`rm {path}`, or link the whole base path")),
            Self::NetworkFileSystem { .. } => Some(
                "changes made elsewhere are not announced there, and locks and links are not sound; move it to a local disk".into(),
            ),
            Self::Value { .. } => None,
        }
    }
}

// ── where ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The base path: the flag, else `CALYPSO_BASE_PATH`, else the nearest parent of the working directory that has
/// calypso.toml or .calypso/. Absolute, symlinks resolved, so that one base has one name.
pub fn find_base(flag: Option<&Utf8Path>) -> Result<Utf8PathBuf, Error> {
    let variable = environment()
        .into_iter()
        .find(|(name, value)| name == "CALYPSO_BASE_PATH" && !value.is_empty())
        .map(|(_, value)| Utf8PathBuf::from(value));
    let (path, origin) = match (flag, variable) {
        (Some(path), _) => (path.to_owned(), Origin::Flag("--base-path".into())),
        (None, Some(path)) => (path, Origin::Environment("CALYPSO_BASE_PATH".into())),
        (None, None) => {
            let here = canonical(Utf8Path::new(".")).map_err(|source| Error::Base {
                path: ".".into(),
                origin: Origin::Default,
                source,
            })?;
            let base = nearest_base(&here).ok_or(Error::NoBase { from: here })?;
            return safety::check_owner(base);
        }
    };
    let found = canonical(&path).and_then(|path| {
        if path.is_dir() {
            Ok(path)
        } else {
            Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                "not a directory",
            ))
        }
    });
    found.map_err(|source| Error::Base {
        path,
        origin,
        source,
    })
}

fn nearest_base(from: &Utf8Path) -> Option<Utf8PathBuf> {
    from.ancestors()
        .find(|dir| {
            let layout = Layout::new(*dir);
            layout.config().is_file() || layout.state().is_dir()
        })
        .map(Utf8Path::to_owned)
}

fn canonical(path: &Utf8Path) -> io::Result<Utf8PathBuf> {
    path.canonicalize_utf8()
}

/// The environment, without what is not UTF-8: no setting of ours is.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

// ── what ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Reads the settings of `base`. `flags` are (key, text) pairs, keys as in [`FLAT_KEYS`].
pub fn load(base: &Utf8Path, flags: &[(&'static str, String)]) -> Result<Config, Error> {
    load_from(base, &environment(), flags)
}

/// The keys that the environment and flags can set; `tinytask_url` is `url` in `[tinytask]`.
pub const FLAT_KEYS: [&str; 20] = [
    "max_runs",
    "time_limit",
    "stop_grace",
    "max_attempts",
    "max_runs_per_task",
    "max_turns",
    "settle",
    "rescan",
    "quiet_after",
    "log_limit",
    "keep_days",
    "keep_per_task",
    "missing_folder",
    "provider",
    "model",
    "inbound_queue",
    "tinytask_url",
    "tinytask_db",
    "tinytask_timeout",
    "tinytask_builtin",
];

/// Variables of ours that are no settings.
const OTHER_VARIABLES: [&str; 3] = ["CALYPSO_BASE_PATH", "CALYPSO_RUN", "CALYPSO_WATCH"];

/// [`load`] with the environment as an argument.
pub fn load_from(
    base: &Utf8Path,
    environment: &[(String, String)],
    flags: &[(&'static str, String)],
) -> Result<Config, Error> {
    let file = read_toml(&Layout::new(base).config())?;
    let mut warnings = Vec::new();
    let mut values: BTreeMap<&str, Given> = BTreeMap::new();
    for (key, value) in file.flat() {
        if let Some(value) = value {
            values.insert(key, Given::from_file(value, &file.text));
        }
    }
    for (name, text) in environment {
        let Some(key) = name.strip_prefix("CALYPSO_") else {
            continue;
        };
        let key = key.to_ascii_lowercase();
        match FLAT_KEYS.into_iter().find(|known| *known == key) {
            Some(known) if name.chars().all(|c| !c.is_ascii_lowercase()) => {
                values.insert(
                    known,
                    Given::new(text.clone(), Origin::Environment(name.clone())),
                );
            }
            _ if OTHER_VARIABLES.contains(&name.as_str()) => {}
            _ => warnings.push(match closest(&key, FLAT_KEYS) {
                Some(known) => format!(
                    "`{name}` means nothing; did you mean `CALYPSO_{}`?",
                    known.to_ascii_uppercase()
                ),
                None => format!("`{name}` means nothing"),
            }),
        }
    }
    for (key, text) in flags {
        values.insert(
            key,
            Given::new(
                text.clone(),
                Origin::Flag(format!("--{}", key.replace('_', "-"))),
            ),
        );
    }
    build(base, &file, &Values(values), warnings)
}

#[cfg(test)]
mod tests;
