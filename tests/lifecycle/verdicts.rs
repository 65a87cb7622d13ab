//! What becomes of a task after a run, by tinytask's word and not by the exit code.

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::Verdict;

use crate::World;
use crate::json;

fn verdict(world: &World, task: i64, run: usize) -> Verdict {
    world.verdicts(task)[run].tasks[0].verdict.clone()
}

#[test]
fn an_agent_that_does_nothing_is_tried_again_later_then_parked_with_word() {
    let world = World::new()
        .set("max_attempts", "2")
        .queue("coder", "exit 0")
        .start();
    let task = world.task("coder", "too hard");
    world.eventually("first attempt", |w| w.verdicts(task).len() == 1);
    assert_eq!(verdict(&world, task, 0), Verdict::NoProgress);
    world.eventually("backs off", |w| w.hold(task) == "backing_off");
    world.looks();
    assert_eq!(world.count("start coder"), 1);
    // Ten seconds and a bit, by design.
    world.at_length("second attempt", |w| w.verdicts(task).len() == 2);
    world.eventually("parked", |w| w.hold(task) == "parked");
    let said = world.our_comments(task);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("2 attempts") && said[0].contains("retry"),
        "{said:?}"
    );
    world.looks();
    assert_eq!(world.count("start coder"), 2);
    assert_eq!(world.verdicts(task)[1].attempt, 2);
    assert!(world.ok(&["status"]).contains("parked"));

    // A comment of somebody lifts it: a new stay with attempts of its own.
    world.script("coder", "claim; finish");
    world.ok(&["task", "comment", &task.to_string(), "try it with less"]);
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
    assert_eq!(world.verdicts(task)[2].attempt, 1);
}

#[test]
fn a_parked_task_is_lifted_by_a_change_too() {
    let world = World::new()
        .set("max_attempts", "1")
        .queue("coder", "exit 0")
        .start();
    let task = world.task("coder", "unclear");
    world.eventually("parked", |w| w.hold(task) == "parked");
    world.looks();
    assert_eq!(world.count("start coder"), 1);
    world.script("coder", "claim; finish");
    world.update(task, json!({"description": "clearer"}));
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
}

#[test]
fn what_was_left_working_is_put_back_with_one_comment_even_over_crashes() {
    let mut world = World::new()
        .set("max_attempts", "2")
        .queue("coder", "claim; gate \"go-$ID\"; exit 0")
        .start();
    for round in 0..6_u64 {
        let task = world.task("coder", "left working");
        world.eventually("it works", |w| w.count(&format!("at-go-{task} coder")) == 1);
        world.open(&format!("go-{task}"));
        world.eventually("over", |w| w.names("running_tasks").is_empty());
        // Somewhere in the middle of judging, recording, commenting and putting back.
        std::thread::sleep(std::time::Duration::from_millis(round * 13));
        world.kill_daemon();
        world.run();
        world.eventually("put back", |w| w.state(task) == "idle");
        world.eventually("judged", |w| w.names(".calypso/live").is_empty());
        assert_eq!(verdict(&world, task, 0), Verdict::LeftWorking);
        let said = world.our_comments(task);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("left it working") && said[0].contains("run "),
            "{said:?}"
        );
        // Or the next round's agent would be handed this one.
        world.ok(&["task", "done", &task.to_string()]);
    }
    world.is_clean();
}

/// tinytask hands an agent the first idle task, be it parked, held or backing off here. Runs for the tasks behind it then never
/// get to their own, and must not follow each other without a wait.
#[test]
fn runs_that_are_handed_another_task_do_not_spin() {
    let world = World::new().queue("coder", "claim; exit 0").start();
    world.ok(&["pause"]);
    let first = world.task("coder", "in the way");
    let second = world.task("coder", "behind it");
    world.ok(&["resume"]);
    world.eventually("the second had its run", |w| w.verdicts(second).len() == 1);
    assert_eq!(verdict(&world, second, 0), Verdict::LeftWorking);
    assert_eq!(
        world.verdicts(second)[0].tasks[0].key.id.number(),
        first,
        "it was handed the other one"
    );
    world.eventually("both back off", |w| {
        w.hold(first) == "backing_off" && w.hold(second) == "backing_off"
    });
    world.looks();
    assert_eq!(world.count("start coder"), 2);
    // No attempt of the second: a person's retry starts it at once, and as its first.
    world.script("coder", "claim; finish; claim; finish");
    world.ok(&["retry", &second.to_string()]);
    world.eventually("complete", |w| w.is_complete(second));
    world.is_clean();
    assert_eq!(world.verdicts(second)[1].attempt, 1);
}

#[test]
fn a_deleted_task_is_gone_and_nothing_else_happens() {
    let world = World::new().queue("coder", "claim; gate go").start();
    let task = world.task("coder", "deleted under its agent");
    world.eventually("it works", |w| w.count("at-go coder") == 1);
    world.text("delete_task", &json!({"id": task}));
    let (_, agent) = world.processes(task);
    world.looks();
    assert!(
        world.marked("CALYPSO_RUN=").contains(&agent),
        "agents are left alone"
    );
    world.open("go");
    world.eventually("judged", |w| w.verdicts(task).len() == 1);
    assert_eq!(verdict(&world, task, 0), Verdict::Gone);
    assert!(world.verdicts(task)[0].failure.is_none());
    world.is_clean();
}

/// The agent claims what tinytask hands it, which need not be the task its run is named after.
#[test]
fn a_run_is_judged_by_the_tasks_it_touched() {
    let world = World::new()
        .queue("coder", "claim; gate \"go-$T\"; finish")
        .start();
    world.ok(&["pause"]);
    let named = world.task("coder", "named");
    world.ok(&["resume"]);
    // The agent has started for `named` and claimed it; then it does two more by itself.
    world.eventually("it works", |w| {
        w.count(&format!("at-go-{named} coder")) == 1
    });
    world.open(&format!("go-{named}"));
    world.eventually("complete", |w| w.is_complete(named));
    world.is_clean();

    // Another task than the named one: a more urgent one comes in between the look and the claim.
    world.script(
        "coder",
        "note here; while [ ! -e \"$B/gates/claim\" ]; do sleep 0.02; done; claim; finish; claim; exit 0",
    );
    let named = world.task("coder", "named, but not claimed");
    world.eventually("it runs", |w| w.count("here coder") == 1);
    let urgent = world.task_with(json!({"title": "urgent", "assigned_to": "coder", "priority": 9}));
    let third = world.task_with(json!({"title": "third", "assigned_to": "coder", "priority": 8}));
    world.script("coder", "claim; finish");
    world.open("claim");
    world.eventually("all complete", |w| {
        [named, urgent, third].iter().all(|id| w.is_complete(*id))
    });
    world.is_clean();
    // `third` was claimed and left, so it was put back; `named` was never touched by its first run, which is no attempt.
    let said = world.our_comments(third);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(world.our_comments(named), [""; 0]);
    let last = world.verdicts(named).pop().expect("it was done in the end");
    assert_eq!(last.attempt, 1, "{:?}", world.verdicts(named));
}

#[test]
fn several_tasks_in_one_run_are_each_judged() {
    let world = World::new()
        .queue(
            "coder",
            "gate go; claim; finish; claim; move devops; claim 2>/dev/null || true",
        )
        .start();
    let first = world.task("coder", "first");
    world.eventually("it runs", |w| w.count("at-go coder") == 1);
    let second = world.task("coder", "second");
    world.open("go");
    world.eventually("both", |w| {
        w.is_complete(first) && w.assignee(second) == "devops"
    });
    world.is_clean();
    assert_eq!(world.count("start coder"), 1);
    assert_eq!(world.hold(second), "no_recipe");
}

#[test]
fn ping_pong_between_queues_ends() {
    let world = World::new()
        .set("max_runs_per_task", "3")
        .queue("architect", "claim; move product")
        .queue("product", "claim; move architect")
        .start();
    let task = world.task("architect", "to and fro");
    world.eventually("held", |w| w.hold(task) == "too_many_runs");
    world.looks();
    assert_eq!(world.starts(), ["architect 1", "product 1", "architect 1"]);
    world.script("architect", "claim; finish");
    world.script("product", "claim; finish");
    world.ok(&["retry", &task.to_string()]);
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
}

#[test]
fn parents_wait_for_their_subtasks_and_blocked_tasks_for_their_blockers() {
    let world = World::new()
        .queue("coder", "claim; gate \"go-$ID\"; finish")
        .start();
    world.ok(&["pause"]);
    let blocker = world.task("coder", "the blocker");
    let blocked = world.task_with(json!({
        "title": "blocked", "assigned_to": "coder", "blocked_by_task_id": blocker
    }));
    let parent = world.task_with(json!({"title": "parent", "assigned_to": "devops"}));
    let child = world.task_with(json!({
        "title": "child", "assigned_to": "coder", "parent_task_id": parent, "priority": -1
    }));
    world.recipe("devops");
    world.script("devops", "claim; finish");
    world.ok(&["resume"]);
    world.eventually("the blocker runs", |w| {
        w.count(&format!("at-go-{blocker} coder")) == 1
    });
    world.eventually("held", |w| w.hold(blocked) == "blocked_by");
    world.eventually("held", |w| w.hold(parent) == "open_subtasks");
    world.open(&format!("go-{blocker}"));
    world.eventually("the blocked one runs", |w| {
        w.count(&format!("at-go-{blocked} coder")) == 1
    });
    world.open(&format!("go-{blocked}"));
    world.open(&format!("go-{child}"));
    world.eventually("the child is complete", |w| w.is_complete(child));
    world.eventually("all is over", |w| w.names(".calypso/live").is_empty());
    world.is_clean();
    // tinytask completes a parent with its last subtask; it is never put back or commented on.
    assert_eq!(world.our_comments(parent), [""; 0]);
    assert_eq!(
        world.starts(),
        [blocker, blocked, child].map(|id| format!("coder {id}"))
    );
}

/// An exit code proves nothing, either way.
#[test]
fn a_hand_off_counts_even_when_its_agent_fails_afterwards() {
    let world = World::new().queue("coder", "claim; finish; exit 3").start();
    let task = world.task("coder", "done all the same");
    world.eventually("judged", |w| w.verdicts(task).len() == 1);
    assert_eq!(world.outcomes(task), [Outcome::Exited(3)]);
    assert_eq!(verdict(&world, task, 0), Verdict::Done);
    assert!(world.verdicts(task)[0].failure.is_none());
    world.is_clean();
}
