//! The connection to tinytask breaks at each call of a task's whole life: before the request, after it, in the middle of the
//! answer. Agents reach tinytask all the time; only calypso-watch does not.

use std::collections::BTreeSet;

use serde_json::json;

use crate::World;
use crate::proxy::{CUTS, Cut, Proxy};

/// Everything calypso-watch ever asks or writes, but for inbound/: launches, verdicts, a hand-off, putting back, parking.
fn world() -> (World, Proxy) {
    let mut world = World::new().set("max_attempts", "1");
    let proxy = Proxy::before(&world.address);
    world.through = Some(proxy.address.clone());
    let straight = format!("export CALYPSO_TINYTASK_URL=http://{}/mcp; ", world.address);
    let world = world
        .queue("architect", &format!("{straight} claim; move coder"))
        .queue("coder", &format!("{straight} claim; exit 3"))
        .start();
    (world, proxy)
}

/// A task from its first queue until it is parked in its second, left working by its agent; then what must be true of it.
fn one_life(world: &World, title: &str) {
    let starts = |queue| world.count(&format!("start {queue}"));
    let before = starts("architect");
    let task = world.task("architect", title);
    world.at_length("it is parked", |w| {
        let is_parked = |text: &String| text.starts_with("calypso-watch parked");
        w.our_comments(task).iter().any(is_parked) && w.names(".calypso/live").is_empty()
    });
    assert_eq!(
        world.state(task),
        "idle",
        "{title}: put back, not forgotten"
    );
    assert_eq!(world.assignee(task), "coder", "{title}");
    assert_eq!(starts("architect"), before + 1, "{title}: handed on once");
    // While tinytask is away an end is no attempt, so that the coder may be started once more; each run says its word once.
    let (runs, verdicts) = (world.runs(task), world.verdicts(task));
    assert_eq!(
        runs.len(),
        verdicts.len(),
        "{title}: each run has its verdict"
    );
    assert!(runs.len() <= 4, "{title}: {runs:?}");
    let writes: BTreeSet<String> = verdicts
        .iter()
        .filter(|verdict| verdict.tasks.iter().any(|task| task.write.is_some()))
        .map(|verdict| format!("(run {} ", verdict.run))
        .collect();
    let said = world.our_comments(task);
    assert_eq!(said.len(), writes.len(), "{title}: {said:?}");
    for run in writes {
        let times = said.iter().filter(|text| text.contains(&run)).count();
        assert_eq!(times, 1, "{title}: {said:?}");
    }
    // Or the next agent would sign up for this one, which is older.
    world.update(task, json!({"status": "complete"}));
}

/// Each call that a life in peace consists of, one in each life; and the calls that make a new connection after a cut.
///
/// Reads are many and alike, so that each kind of cut takes every third of them; with CALYPSO_TEST_LONG, every one.
fn each_call_is_cut(cut: Cut) {
    let (mut world, proxy) = world();
    one_life(&world, "in peace");
    let calls: BTreeSet<String> = proxy.calls().into_iter().collect();
    let is_of_connection =
        |call: &str| ["initialize", "tools/list"].contains(&call) || call.starts_with("notif");
    let kind = CUTS
        .iter()
        .position(|one| *one == cut)
        .expect("one of three") as u32;
    let is_long = std::env::var_os("CALYPSO_TEST_LONG").is_some();
    for call in calls {
        let is_at_start = call == "list_tasks";
        let is_single = is_at_start || is_of_connection(&call);
        let is_write = ["add_comment", "update_task"].contains(&call.as_str());
        let (first, step) = match is_long || is_single || is_write {
            true => (1, 1),
            false => (1 + kind, 3),
        };
        for n in (first..100).step_by(step) {
            if is_of_connection(&call) {
                proxy.arm("get_my_queue", 1, Cut::Before);
            }
            if is_at_start {
                // A daemon asks for everything when it starts.
                world.kill_daemon();
            }
            proxy.arm(&call, n, cut);
            if is_at_start {
                world.run();
            }
            one_life(&world, &format!("{cut:?} {call} {n}"));
            let was_hit = !proxy.disarm();
            assert!(was_hit || n > first, "{call}");
            let is_enough = call == "get_my_queue" && n > 3 && !is_long;
            if !was_hit || is_single || is_enough {
                break;
            }
        }
    }
    assert!(world.daemon_lives());
    world.is_clean();
}

#[test]
fn a_call_that_never_reaches_tinytask_costs_nothing_but_time() {
    each_call_is_cut(CUTS[0]);
}

#[test]
fn a_call_whose_answer_is_lost_is_done_once() {
    each_call_is_cut(CUTS[1]);
}

#[test]
fn a_call_whose_answer_is_cut_in_half_is_done_once() {
    each_call_is_cut(CUTS[2]);
}
