//! The starter team on the real goose: where the binary is, a base path with the recipes, one agent run by hand.
//!
//! Knows nothing of the daemon: what it types is what `calypso-watch` types for a queue with default settings.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::model::Model;

/// The starter recipes, as `init` writes them.
pub(crate) const RECIPES: [(&str, &str); 5] = [
    (
        "dispatcher",
        include_str!("../../fixtures/recipes/dispatcher.yaml"),
    ),
    (
        "architect",
        include_str!("../../fixtures/recipes/architect.yaml"),
    ),
    (
        "product",
        include_str!("../../fixtures/recipes/product.yaml"),
    ),
    ("devops", include_str!("../../fixtures/recipes/devops.yaml")),
    ("coder", include_str!("../../fixtures/recipes/coder.yaml")),
];

/// The address that stands in the starter recipes until `init` writes another over it.
pub(crate) const USUAL_ADDRESS: &str = "http://127.0.0.1:3000/mcp";

/// The pinned goose, which `scripts/goose.sh` fetches.
///
/// `None`, said aloud, where nobody fetched it: the other tests must run without a 300 MB download. Where everything must
/// be shown (`CI=true`), that is a failure.
pub(crate) fn goose() -> Option<PathBuf> {
    let named = std::env::var_os("CALYPSO_TEST_GOOSE").map(PathBuf::from);
    let was_named = named.is_some();
    let path = named
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/goose-1.52.0/goose"));
    if path.is_file() {
        return Some(path);
    }
    let why = format!(
        "no goose at `{}`; `scripts/goose.sh` fetches it",
        path.display()
    );
    assert!(
        !was_named && std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{why}"
    );
    // Past `eprintln`, which the test harness swallows when a test passes.
    writeln!(std::io::stderr(), "SKIPPED, NOT TESTED: {why}").ok();
    None
}

/// A base path with the starter recipes, which know where tinytask is.
pub(crate) struct Team {
    /// Removed with everything in it at the end.
    folder: tempfile::TempDir,
    pub(crate) base: PathBuf,
    pub(crate) goose: PathBuf,
    env: Vec<(String, String)>,
    /// The model's name; it decides which of its two APIs goose uses.
    pub(crate) model: &'static str,
}

impl Team {
    pub(crate) fn new(goose: PathBuf, model: &Model, tinytask_url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // The real path: what a task's folder is called must be the same for everybody.
        let root = folder.path().canonicalize().expect("it was just made");
        let base = root.join("base path");
        for name in ["inbound", "workqueue", "running_tasks", "recipes"] {
            std::fs::create_dir_all(base.join(name)).expect("a new folder");
        }
        for (queue, recipe) in RECIPES {
            std::fs::write(
                base.join(format!("recipes/{queue}.yaml")),
                recipe.replace(USUAL_ADDRESS, tinytask_url),
            )
            .expect("a new file");
        }
        let env = model.env(&root.join("goose").display().to_string());
        Self {
            folder,
            base,
            goose,
            env,
            model: "gpt-5.2",
        }
    }

    /// From now on agents look for their model where nobody listens: port 9 of loopback is reserved for a service that nobody runs.
    pub(crate) fn forget_the_model(&mut self) {
        self.env.retain(|(name, _)| name != "OPENAI_HOST");
        let nowhere = "http://127.0.0.1:9".to_owned();
        self.env.push(("OPENAI_HOST".into(), nowhere));
    }

    /// A goose with an environment of its own, so that the settings of whoever runs the tests change nothing.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.dressed(&self.goose);
        command.env("GOOSE_MODE", "auto");
        command
    }

    /// `calypso-watch` for this base path, in the same environment; `goose` on its PATH is the one of the tests.
    pub(crate) fn calypso(&self, args: &[&str]) -> Command {
        let mut command = self.dressed(Path::new(env!("CARGO_BIN_EXE_calypso-watch")));
        let bin = self.folder.path().join("bin");
        if !bin.exists() {
            std::fs::create_dir(&bin).expect("a new folder");
            let goose = self.goose.canonicalize().expect("it is there");
            std::os::unix::fs::symlink(goose, bin.join("goose")).expect("a new link");
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin).chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(paths).expect("no colons"))
            .arg("--base-path")
            .arg(&self.base)
            .args(args);
        command
    }

    fn dressed(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.base)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.base)
            .stdin(Stdio::null());
        command
    }

    /// The command line of the daemon, for this queue and task.
    pub(crate) fn agent(&self, queue: &str, task: Option<i64>) -> Command {
        let mut command = self.command();
        command
            .args(["run", "--recipe"])
            .arg(self.base.join(format!("recipes/{queue}.yaml")))
            .arg("--params")
            .arg(format!("base_path={}", self.base.display()));
        if let Some(task) = task {
            command.args(["--params", &format!("task_id={task}")]);
        }
        command.args(["--provider", "openai", "--model", self.model]);
        command.args(["--no-session", "--quiet", "--output-format", "stream-json"]);
        command.args(["--max-turns", "40"]);
        command
    }

    /// Runs one agent to its end.
    pub(crate) fn run(&self, queue: &str, task: Option<i64>) -> Ran {
        Ran::from(self.agent(queue, task).output().expect("goose starts"))
    }

    /// Drops a request.
    pub(crate) fn request(&self, name: &str, text: &str) {
        std::fs::write(self.base.join("inbound").join(name), text).expect("a new file");
    }

    /// The names in a folder below the base path, sorted; none where it is missing.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.base.join(folder))
            .into_iter()
            .flatten()
            .map(|entry| {
                let entry = entry.expect("a readable folder");
                entry.file_name().to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The last line of the stream, where it is one.
    pub(crate) fn last_line(&self) -> serde_json::Value {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_default()
    }

    /// Everything the agent said, its fragments joined, and goose's own notices, which stand in another field.
    pub(crate) fn said(&self) -> String {
        self.out
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .flat_map(|line| {
                line["message"]["content"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            })
            .filter_map(|part| {
                let text = part["text"].as_str().or_else(|| part["msg"].as_str());
                text.map(str::to_owned)
            })
            .collect()
    }
}

/// Waits for a level, with a limit that only a broken program reaches.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually_some(what, || is_so().then_some(()));
}

/// As [`eventually`], for a level that carries something.
#[track_caller]
pub(crate) fn eventually_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(90),
            "never came: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
