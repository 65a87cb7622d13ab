use super::*;
use crate::core::Hold;
use crate::core::decide::decide;
use crate::view::sample::{
    assert_fits, at, live_run, now, policy, time, verdict_record, with_task, world,
};

fn shown(show: impl Fn(&PlanInput) -> String) -> String {
    let mut seen = world(&["architect", "coder", "devops", "dispatcher"]);
    with_task(&mut seen, 45, "architect", "Billing export");
    with_task(&mut seen, 46, "architect", "Rate limits");
    with_task(&mut seen, 31, "coder", "Story: parser");
    with_task(&mut seen, 39, "devops", "It's CI");
    seen.folders.remove(&crate::view::sample::id(39));
    seen.runs
        .push(live_run("31/1", "coder", "Story: parser", 60, 4877));
    let mut over = live_run("30/1", "coder", "Story: lexer", 60, 4878);
    over.observed.shim = false;
    seen.runs.push(over);
    seen.recent
        .push(verdict_record("41/1", "product", None, 120).into());
    let decision = decide(&seen, &policy(), &now());
    let argv = [
        "goose",
        "run",
        "--recipe",
        "recipes/architect.yaml",
        "--params",
        "base_path=/srv/my calypso",
        "--provider",
        "openai",
        "--model",
        "gpt-5.2",
        "--no-session",
        "--quiet",
        "--output-format",
        "stream-json",
    ];
    let mut launches: Vec<(Launch, Result<Vec<String>, String>)> = (decision.actions.iter())
        .filter_map(|action| match action {
            Action::Launch(launch) => Some((launch.clone(), Ok(argv.map(String::from).to_vec()))),
            _ => None,
        })
        .collect();
    let mut broken = launches[0].clone();
    broken.1 = Err("goose is not on PATH".into());
    launches.push(broken);
    show(&PlanInput {
        seen: &seen,
        decision: &decision,
        now: &now(),
        launches,
        time: &time,
    })
}

#[test]
fn the_plan_names_the_exact_command_and_why_the_rest_waits() {
    let screen = shown(plan);
    assert_fits(&screen);
    insta::assert_snapshot!(screen);
}

#[test]
fn the_plan_as_json() {
    insta::assert_snapshot!(shown(plan_json));
}

#[test]
fn an_empty_plan_says_so() {
    let seen = world(&["coder"]);
    let input = PlanInput {
        seen: &seen,
        decision: &Decision::default(),
        now: &now(),
        launches: Vec::new(),
        time: &time,
    };
    assert_eq!(
        plan(&input),
        "there is nothing to do\nnothing was started\n"
    );
}

#[test]
fn a_hundred_who_wait_for_the_same_take_one_line() {
    let seen = world(&[]);
    let hold = Hold::NotAssigned {
        queue_name: Some("ready".into()),
    };
    let decision = Decision {
        holds: (1..=100)
            .map(|n| (Subject::Task(crate::view::sample::id(n)), hold.clone()))
            .collect(),
        wake_at: Some(at(5)),
        ..Decision::default()
    };
    let input = PlanInput {
        seen: &seen,
        decision: &decision,
        now: &now(),
        launches: Vec::new(),
        time: &time,
    };
    assert!(plan(&input).lines().count() < 5, "{}", plan(&input));
}
