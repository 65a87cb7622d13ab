//! Names and texts of others: never a shell's, never a terminal's.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::json;

use crate::world::World;

const HOSTILE: [&[u8]; 16] = [
    b"new\nline",
    b"\x1b]0;owned\x07\x1b[2J",
    b"\xc2\x9b31m",
    b"\xff\xfe",
    b"-rf",
    b"--help",
    b"$(touch pwned)",
    b"`touch pwned`",
    b"; touch pwned;",
    b"| touch pwned &",
    "\u{202e}gnp.exe".as_bytes(),
    b"task_1.pid.tmp",
    b"task_00.pid",
    b"task_99999999999999999999.pid",
    b"task_1-0001-..",
    b"%s%n{{ 7 * 7 }}",
];

/// What a screen may hold: printable characters and line ends.
#[track_caller]
fn is_printable(what: &str, text: &str) {
    let odd = text.chars().find(|c| {
        (c.is_control() && *c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    });
    assert!(odd.is_none(), "{what} shows {odd:?}:\n{text:?}");
}

#[test]
fn hostile_names_everywhere_are_shown_escaped_and_never_run() {
    let mut world = World::with(
        "",
        "[queues.dispatcher]\ncommand = [\"/bin/sh\", \"-c\", \"mkdir -p taken; mv -- inbound/* taken\"]\n",
    );
    let long = vec![b'n'; 255];
    for folder in [
        "inbound",
        "workqueue",
        "running_tasks",
        "recipes",
        ".calypso/control",
        ".calypso/live",
        ".calypso/runs",
    ] {
        fs::create_dir_all(world.base.join(folder)).expect("ours");
        for name in HOSTILE.iter().copied().chain([&long[..]]) {
            let path = world.base.join(folder).join(OsStr::from_bytes(name));
            fs::write(&path, "x").expect("ours");
            if folder == "recipes" {
                let mut name = name[..name.len().min(250)].to_vec();
                name.extend(b".yaml");
                fs::write(
                    world.base.join(folder).join(OsStr::from_bytes(&name)),
                    "title: t",
                )
                .expect("ours");
            }
        }
    }
    world.cli(&["pause", "dispatcher"]).tells(0, "");
    world.start();
    world.good_works();
    screens(&world, &["inbound"]);
    world.cli(&["resume", "dispatcher"]).tells(0, "");
    world.eventually("all requests are taken", || {
        fs::read_dir(world.base.join("inbound"))
            .expect("there")
            .count()
            == 0
    });
    world.good_works();
    screens(&world, &["inbound"]);
    assert!(!world.base.join("pwned").exists() && !world.beside("pwned").exists());
}

#[test]
fn hostile_words_of_tinytask_are_shown_escaped_and_never_run() {
    let mut world = World::with(
        "",
        "[queues.echo]\ncommand = [\"/bin/sh\", \"-c\", \"printf '\\\\033[2Jred\\\\033]0;x\\\\007\\\\n'; exec /bin/sh good.sh $1\", \"sh\", \"{task_id}\"]\n",
    );
    let words = "\u{1b}]0;owned\u{7}\u{1b}[2J $(touch pwned) `touch pwned`; touch pwned \u{202e}x\u{9b}31m\r\nsecond line";
    let mut ids = Vec::new();
    for queue in ["good", "echo", words, "nobody"] {
        let args = json!({"title": words, "description": words, "assigned_to": queue, "created_by": words, "queue_name": words,
                          "tags": [words]});
        let id = world.tinytask.call("create_task", &args)["id"]
            .as_i64()
            .expect("a number");
        fs::create_dir(world.base.join(format!("workqueue/task_{id}"))).expect("ours");
        let args = json!({"task_id": id, "content": words, "created_by": words});
        world.tinytask.call("add_comment", &args);
        let args = json!({"task_id": id, "url": words, "description": words, "created_by": words});
        world.tinytask.call("add_link", &args);
        ids.push(id.to_string());
    }
    // Handed on from a hostile name, so that the launch tells of it.
    let handed = world.task("x");
    let args =
        json!({"task_id": handed, "current_agent": "x", "new_agent": words, "comment": words});
    world.tinytask.text("move_task", &args);
    let args =
        json!({"task_id": handed, "current_agent": words, "new_agent": "good", "comment": words});
    world.tinytask.text("move_task", &args);
    ids.push(handed.to_string());
    world.start();
    world.eventually("those that have a queue are done", || {
        [ids[0].as_str(), ids[1].as_str(), ids[4].as_str()]
            .iter()
            .all(|id| world.status_of(id.parse().expect("a number")) == "complete")
    });
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    screens(&world, &ids);
    for id in &ids {
        let said = world.cli(&["task", "show", id]);
        assert_eq!(said.code, 0, "{said:?}");
        is_printable("task show", &said.out);
    }
    is_printable("task list", &world.cli(&["task", "list", "--all"]).out);
    assert!(!world.base.join("pwned").exists() && !world.beside("pwned").exists());
}

/// All that people look at, for these tasks.
#[track_caller]
fn screens(world: &World, subjects: &[&str]) {
    for args in [
        &["status"][..],
        &["plan"],
        &["status", "--json"],
        &["plan", "--json"],
    ] {
        let said = world.cli(args);
        is_printable(&args.join(" "), &said.out);
        is_printable(&args.join(" "), &said.err);
        if args.len() > 1 {
            serde_json::from_str::<serde_json::Value>(&said.out).expect("JSON");
        }
    }
    for subject in subjects {
        for verb in ["why", "logs"] {
            let said = world.cli(&[verb, subject]);
            is_printable(verb, &said.out);
            is_printable(verb, &said.err);
        }
    }
    is_printable("the daemon", &world.log());
}
