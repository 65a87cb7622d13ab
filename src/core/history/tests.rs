//! Does the past count as it should? Stays, attempts, and what ends them.

use std::sync::Arc;

use super::*;
use crate::core::given::{
    attempt, failure, file, key, left_lying, moment, now, queue, record, run_id, task, time,
};
use crate::core::model::{StoppedBy, TaskStatus};

fn standing(verdicts: Vec<VerdictRecord>, queue_name: &str) -> Standing {
    standing_of(verdicts, queue_name, &task(1, queue_name), Marks::default())
}

fn standing_of(
    verdicts: Vec<VerdictRecord>,
    queue_name: &str,
    task: &Task,
    marks: Marks,
) -> Standing {
    let history = History {
        verdicts: verdicts.into_iter().map(Arc::new).collect(),
        marks,
        last_run: 9,
    };
    Standing::of(&history, key(1), &queue(queue_name), Some(task), None)
}

fn handed(name: &str, from: &str, to: &str, stay: u32, at: i64) -> VerdictRecord {
    let to = Some(to.into());
    let mut record = record(name, from, Verdict::HandedOff { to }, at);
    record.tasks[0].stay = stay;
    record
}

#[test]
fn a_task_without_a_past_is_at_its_first_attempt_of_its_first_stay() {
    assert_eq!(standing(Vec::new(), "coder"), Standing::default());
}

#[test]
fn attempts_add_up_within_a_stay() {
    let past = vec![
        attempt("1/1", "coder", 1, 0),
        attempt("1/2", "coder", 2, 20),
    ];
    let now = standing(past, "coder");
    assert_eq!((now.failed, now.stay, now.runs), (2, 1, 2));
    assert_eq!(now.last_reason.as_deref(), Some("made no progress"));
}

#[test]
fn only_failures_of_the_task_judged_in_time_are_attempts() {
    let mut late = attempt("1/1", "coder", 1, 0);
    late.late = true;
    let mut past = vec![late];
    for (n, class) in [
        FailureClass::Provider,
        FailureClass::Environment,
        FailureClass::Ours,
    ]
    .into_iter()
    .enumerate()
    {
        let mut record = attempt(&format!("1/{}", n + 2), "coder", 1, 10);
        record.failure = failure(class, "no fault of it");
        past.push(record);
    }
    let now = standing(past, "coder");
    assert_eq!((now.failed, now.stay), (0, 1));
}

#[test]
fn a_hand_off_ends_the_stay_and_its_attempts() {
    let past = vec![
        attempt("1/1", "coder", 1, 0),
        handed("1/2", "coder", "devops", 1, 20),
    ];
    let there = standing(past.clone(), "devops");
    assert_eq!((there.failed, there.stay, there.runs), (0, 2, 2));
    // Back again by way of devops: a third stay, with attempts of its own.
    let mut back = past;
    back.push(handed("1/3", "devops", "coder", 2, 40));
    let mut again = attempt("1/4", "coder", 1, 60);
    again.tasks[0].stay = 3;
    back.push(again);
    let here = standing(back, "coder");
    assert_eq!((here.failed, here.stay, here.runs), (1, 3, 4));
}

#[test]
fn a_task_that_a_person_moved_away_and_back_begins_a_new_stay() {
    let past = vec![
        attempt("1/1", "coder", 1, 0),
        attempt("1/2", "coder", 2, 20),
    ];
    let mut moved = task(1, "coder");
    moved.previous_assigned_to = Some("human".into());
    let now = standing_of(past.clone(), "coder", &moved, Marks::default());
    assert_eq!((now.failed, now.stay), (0, 2));
    // In another queue it is another stay in any case.
    let elsewhere = standing(past, "devops");
    assert_eq!((elsewhere.failed, elsewhere.stay), (0, 2));
}

#[test]
fn retry_forgives_what_was_before_it_and_nothing_after() {
    let past = vec![
        attempt("1/1", "coder", 1, 0),
        attempt("1/2", "coder", 2, 20),
    ];
    let retried = |after| Marks {
        retried_after: after,
        retried_at: Some(moment(10)),
        ..Marks::default()
    };
    let coder = task(1, "coder");
    let all = standing_of(past.clone(), "coder", &coder, retried(2));
    assert_eq!((all.failed, all.stay, all.runs), (0, 2, 0));
    let first = standing_of(past.clone(), "coder", &coder, retried(1));
    assert_eq!((first.failed, first.runs), (1, 1));
    // A run named after another task that touched this one: by the time of the word, not by a number.
    let mut others = past;
    for (record, name) in others.iter_mut().zip(["5/8", "5/9"]) {
        record.run = run_id(name);
    }
    let by_time = standing_of(others, "coder", &coder, retried(0));
    assert_eq!((by_time.failed, by_time.runs), (1, 1));
}

#[test]
fn progress_begins_a_new_stay_after_a_short_wait() {
    let past = vec![
        attempt("1/1", "coder", 1, -30),
        record("1/2", "coder", Verdict::Progress, 0),
    ];
    let standing = standing(past, "coder");
    assert_eq!((standing.failed, standing.stay), (0, 2));
    let policy = crate::core::given::world().policy;
    let Some(Hold::BackingOff { attempt, .. }) = standing.hold(&policy, &now(1)) else {
        panic!("{standing:?}");
    };
    assert_eq!(attempt, 1);
    assert_eq!(standing.hold(&policy, &now(60)), None);
}

#[test]
fn a_stop_is_forgotten_once_the_task_moved() {
    let mut stopped = record("1/1", "coder", Verdict::Progress, 0);
    stopped.outcome = Outcome::Stopped(StoppedBy { uid: 0, pid: None });
    let policy = crate::core::given::world().policy;
    let here = standing(vec![stopped.clone()], "coder");
    let run = run_id("1/1");
    assert_eq!(
        here.hold(&policy, &now(9999)),
        Some(Hold::StoppedByPerson { run })
    );
    let mut moved = task(1, "coder");
    moved.previous_assigned_to = Some("human".into());
    let moved = standing_of(vec![stopped], "coder", &moved, Marks::default());
    assert_eq!(moved.hold(&policy, &now(9999)), None);
}

#[test]
fn what_the_machine_ended_on_its_way_down_goes_on_by_itself() {
    let by = StoppedBy {
        uid: 0,
        pid: Some(1),
    };
    let mut ended = record("1/1", "coder", Verdict::NoProgress, 0);
    ended.outcome = Outcome::Stopped(by);
    ended.failure = failure(FailureClass::Ours, "stopped by the system");
    let policy = crate::core::given::world().policy;
    let standing = standing(vec![ended], "coder");
    assert_eq!(standing.hold(&policy, &now(9999)), None);
    assert_eq!(standing.failed, 0);
    let mut left = left_lying("inbound/1", "a.md", &[], 0);
    left.outcome = Outcome::Stopped(by);
    left.failure = failure(FailureClass::Ours, "stopped by the system");
    let history = History {
        verdicts: vec![Arc::new(left)],
        ..History::default()
    };
    let standing = file_standing(&history, &file("a.md"), 9999);
    assert_eq!((standing.hold, standing.attempts), (None, 0));
}

#[test]
fn a_task_left_working_is_remembered_until_somebody_changes_it() {
    let left = || vec![record("1/1", "coder", Verdict::LeftWorking, 0)];
    let mut working = task(1, "coder");
    working.status = TaskStatus::Working;
    let of = |task: &Task| standing_of(left(), "coder", task, Marks::default()).left_working;
    assert_eq!(of(&working), Some(run_id("1/1")));
    working.updated_at = time(5);
    assert_eq!(of(&working), None);
}

#[test]
fn launches_that_never_were_do_not_count_as_runs() {
    let mut never = record("1/1", "coder", Verdict::NoProgress, 0);
    never.outcome = Outcome::NotLaunched("the task has a pid file".into());
    never.failure = failure(FailureClass::Ours, "not launched");
    assert_eq!(standing(vec![never], "coder").runs, 0);
}

fn file_standing(history: &History, key: &FileKey, at: i64) -> FileStanding {
    let past = PastFiles::new(history, HashSet::from([&*key.name]));
    FileStanding::of(&past, key, 30, &now(at))
}

#[test]
fn probes_of_an_outage_do_not_count_as_runs_in_circles() {
    for class in [FailureClass::Provider, FailureClass::Environment] {
        let probes = (1..=40).map(|n| {
            let mut record = attempt(&format!("1/{n}"), "coder", 1, n * 900);
            record.failure = failure(class, "quota exceeded");
            record
        });
        let standing = standing(probes.collect(), "coder");
        assert_eq!(standing.runs, 0);
        let policy = crate::core::given::world().policy;
        assert_eq!(standing.hold(&policy, &now(99_999)), None);
    }
}

/// As [`left_lying`], but the file was written to while the run lived: at the launch `was`, at the verdict `is` (its times).
fn left_changed(run: &str, was: i64, is: i64, created: &[i64], at: i64) -> VerdictRecord {
    let mut record = left_lying(run, "a.md", created, at);
    record.files[0].file.modified = was;
    record.files[0].changed = Some(edited(is));
    record
}

fn edited(modified: i64) -> FileKey {
    FileKey {
        modified,
        ..file("a.md")
    }
}

fn history_of(verdicts: Vec<VerdictRecord>) -> History {
    History {
        verdicts: verdicts.into_iter().map(Arc::new).collect(),
        ..History::default()
    }
}

#[test]
fn a_request_that_its_dispatcher_marks_in_place_is_held_as_dispatched_until_somebody_edits_it() {
    let history = history_of(vec![left_changed("inbound/1", 0, 1, &[12], 0)]);
    let tasks = vec![crate::core::given::id(12)];
    let hold = Some(Hold::DispatchedNotMoved { tasks });
    assert_eq!(file_standing(&history, &edited(1), 9999).hold, hold);
    // A person's edit, later: another request, but not the first of its name.
    let later = file_standing(&history, &edited(2), 9999);
    assert_eq!((later.attempts, later.hold), (1, None));
}

#[test]
fn a_request_that_changes_while_each_of_its_runs_lives_is_parked_by_its_name() {
    let mut past = vec![left_changed("inbound/1", 0, 1, &[], 0)];
    let second = file_standing(&history_of(past.clone()), &edited(2), 1);
    assert!(
        matches!(second.hold, Some(Hold::FileBackingOff { .. })),
        "{second:?}"
    );
    past.push(left_changed("inbound/2", 2, 3, &[], 100));
    past.push(left_changed("inbound/3", 4, 5, &[13], 200));
    for key in [edited(5), edited(6)] {
        let standing = file_standing(&history_of(past.clone()), &key, 9999);
        assert_eq!(standing.attempts, 3);
        assert!(standing.hold.is_some(), "{standing:?}");
    }
    // Once one was taken, the name is free again.
    let mut taken = left_lying("inbound/4", "a.md", &[], 300);
    taken.files[0].left = false;
    past.push(taken);
    assert_eq!(
        file_standing(&history_of(past), &edited(7), 9999).hold,
        None
    );
}

#[test]
fn runs_over_a_request_that_nobody_takes_have_a_cap_whatever_excuses_them() {
    let late = |n: i64, modified: i64| {
        let mut record = left_lying(&format!("inbound/{n}"), "a.md", &[], n * 1000);
        record.late = true;
        record.files[0].file.modified = modified;
        record
    };
    // The same file, judged late each time; and one that somebody edits after each run.
    for is_edited in [false, true] {
        let past: Vec<_> = (1..=30)
            .map(|n| late(n, if is_edited { n } else { 0 }))
            .collect();
        let mut history = history_of(past);
        let key = edited(if is_edited { 31 } else { 0 });
        let held = file_standing(&history, &key, 99_999).hold;
        assert_eq!(held, Some(Hold::TooManyRuns { runs: 30 }));
        history.marks.retried_after = 30;
        assert_eq!(file_standing(&history, &key, 99_999).hold, None);
    }
}

#[test]
fn a_request_that_something_puts_back_after_each_run_meets_the_cap_and_a_daily_one_never() {
    let taken = |n: i64, modified: i64| {
        let mut record = left_lying(&format!("inbound/{n}"), "a.md", &[], n * 1000);
        record.failure = None;
        record.files[0].left = false;
        record.files[0].file.modified = modified;
        record
    };
    let restored = history_of((1..=30).map(|n| taken(n, 7)).collect());
    let mut back = edited(7);
    back.inode = 99;
    assert_eq!(
        file_standing(&restored, &back, 99_999).hold,
        Some(Hold::TooManyRuns { runs: 30 })
    );
    let daily = history_of((1..=30).map(|n| taken(n, n)).collect());
    assert_eq!(file_standing(&daily, &edited(31), 99_999).hold, None);
}

#[test]
fn a_file_is_known_by_name_inode_and_time() {
    let history = History {
        verdicts: vec![Arc::new(left_lying("inbound/1", "a.md", &[], 0))],
        ..History::default()
    };
    assert_eq!(file_standing(&history, &file("a.md"), 60).attempts, 1);
    let mut edited = file("a.md");
    edited.modified = 1;
    let mut replaced = file("a.md");
    replaced.inode = 2;
    for other in [edited, replaced, file("b.md")] {
        assert_eq!(file_standing(&history, &other, 60).hold, None);
    }
}

#[test]
fn a_request_whose_run_a_person_stopped_waits_for_retry() {
    let mut stopped = left_lying("inbound/1", "a.md", &[], 0);
    stopped.outcome = Outcome::Stopped(StoppedBy { uid: 0, pid: None });
    stopped.failure = None;
    let history = History {
        verdicts: vec![Arc::new(stopped)],
        ..History::default()
    };
    let standing = file_standing(&history, &file("a.md"), 9999);
    let run = run_id("inbound/1");
    assert_eq!(standing.hold, Some(Hold::StoppedByPerson { run }));
}

#[test]
fn a_request_whose_runs_are_lost_waits_longer_each_time_and_at_last_an_hour() {
    let lost = |n: i64| {
        let mut record = left_lying(&format!("inbound/{n}"), "a.md", &[], n * 10);
        record.failure = failure(FailureClass::Ours, "lost");
        record
    };
    let of = |past: Vec<VerdictRecord>, at| {
        let history = History {
            verdicts: past.into_iter().map(Arc::new).collect(),
            ..History::default()
        };
        file_standing(&history, &file("a.md"), at)
    };
    let first = of(vec![lost(1)], 11);
    assert_eq!(first.attempts, 0);
    assert!(
        matches!(first.hold, Some(Hold::FileBackingOff { .. })),
        "{first:?}"
    );
    let fifth = of((1..=5).map(lost).collect(), 2000);
    assert!(
        matches!(fifth.hold, Some(Hold::LostTooOften { runs: 5, .. })),
        "{fifth:?}"
    );
    assert_eq!(of((1..=5).map(lost).collect(), 3700).hold, None);
    let mut late = left_lying("inbound/1", "a.md", &[], 10);
    late.failure = failure(FailureClass::Task, "made no progress");
    late.late = true;
    let late = of(vec![late], 11);
    assert_eq!(late.attempts, 0);
    assert!(
        matches!(late.hold, Some(Hold::FileBackingOff { .. })),
        "{late:?}"
    );
}

#[test]
fn what_was_left_working_to_others_is_remembered_through_parking_and_retry() {
    let mut left = attempt("1/1", "coder", 1, 0);
    left.tasks[0].verdict = Verdict::LeftWorking;
    assert_eq!(
        standing(vec![left.clone()], "coder").left_working,
        Some(run_id("1/1"))
    );
    left.tasks[0].write = Some(Write::Park {
        comment: "parked".into(),
        put_back: false,
    });
    assert_eq!(
        standing(vec![left.clone()], "coder").left_working,
        Some(run_id("1/1"))
    );
    left.tasks[0].write = Some(Write::Park {
        comment: "parked".into(),
        put_back: true,
    });
    assert_eq!(standing(vec![left], "coder").left_working, None);
}
