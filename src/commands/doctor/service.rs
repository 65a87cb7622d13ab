//! How the daemon runs: a systemd unit that must not kill agents, a session that ends, an upgrade that waits for a restart.
//!
//! Known gap: where systemctl does not answer, only the unit's own file is read, not its drop-ins.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::Utf8PathBuf;

use super::{Scene, uid_of};
use crate::edge::ask::ask;
use crate::edge::machine::{self, Keeper};
use crate::edge::{files, goose};
use crate::view::text::shell_word;
use crate::view::{Area, Level};

const LIMIT: Duration = Duration::from_secs(2);

/// A unit, and whose systemd keeps it.
pub(super) struct Unit {
    pub(super) name: String,
    /// A user's own, with its uid.
    user: Option<u32>,
}

impl Unit {
    pub(super) fn command(&self, words: &str) -> String {
        match self.user {
            Some(_) => format!("systemctl --user {words}"),
            None => format!("sudo systemctl {words}"),
        }
    }
    /// Where an administrator's own words about units stand.
    fn folder(&self) -> &'static str {
        match self.user {
            Some(_) => "~/.config/systemd/user",
            None => "/etc/systemd/system",
        }
    }
}

/// The unit the live daemon belongs to.
pub(super) fn unit_of(scene: &Scene) -> Option<Unit> {
    let daemon = scene.daemon.as_ref()?;
    match machine::keeper(daemon.process.pid)? {
        Keeper::System(name) => Some(Unit { name, user: None }),
        Keeper::User(uid, name) => Some(Unit {
            name,
            user: Some(uid),
        }),
        Keeper::Session(_) | Keeper::Nobody => None,
    }
}

pub(super) fn examine(scene: &Scene) -> Area {
    let mut area = Area::new("service");
    let Some(daemon) = &scene.daemon else {
        let found = area.finds(
            Level::Note,
            "no daemon watches this base path",
            "nothing is started until one does; agents at work go on",
        );
        found.mend(scene.ours("run"));
        return area;
    };
    let pid = daemon.process.pid;
    if daemon.version == env!("CARGO_PKG_VERSION") {
        area.well(format!("version {}", daemon.version));
    } else {
        area.finds(
            Level::Warn,
            format!(
                "the daemon (pid {pid}) is version {}, this program {}",
                daemon.version,
                env!("CARGO_PKG_VERSION")
            ),
            "the upgrade waits for a restart; agents at work go on through it",
        )
        .mend(scene.restart());
    }
    match machine::program_of(pid) {
        Some((path, true)) => {
            area.finds(
                Level::Warn,
                format!("the daemon's program `{path}` was replaced or removed since it started"),
                "an upgrade waits for a restart; agents at work go on through it",
            )
            .about(path)
            .mend(scene.restart());
        }
        Some(_) => area.passed(),
        // Another user's: said where its environment is.
        None => {}
    }
    if pid == 1 {
        area.finds(
            Level::Note,
            "the daemon is process 1 of a container",
            "stopping the container ends the agents too",
        );
    }
    match machine::keeper(pid) {
        Some(Keeper::System(name)) => unit(&Unit { name, user: None }, &mut area),
        Some(Keeper::User(uid, name)) => {
            unit(
                &Unit {
                    name,
                    user: Some(uid),
                },
                &mut area,
            );
            linger(uid, &mut area);
        }
        Some(Keeper::Session(scope)) => session(scene, &scope, &mut area),
        Some(Keeper::Nobody) => area.well(multiplexer(scene).unwrap_or("no service, no session")),
        None => {
            area.finds(
                Level::Unknown,
                "what keeps the daemon cannot be seen",
                "its cgroup is another user's",
            );
        }
    }
    area
}

fn unit(unit: &Unit, area: &mut Area) {
    let Some(settings) = settings(unit) else {
        area.finds(
            Level::Unknown,
            format!("the settings of {} cannot be read", unit.name),
            "KillMode decides whether a restart kills agents",
        )
        .mend(unit.command(&format!(
            "show -p KillMode,Delegate,OOMPolicy {}",
            shell_word(&unit.name)
        )));
        return;
    };
    let drop_in = |setting: &str| {
        let dir = format!(
            "{}/{}",
            unit.folder(),
            shell_word(&format!("{}.d", unit.name))
        );
        let file = format!(
            "{dir}/calypso-{}.conf",
            setting.split('=').next().unwrap_or("x")
        );
        let (sudo, tee) = match unit.user {
            Some(_) => ("", "tee"),
            None => ("sudo ", "sudo tee"),
        };
        format!(
            "{sudo}mkdir -p {dir} && printf '[Service]\\n{setting}\\n' | {tee} {file} && {}",
            unit.command("daemon-reload")
        )
    };
    let of = |name: &str, default: &str| {
        settings
            .get(name)
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    };
    let kill = of("KillMode", "control-group");
    if kill == "process" {
        area.well(format!("{}, KillMode=process", unit.name));
    } else {
        area.finds(
            Level::Warn,
            format!("{} has KillMode={kill}", unit.name),
            "each stop or restart of the service kills the agents at work; with `process` they go on",
        )
        .about(&unit.name)
        .mend(drop_in("KillMode=process"));
    }
    let oom = of("OOMPolicy", "stop");
    if oom == "continue" {
        area.passed();
    } else {
        area.finds(
            Level::Warn,
            format!("{} has OOMPolicy={oom}", unit.name),
            "one agent that eats all memory takes the daemon and every other agent along",
        )
        .about(&unit.name)
        .mend(drop_in("OOMPolicy=continue"));
    }
    if matches!(of("Delegate", "no").as_str(), "yes" | "true" | "1") {
        area.passed();
    } else {
        area.finds(
            Level::Note,
            format!("{} has no Delegate=yes", unit.name),
            "systemd may move or limit what agents start",
        )
        .about(&unit.name)
        .mend(drop_in("Delegate=yes"));
    }
}

/// By systemctl; else from the unit's file, where what is missing has systemd's defaults.
fn settings(unit: &Unit) -> Option<BTreeMap<String, String>> {
    let read = |text: &str| {
        let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
        pairs
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect()
    };
    let mut words = vec![
        "show",
        "-p",
        "KillMode",
        "-p",
        "Delegate",
        "-p",
        "OOMPolicy",
        unit.name.as_str(),
    ];
    if unit.user.is_some() {
        words.insert(0, "--user");
    }
    if let Some(systemctl) = goose::find_program("systemctl")
        && let Ok(Some(answer)) = ask(&systemctl, &words, &[], LIMIT)
        && answer.is_success
        && answer.out.contains("KillMode=")
    {
        return Some(read(&answer.out));
    }
    let mut folders: Vec<Utf8PathBuf> = ["/etc", "/run", "/usr/lib", "/lib"]
        .map(|root| {
            format!(
                "{root}/systemd/{}",
                if unit.user.is_some() {
                    "user"
                } else {
                    "system"
                }
            )
            .into()
        })
        .to_vec();
    if let (Some(_), Some((_, home))) =
        (unit.user, std::env::vars().find(|(name, _)| name == "HOME"))
    {
        folders.insert(0, format!("{home}/.config/systemd/user").into());
    }
    let bytes = folders
        .iter()
        .find_map(|dir| files::read_bounded(&dir.join(&unit.name), 1 << 20).ok())?;
    Some(read(&String::from_utf8_lossy(&bytes)))
}

/// A user's systemd ends with the last session, unless it lingers (loginctl(1)).
fn linger(uid: u32, area: &mut Area) {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid))
        .ok()
        .flatten();
    let Some(user) = user else { return };
    if std::path::Path::new("/var/lib/systemd/linger")
        .join(&user.name)
        .exists()
    {
        area.passed();
        return;
    }
    area.finds(
        Level::Warn,
        format!("user {} does not linger", user.name),
        "the service and its agents end when the last session of this user does",
    )
    .mend(format!("loginctl enable-linger {}", shell_word(&user.name)));
}

fn session(scene: &Scene, scope: &str, area: &mut Area) {
    let daemon = scene.daemon.as_ref().map_or(0, |daemon| daemon.process.pid);
    let kills = goose::find_program("loginctl")
        .and_then(|loginctl| {
            ask(
                &loginctl,
                &["show-session", "--property=KillUserProcesses"],
                &[],
                LIMIT,
            )
            .ok()?
        })
        .is_some_and(|answer| answer.out.contains("KillUserProcesses=yes"));
    if kills {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid_of(daemon)))
            .ok()
            .flatten();
        let user = user.map_or_else(|| "$USER".to_owned(), |user| shell_word(&user.name));
        area.finds(
            Level::Warn,
            format!("the daemon is part of the login session {scope}, and logind kills what a session leaves"),
            "logging out ends the daemon and every agent; a lingering user's service outlives it",
        )
        .mend(format!("loginctl enable-linger {user}; systemd-run --user --scope {}", scene.ours("run")));
        return;
    }
    match multiplexer(scene) {
        Some(name) => area.well(name),
        None => {
            area.finds(
                Level::Note,
                "the daemon runs in a bare terminal",
                "it does not come back after a reboot, and its words are lost with the terminal; tmux or a service keeps them",
            )
            .mend(format!("{}; tmux new -d -s calypso {}", scene.ours("quit"), shell_word(&scene.ours("run"))));
        }
    }
}

fn multiplexer(scene: &Scene) -> Option<&'static str> {
    if scene.environment.has("TMUX") {
        Some("in tmux")
    } else if scene.environment.has("STY") {
        Some("in screen")
    } else {
        None
    }
}
