//! Files that two may want at once, and files that grow.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use calypso_watch::core::layout::{Layout, RunDir};
use calypso_watch::core::model::{Outcome, RunSubject};
use calypso_watch::edge::{files, runs};
use camino::Utf8Path;

use crate::World;

fn folder() -> (tempfile::TempDir, Layout, RunDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let layout = Layout::new(Utf8Path::from_path(folder.path()).expect("UTF-8"));
    fs::create_dir(layout.running_tasks()).expect("a folder");
    fs::create_dir(layout.state()).expect("a folder");
    let dir = RunDir::parse_dir(
        RunSubject::Task(7.try_into().expect("positive")),
        "0001-work",
    )
    .expect("a run's name");
    drop(runs::create(&layout, &dir, &mut runs::Blanks::default()).expect("a new run"));
    (folder, layout, dir)
}

/// Between "it is ours" and its removal a person, or the next run, puts another file in its place. Here that happens all the time:
/// whoever removed by name alone would take the other's away in some of these.
#[test]
fn a_pid_file_that_is_exchanged_while_it_is_cleared_is_never_taken_away() {
    let (_folder, layout, dir) = folder();
    let shared = layout.pid_file(dir.id.subject);
    let own = layout.run(&dir).pid();
    fs::write(&own, "1234\n").expect("a file");
    let strangers = layout.running_tasks().join("by-hand");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                runs::clear_pid_file(&layout, &dir).expect("it can be cleared");
            }
        });
        for round in 0..3_000 {
            // Ours, and about to be cleared.
            match fs::hard_link(&own, &shared) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists),
            }
            fs::write(&strangers, "4711\n").expect("a file");
            let stranger = files::identity(&strangers).expect("a look");
            fs::rename(&strangers, &shared).expect("a rename");
            // Moved aside for a look at most.
            let mut looks = 0;
            while files::identity(&shared).expect("a look") != stranger {
                looks += 1;
                if looks > 1_000_000 {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("taken away in round {round}");
                }
                std::thread::yield_now();
            }
            fs::remove_file(&shared)
                .or_else(|error| {
                    // Just being looked at.
                    if error.kind() == std::io::ErrorKind::NotFound {
                        Ok(())
                    } else {
                        Err(error)
                    }
                })
                .expect("ours");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_pid_file_that_was_moved_aside_by_a_daemon_that_died_gets_its_name_back() {
    let (_folder, layout, dir) = folder();
    let shared = layout.pid_file(dir.id.subject);
    fs::write(
        layout.running_tasks().join(".task_7.pid.4711.new"),
        "1234\n",
    )
    .expect("a file");
    runs::restore_pid_files(&layout).expect("it can be");
    assert_eq!(fs::read_to_string(&shared).expect("it is back"), "1234\n");
    // But not in another's place.
    fs::write(layout.running_tasks().join(".task_7.pid.4711.new"), "99\n").expect("a file");
    runs::restore_pid_files(&layout).expect("it can be");
    assert_eq!(fs::read_to_string(&shared).expect("it is there"), "1234\n");
    assert_eq!(
        fs::read_dir(layout.running_tasks()).expect("there").count(),
        1
    );
}

/// A year of runs is no more than two files of a bounded size; what is shown of the past does not care where it stands.
#[test]
fn the_history_is_turned_over() {
    let mut world = World::new().queue("work", "claim; finish; exit 7").start();
    let first = world.task("work", "the first");
    world.eventually("it is judged", |w| {
        w.outcomes(first) == [Outcome::Exited(7)] && w.names(".calypso/live").is_empty()
    });
    assert_eq!(world.end_daemon(nix::sys::signal::Signal::SIGTERM), Some(0));
    // As after thousands of runs: the same line with other numbers, and this one last.
    let history = world.path(".calypso/history.jsonl");
    let line = fs::read_to_string(&history).expect("a line");
    let mut text = String::new();
    let mut number = 1000;
    while text.len() <= 16 << 20 {
        number += 1;
        text.push_str(&line.replace("\"1/1\"", &format!("\"{number}/1\"")));
    }
    text.push_str(&line);
    fs::write(&history, text).expect("ours");
    world.run();
    let second = world.task("work", "the second");
    world.eventually("it is judged", |w| {
        w.outcomes(second) == [Outcome::Exited(7)] && w.names(".calypso/live").is_empty()
    });
    let size = |name: &str| fs::metadata(world.path(name)).expect("it is there").len();
    assert!(size(".calypso/history.jsonl") < 100_000);
    assert!(size(".calypso/history.jsonl.1") > 16 << 20);
    let recent = runs::recent(&world.layout, 3).expect("it can be read");
    let runs: Vec<_> = recent
        .iter()
        .map(|verdict| verdict.run.to_string())
        .collect();
    assert_eq!(runs, [format!("{number}/1"), "1/1".into(), "2/1".into()]);
    assert!(
        world.ok(&["status"]).contains("#1 work"),
        "{}",
        world.ok(&["status"])
    );
    world.is_clean();
}
