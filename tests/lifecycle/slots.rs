//! Who runs when not everything can.

use crate::World;
use crate::json;

#[test]
fn one_run_a_queue_then_the_next_by_priority_and_age() {
    let world = World::new()
        .queue("architect", "claim; gate \"go-$ID\"; finish")
        .queue("blogger", "claim; gate \"go-$ID\"; finish")
        .start();
    world.ok(&["pause"]);
    let a = ["one", "two"].map(|title| world.task("architect", title));
    let b = ["one", "two"].map(|title| world.task("blogger", title));
    let urgent = world.task_with(json!({
        "title": "urgent", "assigned_to": "blogger", "priority": 7
    }));
    world.ok(&["resume"]);
    world.eventually("two at first", |w| {
        w.count("start architect") == 1 && w.count("start blogger") == 1
    });
    world.looks();
    world.looks();
    let mut starts = world.starts();
    starts.sort();
    assert_eq!(
        starts,
        [format!("architect {}", a[0]), format!("blogger {urgent}")]
    );
    world.eventually("held", |w| w.hold(a[1]) == "no_slot");
    for id in [a[0], urgent] {
        world.open(&format!("go-{id}"));
    }
    world.eventually("then the next two", |w| {
        w.count(&format!("at-go-{} architect", a[1])) == 1
            && w.count(&format!("at-go-{} blogger", b[0])) == 1
    });
    for id in [a[1], b[0], b[1]] {
        world.open(&format!("go-{id}"));
    }
    world.eventually("all complete", |w| {
        [a[1], b[0], b[1]].iter().all(|id| w.is_complete(*id))
    });
    world.is_clean();
    assert_eq!(world.starts().len(), 5);
}

#[test]
fn all_queues_get_their_turn_when_the_whole_is_limited() {
    let queues = ["a", "b", "c"];
    let mut world = World::new().set("max_runs", "1");
    for queue in queues {
        world = world.queue(queue, "claim; finish");
    }
    let world = world.start();
    world.ok(&["pause"]);
    let tasks: Vec<_> = (0..2)
        .flat_map(|_| queues.map(|queue| world.task(queue, "turn")))
        .collect();
    world.ok(&["resume"]);
    world.eventually("all complete", |w| {
        tasks.iter().all(|id| w.is_complete(*id))
    });
    world.is_clean();
    let order: Vec<_> = (world.starts().iter())
        .map(|s| s.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn a_queue_with_two_slots_runs_two_tasks_by_name() {
    let world = World::new()
        .section("[queues.coder]\nconcurrency = 2")
        .queue(
            "coder",
            "ID=$T; cw task show \"$T\" >/dev/null; claim; gate go; finish",
        )
        .start();
    world.ok(&["pause"]);
    let tasks: Vec<_> = (0..3).map(|_| world.task("coder", "x")).collect();
    world.ok(&["resume"]);
    world.eventually("two", |w| w.count("at-go coder") == 2);
    world.looks();
    assert_eq!(world.count("start coder"), 2);
    world.open("go");
    world.eventually("all", |w| tasks.iter().all(|id| w.is_complete(*id)));
    world.is_clean();
    assert_eq!(world.count("start coder"), 3);
}

#[test]
fn what_an_agent_leaves_behind_may_be_wanted() {
    let world = World::new()
        .section("[queues.coder]\nleftovers = \"leave\"")
        .queue("coder", "claim; sleep 1000 & echo $! >\"$B/left\"; finish")
        .queue(
            "devops",
            "claim; sleep 1000 & echo $! >\"$B/swept\"; finish",
        )
        .start();
    let kept = world.task("coder", "leaves a server");
    let swept = world.task("devops", "leaves a mess");
    world.eventually("both judged", |w| {
        w.verdicts(kept).len() == 1 && w.verdicts(swept).len() == 1
    });
    let pid = |name: &str| world.read(name).trim().parse::<i32>().expect("a pid");
    assert!(world.marked("CALYPSO_RUN=").contains(&pid("left")));
    assert!(!world.marked("CALYPSO_RUN=").contains(&pid("swept")));
    let next = world.task("coder", "is not held by it");
    world.eventually("complete", |w| w.is_complete(next));
    for left in world.marked("CALYPSO_RUN=") {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(left),
            nix::sys::signal::Signal::SIGKILL,
        )
        .ok();
    }
    world.is_clean();
}

#[test]
fn a_recipe_makes_a_queue_at_once_and_its_loss_ends_it() {
    let world = World::new().queue("coder", "claim; finish").start();
    let task = world.task("writer", "for a queue to come");
    world.eventually("held", |w| w.hold(task) == "no_recipe");
    world.script("writer", "claim; finish");
    world.recipe("writer");
    world.eventually("complete", |w| w.is_complete(task));
    std::fs::remove_file(world.path("recipes/writer.yaml")).expect("it was there");
    let task = world.task("writer", "for a queue that was");
    world.eventually("held", |w| w.hold(task) == "no_recipe");
    world.write("recipes/writer.yaml", "prompt: [");
    world.eventually("held", |w| w.hold(task) == "broken_recipe");
    world.recipe("writer");
    world.eventually("complete", |w| w.is_complete(task));
    world.is_clean();
}

#[test]
fn parents_whose_parts_lie_elsewhere_do_not_hide_the_tasks_behind_them() {
    let world = World::new().queue("architect", "ID=$T; finish").start();
    world.ok(&["pause"]);
    for title in ["one parent", "another"] {
        let parent = world.task("architect", title);
        world.task_with(json!({
            "title": "part", "assigned_to": "human", "parent_task_id": parent
        }));
    }
    let behind = world.task("architect", "behind them");
    world.ok(&["resume"]);
    world.eventually("complete", |w| w.is_complete(behind));
    world.is_clean();
    assert_eq!(world.starts(), [format!("architect {behind}")]);
    assert!(!world.read("daemon.log").contains("but more acting"));
}
