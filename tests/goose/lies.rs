//! Does a run that fails, or lies, end as what it was? goose exits 0 on nearly all of it and says "complete". Each case shows the
//! class of the failure, what waits because of it, and what tinytask is told; none is taken for a task that is done.

use std::collections::BTreeMap;
use std::path::PathBuf;

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::{FailureClass, Verdict, VerdictRecord};
use serde_json::Value;

use crate::model::Part;
use crate::rules::hold_of;
use crate::team::{RECIPES, eventually, goose};
use crate::watched::{Watched, failure};

/// The verdict on the one task of a run.
#[track_caller]
fn of_task(verdict: &VerdictRecord) -> &Verdict {
    assert_eq!(verdict.tasks.len(), 1, "{verdict:#?}");
    &verdict.tasks[0].verdict
}

/// A recipe whose tinytask is `extension` instead.
fn recipe_with(queue: &str, extension: &str) -> String {
    let (_, recipe) = RECIPES[1];
    let recipe = recipe.replace("architect", queue);
    let at = recipe
        .find("  - type: streamable_http")
        .expect("it has one");
    format!("{}{extension}\n", &recipe[..at])
}

#[test]
fn an_agent_that_does_not_do_its_work_costs_an_attempt() {
    let Some(goose) = goose() else { return };
    let mut world = Watched::new(goose, "max_runs = 20", "[queues.runner]\nmax_turns = 2\n");
    // Queue, part, how the task stands afterwards, the reason.
    let cases = [
        (
            "asker",
            Part::Asks,
            Verdict::LeftWorking,
            "asked a question and stopped",
        ),
        (
            "mute",
            Part::Empty,
            Verdict::NoProgress,
            "the model answered nothing",
        ),
        (
            "boaster",
            Part::SaysDone,
            Verdict::NoProgress,
            "made no progress",
        ),
        (
            "quitter",
            Part::LeavesWorking,
            Verdict::LeftWorking,
            "left it working",
        ),
        (
            "runner",
            Part::Repeats,
            Verdict::NoProgress,
            "reached its most turns",
        ),
        (
            "reader",
            Part::ContextFull,
            Verdict::NoProgress,
            "its context is full",
        ),
    ];
    let mut tasks = BTreeMap::new();
    for (queue, part, ..) in &cases {
        world.recipe(queue);
        world.model.play(queue, *part);
        tasks.insert(*queue, world.task("a task", queue));
    }
    world.watch();
    for (queue, _, stands, reason) in &cases {
        let id = tasks[queue];
        let verdict = world.verdict(queue, 1);
        let told = world.output(&verdict);
        assert_eq!(
            failure(&verdict),
            Some((FailureClass::Task, *reason)),
            "{queue}: {told}"
        );
        assert_eq!(of_task(&verdict), stands, "{queue}: {verdict:#?}");
        assert_eq!(verdict.outcome, Outcome::Exited(0), "{queue}");
        assert_eq!(verdict.attempt, 1);
        let put_back = *stands == Verdict::LeftWorking;
        eventually(&format!("{queue} is idle, and it is said why"), || {
            let said = world.comments(id).contains("put this task back to idle");
            said == put_back && world.at(id) == format!("{queue} idle")
        });
        assert_eq!(world.comments(id).contains(reason), put_back, "{queue}");
    }
    // Each waits for its next attempt; the screen says after how many.
    let mut waiting: Vec<i64> = tasks.values().copied().collect();
    eventually("each task was seen backing off", || {
        let status = world.status();
        waiting.retain(|id| hold_of(&status, *id).as_deref() != Some("backing_off"));
        waiting.is_empty()
    });
}

/// Before its first word to the model goose waits for its servers for ever, and for a slow model for ten minutes, so it is the
/// time limit that ends it.
#[test]
fn an_agent_that_waits_for_ever_costs_an_attempt_at_the_time_limit() {
    let Some(goose) = goose() else { return };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let address = silent.local_addr().expect("a bound socket has an address");
    let limits = "[queues.patient]\ntime_limit = \"3s\"\n[queues.dreamer]\ntime_limit = \"10s\"\n";
    let mut world = Watched::new(goose, "stop_grace = \"1s\"", limits);
    let extension = format!(
        "  - type: streamable_http\n    name: tinytask\n    description: d\n    uri: http://{address}/mcp"
    );
    world.write_recipe("patient", &recipe_with("patient", &extension));
    world.recipe("dreamer");
    world.model.play("dreamer", Part::Stalls);
    let cases = [
        ("patient", Verdict::NoProgress, 0),
        ("dreamer", Verdict::LeftWorking, 1),
    ]
    .map(|(queue, stands, put_back)| (queue, stands, put_back, world.task("a task", queue)));
    world.watch();
    for (queue, stands, put_back, id) in cases {
        let verdict = world.verdict(queue, 1);
        assert_eq!(verdict.outcome, Outcome::TimedOut, "{queue}");
        let expected = Some((FailureClass::Task, "timed out"));
        assert_eq!(failure(&verdict), expected, "{queue}");
        assert_eq!(of_task(&verdict), &stands, "{queue}");
        eventually(&format!("{queue} backs off"), || {
            hold_of(&world.status(), id).as_deref() == Some("backing_off")
        });
        assert_eq!(world.at(id), format!("{queue} idle"));
        let comments = world.comments(id);
        assert_eq!(
            comments.matches("put this task back").count(),
            put_back,
            "{comments}"
        );
    }
}

/// Without its tinytask an agent can do nothing, and goose says so once and goes on. No attempt: nobody's work is to blame.
#[test]
fn an_extension_that_cannot_start_holds_the_queue_until_the_recipe_is_mended() {
    let Some(goose) = goose() else { return };
    let mut world = Watched::new(goose, "", "");
    let broken = "  - type: stdio\n    name: tinytask\n    description: d\n    cmd: no-such-program\n    args: []";
    world.write_recipe("blogger", &recipe_with("blogger", broken));
    let first = world.task("first", "blogger");
    let second = world.task("second", "blogger");
    // Another thing that no attempt would mend.
    world.recipe("ghost");
    world.model.play("ghost", Part::NoSuchModel);
    world.task("third", "ghost");
    world.watch();
    let verdict = world.verdict("blogger", 1);
    let reason = "extension `tinytask` failed to start";
    assert_eq!(failure(&verdict), Some((FailureClass::Environment, reason)));
    assert_eq!(of_task(&verdict), &Verdict::NoProgress);
    let mut status = Value::Null;
    eventually("both wait for the queue", || {
        status = world.status();
        [first, second]
            .iter()
            .all(|id| hold_of(&status, *id).as_deref() == Some("environment"))
    });
    let queues = status["queues"].as_array().expect("a list");
    let blogger = queues.iter().find(|q| q["queue"] == "blogger");
    let holds = &blogger.expect("it has a recipe")["holds"];
    assert_eq!(holds[0]["reason"], reason, "{status:#}");
    world.recipe("blogger");
    eventually("both are complete", || {
        [first, second]
            .iter()
            .all(|id| world.at(*id) == "blogger complete")
    });
    let second_try = world.verdict("blogger", 2);
    assert_eq!((second_try.attempt, &second_try.failure), (1, &None));
    let ghost = world.verdict("ghost", 1);
    let expected = (FailureClass::Environment, "the model does not exist");
    assert_eq!(failure(&ghost), Some(expected));
}

/// One of a provider's failures, up to the hold that follows: nothing of that provider starts, and nobody's attempt is spent.
fn meet(goose: PathBuf, part: Option<Part>, reason: &str) -> (Watched, i64, i64) {
    let mut world = Watched::new(goose, "", "[queues.elsewhere]\nprovider = \"other\"\n");
    world.recipe("elsewhere");
    match part {
        Some(part) => world.model.play("architect", part),
        None => world.team.forget_the_model(),
    }
    let first = world.task("first", "architect");
    world.watch();
    let verdict = world.verdict("architect", 1);
    let told = world.output(&verdict);
    let expected = Some((FailureClass::Provider, reason));
    assert_eq!(failure(&verdict), expected, "{told}");
    assert_eq!(of_task(&verdict), &Verdict::NoProgress, "{verdict:#?}");
    assert_eq!(world.at(first), "architect idle");
    let second = world.task("second", "coder");
    let mut status = Value::Null;
    eventually("both wait for the provider", || {
        status = world.status();
        [first, second]
            .iter()
            .all(|id| hold_of(&status, *id).as_deref() == Some("provider"))
    });
    assert_eq!(status["providers"].as_array().map(Vec::len), Some(1));
    assert_eq!(status["providers"][0]["provider"], "openai", "{status:#}");
    assert_eq!(status["providers"][0]["hold"]["reason"], reason);
    assert!(world.agents().is_empty());
    (world, first, second)
}

#[test]
fn an_account_that_is_empty_holds_all_queues_and_one_run_finds_out_when_that_is_over() {
    let Some(goose) = goose() else { return };
    let (world, first, second) = meet(goose, Some(Part::Quota), "quota exceeded");
    let asked = world.model.requests("architect");
    for queue in ["architect", "coder"] {
        world.model.play(queue, Part::Waits);
    }
    // Half a minute later.
    let probe = || {
        ["architect", "coder"]
            .map(|q| world.model.requests(q))
            .iter()
            .sum::<usize>()
    };
    eventually("one run tries it", || probe() == asked + 1);
    let status = world.status();
    assert_eq!(world.agents().len(), 1, "{status:#}");
    let mut holds = [first, second].map(|id| hold_of(&status, id).unwrap_or_default());
    holds.sort();
    assert_eq!(holds, ["provider", "running"], "{status:#}");
    assert!(
        status["providers"][0]["hold"]["probing"].is_string(),
        "{status:#}"
    );
    for queue in ["architect", "coder"] {
        world.model.play(queue, Part::SaysDone);
    }
    // Whoever it was: the other starts as soon as the provider is known to work.
    let of_both = |n| world.verdicts().len() == n;
    eventually("the other one ran", || of_both(3));
    let attempts: Vec<_> = world.verdicts().iter().map(|v| v.attempt).collect();
    assert_eq!(attempts, [1, 1, 1], "no attempt was spent on the outage");
}

#[test]
fn a_key_that_is_refused_holds_all_queues() {
    let Some(goose) = goose() else { return };
    drop(meet(
        goose,
        Some(Part::Unauthorized),
        "authentication failed",
    ));
}

#[test]
fn a_model_that_is_not_there_holds_all_queues() {
    let Some(goose) = goose() else { return };
    drop(meet(goose, None, "the model's server cannot be reached"));
}

#[test]
fn a_server_that_fails_holds_all_queues() {
    let Some(goose) = goose() else { return };
    drop(meet(goose, Some(Part::Broken), "the model's server failed"));
}

#[test]
fn a_task_is_parked_after_its_last_attempt_and_a_retry_lifts_that() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "max_attempts = 2", "");
    world.recipe("blogger");
    world.model.play("blogger", Part::LeavesWorking);
    let id = world.task("a task", "blogger");
    let verdict = world.verdict("blogger", 2);
    assert_eq!(verdict.attempt, 2, "{verdict:#?}");
    eventually("it is parked", || {
        hold_of(&world.status(), id).as_deref() == Some("parked")
    });
    assert_eq!(world.at(id), "blogger idle");
    let comments = world.comments(id);
    assert_eq!(
        comments.matches("put this task back to idle").count(),
        1,
        "{comments}"
    );
    assert_eq!(
        comments.matches("parked this task").count(),
        1,
        "{comments}"
    );
    for word in [
        "left it working",
        "0002-blogger/output.log",
        "calypso-watch retry",
    ] {
        assert!(comments.contains(word), "{word}: {comments}");
    }
    let status = world.types(&["status"]);
    assert!(status.out.contains("parked"), "{}", status.out);
    let why = world.types(&["why", &id.to_string()]);
    assert!(why.out.contains("retry"), "{}", why.out);
    let session = world.model.sessions("blogger");
    assert_eq!(session, 2);

    world.model.play("blogger", Part::Works);
    assert_eq!(world.types(&["retry", &id.to_string()]).code, Some(0));
    eventually("it is complete", || world.at(id) == "blogger complete");
    world.rests();
    assert_eq!(world.verdict("blogger", 3).attempt, 1);
}

#[test]
fn a_dispatcher_that_does_nothing_costs_the_request_an_attempt() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    world.model.play("dispatcher", Part::SaysDone);
    world.team.request("login.md", "# Add OAuth login\n");
    let verdict = world.verdict("dispatcher", 1);
    let reason = "left 1 of 1 requests in inbound";
    assert_eq!(failure(&verdict), Some((FailureClass::Task, reason)));
    assert!(verdict.files[0].left, "{verdict:#?}");
    eventually("the request backs off", || {
        world.status()["inbound"][0]["hold"]["hold"] == "file_backing_off"
    });
    // Edited, it is a new request, and needs to wait for nothing.
    world.model.play("dispatcher", Part::Works);
    world.model.play("architect", Part::Waits);
    world
        .team
        .request("login.md", "# Add OAuth login, with two providers\n");
    eventually("architect has it", || {
        world.model.requests("architect") == 1
    });
    assert_eq!(world.verdict("dispatcher", 2).attempt, 1);
}

/// A request that is in tinytask already must not go through the paid path twice.
#[test]
fn a_request_that_was_dispatched_but_not_moved_is_held_for_a_person() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    world.model.play("dispatcher", Part::Forgets);
    world.team.request("login.md", "# Add OAuth login\n");
    let verdict = world.verdict("dispatcher", 1);
    assert!(verdict.files[0].left, "{verdict:#?}");
    let mut status = Value::Null;
    eventually("the request is held", || {
        status = world.status();
        status["inbound"][0]["hold"]["hold"] == "dispatched_not_moved"
    });
    assert_eq!(
        status["inbound"][0]["hold"]["tasks"],
        serde_json::json!([1])
    );
    let screen = world.types(&["status"]);
    assert!(screen.out.contains("task_1"), "{}", screen.out);
    assert_eq!(world.model.sessions("dispatcher"), 1);
    // A person has looked: the dispatcher finds what it began, and goes on with it.
    world.model.play("dispatcher", Part::Works);
    world.model.play("architect", Part::Waits);
    assert_eq!(world.types(&["retry", "inbound"]).code, Some(0));
    eventually("architect has it", || {
        world.model.requests("architect") == 1
    });
    assert_eq!(world.tinytask.tasks().len(), 1);
    assert!(world.team.names("inbound").is_empty());
}
