//! goose's recipes: which there are, what they declare, and which tinytask they talk to. YAML and Jinja stay inside.
//!
//! Reads only what calypso-watch needs; whether goose likes the rest is goose's to say (`goose recipe validate`).
//!
//! Known gap: a recipe whose templates loop, multiply or assign is not rendered here ([`template`] says why), so a tinytask address
//! made that way is not found.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use camino::Utf8Path;
use serde::Deserialize;

use crate::core::model::{Parameter, QueueName, Recipe, Timestamp};
use crate::edge::clock;
use crate::edge::files::{self, Names, Stamp};

mod template;

/// Largest recipe that is read.
const LIMIT: u64 = 1 << 20;

/// Each queue that has a recipe file, in order of name. A broken one comes with the reason in one line. `chosen` names
/// another file than `{queue}.yaml` for a queue.
pub fn list(
    recipes: &Utf8Path,
    chosen: &BTreeMap<QueueName, String>,
) -> Vec<(QueueName, Result<Recipe, String>)> {
    let listed = Known::default().look(recipes, chosen, |_| true, clock::wall());
    listed.recipes
}

/// Recipes as last read, so that a look reads only those that changed.
#[derive(Debug, Default)]
pub struct Known {
    names: Names,
    /// Only what is a recipe, and told by its own file's stamp.
    files: BTreeMap<(QueueName, String), (Stamp, Arc<Read>)>,
}

/// What lies in recipes/.
#[derive(Debug)]
pub struct Listed {
    /// As [`list`].
    pub recipes: Vec<(QueueName, Result<Recipe, String>)>,
    /// Names that cannot be a queue's, escaped so that they can be printed.
    pub odd: Vec<String>,
    /// Why the names cannot be read, where there is a folder.
    pub trouble: Option<io::Error>,
}

impl Known {
    /// All names in recipes/, as last read.
    pub fn names(&self) -> &[OsString] {
        self.names.last()
    }

    /// The queues of recipes that could be read.
    pub fn queues(&self) -> impl Iterator<Item = &QueueName> {
        self.files.keys().map(|(queue, _)| queue)
    }

    /// As [`list`], and what else there is to say of the folder. A recipe that is not `wanted` may be as it was last read, although its
    /// file was changed since.
    pub fn look(
        &mut self,
        recipes: &Utf8Path,
        chosen: &BTreeMap<QueueName, String>,
        wanted: impl Fn(&QueueName) -> bool,
        now: Timestamp,
    ) -> Listed {
        let (names, trouble) = match self.names.read(recipes, now) {
            Ok(names) => (visible(names.iter().cloned()), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let odd = odd_of(names.clone());
        let all = self.read(by_queue(names, chosen), recipes, wanted, now);
        Listed {
            recipes: (all.into_iter())
                .map(|(queue, file, read)| {
                    let recipe = read.and_then(|read| read.recipe(&queue, &file));
                    (queue, recipe)
                })
                .collect(),
            odd,
            trouble: trouble.filter(|error| !files::is_absent(error)),
        }
    }

    /// All extensions of all recipes that can be read; rendered as goose would: parameters' defaults, then `params` of the queue, then
    /// `base_path`; what stays undefined becomes empty. goose's own are left out.
    pub fn extensions(
        &mut self,
        recipes: &Utf8Path,
        base: &Utf8Path,
        chosen: &BTreeMap<QueueName, String>,
        params: &BTreeMap<QueueName, BTreeMap<String, String>>,
        now: Timestamp,
    ) -> Vec<Extension> {
        let names = self.names.read(recipes, now).unwrap_or_default();
        let names = visible(names.iter().cloned());
        let mut found = Vec::new();
        for (queue, file, read) in self.read(by_queue(names, chosen), recipes, |_| true, now) {
            let Ok(read) = read else { continue };
            let mut values: BTreeMap<String, String> = (read.raw.parameters.iter().flatten())
                .filter_map(|p| Some((p.key.clone(), text_of(p.default.as_ref()?))))
                .collect();
            let of_queue = params.get(&queue).into_iter().flatten();
            values.extend(of_queue.map(|(key, value)| (key.clone(), value.clone())));
            values.insert("base_path".into(), base.to_string());
            values.insert("queue".into(), queue.to_string());
            values.insert("recipe_dir".into(), recipes.to_string());
            for extension in read.raw.extensions.iter().flatten() {
                if let Some(endpoint) = extension.endpoint(&values) {
                    found.push(Extension {
                        queue: queue.clone(),
                        file: file.clone(),
                        name: extension.name.clone().unwrap_or_default(),
                        is_tinytask: extension.is_tinytask(),
                        endpoint,
                    });
                }
            }
        }
        found
    }

    /// These files, of which those that are as they were are not read again; of those that are not `wanted` that is not asked.
    fn read(
        &mut self,
        files: BTreeMap<QueueName, String>,
        recipes: &Utf8Path,
        wanted: impl Fn(&QueueName) -> bool,
        now: Timestamp,
    ) -> Vec<(QueueName, String, Result<Arc<Read>, String>)> {
        let mut before = std::mem::take(&mut self.files);
        let mut all = Vec::new();
        for key in files {
            if !wanted(&key.0)
                && let Some((stamp, read)) = before.remove(&key)
            {
                all.push((key.0.clone(), key.1.clone(), Ok(Arc::clone(&read))));
                self.files.insert(key, (stamp, read));
                continue;
            }
            let stamp = Stamp::of(recipes.join(&key.1));
            let read = match (before.remove(&key), stamp) {
                (Some((old, read)), Some(new)) if old == new => Ok(read),
                _ => read(recipes, &key.1).map(Arc::new),
            };
            all.push((key.0.clone(), key.1.clone(), read.clone()));
            // What is wrong with one may lie in another file, or pass by itself.
            if let (Ok(read), Some(stamp)) = (read, stamp)
                && read.raw.flaw().is_none()
                && !read.is_rendered
                && !stamp.is_fresh(now)
            {
                self.files.insert(key, (stamp, read));
            }
        }
        all
    }
}

fn odd_of(names: Vec<Result<String, String>>) -> Vec<String> {
    let mut odd: Vec<String> = names
        .into_iter()
        .filter_map(|name| match name {
            Ok(name) => {
                let (stem, _) = recipe_stem(&name)?;
                stem.parse::<QueueName>().is_err().then_some(name)
            }
            Err(escaped) => Some(escaped),
        })
        .collect();
    odd.sort();
    odd
}

fn by_queue(
    names: Vec<Result<String, String>>,
    chosen: &BTreeMap<QueueName, String>,
) -> BTreeMap<QueueName, String> {
    let mut files: BTreeMap<QueueName, String> = BTreeMap::new();
    let mut names: Vec<String> = names.into_iter().flatten().collect();
    // `.yaml` comes after `.json` in this order and so wins; `.yml`, which goose does not read, only where nothing else is.
    names.sort_by_key(|name| {
        (
            name.ends_with(".yaml"),
            name.ends_with(".json"),
            name.clone(),
        )
    });
    for name in names {
        if let Some((stem, _)) = recipe_stem(&name)
            && let Ok(queue) = stem.parse()
        {
            files.insert(queue, name);
        }
    }
    files.extend(
        chosen
            .iter()
            .map(|(queue, file)| (queue.clone(), file.clone())),
    );
    files
}

/// Visible names, or, where one is not UTF-8, its printable form.
fn names(recipes: &Utf8Path) -> Vec<Result<String, String>> {
    let Ok(entries) = std::fs::read_dir(recipes) else {
        return Vec::new();
    };
    visible(entries.flatten().map(|entry| entry.file_name()))
}

fn visible(names: impl Iterator<Item = OsString>) -> Vec<Result<String, String>> {
    names
        .map(|name| {
            name.into_string()
                .map_err(|name| name.as_encoded_bytes().escape_ascii().to_string())
        })
        .filter(|name| !name.as_ref().is_ok_and(|name| name.starts_with('.')))
        .collect()
}

fn recipe_stem(name: &str) -> Option<(&str, &str)> {
    let (stem, extension) = name.rsplit_once('.')?;
    matches!(extension, "yaml" | "yml" | "json").then_some((stem, extension))
}

// ── one recipe ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// What of a recipe matters here; everything else in it is ignored.
#[derive(Debug, Deserialize)]
struct Raw {
    title: Option<String>,
    #[serde(rename = "prompt", default, deserialize_with = "has_words")]
    has_prompt: bool,
    parameters: Option<Vec<RawParameter>>,
    extensions: Option<Vec<RawExtension>>,
    settings: Option<RawSettings>,
}

#[derive(Debug, Deserialize)]
struct RawParameter {
    key: String,
    requirement: Option<String>,
    default: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct RawSettings {
    goose_provider: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawExtension {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
    uri: Option<String>,
    cmd: Option<String>,
    args: Option<Vec<serde_json::Value>>,
    envs: Option<BTreeMap<String, serde_json::Value>>,
    env_keys: Option<Vec<String>>,
}

/// Whether it is a text and not empty. Texts of prompts are long, and nobody here wants them.
fn has_words<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.is_some_and(|text| !text.trim().is_empty()))
}

impl Raw {
    fn title(&self) -> Option<&str> {
        let title = self.title.as_deref().map(str::trim);
        title.filter(|title| !title.is_empty())
    }

    /// Why goose does not run it. With no prompt it runs one only when somebody is there to type one, though its `validate` says otherwise.
    fn flaw(&self) -> Option<&'static str> {
        match (self.title(), self.has_prompt) {
            (None, _) => Some("has no `title`"),
            (Some(_), false) => Some("has no `prompt`"),
            (Some(_), true) => None,
        }
    }
}

/// A scalar as goose would put it into a template.
fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A recipe's file, read.
#[derive(Debug)]
struct Read {
    raw: Raw,
    modified: Timestamp,
    /// Others may have been read for it.
    is_rendered: bool,
}

impl Read {
    fn recipe(&self, queue: &QueueName, file: &str) -> Result<Recipe, String> {
        let raw = &self.raw;
        if let Some(flaw) = raw.flaw() {
            return Err(flaw.into());
        }
        let needed = |parameter: &RawParameter| {
            let requirement = parameter.requirement.as_deref();
            requirement.is_some_and(|r| r == "required" || r == "user_prompt")
        };
        Ok(Recipe {
            queue: queue.clone(),
            file: file.to_owned(),
            title: raw.title().unwrap_or_default().to_owned(),
            parameters: (raw.parameters.iter().flatten())
                .map(|parameter| Parameter {
                    key: parameter.key.clone(),
                    is_required: needed(parameter),
                    default: parameter.default.as_ref().map(text_of),
                })
                .collect(),
            provider: (raw.settings.as_ref()).and_then(|s| s.goose_provider.clone()),
            modified: self.modified,
        })
    }
}

fn read(recipes: &Utf8Path, file: &str) -> Result<Read, String> {
    if file.ends_with(".yml") {
        return Err(format!(
            "`{file}` ends in .yml, which goose does not read: rename it to .yaml"
        ));
    }
    let (text, modified) = read_text(&recipes.join(file))?;
    let mut is_rendered = false;
    let raw = if file.ends_with(".json") {
        serde_json::from_str(&text)
            .map_err(|error| format!("is not JSON: {}", one_line(&error.to_string())))?
    } else {
        match parse_yaml(&text) {
            Ok(raw) => raw,
            // `{{ x }}` without quotes, or `{% extends %}`, is YAML only once it is rendered, which goose does first.
            Err(error) => {
                is_rendered = true;
                render_file(recipes, file, &text)
                    .and_then(|text| parse_yaml(&text).ok())
                    .ok_or(error)?
            }
        }
    };
    Ok(Read {
        raw,
        modified,
        is_rendered,
    })
}

fn read_text(path: &Utf8Path) -> Result<(String, Timestamp), String> {
    let real = if path.is_symlink() {
        let real = path.canonicalize_utf8();
        real.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "is a symlink to nowhere".to_owned(),
            _ => format!("cannot be read: {error}"),
        })?
    } else {
        path.to_owned()
    };
    let bytes = files::read_bounded(&real, LIMIT).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => format!("is {error}"),
        io::ErrorKind::NotFound => "is not there".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    let meta = std::fs::metadata(&real).map_err(|error| format!("cannot be read: {error}"))?;
    // Whoever can write a recipe can run commands as this user, so one that everybody can write is not run.
    if meta.mode() & 0o002 != 0 {
        return Err("can be written by everyone: `chmod o-w` it".into());
    }
    // Nor one that somebody else left in a folder where all may add files: only ours, root's, and those of the folder's owner.
    let folder = path.parent().and_then(|dir| std::fs::metadata(dir).ok());
    let is_known = meta.uid() == 0
        || meta.uid() == rustix::process::geteuid().as_raw()
        || folder.is_some_and(|folder| folder.uid() == meta.uid());
    if !is_known {
        return Err(format!(
            "belongs to another user (uid {}), whose commands are not run",
            meta.uid()
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let modified = Timestamp(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000);
    Ok((text, modified))
}

fn parse_yaml(text: &str) -> Result<Raw, String> {
    if text.trim().is_empty() {
        return Err("is empty".into());
    }
    // The budget bounds depth and anchors. Aliases are bounded more tightly than by default, which lets forty lines work for seconds.
    let options = serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let text = one_line(&error.to_string());
        match error.location() {
            Some(at) => {
                // The place goes first and not twice.
                let place = format!(" at line {}, column {}", at.line(), at.column());
                format!(
                    "is not YAML: line {}: {}",
                    at.line(),
                    text.replace(&place, "")
                )
            }
            None => format!("is not YAML: {text}"),
        }
    })
}

fn one_line(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default().trim();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn render_file(recipes: &Utf8Path, file: &str, text: &str) -> Option<String> {
    if !text.contains("{{") && !text.contains("{%") {
        return None;
    }
    let mut templates = minijinja::Environment::new();
    // Not as JSON, which minijinja would take from the name.
    templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // Only those it names, and those they name: the others may be large.
    let mut unread: Vec<String> = names(recipes).into_iter().flatten().collect();
    let mut todo = vec![(file.to_owned(), text.to_owned())];
    while let Some((name, text)) = todo.pop() {
        if !template::is_bounded(&text) {
            continue;
        }
        unread.retain(|other| *other != name);
        let (named, others) = unread.into_iter().partition(|other| text.contains(other));
        unread = others;
        let named: Vec<String> = named;
        todo.extend(named.into_iter().filter_map(|other| {
            let (text, _) =
                recipe_stem(&other).and_then(|_| read_text(&recipes.join(&other)).ok())?;
            Some((other, text))
        }));
        // One that is no template is simply not there for `extends`.
        templates.add_template_owned(name, text).ok();
    }
    let template = templates.get_template(file).ok()?;
    template::render(
        &template,
        minijinja::context! { recipe_dir => recipes.as_str() },
    )
}

// ── which tinytask ──────────────────────────────────────────────────────────────────────────────────────────────────

/// How a recipe reaches it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Streamable HTTP.
    Http(String),
    /// The old SSE transport, which goose itself no longer speaks.
    LegacySse(String),
    Stdio {
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        /// Variables it takes from goose's environment or keyring.
        env_keys: Vec<String>,
    },
}

/// An extension that is a program or a server of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub queue: QueueName,
    /// The recipe's file in recipes/.
    pub file: String,
    pub name: String,
    pub endpoint: Endpoint,
    /// It has "tinytask" in name, command or address.
    pub is_tinytask: bool,
}

impl RawExtension {
    fn args(&self) -> Vec<String> {
        self.args.iter().flatten().map(text_of).collect()
    }

    fn is_tinytask(&self) -> bool {
        [&self.name, &self.cmd, &self.uri]
            .into_iter()
            .flatten()
            .chain(&self.args())
            .any(|text| text.to_ascii_lowercase().contains("tinytask"))
    }

    fn endpoint(&self, values: &BTreeMap<String, String>) -> Option<Endpoint> {
        let args = self.args();
        let render = |text: &str| render_text(text, values);
        match self.kind.as_deref()? {
            "streamable_http" => Some(Endpoint::Http(render(self.uri.as_deref()?))),
            "sse" => Some(Endpoint::LegacySse(render(self.uri.as_deref()?))),
            "stdio" => Some(Endpoint::Stdio {
                argv: std::iter::once(render(self.cmd.as_deref()?))
                    .chain(args.iter().map(|arg| render(arg)))
                    .collect(),
                env: self
                    .envs
                    .iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), render(&text_of(value))))
                    .collect(),
                env_keys: self.env_keys.clone().unwrap_or_default(),
            }),
            _ => None,
        }
    }
}

fn render_text(text: &str, values: &BTreeMap<String, String>) -> String {
    if !text.contains("{{") && !text.contains("{%") || !template::is_bounded(text) {
        return text.to_owned();
    }
    let environment = minijinja::Environment::new();
    environment
        .template_from_str(text)
        .ok()
        .and_then(|template| template::render(&template, values.clone()))
        .unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests;
