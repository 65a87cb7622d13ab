//! `doctor`: examines everything a run needs and says what mends what is amiss. Changes nothing.
//!
//! | file | area |
//! |---|---|
//! | `goose.rs` | the program, its options, provider and key |
//! | `recipes.rs` | each recipe, its parameters, its extensions |
//! | `tinytask.rs` | which one, whether it answers, the built-in's traces |
//! | `permissions.rs` | who may write, who may read |
//! | `mount.rs` | what the file system can do, what is left of it |
//! | `limits.rs` | what the kernel and the shell allow |
//! | `service.rs` | systemd, a session, an upgrade that waits |
//! | `runs.rs` | pid files, orphans, records, what waits for a person |
//! | `clock.rs` | clocks |
//!
//! A live daemon's runs get its environment, so that is what is judged; else this one. Every outside call has a time limit. What this
//! user may not see is unknown, never well.

use std::ffi::OsStr;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::{runtime, say};
use crate::cli::Doctor;
use crate::core::decide::decide;
use crate::core::layout::Layout;
use crate::core::model::Millis;
use crate::core::{Decision, Snapshot};
use crate::daemon::{LockRecord, running};
use crate::edge::clock;
use crate::edge::config::{self, Config, Origin};
use crate::edge::process::Environment;
use crate::look::{Looker, Scope, chain};
use crate::report::{Exit, Failure};
use crate::view::text::shell_word;
use crate::view::{self, Area, Checkup, Level};

mod clocks;
mod goose;
mod limits;
mod mount;
mod permissions;
mod recipes;
mod runs;
mod service;
mod tinytask;

/// tinytask answers within milliseconds; a doctor does not wait as long as a daemon does.
const ASK_LIMIT: Millis = Millis(2500);
/// Of the whole look.
const LOOK_LIMIT: Duration = Duration::from_secs(8);

/// What is examined, and with whose eyes.
struct Scene {
    layout: Option<Layout>,
    /// None without a base path, or where the settings cannot be used.
    config: Option<Config>,
    daemon: Option<LockRecord>,
    /// The live daemon's, else ours.
    environment: Environment,
}

impl Scene {
    fn path(&self) -> Option<&OsStr> {
        self.environment.os("PATH")
    }
    /// The process whose limits count: the daemon, else this one.
    fn process(&self) -> i32 {
        self.daemon
            .as_ref()
            .map_or(std::process::id().cast_signed(), |daemon| {
                daemon.process.pid
            })
    }
    /// A command of ours for this base path, to be pasted.
    fn ours(&self, words: &str) -> String {
        match &self.layout {
            Some(layout) => format!(
                "calypso-watch --base-path {} {words}",
                shell_word(layout.base().as_str())
            ),
            None => format!("calypso-watch {words}"),
        }
    }
    /// Ends the daemon and starts it again, the way it was started.
    fn restart(&self) -> String {
        match service::unit_of(self) {
            Some(unit) => unit.command(&format!("restart {}", shell_word(&unit.name))),
            None => format!("{}; {}", self.ours("quit"), self.ours("run")),
        }
    }
}

/// What a look found; why there is none.
type Look = Result<Looked, String>;

struct Looked {
    looker: Looker,
    seen: Snapshot,
    decision: Decision,
}

/// Examines, and prints.
pub fn call(base: Option<&Utf8Path>, doctor: &Doctor) -> Result<Exit, Failure> {
    let layout = match config::find_base(base) {
        Ok(base) => Some(Layout::new(base)),
        Err(config::Error::NoBase { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let checkup = examine(layout)?;
    if doctor.json {
        say(&format!("{:#}\n", view::doctor_json(&checkup)))?;
    } else {
        say(&view::doctor(&checkup))?;
    }
    Ok(if checkup.findings() == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn examine(layout: Option<Layout>) -> Result<Checkup, Failure> {
    let daemon = layout.as_ref().and_then(|layout| running(layout).ok());
    let mut settings = Area::new("settings");
    let theirs = daemon
        .as_ref()
        .map(|daemon| Environment::of(&daemon.process));
    let (environment, whose) = match (theirs, &daemon) {
        (Some(Ok(Some(theirs))), Some(daemon)) => (
            theirs,
            format!(
                "the environment of the daemon (pid {}) is judged",
                daemon.process.pid
            ),
        ),
        (Some(Err(error)), Some(daemon)) => {
            let pid = daemon.process.pid;
            let found = settings.finds(
                Level::Unknown,
                format!("the environment of the daemon (pid {pid}) cannot be seen: {error}"),
                "its PATH and its keys are what agents get; yours are judged instead",
            );
            let uid = uid_of(pid);
            found.mend(format!(
                "sudo -u '#{uid}' {}",
                format_args!(
                    "calypso-watch --base-path {} doctor",
                    shell_word(layout.as_ref().map_or("", |l| l.base().as_str()))
                )
            ));
            (
                Environment::own(),
                "this environment is judged, as the daemon's cannot be seen".into(),
            )
        }
        _ => (
            Environment::own(),
            "no daemon is running: this environment is judged".into(),
        ),
    };
    let mut scene = Scene {
        layout,
        config: None,
        daemon,
        environment,
    };
    scene.config = settings_of(&scene, &mut settings);
    let runtime = runtime()?;
    let look = runtime.block_on(look(&scene));
    let goose = goose::examine(&scene, &mut settings);
    let mut areas = vec![settings, goose.area];
    if scene.layout.is_some() {
        areas.push(recipes::examine(&scene, goose.program.as_deref()));
        areas.push(runtime.block_on(tinytask::examine(&scene, &look)));
        areas.push(permissions::examine(&scene));
        areas.push(mount::examine(&scene));
    }
    areas.push(limits::examine(&scene));
    if scene.layout.is_some() {
        areas.push(service::examine(&scene));
        areas.push(runs::examine(&scene, &look));
    }
    areas.push(clocks::examine(&scene, &look));
    runtime.shutdown_background();
    Ok(Checkup {
        version: env!("CARGO_PKG_VERSION"),
        base: scene.layout.map(|layout| layout.base().to_string()),
        environment: whose,
        areas,
    })
}

/// The settings as the daemon reads them: its variables count, not ours.
fn settings_of(scene: &Scene, area: &mut Area) -> Option<Config> {
    let Some(layout) = &scene.layout else {
        area.finds(
            Level::Note,
            "there is no base path here, nor above",
            "only the machine is examined; a base path holds inbound/, recipes/ and the rest",
        )
        .mend("calypso-watch init ~/my-team --builtin");
        return None;
    };
    let variables = scene.environment.beginning("CALYPSO_");
    match config::load_from(layout.base(), &variables, &[]) {
        Ok(config) => {
            for warning in &config.warnings {
                area.finds(
                    Level::Warn,
                    warning.clone(),
                    "it looks like a slip: what was meant is not in force",
                )
                .mend(mend_warning(warning));
            }
            area.well(if layout.config().exists() {
                "calypso.toml can be used"
            } else {
                "no calypso.toml: defaults"
            });
            Some(config)
        }
        Err(error) => {
            let mend = match &error {
                config::Error::Value {
                    origin: Origin::Environment(name),
                    ..
                } => format!("unset {name}"),
                config::Error::Value {
                    origin: Origin::File { line },
                    ..
                }
                | config::Error::Syntax { line, .. } => edit(&layout.config(), Some(*line)),
                _ => edit(&layout.config(), None),
            };
            let hint = error
                .hint()
                .map_or(String::new(), |hint| format!("; {hint}"));
            area.finds(
                Level::Fail,
                chain(&error),
                format!("`run` refuses to start, and a running daemon keeps its last good settings{hint}"),
            )
            .about(layout.config())
            .mend(mend);
            None
        }
    }
}

/// The way out of a warning of the settings: the command in it, else the end of the variable.
fn mend_warning(warning: &str) -> String {
    let words: Vec<&str> = warning.split('`').collect();
    match words.as_slice() {
        [.., command, ""] if command.starts_with("chmod") => (*command).to_owned(),
        [_, name, ..] => format!("unset {name}"),
        _ => "env | grep CALYPSO_".into(),
    }
}

/// The same look and decision as the daemon's, for a bounded time.
async fn look(scene: &Scene) -> Look {
    let Some(config) = &scene.config else {
        return Err("the settings cannot be used".into());
    };
    let mut config = config.clone();
    config.tinytask.timeout = config.tinytask.timeout.min(ASK_LIMIT);
    let mut looker = Looker::new(config);
    looker.path = scene.path().map(OsStr::to_owned);
    let now = clock::now();
    let seen = match tokio::time::timeout(LOOK_LIMIT, looker.look(&Scope::Everything, &now)).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => return Err(chain(&error)),
        Err(_) => {
            return Err(format!(
                "a look took longer than {} s",
                LOOK_LIMIT.as_secs()
            ));
        }
    };
    let decision = decide(&seen, &looker.config.policy, &now);
    Ok(Looked {
        looker,
        seen,
        decision,
    })
}

/// Opens a file in the person's editor, at a line.
fn edit(path: &Utf8Path, line: Option<usize>) -> String {
    let line = line.map_or(String::new(), |line| format!("+{line} "));
    format!("${{EDITOR:-vi}} {line}{}", shell_word(path.as_str()))
}

/// `VERB PATH…`, to be pasted.
fn on(verb: &str, path: &Utf8Path) -> String {
    format!("{verb} {}", shell_word(path.as_str()))
}

fn uid_of(pid: i32) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}")).map_or(0, |meta| meta.uid())
}

/// Relative to the base path, as people call it.
fn short(layout: &Layout, path: &Utf8Path) -> Utf8PathBuf {
    path.strip_prefix(layout.base())
        .map_or_else(|_| path.to_owned(), Utf8Path::to_owned)
}
