//! calypso.toml and env_files, as text and as read; what is not understood is told with its place and a guess.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use toml::Spanned;

use super::{Error, Origin, Secrets};
use crate::edge::files;

/// Largest calypso.toml or env_file that is read.
const LIMIT: u64 = 1 << 20;

/// A TOML value that is one word or number.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
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
pub(super) struct Toml {
    pub(super) max_runs: Option<Spanned<Scalar>>,
    pub(super) time_limit: Option<Spanned<Scalar>>,
    pub(super) stop_grace: Option<Spanned<Scalar>>,
    pub(super) max_attempts: Option<Spanned<Scalar>>,
    pub(super) max_runs_per_task: Option<Spanned<Scalar>>,
    pub(super) max_turns: Option<Spanned<Scalar>>,
    pub(super) settle: Option<Spanned<Scalar>>,
    pub(super) rescan: Option<Spanned<Scalar>>,
    pub(super) quiet_after: Option<Spanned<Scalar>>,
    pub(super) log_limit: Option<Spanned<Scalar>>,
    pub(super) keep_days: Option<Spanned<Scalar>>,
    pub(super) keep_per_task: Option<Spanned<Scalar>>,
    pub(super) missing_folder: Option<Spanned<Scalar>>,
    pub(super) provider: Option<Spanned<Scalar>>,
    pub(super) model: Option<Spanned<Scalar>>,
    pub(super) inbound: Option<TomlInbound>,
    pub(super) tinytask: Option<TomlTinytask>,
    pub(super) agent: Option<TomlAgent>,
    #[serde(default)]
    pub(super) queues: BTreeMap<String, Spanned<TomlQueue>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TomlInbound {
    pub(super) queue: Option<Spanned<Scalar>>,
    #[serde(default)]
    pub(super) ignore: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TomlAgent {
    pub(super) command: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TomlTinytask {
    pub(super) url: Option<Spanned<Scalar>>,
    pub(super) command: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Spanned<Scalar>>,
    pub(super) builtin: Option<Spanned<Scalar>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) db: Option<Spanned<Scalar>>,
    pub(super) timeout: Option<Spanned<Scalar>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TomlQueue {
    pub(super) recipe: Option<Spanned<String>>,
    pub(super) provider: Option<String>,
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) params: BTreeMap<String, Scalar>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Spanned<Scalar>>,
    pub(super) env_file: Option<Utf8PathBuf>,
    pub(super) command: Option<Spanned<Vec<String>>>,
    pub(super) leftovers: Option<Spanned<String>>,
    pub(super) concurrency: Option<Spanned<Scalar>>,
    pub(super) time_limit: Option<Spanned<Scalar>>,
    pub(super) max_turns: Option<Spanned<Scalar>>,
}

/// The file as text and as read.
pub(super) struct Read {
    pub(super) text: String,
    pub(super) toml: Toml,
}

impl Read {
    pub(super) fn flat(&self) -> Vec<(&'static str, Option<&Spanned<Scalar>>)> {
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
    pub(super) fn origin<T>(&self, at: &Spanned<T>) -> Origin {
        Origin::File {
            line: position(&self.text, at.span().start).0,
        }
    }
    pub(super) fn problem<T>(&self, key: &str, at: &Spanned<T>, problem: String) -> Error {
        Error::Value {
            key: key.to_owned(),
            problem,
            origin: self.origin(at),
        }
    }
    pub(super) fn command(
        &self,
        key: &str,
        command: &Spanned<Vec<String>>,
    ) -> Result<Vec<String>, Error> {
        if command.get_ref().first().is_none_or(String::is_empty) {
            return Err(self.problem(key, command, "must name a program".into()));
        }
        if command.get_ref().iter().any(|part| part.contains('\0')) {
            return Err(self.problem(key, command, "must not contain a zero byte".into()));
        }
        Ok(command.get_ref().clone())
    }
    pub(super) fn variables(
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

pub(super) fn read_toml(path: &Utf8Path) -> Result<Read, Error> {
    // Settings may be kept elsewhere and linked to: who can write the base path can write them anyway.
    let real = path.canonicalize_utf8().unwrap_or_else(|_| path.to_owned());
    let bytes = match files::read_bounded(&real, LIMIT) {
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
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
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
pub(super) fn closest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
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
    parse_env_file(path, bytes)
}

/// [`env_file`]'s bytes; `path` is for the error.
pub fn parse_env_file(path: &Utf8Path, bytes: Vec<u8>) -> Result<Vec<(String, String)>, Error> {
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
