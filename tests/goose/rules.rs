//! Does each queue start when it should, once, and never before? Nothing here polls: the daemon's rescan is an hour away.

use std::collections::BTreeSet;

use calypso_watch::core::model::Outcome;
use serde_json::Value;

use crate::model::Part;
use crate::team::{RECIPES, USUAL_ADDRESS, eventually, goose};
use crate::watched::Watched;

/// What `status --json` says of a task: `running`, else the name of its hold.
pub(crate) fn hold_of(status: &Value, task: i64) -> Option<String> {
    let all = |key: &str| {
        let queues = status["queues"].as_array().into_iter().flatten();
        let entries: Vec<Value> = queues
            .filter_map(|queue| queue[key].as_array().cloned())
            .flatten()
            .collect();
        entries.into_iter().find(|entry| entry["task"] == task)
    };
    if all("runs").is_some() {
        return Some("running".into());
    }
    let hold = &all("tasks")?["hold"]["hold"];
    hold.as_str().map(str::to_owned)
}

#[test]
fn two_queues_with_two_tasks_each_have_two_agents_at_a_time() {
    let Some(goose) = goose() else { return };
    let mut world = Watched::new(goose, "", "");
    world.recipe("blogger");
    let queues = ["architect", "blogger"];
    for queue in queues.into_iter().chain(["product"]) {
        world.model.play(queue, Part::Waits);
    }
    let first: Vec<i64> = queues.iter().map(|q| world.task("first", q)).collect();
    let second: Vec<i64> = queues.iter().map(|q| world.task("second", q)).collect();
    world.watch();
    eventually("both ask their models", || {
        queues.iter().all(|queue| world.model.requests(queue) == 1)
    });
    let status = world.status();
    let before: BTreeSet<i32> = world.agents().into_iter().collect();
    assert_eq!(before.len(), 2, "{}", world.said());
    for id in &first {
        assert_eq!(
            hold_of(&status, *id).as_deref(),
            Some("running"),
            "{status:#}"
        );
    }
    for id in &second {
        assert_eq!(
            hold_of(&status, *id).as_deref(),
            Some("no_slot"),
            "{status:#}"
        );
    }
    // One of the two gets on: its queue's next one starts, the other queue stays as it is.
    world.model.play("blogger", Part::Works);
    eventually("the second of blogger is complete", || {
        world.at(second[1]) == "blogger complete"
    });
    eventually("blogger rests", || {
        world.team.names(".calypso/live").len() == 1
    });
    assert_eq!(world.at(first[1]), "blogger complete");
    assert_eq!(world.agents().len(), 1);
    assert_eq!(world.model.requests("architect"), 1);
    world.model.play("architect", Part::Works);
    eventually("both of architect are with product", || {
        [first[0], second[0]].map(|id| world.at(id)) == ["product idle", "product idle"]
    });
    world.model.play("product", Part::SaysDone);
    for queue in queues {
        let second_began = world.verdict(queue, 2).started.expect("it ran").wall;
        let first_ended = world.verdict(queue, 1).ended.expect("it ran").wall;
        assert!(first_ended <= second_began, "{queue}");
        assert_eq!(world.model.sessions(queue), 2, "{queue}");
    }
}

#[test]
fn a_recipe_put_there_while_watching_makes_its_queue_live() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    let id = world.task("write about it", "blogger");
    let status = world.status();
    assert_eq!(
        hold_of(&status, id).as_deref(),
        Some("no_recipe"),
        "{status:#}"
    );
    // A recipe that cannot be used is a reason to wait, too.
    world.write_recipe("blogger", "title: [");
    eventually("the broken recipe is told", || {
        hold_of(&world.status(), id).as_deref() == Some("broken_recipe")
    });
    assert!(world.agents().is_empty());
    world.recipe("blogger");
    eventually("it is complete", || world.at(id) == "blogger complete");
    world.rests();
    assert_eq!(world.model.sessions("blogger"), 1);
}

#[test]
fn the_next_agent_starts_when_the_last_one_is_over_not_when_it_hands_on() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    world.model.play("architect", Part::Lingers);
    world.model.play("product", Part::Waits);
    let id = world.task("a task", "architect");
    eventually("the hand-off", || world.at(id) == "product idle");
    // The daemon has seen it there, and says for whom it waits.
    eventually("it is held", || {
        let status = world.status();
        let product = (status["queues"].as_array().into_iter().flatten())
            .find(|queue| queue["queue"] == "product");
        product.is_some_and(|product| product["tasks"][0]["hold"]["hold"] == "run_not_over")
    });
    let why = world.types(&["why", &id.to_string()]);
    assert!(why.out.contains("architect"), "{}", why.out);
    assert_eq!(world.agents().len(), 1);
    assert_eq!(world.model.requests("product"), 0);
    world.model.play("architect", Part::Works);
    eventually("product asks its model", || {
        world.model.requests("product") == 1
    });
    assert_eq!(world.agents().len(), 1, "{}", world.said());
    world.model.play("devops", Part::Waits);
    world.model.play("product", Part::Works);
    let (architect, product) = (world.verdict("architect", 1), world.verdict("product", 1));
    let (_, ended) = world.records(&architect.queue, architect.run);
    let (spec, _) = world.records(&product.queue, product.run);
    let ended = ended.ended.expect("it is over").wall;
    assert!(ended <= spec.times.written.wall, "{ended:?} {spec:#?}");
    assert_eq!(world.model.sessions("product"), 1);
}

#[test]
fn a_task_moved_by_hand_starts_its_queue_without_polling() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    let id = world.task("a task", "human");
    eventually("it is seen", || {
        hold_of(&world.status(), id).as_deref() == Some("no_recipe")
    });
    assert!(world.agents().is_empty());
    world.model.play("architect", Part::Waits);
    let args = serde_json::json!({"task_id": id, "current_agent": "human",
        "new_agent": "architect", "comment": "yours"});
    world.tinytask.text("move_task", &args);
    eventually("architect asks its model", || {
        world.model.requests("architect") == 1
    });
    let log = std::fs::read_to_string(world.team.base.join(".calypso/log.jsonl"));
    // The launch names the event that led to it: none of a timer's has one.
    assert!(log.expect("kept").contains("ms after the event"));
}

/// What a person sees while goose and tinytask disagree about where the tasks are.
#[test]
fn a_recipe_that_talks_to_another_tinytask_is_told() {
    let Some(goose) = goose() else { return };
    let world = Watched::new(goose, "", "");
    let (_, coder) = RECIPES[4];
    world.write_recipe(
        "coder",
        &coder.replace(USUAL_ADDRESS, "http://127.0.0.1:9/mcp"),
    );
    let status = world.types(&["status"]);
    assert!(status.out.contains("BEWARE"), "{}", status.out);
    assert!(status.out.contains("127.0.0.1:9"), "{}", status.out);
}

/// A person's word: it costs no attempt, and nothing starts again by itself.
#[test]
fn a_run_that_is_stopped_lets_go_of_its_task_until_a_retry() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    world.recipe("blogger");
    world.model.play("blogger", Part::Stalls);
    let id = world.task("a task", "blogger");
    eventually("it is claimed", || world.at(id) == "blogger working");
    let stop = world.types(&["stop", &id.to_string()]);
    assert_eq!(stop.code, Some(0), "{stop:#?}");
    let verdict = world.verdict("blogger", 1);
    assert!(
        matches!(verdict.outcome, Outcome::Stopped(_)),
        "{verdict:#?}"
    );
    assert_eq!(verdict.failure, None);
    eventually("it is held", || {
        hold_of(&world.status(), id).as_deref() == Some("stopped_by_person")
    });
    assert_eq!(world.at(id), "blogger idle");
    let why = world.types(&["why", &id.to_string()]);
    assert!(why.out.contains("calypso-watch retry"), "{}", why.out);
    world.model.play("blogger", Part::Works);
    assert_eq!(world.types(&["retry", &id.to_string()]).code, Some(0));
    eventually("it is complete", || world.at(id) == "blogger complete");
    world.rests();
    assert_eq!(world.verdict("blogger", 2).attempt, 1);
}

/// What goose's shell tool leaves behind, in a session of its own, is ended before the next agent starts.
#[test]
fn what_an_agent_left_behind_is_gone_before_the_next_one_starts() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    world.model.play("architect", Part::Litters);
    world.model.play("product", Part::Waits);
    let id = world.task("a task", "architect");
    eventually("product asks its model", || {
        world.model.requests("product") == 1
    });
    let token = {
        let run = world.verdict("architect", 1);
        world.records(&run.queue, run.run).0.token
    };
    let of_run = format!("CALYPSO_RUN={token}");
    let left = std::fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .any(|process| {
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            variables.any(|variable| variable == of_run.as_bytes())
        });
    assert!(!left, "something of the run lives: {}", world.said());
    let log = world.types(&["logs", &id.to_string(), "--run", "1"]);
    assert!(log.out.contains("sleep 1000"), "it was there: {}", log.out);
}
