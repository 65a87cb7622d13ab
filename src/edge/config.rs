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
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::Deserialize;
use toml::Spanned;

use crate::core::layout::Layout;
use crate::core::model::{Millis, ProviderName, QueueName};
use crate::core::{Policy, QueuePolicy};
use crate::edge::files;

/// Largest calypso.toml or env_file that is read.
const LIMIT: u64 = 1 << 20;

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
    pub ignore: GlobSet,
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
            Self::Base { path, .. } => Some(format!("`calypso-watch init {path}` makes it")),
            Self::Syntax { suggestion, .. } => {
                suggestion.as_ref().map(|name| format!("did you mean `{name}`?"))
            }
            Self::Unsafe { path } => Some(format!("`chmod o-w {path}`")),
            Self::NetworkFileSystem { .. } => Some(
                "changes made elsewhere are not announced there, and locks and links are not sound; move it to a local disk".into(),
            ),
            Self::Read { .. } | Self::Value { .. } => None,
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
            return nearest_base(&here).ok_or(Error::NoBase { from: here });
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

fn build(
    base: &Utf8Path,
    file: &Read,
    values: &Values<'_>,
    warnings: Vec<String>,
) -> Result<Config, Error> {
    let queues = queues(base, file)?;
    let tinytask = tinytask(base, file, values)?;
    let is_builtin = matches!(tinytask.chosen, Some(TinytaskChoice::Builtin { .. }));
    let create_folders = match values.0.get("missing_folder") {
        None => is_builtin,
        Some(given) => match given.text.as_str() {
            "hold" => false,
            "create" if is_builtin => true,
            "create" => {
                return Err(given.problem(
                    "missing_folder",
                    "= \"create\" needs the built-in tinytask: two base paths on one tinytask would each make the folder and run the task".into(),
                ));
            }
            other => {
                return Err(given.problem(
                    "missing_folder",
                    format!("must be \"hold\" or \"create\", got `{other}`"),
                ));
            }
        },
    };
    let inbound_queue = match values.0.get("inbound_queue") {
        Some(given) => given
            .text
            .parse()
            .map_err(|error| given.problem("inbound_queue", format!("is no queue: {error}")))?,
        None => "dispatcher".parse().expect("a valid queue name"),
    };
    let provider = values.text("provider")?;
    Ok(Config {
        base: base.to_owned(),
        policy: Policy {
            max_runs: values.count("max_runs", 8)?,
            max_attempts: values.count("max_attempts", 3)?,
            max_runs_per_task: values.count("max_runs_per_task", 30)?,
            time_limit: values.span("time_limit", Millis::secs(3600), Millis::secs(1))?,
            quiet_after: values.span("quiet_after", Millis::secs(600), Millis::secs(1))?,
            provider: provider.clone(),
            inbound_queue: QueueName::clone(&inbound_queue),
            create_folders,
            queues: queues
                .iter()
                .map(|(name, queue)| {
                    let policy = QueuePolicy {
                        concurrency: queue.concurrency,
                        provider: queue.provider.clone(),
                        time_limit: queue.time_limit,
                        has_command: queue.command.is_some(),
                    };
                    (name.clone(), policy)
                })
                .collect(),
        },
        stop_grace: values.span("stop_grace", Millis::secs(10), Millis(0))?,
        settle: values.span("settle", Millis::secs(1), Millis(0))?,
        rescan: values.span("rescan", Millis::secs(60), Millis::secs(1))?,
        log_limit: match values.0.get("log_limit") {
            None => 256_000_000,
            Some(given) => {
                let size = parse_size(&given.text)
                    .map_err(|problem| given.problem("log_limit", problem))?;
                if size < 64 * 1024 {
                    return Err(given.problem(
                        "log_limit",
                        format!("must be at least 64KiB, got {}", given.text),
                    ));
                }
                size
            }
        },
        max_turns: values.count("max_turns", 200)?,
        provider,
        model: values.text("model")?,
        keep_days: values.count("keep_days", 30)?,
        keep_per_task: values.count("keep_per_task", 20)?,
        inbound: InboundConfig {
            queue: inbound_queue,
            ignore: ignore(file)?,
        },
        agent_command: match file.toml.agent.as_ref().and_then(|a| a.command.as_ref()) {
            Some(command) => Some(file.command("agent.command", command)?),
            None => None,
        },
        queues,
        tinytask,
        warnings,
    })
}

fn ignore(file: &Read) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in file.toml.inbound.iter().flat_map(|i| &i.ignore) {
        let glob = Glob::new(pattern.get_ref()).map_err(|error| {
            file.problem(
                "inbound.ignore",
                pattern,
                format!("has a bad pattern: {error}"),
            )
        })?;
        set.add(glob);
    }
    set.build().map_err(|error| Error::Value {
        key: "inbound.ignore".into(),
        problem: format!("cannot be used: {error}"),
        origin: Origin::File { line: 0 },
    })
}

fn queues(base: &Utf8Path, file: &Read) -> Result<BTreeMap<QueueName, QueueConfig>, Error> {
    let mut queues = BTreeMap::new();
    for (name, table) in &file.toml.queues {
        let key = |field: &str| format!("queues.{name}.{field}");
        let queue = table.get_ref();
        let parsed: QueueName = name.parse().map_err(|error| {
            file.problem(
                &format!("queues.{name}"),
                table,
                format!("is no queue: {error}"),
            )
        })?;
        let count = |field: &str, value: &Option<Spanned<Scalar>>| match value {
            None => Ok(None),
            Some(value) => Given::from_file(value, &file.text)
                .count(&key(field))
                .map(Some),
        };
        if let Some(recipe) = &queue.recipe
            && (recipe.get_ref().contains('/') || recipe.get_ref().starts_with('.'))
        {
            return Err(file.problem(
                &key("recipe"),
                recipe,
                format!(
                    "names a file in recipes/, without a folder, got `{}`",
                    recipe.get_ref()
                ),
            ));
        }
        let config = QueueConfig {
            recipe: queue.recipe.as_ref().map(|r| r.get_ref().clone()),
            provider: queue.provider.clone(),
            model: queue.model.clone(),
            params: queue
                .params
                .iter()
                .map(|(k, v)| (k.clone(), v.to_string()))
                .collect(),
            env: file.variables(&key("env"), &queue.env)?,
            env_file: queue.env_file.as_ref().map(|path| base.join(path)),
            command: match &queue.command {
                Some(command) => Some(file.command(&key("command"), command)?),
                None => None,
            },
            leftovers: match &queue.leftovers {
                None => Leftovers::Stop,
                Some(at) => at
                    .get_ref()
                    .parse()
                    .map_err(|problem| file.problem(&key("leftovers"), at, problem))?,
            },
            concurrency: count("concurrency", &queue.concurrency)?,
            time_limit: match &queue.time_limit {
                None => None,
                Some(value) => Some(
                    Given::from_file(value, &file.text)
                        .span(&key("time_limit"), Millis::secs(1))?,
                ),
            },
            max_turns: count("max_turns", &queue.max_turns)?,
        };
        queues.insert(parsed, config);
    }
    Ok(queues)
}

fn tinytask(base: &Utf8Path, file: &Read, values: &Values<'_>) -> Result<TinytaskConfig, Error> {
    let table = file.toml.tinytask.as_ref();
    let url = values.0.get("tinytask_url");
    let builtin = match values.0.get("tinytask_builtin") {
        None => None,
        Some(given) => match given.text.as_str() {
            "true" => Some(given),
            "false" => None,
            other => {
                return Err(given.problem(
                    "tinytask_builtin",
                    format!("must be true or false, got `{other}`"),
                ));
            }
        },
    };
    let is_file = |given: &&Given| matches!(given.origin, Origin::File { .. });
    let mut chosen: Vec<(TinytaskChoice, Origin)> = Vec::new();
    if let Some(given) = url {
        let is_http = given.text.starts_with("http://") || given.text.starts_with("https://");
        if !is_http || given.text.contains(char::is_whitespace) {
            return Err(given.problem(
                "tinytask_url",
                format!(
                    "must be like `http://127.0.0.1:3000/mcp`, got `{}`",
                    given.text
                ),
            ));
        }
        chosen.push((
            TinytaskChoice::Url(given.text.clone()),
            given.origin.clone(),
        ));
    }
    if let Some(given) = builtin {
        chosen.push((
            TinytaskChoice::Builtin {
                listen: listen(file)?,
            },
            given.origin.clone(),
        ));
    }
    // What the environment or a flag chooses replaces the file's choice of another kind; two in one place are a mistake.
    let is_overridden = url.into_iter().chain(builtin).any(|given| !is_file(&given));
    if is_overridden {
        chosen.retain(|(_, origin)| !matches!(origin, Origin::File { .. }));
    } else if let Some(command) = table.and_then(|t| t.command.as_ref()) {
        let env = table.map(|t| &t.env).expect("the table has a command");
        chosen.push((
            TinytaskChoice::Command {
                argv: file.command("tinytask.command", command)?,
                env: file.variables("tinytask.env", env)?,
            },
            file.origin(command),
        ));
    }
    if let [_, (_, second), ..] = chosen.as_slice() {
        return Err(Error::Value {
            key: "tinytask".into(),
            problem: "takes one of `url`, `command` and `builtin = true`, got more".into(),
            origin: second.clone(),
        });
    }
    let (chosen, origin) = chosen
        .pop()
        .map_or((None, None), |(c, o)| (Some(c), Some(o)));
    Ok(TinytaskConfig {
        chosen,
        origin,
        db: values.text("tinytask_db")?.map(|path| base.join(path)),
        timeout: values.span("tinytask_timeout", Millis::secs(10), Millis(100))?,
    })
}

fn listen(file: &Read) -> Result<Option<SocketAddr>, Error> {
    let Some(listen) = file.toml.tinytask.as_ref().and_then(|t| t.listen.as_ref()) else {
        return Ok(None);
    };
    match listen.get_ref().parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
        Ok(address) => Err(file.problem(
            "tinytask.listen",
            listen,
            format!("must be a loopback address such as 127.0.0.1:3000, got {address}"),
        )),
        Err(_) => Err(file.problem(
            "tinytask.listen",
            listen,
            format!(
                "must be an address and a port such as 127.0.0.1:3000, got `{}`",
                listen.get_ref()
            ),
        )),
    }
}

// ── one value ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// A value as it was given, before it means anything.
#[derive(Debug, Clone)]
struct Given {
    text: String,
    origin: Origin,
}

impl Given {
    fn new(text: String, origin: Origin) -> Self {
        Self { text, origin }
    }
    fn from_file(value: &Spanned<Scalar>, text: &str) -> Self {
        Self::new(
            value.get_ref().to_string(),
            Origin::File {
                line: position(text, value.span().start).0,
            },
        )
    }
    fn problem(&self, key: &str, problem: String) -> Error {
        // In the file these stand in tables.
        let in_table = |key: &str| {
            let (table, key) = key.split_once('_')?;
            matches!(table, "tinytask" | "inbound").then(|| format!("{table}.{key}"))
        };
        let is_file = matches!(self.origin, Origin::File { .. });
        let key = is_file
            .then(|| in_table(key))
            .flatten()
            .unwrap_or_else(|| key.to_owned());
        Error::Value {
            key,
            problem,
            origin: self.origin.clone(),
        }
    }
    fn count(&self, key: &str) -> Result<u32, Error> {
        match self.text.trim().parse::<i64>() {
            Ok(number) if number < 1 => {
                Err(self.problem(key, format!("must be at least 1, got {number}")))
            }
            Ok(number) => u32::try_from(number)
                .map_err(|_| self.problem(key, format!("is too large, got {number}"))),
            Err(_) => Err(self.problem(key, format!("must be a number, got `{}`", self.text))),
        }
    }
    fn span(&self, key: &str, least: Millis) -> Result<Millis, Error> {
        let span = parse_span(&self.text).map_err(|problem| self.problem(key, problem))?;
        if span < least {
            return Err(self.problem(
                key,
                format!("must be at least {}ms, got {}", least.0, self.text),
            ));
        }
        Ok(span)
    }
}

struct Values<'a>(BTreeMap<&'a str, Given>);

impl Values<'_> {
    fn count(&self, key: &str, default: u32) -> Result<u32, Error> {
        self.0
            .get(key)
            .map_or(Ok(default), |given| given.count(key))
    }
    fn span(&self, key: &str, default: Millis, least: Millis) -> Result<Millis, Error> {
        self.0
            .get(key)
            .map_or(Ok(default), |given| given.span(key, least))
    }
    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.0.get(key) {
            None => Ok(None),
            Some(given) if given.text.trim().is_empty() => {
                Err(given.problem(key, "must not be empty".into()))
            }
            Some(given) => Ok(Some(given.text.clone())),
        }
    }
}

/// Reads `500ms`, `10s`, `45m`, `1h30m`, `2d`.
pub fn parse_span(text: &str) -> Result<Millis, String> {
    let wrong = || format!("must be a time such as 10s, 45m or 1h30m, got `{text}`");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match rest[..unit_end].trim() {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        // Falling units only: `30m1h` is more likely a slip than a time.
        if unit >= last {
            return Err(wrong());
        }
        last = unit;
        total = number
            .checked_mul(unit)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= i64::MAX as u64)
            .ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    Ok(Millis(total))
}

/// Reads `256MB`, `1GB` (powers of 1000), `512KiB` (powers of 1024) and plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("must be a size such as 256MB or 512KiB, got `{text}`");
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| wrong())?;
    let unit = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

// ── calypso.toml ────────────────────────────────────────────────────────────────────────────────────────────────────

/// A TOML value that is one word or number.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Toml {
    max_runs: Option<Spanned<Scalar>>,
    time_limit: Option<Spanned<Scalar>>,
    stop_grace: Option<Spanned<Scalar>>,
    max_attempts: Option<Spanned<Scalar>>,
    max_runs_per_task: Option<Spanned<Scalar>>,
    max_turns: Option<Spanned<Scalar>>,
    settle: Option<Spanned<Scalar>>,
    rescan: Option<Spanned<Scalar>>,
    quiet_after: Option<Spanned<Scalar>>,
    log_limit: Option<Spanned<Scalar>>,
    keep_days: Option<Spanned<Scalar>>,
    keep_per_task: Option<Spanned<Scalar>>,
    missing_folder: Option<Spanned<Scalar>>,
    provider: Option<Spanned<Scalar>>,
    model: Option<Spanned<Scalar>>,
    inbound: Option<TomlInbound>,
    tinytask: Option<TomlTinytask>,
    agent: Option<TomlAgent>,
    #[serde(default)]
    queues: BTreeMap<String, Spanned<TomlQueue>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlInbound {
    queue: Option<Spanned<Scalar>>,
    #[serde(default)]
    ignore: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlAgent {
    command: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlTinytask {
    url: Option<Spanned<Scalar>>,
    command: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    env: BTreeMap<String, Spanned<Scalar>>,
    builtin: Option<Spanned<Scalar>>,
    listen: Option<Spanned<String>>,
    db: Option<Spanned<Scalar>>,
    timeout: Option<Spanned<Scalar>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlQueue {
    recipe: Option<Spanned<String>>,
    provider: Option<String>,
    model: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, Scalar>,
    #[serde(default)]
    env: BTreeMap<String, Spanned<Scalar>>,
    env_file: Option<Utf8PathBuf>,
    command: Option<Spanned<Vec<String>>>,
    leftovers: Option<Spanned<String>>,
    concurrency: Option<Spanned<Scalar>>,
    time_limit: Option<Spanned<Scalar>>,
    max_turns: Option<Spanned<Scalar>>,
}

/// The file as text and as read.
struct Read {
    text: String,
    toml: Toml,
}

impl Read {
    fn flat(&self) -> Vec<(&'static str, Option<&Spanned<Scalar>>)> {
        let toml = &self.toml;
        let tinytask = toml.tinytask.as_ref();
        vec![
            ("max_runs", toml.max_runs.as_ref()),
            ("time_limit", toml.time_limit.as_ref()),
            ("stop_grace", toml.stop_grace.as_ref()),
            ("max_attempts", toml.max_attempts.as_ref()),
            ("max_runs_per_task", toml.max_runs_per_task.as_ref()),
            ("max_turns", toml.max_turns.as_ref()),
            ("settle", toml.settle.as_ref()),
            ("rescan", toml.rescan.as_ref()),
            ("quiet_after", toml.quiet_after.as_ref()),
            ("log_limit", toml.log_limit.as_ref()),
            ("keep_days", toml.keep_days.as_ref()),
            ("keep_per_task", toml.keep_per_task.as_ref()),
            ("missing_folder", toml.missing_folder.as_ref()),
            ("provider", toml.provider.as_ref()),
            ("model", toml.model.as_ref()),
            (
                "inbound_queue",
                toml.inbound.as_ref().and_then(|i| i.queue.as_ref()),
            ),
            ("tinytask_url", tinytask.and_then(|t| t.url.as_ref())),
            ("tinytask_db", tinytask.and_then(|t| t.db.as_ref())),
            (
                "tinytask_timeout",
                tinytask.and_then(|t| t.timeout.as_ref()),
            ),
            (
                "tinytask_builtin",
                tinytask.and_then(|t| t.builtin.as_ref()),
            ),
        ]
    }
    fn origin<T>(&self, at: &Spanned<T>) -> Origin {
        Origin::File {
            line: position(&self.text, at.span().start).0,
        }
    }
    fn problem<T>(&self, key: &str, at: &Spanned<T>, problem: String) -> Error {
        Error::Value {
            key: key.to_owned(),
            problem,
            origin: self.origin(at),
        }
    }
    fn command(&self, key: &str, command: &Spanned<Vec<String>>) -> Result<Vec<String>, Error> {
        if command.get_ref().first().is_none_or(String::is_empty) {
            return Err(self.problem(key, command, "must name a program".into()));
        }
        if command.get_ref().iter().any(|part| part.contains('\0')) {
            return Err(self.problem(key, command, "must not contain a zero byte".into()));
        }
        Ok(command.get_ref().clone())
    }
    fn variables(
        &self,
        key: &str,
        env: &BTreeMap<String, Spanned<Scalar>>,
    ) -> Result<Secrets, Error> {
        let mut variables = BTreeMap::new();
        for (name, value) in env {
            let text = value.get_ref().to_string();
            if !is_variable(name) || text.contains('\0') {
                return Err(self.problem(
                    key,
                    value,
                    format!("has a name or value no environment can hold: `{name}`"),
                ));
            }
            variables.insert(name.clone(), text);
        }
        Ok(Secrets(variables))
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn read_toml(path: &Utf8Path) -> Result<Read, Error> {
    let bytes = match files::read_bounded(path, LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(Error::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let file = Utf8PathBuf::from(path.file_name().unwrap_or("calypso.toml"));
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let (line, column) = position(&String::from_utf8_lossy(error.as_bytes()), valid);
        Error::Syntax {
            file: file.clone(),
            line,
            column,
            message: "is not UTF-8".into(),
            suggestion: None,
        }
    })?;
    match toml::from_str(&text) {
        Ok(toml) => Ok(Read { text, toml }),
        Err(error) => {
            let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
            let message = error.message().trim();
            // serde's "unknown field `max_run`, expected one of `a`, `b`": the list is long, one good guess is better.
            let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
            let (message, suggestion) = match names.split_first() {
                Some((unknown, known)) if message.starts_with("unknown field") => (
                    format!("`{unknown}` is no setting here"),
                    closest(unknown, known.iter().copied()).map(str::to_owned),
                ),
                _ => (message.replace('\n', "; "), None),
            };
            Err(Error::Syntax {
                file,
                line,
                column,
                message,
                suggestion,
            })
        }
    }
}

/// Line and column, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}

/// The known name that `given` is most likely a slip of.
fn closest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (distance(given, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Reads an `env_file`: `KEY=VALUE` lines, `#` comments, an optional `export `, optional quotes around the value.
pub fn env_file(path: &Utf8Path) -> Result<Vec<(String, String)>, Error> {
    let bytes = std::fs::metadata(path)
        .and_then(|meta| {
            if meta.is_file() && meta.len() <= LIMIT {
                std::fs::read(path)
            } else {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "not a regular file of at most 1 MiB",
                ))
            }
        })
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
    let syntax = |line: usize, message: &str| Error::Syntax {
        file: path.to_owned(),
        line,
        column: 1,
        message: message.to_owned(),
        suggestion: None,
    };
    let text = String::from_utf8(bytes).map_err(|_| syntax(1, "is not UTF-8"))?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        // The line itself may be a secret, so it is not quoted.
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| syntax(index + 1, "must be KEY=VALUE"))?;
        let (name, value) = (name.trim(), value.trim());
        if !is_variable(name) || name.contains(char::is_whitespace) || value.contains('\0') {
            return Err(syntax(index + 1, "must be KEY=VALUE"));
        }
        let value = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(variables)
}

// ── may we ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Refuses a base path where anyone could make us run things, or where nothing we rely on works; gives warnings else.
pub fn check_permissions(layout: &Layout) -> Result<Vec<String>, Error> {
    let mut warnings = check_file_system(layout.base())?;
    for path in [
        layout.base().to_owned(),
        layout.recipes(),
        layout.config(),
        layout.state(),
    ] {
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Read { path, source }),
        };
        let mode = meta.mode();
        // A sticky directory keeps others from replacing what is not theirs; on a file the bit means nothing.
        if mode & 0o002 != 0 && !(meta.is_dir() && mode & 0o1000 != 0) {
            return Err(Error::Unsafe { path });
        }
        if mode & 0o020 != 0 {
            warnings.push(format!(
                "`{path}` can be written by its group, whose members could run commands as this user"
            ));
        }
    }
    Ok(warnings)
}

fn check_file_system(base: &Utf8Path) -> Result<Vec<String>, Error> {
    let stat = rustix::fs::statfs(base.as_std_path()).map_err(|error| Error::Read {
        path: base.to_owned(),
        source: error.into(),
    })?;
    let refused = |kind: &str| {
        Err(Error::NetworkFileSystem {
            path: base.to_owned(),
            kind: kind.to_owned(),
        })
    };
    // Magic numbers of statfs(2); some exceed an i32 and are sign-extended on some machines, so only 32 bits count.
    match stat.f_type as u32 {
        0x6969 => refused("NFS"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => refused("SMB"),
        0x0102_1997 => refused("9p"),
        0x5346_414F => refused("AFS"),
        0x00C3_6400 => refused("Ceph"),
        0x0BD0_0BD0 => refused("Lustre"),
        0x7375_7245 => refused("Coda"),
        // FUSE may be anything. What reaches over a network is refused by its name; another one gets a warning.
        0x6573_5546 => {
            let kind = mounted_as(base).unwrap_or_else(|| "fuse".into());
            let network = [
                "sshfs", "s3", "rclone", "gluster", "ceph", "nfs", "smb", "dav", "gcs", "goofys",
                "juicefs", "blob", "virtiofs",
            ];
            if network.iter().any(|name| kind.contains(name)) {
                refused(&kind)
            } else {
                Ok(vec![format!(
                    "`{base}` is on a FUSE file system ({kind}); changes made behind it are seen only at the next rescan"
                )])
            }
        }
        _ => Ok(Vec::new()),
    }
}

/// The file system's name in /proc/self/mountinfo (proc_pid_mountinfo(5)), of the innermost mount that holds `path`.
fn mounted_as(path: &Utf8Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?.replace("\\040", " ");
            let kind = right.split(' ').next()?;
            path.starts_with(&point)
                .then(|| (point.len(), kind.to_owned()))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
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

#[cfg(test)]
mod tests;
