//! goose: its command line, its help, its output. Or whatever command a person put in its place.
//!
//! The command line is the one a person types today, as an argv, never through a shell. The output is read for what goose
//! itself says of a failure, as its exit code does not tell.
//!
//! Knows nothing of tinytask: whether the work was done is not goose's to say.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use crate::core::layout::Layout;
use crate::core::model::{ProviderName, QueueName, Recipe, RunSubject};
use crate::edge::ask::ask;
use crate::edge::config::{self, Config};

mod checkup;
mod output;
mod render;

pub use checkup::{Keys, OwnSettings, keys_of, missing_flags, own_settings, validate, version};
pub use output::{Output, judge, read_output};
pub use render::Renderer;

/// The program, as found on PATH.
pub const PROGRAM: &str = "goose";

/// How long `goose run --help` may take; it takes some 50 ms.
const HELP_TIME: Duration = Duration::from_secs(10);

/// Why no command line can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{program}` is not on PATH")]
    NotFound { program: String },
    #[error("cannot run `{program} run --help`")]
    Help { program: String, source: io::Error },
    #[error("`{program} run --help` did not end within 10 s")]
    Hangs { program: String },
    #[error("queue `{queue}` has no recipe")]
    NoRecipe { queue: QueueName },
    #[error("recipe `recipes/{file}` demands the parameter `{key}`, and nothing gives it")]
    Parameter {
        file: String,
        key: String,
        queue: QueueName,
        is_inbound: bool,
    },
    #[error(transparent)]
    Config(#[from] config::Error),
}

impl Error {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { program } if program == PROGRAM => Some(
                "install goose, or name another program in calypso.toml: `[agent] command = [\"…\"]`".into(),
            ),
            Self::NotFound { program } => Some(format!("is `{program}` spelled right in calypso.toml?")),
            Self::Help { .. } | Self::Hangs { .. } => {
                Some("try it by hand; calypso-watch asks it which options it knows".into())
            }
            Self::NoRecipe { queue } => Some(format!("put one at `recipes/{queue}.yaml`")),
            Self::Parameter { is_inbound: true, key, .. } if key.starts_with("task_") => {
                Some("a run over inbound/ has no task yet; make the parameter optional with `default: \"\"`".into())
            }
            Self::Parameter { key, queue, .. } => Some(format!(
                "give it in calypso.toml: `[queues.{queue}] params = {{ {key} = \"…\" }}`; or give it a default in the recipe"
            )),
            Self::Config(error) => error.hint(),
        }
    }
}

/// What the goose at hand can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `--quiet`
    pub quiet: bool,
    /// `--output-format stream-json`
    pub stream_json: bool,
    /// `--max-turns`
    pub max_turns: bool,
}

impl Capabilities {
    /// Reads them off `goose run --help`.
    fn from_help(help: &str) -> Self {
        Self {
            quiet: help.contains("--quiet"),
            stream_json: help.contains("--output-format") && help.contains("stream-json"),
            max_turns: help.contains("--max-turns"),
        }
    }
}

// ── the command line ────────────────────────────────────────────────────────────────────────────────────────────────

/// The command that stands in goose's place for this queue, if any.
pub fn own_command<'a>(config: &'a Config, queue: &QueueName) -> Option<&'a [String]> {
    config
        .queues
        .get(queue)
        .and_then(|q| q.command.as_deref())
        .or(config.agent_command.as_deref())
}

/// The argv of one run.
///
/// A command of a person's own has `{recipe} {base_path} {task_id} {task_path} {queue}` replaced inside its elements; no
/// element is split or goes through a shell. A run over inbound/ has no task, so `{task_id}` and `{task_path}` are empty
/// there, and the elements stay in place.
///
/// goose gets `base_path` always, which it accepts undeclared, and everything else only where the recipe declares it.
pub fn command(
    config: &Config,
    recipe: Option<&Recipe>,
    subject: RunSubject,
    queue: &QueueName,
    layout: &Layout,
    capabilities: &Capabilities,
) -> Result<Vec<String>, Error> {
    let recipe_path = recipe.map(|recipe| layout.recipes().join(&recipe.file));
    let given = subject_values(subject, queue, layout);
    if let Some(command) = own_command(config, queue) {
        let recipe_path = recipe_path.map(Utf8PathBuf::into_string);
        return command
            .iter()
            .map(|element| fill(element, recipe_path.as_deref(), &given, queue))
            .collect();
    }
    let (Some(recipe), Some(recipe_path)) = (recipe, recipe_path) else {
        return Err(Error::NoRecipe {
            queue: queue.clone(),
        });
    };
    let mut argv: Vec<String> = [PROGRAM, "run", "--recipe", recipe_path.as_str()]
        .map(str::to_owned)
        .into();
    for (key, value) in parameters(config, recipe, subject, queue, &given)? {
        argv.push("--params".into());
        argv.push(format!("{key}={value}"));
    }
    let (provider, model) = provider_and_model(config, queue);
    let mut option = |name: &str, value: Option<String>| {
        argv.push(name.to_owned());
        argv.extend(value);
    };
    if let Some(provider) = provider {
        option("--provider", Some(provider));
    }
    if let Some(model) = model {
        option("--model", Some(model));
    }
    option("--no-session", None);
    if capabilities.quiet {
        option("--quiet", None);
    }
    // Without --quiet a banner stands on standard output, and the stream is no stream of JSON.
    if capabilities.stream_json && capabilities.quiet {
        option("--output-format", Some("stream-json".into()));
    }
    if capabilities.max_turns {
        let turns = config.queues.get(queue).and_then(|q| q.max_turns);
        option(
            "--max-turns",
            Some(turns.unwrap_or(config.max_turns).to_string()),
        );
    }
    Ok(argv)
}

/// What goose is told to use; none: what the recipe says, else goose's own default.
pub fn provider_and_model(
    config: &Config,
    queue: &QueueName,
) -> (Option<ProviderName>, Option<String>) {
    let queue = config.queues.get(queue);
    let own = queue.and_then(|q| q.provider.clone());
    let model = queue.and_then(|q| q.model.clone());
    // The general model belongs to the general provider, so it does not follow a queue to another one.
    let model = model.or_else(|| {
        let is_general = own.is_none() || own == config.provider;
        is_general.then(|| config.model.clone()).flatten()
    });
    (own.or_else(|| config.provider.clone()), model)
}

/// Values a run has by itself. An inbound run has no task.
fn subject_values(
    subject: RunSubject,
    queue: &QueueName,
    layout: &Layout,
) -> BTreeMap<&'static str, String> {
    let mut values = BTreeMap::from([
        ("base_path", layout.base().to_string()),
        ("queue", queue.to_string()),
    ]);
    if let RunSubject::Task(task) = subject {
        values.insert("task_id", task.to_string());
        values.insert("task_path", layout.task_folder(task).to_string());
    }
    values
}

fn parameters(
    config: &Config,
    recipe: &Recipe,
    subject: RunSubject,
    queue: &QueueName,
    given: &BTreeMap<&'static str, String>,
) -> Result<Vec<(String, String)>, Error> {
    let own = config.queues.get(queue).map(|q| &q.params);
    let mut parameters = vec![("base_path".to_owned(), given["base_path"].clone())];
    for declared in &recipe.parameters {
        let key = declared.key.as_str();
        if key == "base_path" {
            continue;
        }
        match given.get(key).or_else(|| own.and_then(|own| own.get(key))) {
            Some(value) => parameters.push((key.to_owned(), value.clone())),
            None if declared.is_required => {
                return Err(Error::Parameter {
                    file: recipe.file.clone(),
                    key: key.to_owned(),
                    queue: queue.clone(),
                    is_inbound: subject == RunSubject::Inbound,
                });
            }
            None => {}
        }
    }
    Ok(parameters)
}

/// Replaces the placeholders of one element in one pass, so that a value with braces in it is not looked at again. Unknown
/// placeholders stay as they are: braces are common in scripts.
fn fill(
    element: &str,
    recipe: Option<&str>,
    given: &BTreeMap<&'static str, String>,
    queue: &QueueName,
) -> Result<String, Error> {
    let mut filled = String::new();
    let mut rest = element;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let name = rest[1..].split_once('}').map(|(name, _)| name);
        let value = match name {
            Some("recipe") => Some(recipe.ok_or_else(|| Error::NoRecipe {
                queue: queue.clone(),
            })?),
            Some(name @ ("base_path" | "task_id" | "task_path" | "queue")) => {
                Some(given.get(name).map_or("", String::as_str))
            }
            _ => None,
        };
        match (name, value) {
            (Some(name), Some(value)) => {
                filled.push_str(value);
                rest = &rest[name.len() + 2..];
            }
            _ => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// What is added to the agent's environment: `GOOSE_MODE=auto`, as any other mode ends a run nobody sits at; then the
/// queue's `env_file`, then its `env`. A later one wins.
pub fn environment(config: &Config, queue: &QueueName) -> Result<Vec<(String, String)>, Error> {
    let mut variables = BTreeMap::from([("GOOSE_MODE".to_owned(), "auto".to_owned())]);
    if let Some(queue) = config.queues.get(queue) {
        if let Some(file) = &queue.env_file {
            variables.extend(config::env_file(file)?);
        }
        variables.extend(queue.env.0.clone());
    }
    Ok(variables.into_iter().collect())
}

// ── what this goose can do ──────────────────────────────────────────────────────────────────────────────────────────

/// A program's identity: another goose at the same path has another time or size.
type Identity = (Utf8PathBuf, i64, i64, u64);

static KNOWN: Mutex<Vec<(Identity, Capabilities)>> = Mutex::new(Vec::new());

/// Asks `program run --help` once for each program file; blocks for up to ten seconds.
pub fn capabilities(program: &str) -> Result<Capabilities, Error> {
    let path = find_program(program).ok_or_else(|| Error::NotFound {
        program: program.to_owned(),
    })?;
    capabilities_at(program, &path)
}

fn capabilities_at(program: &str, path: &Utf8Path) -> Result<Capabilities, Error> {
    let failed = |source| Error::Help {
        program: program.to_owned(),
        source,
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    let identity = (
        path.to_owned(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.size(),
    );
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, found)) = known().iter().find(|(id, _)| *id == identity) {
        return Ok(*found);
    }
    let help = ask(path, &["run", "--help"], &[], HELP_TIME)
        .map_err(failed)?
        .ok_or_else(|| Error::Hangs {
            program: program.to_owned(),
        })?;
    let found = Capabilities::from_help(&help.out);
    let mut known = known();
    known.retain(|((path, ..), _)| *path != identity.0);
    known.push((identity, found));
    Ok(found)
}

/// The program a run of `queue` starts.
pub fn program<'a>(config: &'a Config, queue: &QueueName) -> &'a str {
    own_command(config, queue)
        .and_then(|command| command.first())
        .map_or(PROGRAM, String::as_str)
}

/// What the goose of `queue` can do; nothing is asked where another command stands in its place.
pub fn capabilities_for(config: &Config, queue: &QueueName) -> Result<Capabilities, Error> {
    if own_command(config, queue).is_some() {
        Ok(Capabilities::default())
    } else {
        capabilities(PROGRAM)
    }
}

/// As [`capabilities_for`], of the goose on somebody else's PATH.
pub fn capabilities_on(
    config: &Config,
    queue: &QueueName,
    path: Option<&OsStr>,
) -> Result<Capabilities, Error> {
    if own_command(config, queue).is_some() {
        return Ok(Capabilities::default());
    }
    let found = find_program_on(PROGRAM, path).ok_or_else(|| Error::NotFound {
        program: PROGRAM.to_owned(),
    })?;
    capabilities_at(PROGRAM, &found)
}

/// Why [`find_program`] finds nothing, and the way out.
pub fn why_not_found(program: &str) -> String {
    if !program.contains('/') {
        let hint = if program == PROGRAM {
            "; install it, or name another in calypso.toml, [agent]"
        } else {
            ""
        };
        return format!("`{program}` is not on PATH{hint}");
    }
    match std::fs::metadata(program) {
        Ok(meta) if meta.is_dir() => format!("`{program}` is a directory"),
        Ok(_) => format!("`{program}` is not executable: `chmod +x` it"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("`{program}` is not there")
        }
        Err(error) => format!("`{program}` cannot be used: {error}"),
    }
}

/// Where `program` is: as execvp(3) would look for it, in this process's PATH.
pub fn find_program(program: &str) -> Option<Utf8PathBuf> {
    let path = std::env::vars_os().find(|(name, _)| name == "PATH");
    find_program_on(program, path.as_ref().map(|(_, path)| path.as_os_str()))
}

/// As [`find_program`], on somebody else's PATH.
pub fn find_program_on(program: &str, path: Option<&OsStr>) -> Option<Utf8PathBuf> {
    if program.contains('/') {
        return Some(Utf8PathBuf::from(program)).filter(|path| is_program(path));
    }
    std::env::split_paths(path?)
        .filter_map(|dir| Utf8PathBuf::from_path_buf(dir).ok())
        .map(|dir| dir.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Utf8Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Programs where they were last found, on one PATH: while one is there, nothing is searched.
#[derive(Debug, Default)]
pub struct Programs(BTreeMap<String, Utf8PathBuf>);

impl Programs {
    /// Would [`find_program_on`] find it?
    pub fn has(&mut self, program: &str, path: Option<&OsStr>) -> bool {
        if self.0.get(program).is_some_and(|found| is_program(found)) {
            return true;
        }
        self.0.remove(program);
        let found = find_program_on(program, path);
        let has = found.is_some();
        self.0
            .extend(found.map(|found| (program.to_owned(), found)));
        has
    }
}

#[cfg(test)]
mod tests;
