//! tinytask: which one, whether it answers, whether its tasks are ours, and what the built-in one left.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Look, Looked, Scene, edit, on};
use crate::commands::tinytask::read_record;
use crate::core::Tinytask;
use crate::core::layout::Layout;
use crate::core::model::{Detail, TaskKey};
use crate::core::record::Verdict;
use crate::edge::config::{Config, Origin, TinytaskChoice};
use crate::edge::tinytask::Endpoint;
use crate::edge::{files, process};
use crate::view::text::shell_word;
use crate::view::{Area, Level};

/// An answer that takes longer than this makes each hand-off slow.
const SLOW: u64 = 1000;
/// Of so many known open tasks, all have to be gone before the server is suspected, as a look does.
const SUSPICIOUS_FROM: usize = 4;

pub(super) async fn examine(scene: &Scene, look: &Look) -> Area {
    let mut area = Area::new("tinytask");
    let (Some(layout), Some(config)) = (&scene.layout, &scene.config) else {
        area.finds(
            Level::Unknown,
            "not examined",
            "the settings cannot be used",
        );
        return area;
    };
    let looked = match look {
        Ok(looked) => looked,
        Err(why) => {
            area.finds(
                Level::Unknown,
                format!("not asked: {why}"),
                "the base path could not be looked at, see `runs`",
            );
            return area;
        }
    };
    let listen = match &config.tinytask.chosen {
        Some(TinytaskChoice::Builtin { listen }) => {
            Some(listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 3000))))
        }
        _ => None,
    };
    let is_expected_down = match listen {
        Some(listen) => builtin(scene, layout, listen, &mut area),
        None => false,
    };
    if !is_expected_down {
        let dialect = match (&looked.looker.tinytask, &looked.seen.tinytask) {
            (Some(tinytask), Tinytask::Fresh { .. }) => tinytask.connect().await.ok(),
            _ => None,
        };
        let dialect = dialect.map_or(String::new(), |dialect| format!("{dialect}, "));
        answers(scene, config, layout, (looked, &dialect), &mut area);
        suspicion(looked, config, layout, &mut area).await;
    }
    database(looked, config, layout, &mut area);
    if let Some(tinytask) = &looked.looker.tinytask {
        tokio::time::timeout(Duration::from_secs(2), tinytask.close())
            .await
            .ok();
    }
    area
}

/// The built-in server's traces; true where it is down and the next `run` starts it.
fn builtin(scene: &Scene, layout: &Layout, listen: SocketAddr, area: &mut Area) -> bool {
    let is_held = files::is_held_at(&layout.tinytask_lock()).unwrap_or(true);
    let record = read_record(layout);
    if is_held {
        if let Some(record) = &record {
            if record.version == env!("CARGO_PKG_VERSION") {
                area.passed();
            } else {
                area.finds(
                    Level::Warn,
                    format!("the built-in tinytask is version {}, this calypso-watch {}", record.version, env!("CARGO_PKG_VERSION")),
                    "it outlived an upgrade; the daemon starts its own version once the old one is ended",
                )
                .mend(scene.ours("tinytask stop"));
            }
            if record.address != listen {
                area.finds(
                    Level::Warn,
                    format!(
                        "the built-in tinytask listens at {}, calypso.toml says {listen}",
                        record.address
                    ),
                    "agents and calypso-watch look for it where the settings say",
                )
                .mend(scene.ours("tinytask stop"));
            }
        }
        return false;
    }
    if record
        .as_ref()
        .is_some_and(|record| !process::is_alive(&record.process))
    {
        area.finds(
            Level::Note,
            "server.json is that of a built-in tinytask that died without a word",
            "nobody believes it; the next one writes its own",
        )
        .about(".calypso/tinytask/server.json");
    }
    if TcpStream::connect_timeout(&listen, Duration::from_millis(500)).is_ok() {
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let found = area.finds(
            Level::Fail,
            format!("another program listens at {listen}, where the built-in tinytask is to be"),
            "it cannot start there, and agents would talk to a stranger; another port has to stand in calypso.toml and in the recipes",
        );
        found.about(listen.to_string());
        if let Ok(free) = free {
            let words = format!("s/{}/{free}/g", listen.to_string().replace('.', r"\."));
            found.mend(format!(
                "sed -i {} {} {}/*.yaml",
                shell_word(&words),
                shell_word(layout.config().as_str()),
                shell_word(layout.recipes().as_str())
            ));
        }
        return true;
    }
    if scene.daemon.is_none() {
        area.well(format!(
            "built in, not running; `run` starts it at {listen}"
        ));
        return true;
    }
    false
}

fn answers(
    scene: &Scene,
    config: &Config,
    layout: &Layout,
    (looked, dialect): (&Looked, &str),
    area: &mut Area,
) {
    let server = &looked.looker.server;
    let Some(endpoint) = &server.endpoint else {
        let toml = layout.config();
        let text = std::fs::read_to_string(&toml).unwrap_or_default();
        // A table may stand there once only.
        let mend = if text.lines().any(|line| line.trim() == "[tinytask]") {
            format!(
                "sed -i 's/^\\[tinytask\\]$/&\\nbuiltin = true/' {}",
                shell_word(toml.as_str())
            )
        } else {
            format!(
                "printf '\\n[tinytask]\\nbuiltin = true\\n' >>{}",
                shell_word(toml.as_str())
            )
        };
        area.finds(
            Level::Fail,
            "no tinytask is configured, and no recipe names one",
            "without it there are no tasks; the built-in one needs nothing installed",
        )
        .mend(mend);
        return;
    };
    let from = match (&config.tinytask.origin, server.is_builtin) {
        (_, true) => "built in".to_owned(),
        (Some(Origin::Default) | None, _) => "from the recipes".to_owned(),
        (Some(origin), _) => format!("from {origin}"),
    };
    match &looked.seen.tinytask {
        Tinytask::Fresh { took } => {
            area.well(format!("{endpoint} ({from}), {dialect}{} ms", took.0));
            if took.0 > SLOW {
                area.finds(
                    Level::Warn,
                    format!("tinytask takes {} ms to answer", took.0),
                    "each hand-off waits for it; a large list of open tasks or a busy machine makes it slow",
                )
                .mend(scene.ours("task list"));
            }
        }
        Tinytask::Unreachable { error, hint, .. } => {
            let hint = hint
                .as_ref()
                .map_or(String::new(), |hint| format!("; {hint}"));
            let found = area.finds(
                Level::Fail,
                format!("{error} ({from})"),
                format!("nothing is started and no verdict is given until it is back{hint}"),
            );
            found.about(endpoint.to_string());
            if server.is_builtin {
                found.mend(scene.ours("tinytask stop"));
            } else if let Endpoint::Stdio { command, .. } = endpoint {
                found.mend(crate::view::shell_words(command));
            } else {
                found.mend(format!(
                    "curl -sS -m 5 {} -o /dev/null",
                    shell_word(&endpoint.to_string())
                ));
            }
        }
        Tinytask::Suspicious { .. } | Tinytask::NotAsked => area.passed(),
    }
}

/// Tasks that records know as open: does this server know any of them?
async fn suspicion(looked: &Looked, config: &Config, layout: &Layout, area: &mut Area) {
    let (Some(tinytask), Tinytask::Fresh { .. }) = (&looked.looker.tinytask, &looked.seen.tinytask)
    else {
        return;
    };
    let mut open: Vec<TaskKey> = Vec::new();
    for record in &looked.seen.recent {
        for task in &record.tasks {
            open.retain(|key| *key != task.key);
            if !matches!(task.verdict, Verdict::Done | Verdict::Gone) {
                open.push(task.key);
            }
        }
    }
    let is_there = |key: &&TaskKey| {
        looked
            .seen
            .tasks
            .get(&key.id)
            .is_some_and(|task| task.key() == **key)
    };
    if open.len() < SUSPICIOUS_FROM || open.iter().any(|key| is_there(&key)) {
        area.passed();
        return;
    }
    for key in open.iter().rev().take(8) {
        match tinytask.detail(key.id).await {
            Ok(Detail::Found(found)) if found.task.key() == *key => return area.passed(),
            Ok(_) => {}
            Err(_) => return,
        }
    }
    let where_from = match &config.tinytask.origin {
        Some(Origin::Environment(name)) => format!("unset {name}"),
        _ => edit(&layout.config(), None),
    };
    area.finds(
        Level::Fail,
        format!("tinytask knows none of the {} open tasks that runs here were about", open.len()),
        "it is another server, or its database was replaced or restored: agents would start on other tasks than those people mean",
    )
    .mend(where_from);
}

fn database(looked: &Looked, config: &Config, layout: &Layout, area: &mut Area) {
    let server = &looked.looker.server;
    let Some(db) = &server.db else {
        if server.endpoint.is_some() {
            area.finds(
                Level::Note,
                "where tinytask's database lies is not known",
                "changes are seen by asking every 30 s; `db = \"…\"` in calypso.toml, [tinytask], makes that milliseconds, where it is on this machine",
            );
        }
        return;
    };
    if !db.exists() {
        // The built-in one makes its own.
        if !server.is_builtin && config.tinytask.db.is_some() {
            area.finds(
                Level::Warn,
                format!("tinytask's database `{db}` is not there"),
                "`db` in calypso.toml names it so that changes are seen at once; now they are seen by asking",
            )
            .about(db.clone())
            .mend(edit(&layout.config(), None));
        }
        return;
    }
    if rustix::fs::access(db.as_std_path(), rustix::fs::Access::WRITE_OK).is_ok()
        || !server.is_builtin
    {
        area.well("database watched");
    } else {
        area.finds(
            Level::Warn,
            format!("tinytask's database `{db}` cannot be written by this user"),
            "the built-in tinytask could not change a task; it belongs to the user who runs calypso-watch",
        )
        .about(db.clone())
        .mend(on("sudo chown $USER", db));
    }
}
