//! Requests in inbound/, and the folders of the tasks they become.

use calypso_watch::core::model::RunSubject;
use calypso_watch::core::record::Verdict;

use crate::World;
use crate::json;

fn file_hold(world: &World, name: &str) -> String {
    let (status, _) = world.status();
    let files = status["inbound"].as_array().cloned().unwrap_or_default();
    files
        .iter()
        .find(|file| file["name"] == name)
        .and_then(|file| file["hold"]["hold"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_request_becomes_a_task_whose_folder_is_filled_first() {
    let world = World::new()
        .queue(
            "dispatcher",
            "ID=$(cw task create x --queue architect); note \"made-$ID\"; gate folder; mkdir \"$B/workqueue/task_$ID\"; \
             gate fill; mv \"$B\"/inbound/*.md \"$B/workqueue/task_$ID/\"; gate leave",
        )
        .queue("architect", "ls \"$B/workqueue/task_$T\" >\"$B/listing\"; claim; finish")
        .start();
    world.write("inbound/a.md", "# a\n");
    world.eventually("a task without a folder", |w| {
        w.count("at-folder dispatcher") == 1
    });
    world.eventually("held", |w| w.hold(1) == "awaiting_files");
    world.open("folder");
    world.eventually("an empty folder", |w| w.count("at-fill dispatcher") == 1);
    world.eventually("held", |w| w.hold(1) == "awaiting_files");
    world.open("fill");
    world.eventually("filled", |w| w.count("at-leave dispatcher") == 1);
    world.looks();
    assert_eq!(
        world.count("start architect"),
        0,
        "the dispatcher may not be done"
    );
    world.open("leave");
    world.eventually("complete", |w| w.is_complete(1));
    world.is_clean();
    assert_eq!(world.read("listing"), "a.md\n");
    assert_eq!(world.starts(), ["dispatcher inbound", "architect 1"]);
}

#[test]
fn a_task_without_a_folder_waits_for_it_or_gets_one() {
    let world = World::new().queue("coder", "claim; finish").start();
    let task = world.create("no folder", "coder");
    world.eventually("held", |w| w.hold(task) == "no_folder");
    world.looks();
    std::fs::create_dir(world.path(&format!("workqueue/task_{task}"))).expect("a new folder");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();

    let world = World::builtin().queue("coder", "claim; finish").start();
    let task = world.create("no folder", "coder");
    world.eventually("complete", |w| w.is_complete(task));
    assert_eq!(world.names("workqueue"), [format!("task_{task}")]);
    world.is_clean();
}

#[test]
fn many_files_are_one_run_and_what_is_left_is_tried_again_then_edited() {
    let world = World::new()
        .queue("dispatcher", "rm \"$B\"/inbound/good*")
        .start();
    world.ok(&["pause"]);
    for name in ["good-1.md", "good-2.md", "bad.md"] {
        world.write(&format!("inbound/{name}"), name);
    }
    world.ok(&["resume"]);
    world.eventually("judged", |w| w.verdicts_of(RunSubject::Inbound).len() == 1);
    let verdict = &world.verdicts_of(RunSubject::Inbound)[0];
    let mut left: Vec<_> = verdict
        .files
        .iter()
        .map(|f| (f.file.name.clone(), f.left))
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            ("bad.md".to_owned(), true),
            ("good-1.md".into(), false),
            ("good-2.md".into(), false)
        ]
    );
    world.eventually("backs off", |w| {
        file_hold(w, "bad.md") == "file_backing_off"
    });
    world.looks();
    assert_eq!(world.count("start dispatcher"), 1);
    // Edited: another file, with attempts of its own, at once.
    world.script("dispatcher", "rm \"$B\"/inbound/*");
    world.write("inbound/bad.md", "better");
    world.eventually("taken", |w| w.names("inbound").is_empty());
    world.is_clean();
    assert_eq!(world.count("start dispatcher"), 2);
    assert_eq!(world.verdicts_of(RunSubject::Inbound)[1].attempt, 1);
}

#[test]
fn a_file_that_nobody_takes_is_parked_after_three_attempts() {
    let world = World::new().queue("dispatcher", "exit 0").start();
    world.write("inbound/poison.md", "x");
    // 10 s and 20 s and a bit, by design.
    world.at_length("parked", |w| w.verdicts_of(RunSubject::Inbound).len() == 3);
    world.eventually("parked", |w| file_hold(w, "poison.md") == "file_parked");
    world.looks();
    assert_eq!(world.count("start dispatcher"), 3);
    world.script("dispatcher", "rm \"$B\"/inbound/*");
    world.ok(&["retry", "inbound"]);
    world.eventually("taken", |w| w.names("inbound").is_empty());
    world.is_clean();
}

#[test]
fn a_request_dispatched_but_not_moved_is_never_dispatched_twice() {
    let mut world = World::new()
        .queue(
            "dispatcher",
            "ID=$(cw task create x --queue human); mkdir \"$B/workqueue/task_$ID\"",
        )
        .start();
    let before = world.task("human", "there before");
    world.write("inbound/once.md", "x");
    world.eventually("held", |w| {
        file_hold(w, "once.md") == "dispatched_not_moved"
    });
    world.kill_daemon();
    world.run();
    world.looks();
    assert_eq!(file_hold(&world, "once.md"), "dispatched_not_moved");
    assert_eq!(world.count("start dispatcher"), 1);
    let verdict = &world.verdicts_of(RunSubject::Inbound)[0];
    assert_eq!(verdict.files[0].created.len(), 1, "{verdict:?}");
    assert_ne!(verdict.files[0].created[0].number(), before);
    world.is_clean();
}

#[test]
fn the_dispatcher_finishes_what_it_was_cut_off_from() {
    let world = World::new()
        .queue(
            "dispatcher",
            "if [ \"$T\" = inbound ]; then ID=$(cw task create x --queue dispatcher); mkdir \"$B/workqueue/task_$ID\"; \
             mv \"$B\"/inbound/* \"$B/workqueue/task_$ID/\"; exit 1; fi; claim; move architect",
        )
        .queue("architect", "claim; finish")
        .start();
    world.write("inbound/cut.md", "x");
    world.eventually("complete", |w| w.is_complete(1));
    world.is_clean();
    assert_eq!(
        world.starts(),
        ["dispatcher inbound", "dispatcher 1", "architect 1"]
    );
    assert!(matches!(
        world.verdicts(1)[0].tasks[0].verdict,
        Verdict::HandedOff { .. }
    ));
}

#[test]
fn a_request_that_its_dispatcher_marks_in_place_is_not_dispatched_again() {
    let world = World::new()
        .queue(
            "dispatcher",
            "ID=$(cw task create x --queue human); mkdir \"$B/workqueue/task_$ID\"; \
             echo \"status: dispatched, task $ID\" >>\"$B/inbound/once.md\"",
        )
        .start();
    world.write("inbound/once.md", "x\n");
    world.eventually("held", |w| {
        file_hold(w, "once.md") == "dispatched_not_moved"
    });
    world.looks();
    assert_eq!(world.count("start dispatcher"), 1);
    let verdict = &world.verdicts_of(RunSubject::Inbound)[0];
    assert!(verdict.files[0].left && verdict.files[0].changed.is_some());
    // A person's word, later.
    world.script("dispatcher", "rm \"$B\"/inbound/*");
    world.write("inbound/once.md", "another wish");
    world.eventually("taken", |w| w.names("inbound").is_empty());
    world.is_clean();
}

#[test]
fn a_new_request_with_the_name_of_one_that_was_just_taken_is_dispatched() {
    let world = World::new()
        .queue(
            "dispatcher",
            "ID=$(cw task create x --queue human); mkdir \"$B/workqueue/task_$ID\"; \
             mv \"$B/inbound/a.md\" \"$B/workqueue/task_$ID/\"; gate taken",
        )
        .start();
    world.write("inbound/a.md", "one");
    world.eventually("taken", |w| w.count("at-taken dispatcher") == 1);
    world.write("inbound/a.md", "two");
    world.open("taken");
    world.eventually("judged", |w| w.verdicts_of(RunSubject::Inbound).len() == 2);
    world.is_clean();
    assert!(world.names("inbound").is_empty());
    let verdicts = world.verdicts_of(RunSubject::Inbound);
    assert!(verdicts.iter().all(|v| !v.files[0].left), "{verdicts:#?}");
}

#[test]
fn tasks_from_before_a_run_beyond_a_deleted_one_are_not_taken_for_its_own() {
    let world = World::new().queue("dispatcher", "exit 0");
    let tasks: Vec<i64> = (0..12)
        .map(|_| world.task("human", "from before"))
        .collect();
    for id in &tasks[6..] {
        world.update(*id, json!({"status": "complete"}));
    }
    world.text("delete_task", &json!({"id": tasks[5]}));
    let world = world.start();
    world.write("inbound/a.md", "x");
    world.eventually("judged", |w| w.verdicts_of(RunSubject::Inbound).len() == 1);
    let verdict = &world.verdicts_of(RunSubject::Inbound)[0];
    assert!(verdict.files[0].left);
    assert_eq!(verdict.files[0].created, []);
    world.eventually("backs off", |w| file_hold(w, "a.md") == "file_backing_off");
    world.is_clean();
}
