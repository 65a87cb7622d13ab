//! What `doctor` asks goose and its own files: version, options, settings, which key a provider needs, whether it likes a recipe.
//!
//! Known gap: a key in the desktop's keyring cannot be seen from here.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use crate::edge::ask::ask;
use crate::edge::files;

/// goose answers within half a second, the first time from a slow disk within a few.
const LIMIT: Duration = Duration::from_secs(5);

/// Its settings are a page.
const SETTINGS_LIMIT: u64 = 1 << 20;

/// `1.52.0`, from `goose --version`.
///
/// # Errors
/// One line: it cannot be started, hangs, or says no version.
pub fn version(program: &Utf8Path) -> Result<String, String> {
    let answer = ask(program, &["--version"], &[], LIMIT)
        .map_err(|error| format!("cannot be started: {error}"))?
        .ok_or_else(|| format!("`--version` did not end within {} s", LIMIT.as_secs()))?;
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let word = answer.out.split_whitespace().find(is_version);
    word.map(str::to_owned)
        .ok_or_else(|| "`--version` says no version".into())
}

/// Which of the options that calypso-watch uses this goose does not know; none where its help cannot be had.
pub fn missing_flags(program: &Utf8Path) -> Vec<&'static str> {
    let Ok(Some(help)) = ask(program, &["run", "--help"], &[], LIMIT) else {
        return Vec::new();
    };
    let flags = [
        "--recipe",
        "--params",
        "--no-session",
        "--provider",
        "--model",
        "--quiet",
        "--output-format",
        "--max-turns",
    ];
    flags
        .into_iter()
        .filter(|flag| !help.out.contains(flag))
        .collect()
}

/// `goose recipe validate FILE`, with goose's own files in `scratch`, so that its log goes there.
///
/// # Errors
/// goose's reason, in one line.
pub fn validate(program: &Utf8Path, file: &Utf8Path, scratch: &Utf8Path) -> Result<(), String> {
    let env = [
        ("GOOSE_PATH_ROOT", scratch.as_str()),
        ("RUST_BACKTRACE", "0"),
    ];
    let answer = ask(program, &["recipe", "validate", file.as_str()], &env, LIMIT);
    match answer {
        Err(error) => Err(format!("goose cannot be started: {error}")),
        Ok(None) => Err(format!(
            "`goose recipe validate` did not end within {} s",
            LIMIT.as_secs()
        )),
        Ok(Some(answer)) if answer.is_success => Ok(()),
        Ok(Some(answer)) => {
            let said = [&answer.err, &answer.out];
            let line = said
                .into_iter()
                .flat_map(|text| text.lines())
                .find(|line| !line.trim().is_empty());
            Err(line
                .unwrap_or("goose gives no reason")
                .trim()
                .trim_start_matches("Error: ")
                .trim_start_matches("✗ ")
                .to_owned())
        }
    }
}

// ── providers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a provider needs in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Nothing.
    None,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Not known here.
    Unknown,
}

/// The variables goose's documentation names for a provider.
pub fn keys_of(provider: &str) -> Keys {
    match provider {
        "openai" => Keys::OneOf(&["OPENAI_API_KEY"]),
        "anthropic" => Keys::OneOf(&["ANTHROPIC_API_KEY"]),
        "google" | "gemini" => Keys::OneOf(&["GOOGLE_API_KEY"]),
        "openrouter" => Keys::OneOf(&["OPENROUTER_API_KEY"]),
        "groq" => Keys::OneOf(&["GROQ_API_KEY"]),
        "xai" => Keys::OneOf(&["XAI_API_KEY"]),
        "mistral" => Keys::OneOf(&["MISTRAL_API_KEY"]),
        "cerebras" => Keys::OneOf(&["CEREBRAS_API_KEY"]),
        "deepseek" => Keys::OneOf(&["DEEPSEEK_API_KEY"]),
        "venice" => Keys::OneOf(&["VENICE_API_KEY"]),
        "ollama" | "lmstudio" | "claude-code" | "gemini-cli" | "cursor-agent" => Keys::None,
        _ => Keys::Unknown,
    }
}

/// What goose's own files say.
#[derive(Debug, Default)]
pub struct OwnSettings {
    /// Where its settings would stand.
    pub file: Utf8PathBuf,
    pub provider: Option<String>,
    pub model: Option<String>,
    /// Names of the keys in its file of secrets.
    pub secrets: Vec<String>,
}

/// Reads goose's config.yaml and the names in its secrets.yaml, as an environment places them: `GOOSE_PATH_ROOT`, else
/// `XDG_CONFIG_HOME`, else `HOME`. `None` where none of them is set.
pub fn own_settings<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Option<OwnSettings> {
    let folder = match (variable("GOOSE_PATH_ROOT"), variable("XDG_CONFIG_HOME")) {
        (Some(root), _) => Utf8PathBuf::from(root).join("config"),
        (None, Some(config)) => Utf8PathBuf::from(config).join("goose"),
        (None, None) => Utf8PathBuf::from(variable("HOME")?).join(".config/goose"),
    };
    let file = folder.join("config.yaml");
    let read = |path: &Utf8Path| -> BTreeMap<String, serde_json::Value> {
        let bytes = files::read_bounded(path, SETTINGS_LIMIT).unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        serde_saphyr::from_str(&text).unwrap_or_default()
    };
    let settings = read(&file);
    let text = |name: &str| Some(settings.get(name)?.as_str()?.to_owned());
    Some(OwnSettings {
        provider: text("GOOSE_PROVIDER").or_else(|| text("active_provider")),
        model: text("GOOSE_MODEL"),
        secrets: read(&folder.join("secrets.yaml")).into_keys().collect(),
        file,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test writes goose's files")]
    use super::*;

    #[test]
    fn gooses_own_settings_are_where_its_environment_says() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Utf8Path::from_path(dir.path()).expect("UTF-8").to_owned();
        for (folder, provider) in [(".config/goose", "openai"), ("root/config", "anthropic")] {
            std::fs::create_dir_all(home.join(folder)).expect("a folder");
            let text =
                format!("GOOSE_PROVIDER: {provider}\nGOOSE_MODEL: m\nextensions:\n  a: {{}}\n");
            std::fs::write(home.join(folder).join("config.yaml"), text).expect("a file");
        }
        let secrets = home.join("root/config/secrets.yaml");
        std::fs::write(secrets, "ANTHROPIC_API_KEY: hunter2\n").expect("a file");
        let found = own_settings(|name| (name == "HOME").then_some(home.as_str()));
        let found = found.expect("HOME says where");
        assert_eq!(found.provider.as_deref(), Some("openai"));
        let root = home.join("root");
        let found = own_settings(|name| match name {
            "GOOSE_PATH_ROOT" => Some(root.as_str()),
            "HOME" => Some(home.as_str()),
            _ => None,
        });
        let found = found.expect("the root says where");
        assert_eq!(found.provider.as_deref(), Some("anthropic"));
        assert_eq!(found.secrets, ["ANTHROPIC_API_KEY"]);
        assert!(own_settings(|_| None).is_none());
    }
}
