//! Task ids and names that are none, as folders and as words on a command line.

use std::fs;

use crate::world::World;

#[test]
fn what_is_no_task_id_is_refused_by_every_command() {
    let world = World::new();
    let number = "a task is named by its number, such as 42";
    let zeros = "a task's number is 1 or more, without leading zeros";
    let cases = [
        ("0", zeros),
        ("007", zeros),
        ("-1", number),
        ("+7", number),
        ("../x", number),
        ("", number),
        ("7 ", number),
        ("1e3", number),
        ("9223372036854775808", "a task's number is below 2^63"),
    ];
    let verbs: [&[&str]; 9] = [
        &["why"],
        &["hold"],
        &["retry"],
        &["release"],
        &["stop"],
        &["logs"],
        &["putback"],
        &["task", "show"],
        &["task", "done"],
    ];
    for (text, why) in cases {
        for verb in verbs {
            let mut args = verb.to_vec();
            args.push(text);
            world
                .cli(&args)
                .fails(2, &format!("error: task `{text}` is not valid: {why}\n"));
        }
    }
    for queue in ["../x", "a b", "a/b", ""] {
        let said = world.cli(&["pause", queue]);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(
            said.err
                .starts_with(&format!("error: queue `{queue}` is not valid: ")),
            "{said:?}"
        );
    }
    assert!(!world.base.join(".calypso").exists(), "nothing was written");
}

#[test]
fn what_is_not_there_is_said_with_the_way_to_what_is() {
    let world = World::new();
    let list = "hint: `calypso-watch task list --all` shows all tasks\n";
    world.cli(&["why", "99"]).fails(
        1,
        "error: tinytask has no task 99, and no run of it is on record\n",
    );
    world.cli(&["logs", "99"]).fails(
        1,
        "error: #99 has no run yet\nhint: `calypso-watch why 99` tells what it waits for\n",
    );
    world.cli(&["logs", "inbound"]).fails(
        1,
        "error: inbound has no run yet\nhint: `calypso-watch status` tells what it waits for\n",
    );
    for verb in [
        &["putback", "99"][..],
        &["task", "show", "99"],
        &["task", "done", "99"],
    ] {
        world
            .cli(verb)
            .fails(1, &format!("error: tinytask has no task 99\n{list}"));
    }
    let base = world.base.display().to_string();
    world.cli(&["quit"]).fails(
        3,
        &format!("error: no calypso-watch is watching `{base}`\n"),
    );
    world
        .cli(&["tinytask", "stop"])
        .fails(3, &format!("error: no built-in tinytask serves `{base}`\n"));
}

#[test]
fn folders_that_are_no_tasks_change_nothing() {
    let mut world = World::new();
    for name in [
        "task_0",
        "task_-1",
        "task_007",
        "task_9223372036854775808",
        "task_x",
        "task_",
        "other",
    ] {
        fs::create_dir(world.base.join("workqueue").join(name)).expect("ours");
    }
    world.write("workqueue/task_5", "a file, not a folder");
    let id = world.tinytask.create("no folder", "good");
    world.write(&format!("workqueue/task_{id}"), "a file, not a folder");
    world.start();
    world.good_works();
    let why = world.why(id);
    assert!(why.contains("its folder is not there"), "{why}");
    let status = world.status();
    assert!(!status.contains("odd"), "{status}");
}
