//! Everything that can be typed, with the daemon alive and dead.

use std::io::Write as _;
use std::process::Stdio;

use calypso_watch::core::model::{Outcome, RunSubject};

use crate::World;
use crate::world::EXE;

#[test]
fn a_stopped_task_waits_for_retry() {
    let world = World::new()
        .queue("coder", "claim; gate go; finish")
        .start();
    let task = world.task("coder", "stopped");
    let id = task.to_string();
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let said = world.ok(&["stop", &id]);
    assert!(
        said.contains("is being stopped") && said.contains("retry"),
        "{said}"
    );
    world.eventually("judged", |w| w.verdicts(task).len() == 1);
    assert!(matches!(world.outcomes(task)[..], [Outcome::Stopped(_)]));
    world.eventually("held", |w| w.hold(task) == "stopped_by_person");
    assert_eq!(world.state(task), "idle", "put back");
    let why = world.ok(&["why", &id]);
    assert!(why.contains("retry"), "{why}");
    assert_eq!(world.ok(&["stop", &id]), format!("#{task} has no run\n"));
    world.looks();
    assert_eq!(world.count("start coder"), 1);
    assert_eq!(world.names(".calypso/control"), [""; 0], "the wish is gone");

    world.open("go");
    world.ok(&["retry", &id]);
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.verdicts(task)[1].attempt, 1, "a fresh start");
}

/// A stop that takes its time is asked for once, and the daemon is not busy with it.
#[test]
fn a_slow_stop_is_waited_for() {
    let world = World::new()
        .set("stop_grace", "\"2s\"")
        .queue("coder", "trap '' INT; claim; while :; do sleep 0.05; done")
        .start();
    let task = world.task("coder", "takes its time");
    world.processes(task);
    world.ok(&["stop", &task.to_string()]);
    world.eventually("judged", |w| w.verdicts(task).len() == 1);
    world.is_clean();
    let log = world.read(".calypso/log.jsonl");
    let asked = log.lines().filter(|line| line.contains("\"stop\"")).count();
    assert!(asked <= 2, "{asked} times:\n{log}");
}

#[test]
fn all_runs_are_stopped_even_without_a_daemon() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; finish")
        .queue("devops", "claim; gate go; finish")
        .start();
    let tasks = [world.task("coder", "one"), world.task("devops", "two")];
    world.eventually("both work", |w| {
        w.count("at-go coder") == 1 && w.count("at-go devops") == 1
    });
    world.kill_daemon();
    let said = world.ok(&["stop", "--all"]);
    assert_eq!(said.matches("is being stopped").count(), 2, "{said}");
    world.eventually("both are over", |w| w.names("running_tasks").is_empty());
    world.run();
    world.eventually("both judged", |w| {
        tasks.iter().all(|task| w.verdicts(*task).len() == 1)
    });
    world.eventually("both held", |w| {
        tasks
            .iter()
            .all(|task| w.hold(*task) == "stopped_by_person")
    });
    world.is_clean();
    assert_eq!(world.ok(&["stop", "--all"]), "nothing runs\n");
    world.looks();
    assert_eq!(world.names(".calypso/control"), [""; 0]);
    assert_eq!(world.count("start coder") + world.count("start devops"), 2);
}

#[test]
fn hold_and_pause_keep_and_let_go() {
    let mut world = World::new()
        .queue("coder", "claim; finish")
        .queue("devops", "claim; finish")
        .start();
    world.ok(&["pause", "coder"]);
    let paused = world.task("coder", "in a paused queue");
    world.eventually("held", |w| w.hold(paused) == "queue_paused");
    let free = world.task("devops", "beside it");
    world.eventually("complete", |w| w.is_complete(free));
    world.ok(&["resume", "coder"]);
    world.eventually("complete", |w| w.is_complete(paused));

    world.ok(&["pause"]);
    let second = world.task("devops", "while all is paused");
    world.eventually("held by all", |w| {
        w.status().0["holds"][0]["hold"] == "paused"
    });
    world.looks();
    world.ok(&["hold", &second.to_string()]);
    world.ok(&["resume"]);
    world.eventually("held by name", |w| w.hold(second) == "held_by_file");
    // A hold outlives the daemon.
    world.kill_daemon();
    world.run();
    world.looks();
    assert_eq!(world.state(second), "idle");
    world.ok(&["retry", &second.to_string()]);
    world.eventually("complete", |w| w.is_complete(second));
    assert_eq!(world.ok(&["resume"]), "everything was not paused\n");
    world.is_clean();
    assert_eq!(world.names(".calypso/control"), [""; 0]);
    for bad in ["0", "-1", "../x", "9223372036854775808", "x"] {
        for verb in ["stop", "hold", "retry", "release", "why", "logs"] {
            let said = world.cw(&[verb, "--", bad]);
            assert_eq!(said.code, Some(2), "{verb} {bad}: {said:?}");
        }
    }
}

/// A pid file that somebody wrote by hand is somebody's own run: it holds its task until it ends, or is released.
#[test]
fn a_run_of_somebody_else_is_left_alone_until_released() {
    let world = World::new().queue("coder", "claim; finish").start();
    world.ok(&["pause"]);
    let task = world.task("coder", "started by hand");
    let mut by_hand = world
        .command("sleep")
        .arg("1000")
        .spawn()
        .expect("sleep starts");
    let pid_file = format!("running_tasks/task_{task}.pid");
    world.write(&pid_file, &format!("{}\n", by_hand.id()));
    world.ok(&["resume"]);
    world.eventually("held", |w| w.hold(task) == "running_outside");
    world.looks();
    assert_eq!(world.count("start coder"), 0);
    world.ok(&["release", &task.to_string()]);
    world.eventually("complete", |w| w.is_complete(task));
    assert!(
        by_hand.try_wait().expect("it is ours").is_none(),
        "nobody was signalled"
    );

    world.ok(&["pause"]);
    let second = world.task("coder", "started by hand too");
    world.write(
        &format!("running_tasks/task_{second}.pid"),
        &format!("{}\n", by_hand.id()),
    );
    world.ok(&["resume"]);
    world.eventually("held", |w| w.hold(second) == "running_outside");
    by_hand.kill().expect("it is ours");
    by_hand.wait().expect("it is ours");
    // Nothing tells of its end but a look.
    world.looks();
    world.eventually("complete", |w| w.is_complete(second));
    world.is_clean();
}

#[test]
fn a_working_task_is_put_back_by_a_persons_word() {
    let world = World::new().queue("coder", "claim; finish").start();
    world.ok(&["pause"]);
    let task = world.task("coder", "claimed elsewhere");
    world.update(task, crate::json!({"status": "working"}));
    world.ok(&["resume"]);
    world.eventually("hands off", |w| w.hold(task) == "working_elsewhere");
    world.looks();
    assert_eq!(world.state(task), "working");
    let said = world.ok(&["putback", &task.to_string()]);
    assert_eq!(said, format!("#{task} is idle again\n"));
    world.eventually("complete", |w| w.is_complete(task));
    let said = world.ok(&["putback", &task.to_string()]);
    assert!(said.contains("not working"), "{said}");
    world.is_clean();
}

#[test]
fn requests_are_dropped_in_one_step_and_never_over_another() {
    let world = World::new()
        .queue(
            "dispatcher",
            "mkdir -p \"$B/taken\"; mv \"$B\"/inbound/* \"$B/taken/\"",
        )
        .start();
    world.ok(&["pause"]);
    world.write("one.md", "# one\n");
    std::fs::create_dir_all(world.path("two/deep")).expect("a folder");
    world.write("two/deep/file", "2");
    let said = world.ok(&["submit", "one.md", "two"]);
    assert_eq!(said, "inbound/one.md\ninbound/two\n");
    let again = world.cw(&["submit", "one.md"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("--name"), "{again:?}");
    let again = world.cw(&["submit", "two"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    world.ok(&["submit", "one.md", "--name", "three.md"]);
    let mut stdin = world
        .command(EXE)
        .args(["submit", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("our own binary starts");
    let mut pipe = stdin.stdin.take().expect("it is piped");
    pipe.write_all(b"# four\n").expect("it reads");
    drop(pipe);
    assert!(stdin.wait().expect("it is ours").success());
    let names = world.names("inbound");
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(world.read("inbound/two/deep/file"), "2");
    for bad in [".hidden", "a/b", ""] {
        let said = world.cw(&["submit", "one.md", "--name", bad]);
        assert_eq!(said.code, Some(2), "{said:?}");
    }
    assert_eq!(world.cw(&["submit", "nothing-there"]).code, Some(1));
    // One run takes them all, once they are known to be complete: a folder is when it was quiet for a while.
    world.eventually("settled", |w| {
        !w.cw(&["status"]).out.contains("may still be written to")
    });
    world.ok(&["resume"]);
    world.eventually("taken", |w| w.names("taken").len() == 4);
    world.is_clean();
    assert_eq!(world.count("start dispatcher"), 1);
    let verdicts = world.verdicts_of(RunSubject::Inbound);
    assert_eq!(verdicts.len(), 1);
    assert_eq!(verdicts[0].files.len(), 4);
    assert!(verdicts[0].files.iter().all(|file| !file.left));
}

#[test]
fn logs_follow_a_run_to_its_end() {
    let world = World::new()
        .queue(
            "coder",
            "claim; echo first; gate go; echo last; finish; printf 'no newline'",
        )
        .start();
    let task = world.task("coder", "says things");
    let id = task.to_string();
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let mut follow = world
        .command(EXE)
        .args(["logs", "-f", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("our own binary starts");
    assert!(world.ok(&["logs", &id]).contains("first"));
    assert!(follow.try_wait().expect("it is ours").is_none());
    world.open("go");
    let output = follow.wait_with_output().expect("it is ours");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("first") && said.contains("last"), "{said}");
    world.is_clean();
    let raw = world.ok(&["logs", "--raw", &id]);
    assert_eq!(raw, "first\nlast\nno newline");
    assert_eq!(world.ok(&["logs", "--raw", "--run", "1", &id]), raw);
    let none = world.cw(&["logs", "--run", "2", &id]);
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("its runs: 1"), "{none:?}");
    assert_eq!(world.cw(&["logs", "77"]).code, Some(1));
}

#[test]
fn tasks_are_handled_from_the_command_line() {
    let world = World::new().configure();
    let id = world.ok(&[
        "task",
        "create",
        "a title",
        "--queue",
        "coder",
        "--priority",
        "-3",
    ]);
    let id = id.trim();
    assert_eq!(id, "1");
    assert!(world.ok(&["task", "list"]).contains("a title"));
    assert!(world.ok(&["task", "list", "coder"]).contains("a title"));
    assert_eq!(world.ok(&["task", "list", "nobody"]), "no tasks\n");
    world.ok(&["task", "move", id, "devops", "--comment", "yours"]);
    assert_eq!(world.assignee(1), "devops");
    world.ok(&["task", "comment", id, "a word"]);
    let shown = world.ok(&["task", "show", id]);
    assert!(
        shown.contains("a word") && shown.contains("yours"),
        "{shown}"
    );
    assert_eq!(world.ok(&["task", "signup", "devops"]), "1\n");
    let none = world.cw(&["task", "signup", "devops"]);
    assert_eq!((none.code, none.out.as_str()), (Some(1), ""));
    world.ok(&["task", "done", id]);
    assert!(world.is_complete(1));
    let gone = world.cw(&["task", "show", "9"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    let json: serde_json::Value =
        serde_json::from_str(&world.ok(&["task", "list", "--all", "--json"])).expect("JSON");
    assert!(json.to_string().contains("a title"), "{json}");
    assert_eq!(world.tasks().len(), 1);
}

#[test]
fn plan_and_why_tell_without_doing() {
    let world = World::new().queue("coder", "claim; finish").configure();
    let first = world.task("coder", "goes first");
    let second = world.task("coder", "waits for it");
    let plan = world.ok(&["plan"]);
    assert!(plan.contains(&format!("#{first}")), "{plan}");
    assert!(plan.contains("agent.sh coder 1"), "{plan}");
    assert!(plan.contains("nothing was started"), "{plan}");
    let json: serde_json::Value =
        serde_json::from_str(&world.ok(&["plan", "--json"])).expect("JSON");
    assert!(json.to_string().contains("agent.sh"), "{json}");
    let why = world.ok(&["why", &second.to_string()]);
    assert!(why.contains("one run at a time"), "{why}");
    let unknown = world.cw(&["why", "99"]);
    assert_ne!(unknown.code, Some(0), "{unknown:?}");
    assert_eq!(world.count("start coder"), 0);
    assert!(world.runs(first).is_empty());
}

#[test]
fn status_says_first_what_is_wrong() {
    let mut world = World::new().queue("coder", "claim; finish").start();
    assert_eq!(world.cw(&["status"]).code, Some(0));
    world.kill_server();
    let (status, code) = world.status();
    assert_eq!(code, Some(4));
    assert_eq!(status["tinytask"]["state"], "unreachable");
    let said = world.cw(&["status"]);
    assert_eq!(said.code, Some(4));
    assert!(said.out.contains("UNREACHABLE"), "{}", said.out);
    world.kill_daemon();
    let said = world.cw(&["status"]);
    assert_eq!(said.code, Some(3), "3 beats 4");
    assert!(said.out.contains("NOT RUNNING"), "{}", said.out);
    let once = world.cw(&["run", "--once"]);
    assert_eq!(once.code, Some(4), "{once:?}");
    let task = world.cw(&["task", "list"]);
    assert_eq!(task.code, Some(4), "{task:?}");
    world.serve();
    assert_eq!(world.status().1, Some(3));
    assert_eq!(world.cw(&["run", "--once"]).code, Some(0));
}

#[test]
fn a_base_path_is_made_once_and_never_overwritten() {
    let world = World::new();
    let dir = world.path("new one");
    let dir = dir.to_str().expect("a UTF-8 name");
    let said = world.ok(&[
        "init",
        dir,
        "--builtin",
        "--provider",
        "openai",
        "--model",
        "m",
    ]);
    assert!(said.contains("5 starter recipes"), "{said}");
    let toml = world.read("new one/calypso.toml");
    assert!(toml.contains("builtin = true"), "{toml}");
    assert!(toml.contains("provider = \"openai\""), "{toml}");
    let address = toml
        .lines()
        .find_map(|line| line.strip_prefix("listen = \"")?.split('"').next())
        .expect("a port of its own")
        .to_owned();
    for name in world.names("new one/recipes") {
        let recipe = world.read(&format!("new one/recipes/{name}"));
        assert!(recipe.contains(&format!("http://{address}/mcp")), "{name}");
    }
    world.write("new one/recipes/coder.yaml", "mine");
    std::fs::remove_file(world.path("new one/recipes/devops.yaml")).expect("it was made");
    // Again: only what is missing.
    let said = world.ok(&["init", dir]);
    assert!(said.contains("1 starter recipe"), "{said}");
    assert_eq!(world.read("new one/recipes/coder.yaml"), "mine");
    assert_eq!(world.read("new one/calypso.toml"), toml);
    // What was missing names the tinytask of this base path, as the others do.
    let devops = world.read("new one/recipes/devops.yaml");
    assert!(
        devops.contains(&format!("http://{address}/mcp")),
        "{devops}"
    );
    let refused = world.cw(&["init", dir, "--builtin"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");

    let other = world.path("other");
    let other = other.to_str().expect("a UTF-8 name");
    world.ok(&[
        "init",
        other,
        "--no-recipes",
        "--tinytask-url",
        "http://127.0.0.1:9/mcp",
    ]);
    assert_eq!(world.names("other/recipes"), [""; 0]);
    assert!(
        world
            .read("other/calypso.toml")
            .contains("url = \"http://127.0.0.1:9/mcp\"")
    );
}

#[test]
fn completions_are_printed_for_each_shell() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = world.ok(&["completions", shell]);
        assert!(
            said.contains("calypso-watch") && said.contains("submit"),
            "{shell}"
        );
    }
    assert_eq!(world.cw(&["completions", "csh"]).code, Some(2));
}
