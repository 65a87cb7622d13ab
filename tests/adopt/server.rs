//! tinytask hangs, is locked, is another one, lost its tasks, has far too many, or is no tinytask at all. Everything waits and
//! says so; agents go on; nothing is started, judged or put back by what is not known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::{TaskVerdict, Verdict};
use calypso_watch::edge::tinytask;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::proxy::{Proxy, Weather};
use crate::stop::stop;
use crate::world::within;
use crate::{World, send, state_of};

/// Births are told apart by the second.
fn another_second() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// A world whose daemon reaches tinytask through a proxy only; and what has an agent's script go there straight.
fn behind_proxy() -> (World, Proxy, String) {
    let mut world = World::new();
    let proxy = Proxy::before(&world.address);
    world.through = Some(proxy.address.clone());
    let straight = format!("export CALYPSO_TINYTASK_URL=http://{}/mcp; ", world.address);
    (world, proxy, straight)
}

/// Waits until the daemon has written down that these are open.
#[track_caller]
fn is_known(world: &World, tasks: &[i64]) {
    world.at_length("they are known", |w| {
        w.looks_at_everything();
        let known: serde_json::Value =
            serde_json::from_str(&w.read(".calypso/known.json")).unwrap_or_default();
        let open = known["open"].as_array().cloned().unwrap_or_default();
        (tasks.iter()).all(|id| open.iter().any(|key| key["id"] == *id))
    });
}

/// What `status` says of tinytask, where its exit code is that of one that cannot be worked with.
fn trouble(world: &World) -> String {
    let (status, code) = world.status();
    match code {
        Some(4) => status["tinytask"]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

#[test]
fn a_server_that_hangs_at_any_moment_costs_nothing_but_time() {
    let patient = "export CALYPSO_TINYTASK_TIMEOUT=60s;";
    let world = World::new()
        .section("timeout = \"700ms\"")
        .queue("architect", &format!("{patient} claim; move coder"))
        .queue("coder", &format!("{patient} claim; finish"))
        .start();
    let is_server = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("tinytask\0serve")
    };
    let server = world
        .marked("")
        .into_iter()
        .find(is_server)
        .expect("it runs");
    let mut tasks = Vec::new();
    for round in 0..6_u64 {
        let task = world.task("architect", &format!("round {round}"));
        tasks.push(task);
        std::thread::sleep(Duration::from_millis(round * 130));
        stop(server);
        if round == 2 {
            assert_eq!(trouble(&world), "unreachable");
        }
        std::thread::sleep(Duration::from_millis(1500));
        send(server, Signal::SIGCONT);
        world.at_length("complete", |w| w.is_complete(task));
    }
    world.at_length("judged", |w| w.names(".calypso/live").is_empty());
    for task in tasks {
        assert_eq!(world.our_comments(task), [""; 0]);
        assert_eq!(
            world.outcomes(task),
            [Outcome::Exited(0), Outcome::Exited(0)]
        );
    }
    world.is_clean();
    assert_eq!(world.count("start architect"), 6);
    assert_eq!(world.count("start coder"), 6);
}

#[test]
fn what_answers_like_no_tinytask_is_waited_for_and_its_verdicts_come_late() {
    let (world, proxy, straight) = behind_proxy();
    let stale = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#;
    let mut world = world
        .section("timeout = \"1s\"")
        .queue("coder", &format!("{straight} claim; gate go; finish"))
        .start();
    for (n, weather) in [
        Weather::Says("502 Bad Gateway", "text/html", "<html>no upstream</html>"),
        Weather::Says("200 OK", "text/html", "<html>log in first</html>"),
        Weather::Says("400 Bad Request", "application/json", stale),
        Weather::Says("200 OK", "application/json", "{}"),
        // An answer has more bytes than fit into the time-out.
        Weather::Trickles(1, Duration::from_millis(20)),
    ]
    .into_iter()
    .enumerate()
    {
        let task = world.task("coder", &format!("{n}"));
        world.at_length("it works", |w| w.count("at-go coder") == n + 1);
        proxy.weather(weather.clone());
        world.eventually("it is said", |w| trouble(w) == "unreachable");
        assert_eq!(state_of(&world, "coder"), "running", "it goes on");
        world.open("go");
        world.eventually("over", |w| w.names("running_tasks").is_empty());
        world.looks();
        assert!(world.verdicts(task).is_empty(), "{weather:?}");
        proxy.weather(Weather::Fair);
        world.at_length("judged", |w| w.verdicts(task).len() == 1);
        let verdict = &world.verdicts(task)[0];
        assert!(
            verdict.late && verdict.tasks[0].verdict == Verdict::Done,
            "{verdict:?}"
        );
        world.close("go");
    }
    assert!(world.daemon_lives());
    world.is_clean();
    assert_eq!(world.count("start coder"), 5);
}

/// The interleaving in `look/asking.rs`: the task of a run that is over is asked for beside its queue's list, and is handed on between
/// the two answers. By its own, which is older, its agent left it lying.
#[test]
fn a_task_that_moves_between_its_own_answer_and_its_queues_is_judged_by_where_it_went() {
    let (world, proxy, straight) = behind_proxy();
    let world = world
        .queue("coder", &format!("{straight} claim; gate go"))
        .start();
    let task = world.task("coder", "handed on late");
    world.at_length("it works", |w| w.count("at-go coder") == 1);
    // A queue without a free slot is asked by nobody until its run is over.
    let list = proxy.hold("get_my_queue");
    let before = proxy.answered("get_task");
    world.open("go");
    world.at_length("it is asked for", |_| proxy.answered("get_task") > before);
    world.update(task, json!({"assigned_to": "human", "status": "idle"}));
    drop(list);
    world.at_length("judged", |w| w.verdicts(task).len() == 1);
    let verdict = &world.verdicts(task)[0];
    assert!(
        matches!(
            verdict.tasks[..],
            [TaskVerdict {
                verdict: Verdict::HandedOff { .. },
                ..
            }]
        ),
        "{verdict:?}"
    );
    world.is_clean();
}

/// Somebody else writes to the database all the time, and holds it for longer than a call likes to wait.
#[test]
fn a_database_locked_in_short_bursts_loses_and_doubles_nothing() {
    let patient = "again() { until \"$@\"; do sleep 0.1; done; };";
    let world = World::new()
        .set("max_attempts", "1")
        .queue("architect", &format!("{patient} claim; again move coder"))
        .queue("coder", "claim; exit 3")
        .start();
    let is_over = AtomicBool::new(false);
    let db = world.db();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = rusqlite::Connection::open(&db).expect("a database");
            other
                .busy_timeout(Duration::from_secs(20))
                .expect("it takes one");
            while !is_over.load(Ordering::SeqCst) {
                other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
                std::thread::sleep(Duration::from_millis(400));
                other.execute_batch("ROLLBACK").expect("ours");
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        // Ends the storm also where a check fails.
        struct Calm<'a>(&'a AtomicBool);
        impl Drop for Calm<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _calm = Calm(&is_over);
        for round in 0..3 {
            let task = world.task("architect", &format!("round {round}"));
            world.at_length("parked", |w| {
                w.our_comments(task).len() == 1 && w.names(".calypso/live").is_empty()
            });
            assert_eq!(world.state(task), "idle");
            assert_eq!(world.assignee(task), "coder");
            world.update(task, json!({"status": "complete"}));
        }
    });
    world.is_clean();
    assert_eq!(world.count("start architect"), 3);
    assert_eq!(world.count("start coder"), 3);
}

/// Whoever only looks reads the built-in's database; what is read there is what its server would answer.
#[test]
fn what_is_read_past_the_server_is_what_it_answers() {
    let world = World::new();
    let whole = world.task("architect", "has parts");
    let blocker = world.task("human", "first this");
    let odd = json!({ "title": "odd \u{1f980} \"text\"\n\\", "description": "two\nlines", "assigned_to": "coder",
        "created_by": "a test", "priority": -7, "tags": ["a", "b \"c\"", ""], "blocked_by_task_id": blocker, "queue_name": "ready" });
    world.text("create_task", &odd);
    world.text(
        "create_subtask",
        &json!({ "parent_task_id": whole, "title": "a part", "created_by": "a test" }),
    );
    world.text(
        "create_task",
        &json!({ "title": "nobody's", "created_by": "a test" }),
    );
    let working = world.task("product", "is worked on");
    world.text("signup_for_task", &json!({ "agent_name": "product" }));
    let done = world.task("coder", "done, and it blocked one");
    let after =
        json!({ "title": "blocked no longer", "created_by": "a test", "blocked_by_task_id": done });
    world.text("create_task", &after);
    let complete = json!({ "id": done, "status": "complete" });
    world.text("update_task", &complete);
    let away = world.task("coder", "archived");
    world.text("archive_task", &json!({ "id": away }));

    let endpoint = tinytask::Endpoint::Http {
        url: format!("http://{}/mcp", world.address),
    };
    let client = tinytask::Tinytask::new(endpoint, Duration::from_secs(10));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut answered = runtime.block_on(client.open_tasks()).expect("an answer");
    answered.sort_by_key(|task| task.id);
    let path = camino::Utf8PathBuf::try_from(world.db()).expect("UTF-8");
    let read = tinytask::database::open_tasks(&path).expect("a database");
    let read: Vec<_> = read.into_values().collect();
    assert_eq!(read, answered);
    assert_eq!(read.len(), 7);
    assert!(read.iter().any(|task| task.id.number() == working));
}

/// The file with the name of the built-in's database is another one than its server has open.
#[test]
fn a_database_that_its_server_does_not_use_is_not_believed() {
    let mut world = World::builtin().queue("coder", "claim; finish").start();
    let older = world.task("human", "older");
    world.task("human", "newest");
    world.kill_daemon();
    let db = world.path(".calypso/tinytask/tinytask.db");
    let lookalike = world.path("lookalike.db");
    let file = |of: &std::path::Path, log: &str| format!("{}{log}", of.display());
    // Its log stays, as it does where a server was killed.
    for log in ["", "-wal"] {
        std::fs::copy(file(&db, log), file(&lookalike, log)).expect("a copy");
    }
    let another = rusqlite::Connection::open(&lookalike).expect("a database");
    let retitle = |title: &str, which: &str| {
        let sql = format!("UPDATE tasks SET title = '{title}' WHERE {which}");
        another.execute(&sql, []).expect("it is open");
    };
    let shown = |world: &World| {
        let (status, _) = world.status();
        let queues = status["queues"].as_array().expect("queues");
        let human = queues.iter().find(|queue| queue["queue"] == "human");
        let tasks = human.and_then(|queue| queue["tasks"].as_array());
        let titles = tasks.into_iter().flatten().map(|task| &task["title"]);
        titles
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(shown(&world), r#""older" "newest""#);
    retitle("changed", &format!("id = {older}"));
    for log in ["", "-wal", "-shm"] {
        std::fs::rename(file(&lookalike, log), file(&db, log)).expect("in its place");
    }
    let read = r#""changed" "newest""#;
    assert_eq!(shown(&world), read, "the file is what is read");
    retitle("changed, too", "title = 'newest'");
    assert_eq!(shown(&world), r#""older" "newest""#);
    world.ok(&["tinytask", "stop"]);
    assert_eq!(world.status().0["tinytask"]["state"], "unreachable");
}

/// The daemon restarts before another tinytask than the one its agents work for: it remembers which tasks there were.
#[test]
fn a_daemon_restarted_before_another_server_touches_nothing_until_the_right_one_is_back() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; exit 3")
        .start();
    let running = world.task("coder", "runs meanwhile");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    let others: Vec<i64> = (0..5).map(|_| world.task("human", "open")).collect();
    is_known(&world, &others);
    world.kill_daemon();
    world.kill_server();
    world.swap_database();
    world.serve();
    world.run();
    assert_eq!(trouble(&world), "suspicious");
    let said = world.cw(&["status"]).out;
    assert!(said.contains("calypso-watch release tinytask"), "{said}");
    let once = world.cw(&["plan"]);
    assert_eq!(once.code, Some(4), "{once:?}");
    world.open("go");
    world.eventually("over", |w| w.names("running_tasks").is_empty());
    world.looks_at_everything();
    world.kill_daemon();
    let once = world.cw(&["run", "--once"]);
    assert_eq!(once.code, Some(4), "{once:?}");
    assert!(once.err.contains("6 of 6 known tasks vanished"), "{once:?}");
    world.run();
    world.looks_at_everything();
    assert!(
        world.verdicts(running).is_empty(),
        "{:?}",
        world.verdicts(running)
    );

    world.kill_server();
    world.restore_database();
    world.serve();
    world.at_length("judged by the right one", |w| {
        w.verdicts(running).len() == 1
    });
    assert_eq!(
        world.verdicts(running)[0].tasks[0].verdict,
        Verdict::LeftWorking
    );
    world.eventually("put back", |w| w.state(running) == "idle");
    assert_eq!(trouble(&world), "");
    assert!(others.iter().all(|id| world.state(*id) == "idle"));
    world.ok(&["hold", &running.to_string()]);
    world.is_clean();
}

/// One run is enough to tell, where its task's number is another's.
#[test]
fn a_number_that_is_another_tasks_tells_another_server_however_few_tasks_there_are() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; exit 3")
        .start();
    let task = world.task("coder", "the only one");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    world.kill_server();
    world.swap_database();
    another_second();
    world.serve();
    let theirs = world.task("coder", "another team's");
    assert_eq!(theirs, task);
    for _ in 0..2 {
        world.looks_at_everything();
        assert_eq!(trouble(&world), "suspicious");
        world.kill_daemon();
        world.run();
    }
    world.open("go");
    world.eventually("over", |w| w.names("running_tasks").is_empty());
    world.looks_at_everything();
    assert!(
        world.verdicts(task).is_empty(),
        "{:?}",
        world.verdicts(task)
    );
    assert_eq!(world.state(theirs), "idle");
    assert_eq!(world.count("start coder"), 1, "nothing is started for it");
    // It is the right one all the same: a person says so, and what ran is judged by it.
    world.script("coder", "claim; finish");
    let said = world.ok(&["release", "tinytask"]);
    assert!(
        said.starts_with("tinytask is taken for the right one"),
        "{said}"
    );
    world.eventually("judged", |w| !w.verdicts(task).is_empty());
    assert_eq!(world.verdicts(task)[0].tasks[0].verdict, Verdict::Gone);
    world.eventually("complete", |w| w.is_complete(theirs));
    world.eventually("the wish is taken down", |w| {
        w.names(".calypso/control").is_empty()
    });
    assert_eq!(trouble(&world), "");
    world.is_clean();
}

/// Too few tasks to suspect anything by: its run is judged by the wrong one, and that is mended when the right one is back.
#[test]
fn a_task_called_gone_by_another_server_is_put_back_when_it_is_there_again() {
    let mut world = World::new()
        .queue("coder", "claim; gate go; exit 3")
        .start();
    let task = world.task("coder", "the only one");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    world.kill_server();
    world.swap_database();
    world.serve();
    world.open("go");
    world.at_length("judged", |w| w.verdicts(task).len() == 1);
    assert_eq!(world.verdicts(task)[0].tasks[0].verdict, Verdict::Gone);
    world.script("coder", "claim; finish");
    world.kill_server();
    world.restore_database();
    world.serve();
    assert_eq!(world.state(task), "working", "its agent left it so");
    world.looks_at_everything();
    world.at_length("put back, and done", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.our_comments(task).len(), 1);
    assert_eq!(world.count("start coder"), 2);
}

/// All of them deleted on purpose looks the same. There is a word for that.
#[test]
fn tasks_deleted_on_purpose_wait_for_a_word_and_go_on_after_it() {
    let mut world = World::new().queue("coder", "claim; finish").start();
    let tasks: Vec<i64> = (0..5).map(|_| world.task("human", "open")).collect();
    is_known(&world, &tasks);
    // Nor does it see them go one by one, as it may look at everything at any time.
    stop(world.daemon_pid());
    for id in tasks {
        world.text("delete_task", &json!({"id": id}));
    }
    let next = world.task("coder", "waits for the word");
    send(world.daemon_pid(), Signal::SIGCONT);
    world.looks_at_everything();
    world.eventually("it is said", |w| trouble(w) == "suspicious");
    // Neither time nor a restart is that word.
    world.kill_daemon();
    world.run();
    world.looks_at_everything();
    assert_eq!(trouble(&world), "suspicious");
    assert_eq!(world.count("start coder"), 0);
    world.ok(&["release", "tinytask"]);
    world.eventually("complete", |w| w.is_complete(next));
    world.looks_at_everything();
    world.kill_daemon();
    world.run();
    assert_eq!(trouble(&world), "");
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
}

/// Yesterday's database comes back: most tasks are not in it, and one that was done is idle again.
#[test]
fn a_restored_backup_is_worked_on_only_after_a_persons_word() {
    let mut world = World::new().queue("coder", "claim; finish").start();
    let old = world.task("human", "in the backup");
    world.kill_server();
    let backup = world.path("backup.db");
    {
        let db = rusqlite::Connection::open(world.db()).expect("a database");
        db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
            .expect("nobody else has it");
    }
    std::fs::copy(world.db(), &backup).expect("a backup");
    world.serve();
    world.at_length("it is back", |w| trouble(w).is_empty());
    let newer: Vec<i64> = (0..5).map(|_| world.task("human", "not in it")).collect();
    let done = world.task("coder", "done since");
    world.at_length("complete", |w| w.is_complete(done));
    world.eventually("judged", |w| w.names(".calypso/live").is_empty());
    is_known(&world, &newer);

    world.kill_server();
    world.swap_database();
    std::fs::copy(&backup, world.db()).expect("restored");
    world.serve();
    world.looks_at_everything();
    world.eventually("it is said", |w| trouble(w) == "suspicious");
    // The numbers begin again where the backup ended: this one is another's records' namesake.
    another_second();
    let again = world.task("coder", "asked for after the restore");
    assert!(newer.contains(&again));
    world.looks_at_everything();
    assert_eq!(world.count("start coder"), 1);
    world.ok(&["release", "tinytask"]);
    world.eventually("complete", |w| w.is_complete(again));
    world.is_clean();
    assert_eq!(world.state(old), "idle");
    assert_eq!(world.count("start coder"), 2);
}

/// 25,000 tasks, of which one is ours to start; the whole list has more than 16 MiB, and comes slowly at that.
#[test]
fn a_list_of_25_000_tasks_and_16_mib_is_read_whole() {
    let (world, proxy, straight) = behind_proxy();
    let task = world.task("coder", "among many");
    {
        let mut db = rusqlite::Connection::open(world.db()).expect("a database");
        db.busy_timeout(Duration::from_secs(20))
            .expect("it takes one");
        let all = db.transaction().expect("a transaction");
        let columns = "title, description, status, assigned_to, created_by, priority, tags";
        let text = "x".repeat(200);
        for n in 0..25_000 {
            all.execute(
                &format!("INSERT INTO tasks ({columns}) VALUES (?1, ?2, 'idle', 'human', 'a test', 0, '[]')"),
                rusqlite::params![format!("{n}"), text],
            )
            .expect("a task");
        }
        all.commit().expect("room");
    }
    proxy.weather(Weather::Trickles(256 << 10, Duration::from_millis(1)));
    let mut world = world
        .section("timeout = \"60s\"")
        .queue("coder", &format!("{straight} claim; gate go; finish"))
        .configure();
    world.launch(crate::world::EXE);
    // A debug build on a busy machine takes many seconds for one such list.
    let limit = Duration::from_secs(240);
    within("it works", limit, || {
        (world.count("at-go coder") == 1).then_some(())
    });
    world.open("go");
    within("complete and judged", limit, || {
        (world.is_complete(task) && world.names(".calypso/live").is_empty()).then_some(())
    });
    assert!(world.daemon_lives());
    assert_eq!(world.outcomes(task), [Outcome::Exited(0)]);
    // A list of all that was open is not what a restart is to cost.
    let known = world.eventually_some("it is written", |w| {
        std::fs::metadata(w.path(".calypso/known.json")).ok()
    });
    assert!(known.len() < 200_000, "{}", known.len());
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
}
