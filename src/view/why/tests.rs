use std::sync::Arc;

use super::*;
use crate::core::decide::decide;
use crate::core::record::{Failure, FailureClass, Verdict};
use crate::view::sample::{
    assert_fits, at, id, live_run, moment, now, policy, time, verdict_record, with_task, world,
};

fn alive() -> Daemon {
    Daemon::Alive {
        pid: 4121,
        since: moment(-60),
        watch: "inotify".into(),
        note: None,
    }
}

fn told<R>(
    seen: &Snapshot,
    daemon: Daemon,
    task: i64,
    story: Vec<StoryLine>,
    show: impl Fn(&WhyInput) -> R,
) -> R {
    let (policy, now) = (policy(), now());
    let decision = decide(seen, &policy, &now);
    show(&WhyInput {
        task: id(task),
        seen,
        decision: &decision,
        policy: &policy,
        now: &now,
        daemon,
        story,
        start: None,
        time: &time,
    })
}

fn screen(seen: &Snapshot, task: i64) -> String {
    let screen = told(seen, alive(), task, Vec::new(), why);
    assert_fits(&screen);
    screen
}

fn scene() -> Snapshot {
    let mut seen = world(&["architect", "coder", "devops"]);
    with_task(&mut seen, 42, "architect", "Add OAuth login");
    with_task(&mut seen, 45, "architect", "Billing export");
    with_task(&mut seen, 46, "architect", "Rate limits");
    with_task(&mut seen, 39, "devops", "Fix CI");
    with_task(&mut seen, 31, "coder", "Story: parser");
    with_task(&mut seen, 60, "human", "Sign the contract");
    seen.runs
        .push(live_run("42/2", "architect", "Add OAuth login", 360, 5120));
    let mut failed = verdict_record("39/1", "devops", Some(Verdict::NoProgress), 4);
    failed.failure = Some(Failure {
        class: FailureClass::Task,
        reason: "made no progress".into(),
    });
    let history = seen
        .histories
        .entry(failed.run.subject)
        .or_default()
        .make_mut();
    history.verdicts.push(Arc::new(failed));
    history.last_run = 1;
    seen.details.insert(id(8), Detail::NotFound);
    seen
}

#[test]
fn the_state_what_comes_then_and_how_it_got_here() {
    let at = |ms: i64| Timestamp(at(-400).0 + ms);
    let line = |at, text: &str| StoryLine {
        at,
        text: text.into(),
    };
    let story = vec![
        line(at(0), "request-billing.md closed in inbound"),
        line(at(5), "dispatcher started (run inbound/7)"),
        line(
            at(27_347),
            "#45 created by dispatcher, assigned to architect",
        ),
        line(
            at(27_356),
            "seen here; folder workqueue/task_45 has 1 file, whose name is longer than anybody would think wise\u{7}",
        ),
        line(at(27_356), "held: no slot in architect (#42)"),
        line(at(327_356), "looked again"),
    ];
    let screen = told(&scene(), alive(), 45, story, why);
    assert_fits(&screen);
    insta::assert_snapshot!(screen);
}

#[test]
fn each_kind_of_state_has_its_words() {
    let mut seen = scene();
    let mut screens: Vec<String> = [42, 46, 39, 31, 60, 8, 9]
        .map(|task| screen(&seen, task))
        .into();
    seen.controls.pause_all = true;
    screens.push(told(
        &seen,
        Daemon::Dead { last_look: None },
        31,
        Vec::new(),
        why,
    ));
    seen.tinytask = Tinytask::Unreachable {
        since: moment(-180),
        error: "connection refused".into(),
        hint: None,
    };
    seen.tasks.clear();
    screens.push(screen(&seen, 31));
    insta::assert_snapshot!(screens.join("--\n"));
}

#[test]
fn the_story_as_json() {
    let story = vec![StoryLine {
        at: at(-1),
        text: "looked".into(),
    }];
    insta::assert_snapshot!(told(&scene(), alive(), 45, story, why_json));
}

#[test]
fn the_steps_of_a_start_are_told_with_their_gaps() {
    let run = live_run("42/2", "architect", "Add OAuth login", 360, 5120);
    let (spec, mut state) = run.spec.zip(run.state).expect("a live run has both");
    let mut spec = Arc::unwrap_or_clone(spec);
    let after = |ms: i64| {
        let mut moment = moment(-360);
        moment.wall.0 += ms;
        moment
    };
    spec.times.event = Some(after(0));
    spec.times.look = after(1);
    spec.times.decided = after(3);
    spec.times.written = after(4);
    state.started = after(6);
    state.running = Some(after(7));
    let words = Start::of(&spec, Some(&state)).words();
    assert_eq!(
        words,
        "event, look +1 ms, decided +2 ms, recorded +1 ms, shim +2 ms, agent +1 ms: 7 ms in all"
    );
    // Without an event, and before the shim has said anything.
    spec.times.event = None;
    let words = Start::of(&spec, None).words();
    assert_eq!(words, "look, decided +2 ms, recorded +1 ms: 3 ms in all");
}
