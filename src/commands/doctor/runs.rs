//! Runs and their traces: pid files, orphans, records, litter, and what waits for a person.

use camino::{Utf8Path, Utf8PathBuf};

use super::{Look, Looked, Scene, on, short};
use crate::core::layout::{Layout, subject_dir};
use crate::core::model::RunSubject;
use crate::core::verdict::Meaning;
use crate::core::{Hold, StrangerKind, Subject};
use crate::edge::{files, process, runs};
use crate::view::text::{list, plural};
use crate::view::{Area, Level, hold_words};

/// Run directories searched for leftover files.
const DIRS: usize = 5000;

pub(super) fn examine(scene: &Scene, look: &Look) -> Area {
    let mut area = Area::new("runs");
    let Some(layout) = &scene.layout else {
        return area;
    };
    temporary(layout, &mut area);
    let looked = match look {
        Ok(looked) => looked,
        Err(_) if scene.config.is_none() => return area,
        Err(why) => {
            area.finds(
                Level::Unknown,
                why.clone(),
                "what runs, and what waits, is not known to this user",
            )
            .mend("sudo ".to_owned() + &scene.ours("doctor"));
            return area;
        }
    };
    strangers(scene, layout, looked, &mut area);
    live(scene, layout, looked, &mut area);
    odd(layout, looked, &mut area);
    holds(scene, looked, &mut area);
    area.well(match looked.seen.runs.len() {
        0 => "none alive".to_owned(),
        n => format!("{} on record as alive", plural(n, "run")),
    });
    area
}

/// The words of a file's name after `replace`: of which process it was.
fn temporary(layout: &Layout, area: &mut Area) {
    let mut dirs: Vec<Utf8PathBuf> = vec![
        layout.base().to_owned(),
        layout.recipes(),
        layout.state(),
        layout.tinytask(),
        layout.live(),
        layout.control(),
    ];
    // What was made ahead for a live run goes with its verdict.
    let (live, _) = runs::list_live(layout).unwrap_or_default();
    for subject in runs::subjects(layout).unwrap_or_default() {
        dirs.push(layout.subject_runs(subject));
        dirs.extend(
            runs::list_runs(layout, subject)
                .unwrap_or_default()
                .iter()
                .filter(|dir| !live.contains(dir))
                .map(|dir| layout.run(dir).dir),
        );
    }
    let mut left: Vec<Utf8PathBuf> = Vec::new();
    for dir in dirs.iter().take(DIRS) {
        let Ok(entries) = dir.read_dir_utf8() else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !files::is_temporary(name) {
                continue;
            }
            // Its writer may be at work this moment: `.state.json.4121.new`, `.mount-probe-4121-0.new`. Or it was when the folder
            // was listed, and is through and gone: then so is the file.
            let numbers = name
                .split(['.', '-'])
                .filter_map(|part| part.parse::<i32>().ok());
            if numbers
                .filter(|pid| *pid > 0)
                .any(|pid| process::identity(pid).is_some())
                || entry.path().symlink_metadata().is_err()
            {
                continue;
            }
            left.push(entry.path().to_owned());
        }
    }
    let Some(first) = left.first() else {
        return area.passed();
    };
    let names: Vec<String> = left
        .iter()
        .map(|path| format!("`{}`", short(layout, path)))
        .collect();
    let words: Vec<String> = left.iter().take(20).map(ToString::to_string).collect();
    area.finds(
        Level::Warn,
        format!(
            "{} of a writer that was killed: {}",
            plural(left.len(), "temporary file"),
            list(&names, 3)
        ),
        "nobody reads them; they only take room",
    )
    .about(first.clone())
    .mend(format!("rm -rf {}", crate::view::shell_words(&words)));
}

fn strangers(scene: &Scene, layout: &Layout, looked: &Looked, area: &mut Area) {
    for (subject, stranger) in &looked.seen.strangers {
        let path = layout.pid_file(*subject);
        let name = short(layout, &path);
        let holds = match subject {
            RunSubject::Inbound => "requests are".to_owned(),
            RunSubject::Task(id) => format!("#{id} is"),
        };
        match &stranger.what {
            StrangerKind::Alive {
                process,
                comm,
                younger: false,
            } => {
                area.finds(
                    Level::Note,
                    format!("{name}: {comm} (pid {}) was started by hand", process.pid),
                    format!("it is respected: {holds} not started until it is over"),
                )
                .about(name);
            }
            StrangerKind::Alive {
                process,
                comm,
                younger: true,
            } => {
                area.finds(
                    Level::Warn,
                    format!(
                        "{name} names {comm} (pid {}), which is younger than the file",
                        process.pid
                    ),
                    format!("the number was probably used again; {holds} held until you say so"),
                )
                .about(name)
                .mend(scene.ours(&format!("release {subject}")));
            }
            StrangerKind::Dead { pid } => {
                area.finds(
                    Level::Warn,
                    format!("{name} is stale: process {pid} is gone"),
                    format!("while it lies there {holds} taken for running; a daemon clears it"),
                )
                .about(name)
                .mend(on("rm", &path));
            }
            // A live process that is somebody's: perhaps a run, so its file is not to be removed unseen.
            StrangerKind::Odd(what)
                if what.starts_with("process ") && !what.contains("no agent") =>
            {
                let is_seen = what.contains("belongs to");
                area.finds(
                    if is_seen { Level::Warn } else { Level::Unknown },
                    format!("{name}: {what}"),
                    format!(
                        "it may be somebody's run, so {holds} held; remove the file if it is not"
                    ),
                )
                .about(name)
                .mend(format!("ps -fp \"$({})\"", on("cat", &path)));
            }
            StrangerKind::Odd(what) => {
                area.finds(
                    Level::Warn,
                    format!("{name}: {what}"),
                    format!("it is no pid file that can be believed, so {holds} held as long as it lies there"),
                )
                .about(name)
                .mend(on("rm -r", &path));
            }
        }
    }
    for odd in &looked.seen.odd_pid_names {
        let path = layout.running_tasks().join(odd);
        area.finds(
            Level::Warn,
            format!("running_tasks/{odd} is not the name of a pid file"),
            "a pid file is called task_N.pid or inbound.pid; this one holds nothing back",
        )
        .about(format!("running_tasks/{odd}"))
        .mend(on("rm -r", &path));
    }
    area.passed();
}

fn live(scene: &Scene, layout: &Layout, looked: &Looked, area: &mut Area) {
    let mut waiting = Vec::new();
    for (run, meaning) in looked.seen.runs.iter().zip(&looked.decision.meanings) {
        let (id, subject) = (run.dir.id, run.dir.id.subject);
        let about = short(layout, &layout.run(&run.dir).dir);
        match meaning {
            Meaning::Starting | Meaning::Running | Meaning::Ending => area.passed(),
            Meaning::Orphan => {
                area.finds(
                    Level::Warn,
                    format!("run {id} of {} is an orphan: its shim was killed, its agent lives", run.dir.queue),
                    "a daemon watches it and keeps its time limit, but its exit status will not be known",
                )
                .about(about)
                .mend(scene.ours(&format!("stop {subject}")));
            }
            Meaning::SignalledAlive => {
                area.finds(
                    Level::Warn,
                    format!("the pid file of run {id} was removed while its agent lives"),
                    "the task is held until the agent is over",
                )
                .about(about)
                .mend(scene.ours(&format!("stop {subject}")));
            }
            Meaning::OrphanLeftovers | Meaning::StillAlive => {
                let alive = run.observed.alive.clone().unwrap_or_default();
                let names: Vec<String> = (alive.leftovers.iter().chain(&alive.doubtful))
                    .map(|left| format!("{} (pid {})", left.comm, left.process.pid))
                    .collect();
                area.finds(
                    Level::Warn,
                    format!("run {id} is over, and {} still lives", list(&names, 3)),
                    "its task's next hop waits for that",
                )
                .about(about)
                .mend(scene.ours(&format!("release {subject}")));
            }
            Meaning::Unknown => {
                area.finds(
                    Level::Unknown,
                    format!("whether run {id} is alive cannot be seen"),
                    "its records or its processes are another user's, or of a newer version",
                )
                .about(about);
            }
            Meaning::Litter | Meaning::Clear | Meaning::Complete => waiting.push(id.to_string()),
        }
    }
    // A live daemon settles these within moments.
    if !waiting.is_empty() && scene.daemon.is_none() {
        area.finds(
            Level::Warn,
            format!(
                "{} over and not judged: {}",
                plural(waiting.len(), "run"),
                list(&waiting, 5)
            ),
            "what became of their tasks is decided by the next daemon; until then they wait",
        )
        .mend(scene.ours("run"));
    }
}

/// What cannot be read, or means nothing.
fn odd(layout: &Layout, looked: &Looked, area: &mut Area) {
    for (subject, error) in &looked.seen.unreadable {
        let path = match subject {
            RunSubject::Inbound if error.starts_with("inbound/") => layout.inbound(),
            subject => layout.subject_runs(*subject),
        };
        let mend = if error.contains("ermission denied") {
            on("sudo chown -R $USER", &path)
        } else {
            // Aside, not away: a newer version reads them again.
            format!(
                "{} {}.newer",
                on("mv", &path),
                crate::view::text::shell_word(path.as_str())
            )
        };
        area.finds(
            Level::Fail,
            error.clone(),
            format!("nothing is known of the past of {}, so it is not started; use the version that wrote it, or set its records aside with the daemon stopped", subject_dir(*subject)),
        )
        .about(short(layout, &path))
        .mend(mend);
    }
    for trouble in &looked.seen.troubles {
        let is_told = looked.seen.unreadable.values().any(|told| told == trouble)
            || trouble.starts_with("recipes/") && trouble.contains("no recipe's name");
        if is_told {
            continue;
        }
        let entry = trouble.split(' ').next().unwrap_or_default();
        let path = layout.base().join(entry);
        let found = area.finds(
            Level::Warn,
            trouble.clone(),
            "nobody can tell what it is meant for",
        );
        found.about(entry);
        if path.exists() && entry.starts_with(".calypso/live/") {
            found.mend(on("rm -r", &path));
        } else if trouble.contains("ermission denied") {
            found.mend(on(
                "sudo chown -R $USER",
                Utf8Path::new(path.as_str().trim_end_matches('/')),
            ));
        }
    }
    for name in &looked.seen.controls.odd {
        area.finds(
            Level::Warn,
            format!(".calypso/control/{name} is no command"),
            "what was meant by it does not happen; `calypso-watch hold`, `retry`, `pause` … write the right names",
        )
        .about(format!(".calypso/control/{name}"))
        .mend(on("rm -r", &layout.control().join(name)));
    }
}

/// Waits that only a person ends; the others are the day's work.
fn holds(scene: &Scene, looked: &Looked, area: &mut Area) {
    let now = crate::edge::clock::now();
    for (subject, hold) in &looked.decision.holds {
        let who = match subject {
            Subject::Task(id) => format!("{id}"),
            Subject::Inbound(_) => "inbound".to_owned(),
            _ => String::new(),
        };
        let (level, mend) = match hold {
            Hold::Parked { .. }
            | Hold::TooManyRuns { .. }
            | Hold::StoppedByPerson { .. }
            | Hold::LostTooOften { .. } => (Level::Warn, scene.ours(&format!("retry {who}"))),
            Hold::FileParked { .. } | Hold::DispatchedNotMoved { .. } => {
                (Level::Warn, scene.ours("retry inbound"))
            }
            Hold::NoFolder => {
                let Subject::Task(id) = subject else { continue };
                (
                    Level::Warn,
                    on("mkdir", &looked.looker.layout.task_folder(*id)),
                )
            }
            Hold::HeldByFile => (Level::Note, scene.ours(&format!("retry {who}"))),
            Hold::Paused => (Level::Note, scene.ours("resume")),
            Hold::QueuePaused { queue } => (Level::Note, scene.ours(&format!("resume {queue}"))),
            Hold::NoTaskId { .. } => (
                Level::Warn,
                super::edit(&looked.looker.layout.config(), None),
            ),
            _ => continue,
        };
        let name = match subject {
            Subject::Task(id) => format!("#{id}"),
            Subject::Inbound(file) => format!("inbound/{}", file.name),
            Subject::Queue(queue) => format!("queue {queue}"),
            _ => "everything".to_owned(),
        };
        let words = hold_words(&looked.seen, subject, hold, &now);
        area.finds(level, format!("{name}: {words}"), "it waits for you")
            .about(name)
            .mend(mend);
    }
}
