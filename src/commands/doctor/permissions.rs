//! Who may write where runs are decided on, and who may read what is private.

use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Scene, on, short, uid_of};
use crate::core::layout::Layout;
use crate::edge::runs;
use crate::view::text::plural;
use crate::view::{Area, Level};

/// Logs looked at: the newest runs' of each subject.
const LOGS: usize = 500;

pub(super) fn examine(scene: &Scene) -> Area {
    let mut area = Area::new("permissions");
    let Some(layout) = &scene.layout else {
        return area;
    };
    let us = match &scene.daemon {
        Some(daemon) => uid_of(daemon.process.pid),
        None => nix::unistd::geteuid().as_raw(),
    };
    if us == 0 {
        area.finds(
            Level::Note,
            "calypso-watch runs as root, and so does each agent",
            "an agent does whatever its model says; a user of its own bounds the damage",
        );
    }
    let mut places: Vec<Utf8PathBuf> = vec![
        layout.base().to_owned(),
        layout.recipes(),
        layout.config(),
        layout.state(),
        layout.inbound(),
        layout.workqueue(),
        layout.running_tasks(),
    ];
    places.extend(files_of(&layout.recipes()));
    for path in &places {
        writers(layout, path, us, &mut area);
    }
    for path in private(layout) {
        readers(
            layout,
            &path,
            "what agents were told and said is for its owner only",
            &mut area,
        );
    }
    let env_files = scene
        .config
        .iter()
        .flat_map(|config| config.queues.values())
        .filter_map(|queue| queue.env_file.clone());
    for path in env_files {
        readers(
            layout,
            &path,
            "it holds keys of agents, which other users can read",
            &mut area,
        );
    }
    area.well(plural(area.checked as usize, "place"));
    area
}

/// What could make this user run something.
fn writers(layout: &Layout, path: &Utf8Path, us: u32, area: &mut Area) {
    let Ok(meta) = std::fs::metadata(path) else {
        return;
    };
    let name = short(layout, path);
    let name = if name.as_str().is_empty() {
        "the base path".to_owned()
    } else {
        format!("`{name}`")
    };
    let mode = meta.mode();
    // Where requests are dropped, others may well write.
    let is_for_others = *path == layout.inbound() || *path == layout.workqueue();
    // A sticky directory keeps others from replacing what is not theirs; on a file the bit means nothing.
    if mode & 0o002 != 0 && !(meta.is_dir() && mode & 0o1000 != 0) && !is_for_others {
        let is_recipe = path.parent() == Some(&layout.recipes());
        // The area of recipes has it: it is not run.
        if !is_recipe {
            area.finds(
                Level::Fail,
                format!("{name} can be written by everyone"),
                "anyone on this machine could run commands as this user; `run` refuses to start",
            )
            .about(path)
            .mend(on("chmod o-w", path));
        }
    } else if mode & 0o020 != 0 && !is_for_others {
        area.finds(
            Level::Warn,
            format!("{name} can be written by its group"),
            "its members could run commands as this user",
        )
        .about(path)
        .mend(on("chmod g-w", path));
    } else if meta.uid() != us && meta.uid() != 0 {
        area.finds(
            Level::Warn,
            format!(
                "{name} belongs to user {}, calypso-watch runs as {us}",
                meta.uid()
            ),
            "its owner decides what is run here, and what is written may be refused",
        )
        .about(path)
        .mend(on(&format!("sudo chown {us}"), path));
    } else if meta.is_dir() && us != 0 && meta.uid() == 0 && mode & 0o002 == 0 {
        area.finds(
            Level::Fail,
            format!("{name} belongs to root and cannot be written by user {us}"),
            "records and pid files are written there",
        )
        .about(path)
        .mend(on(&format!("sudo chown {us}"), path));
    } else {
        area.passed();
    }
}

fn readers(layout: &Layout, path: &Utf8Path, why: &str, area: &mut Area) {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return;
    };
    if meta.mode() & 0o077 == 0 {
        area.passed();
        return;
    }
    let wanted = if meta.is_dir() {
        "chmod 700"
    } else {
        "chmod 600"
    };
    area.finds(
        Level::Warn,
        format!(
            "`{}` is open to other users (mode {:o})",
            short(layout, path),
            meta.mode() & 0o777
        ),
        why,
    )
    .about(path)
    .mend(on(wanted, path));
}

/// Control files, databases, and what agents said.
fn private(layout: &Layout) -> Vec<Utf8PathBuf> {
    let mut paths = vec![
        layout.control(),
        layout.tinytask(),
        layout.tinytask_db(),
        layout.state().join("tinytask.log"),
    ];
    let subjects = runs::subjects(layout).unwrap_or_default();
    let dirs = subjects
        .into_iter()
        .flat_map(|subject| runs::list_runs(layout, subject).unwrap_or_default());
    paths.extend(dirs.take(LOGS).map(|dir| layout.run(&dir).output()));
    paths
}

fn files_of(dir: &Utf8Path) -> Vec<Utf8PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Utf8PathBuf::from_path_buf(entry.path()).ok())
        .collect()
}
