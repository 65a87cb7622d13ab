//! Does it survive a death at every line? Needs `--features kill-points`; the table of all points is printed at the end.

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its scripts, waits by the clock and is told by variables what to repeat"
)]

mod matrix;
mod points;

use matrix::{Plan, Table};

/// What a person can say: `KILL_ONLY` (a case's name or a part of it), `KILL_SEED`, `KILL_DEATHS`, `KILL_JOBS`, `KILL_BUGS`.
fn plan() -> Plan {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    Plan {
        seed: number("KILL_SEED").unwrap_or(1),
        every_point: true,
        deaths: number("KILL_DEATHS").unwrap_or(0),
        jobs: number("KILL_JOBS").unwrap_or(4) as usize,
        bugs: std::env::var("KILL_BUGS").unwrap_or_default(),
        only: std::env::var("KILL_ONLY").ok(),
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the table is for people")]
fn every_point_may_be_the_last() {
    let plan = plan();
    let begun = std::time::Instant::now();
    let table = matrix::run(&plan);
    eprintln!("{table}seed {}, {:?}", plan.seed, begun.elapsed());
    assert!(table.is_clean(), "see above");
    if plan.only.is_none() {
        assert_eq!(
            table.never_hit(),
            [""; 0],
            "points where nothing ever happened"
        );
    }
}

fn with_bug(bug: &str, only: &str) -> Table {
    matrix::run(&Plan {
        seed: 1,
        every_point: true,
        deaths: 0,
        jobs: 2,
        bugs: bug.into(),
        only: Some(only.into()),
    })
}

#[test]
fn a_gate_left_open_is_found() {
    let table = with_bug("gate-open", "S4:grouped,1,Nobody");
    assert!(table.doubled > 0, "{table}");
}

#[test]
fn a_lock_not_taken_is_found() {
    let table = with_bug("no-lock", "S2:signals,1,Nobody");
    assert!(!table.is_clean(), "{table}");
}

#[test]
fn a_link_before_the_fork_is_found() {
    let table = with_bug("link-before-fork", "S4:grouped");
    assert!(table.doubled > 0, "{table}");
}

#[test]
fn a_task_put_back_unread_is_found() {
    let table = with_bug("blind-put-back", "put-back:before,1,Nobody(0),Complete");
    assert!(table.doubled > 0, "{table}");
}

#[test]
fn a_comment_made_twice_is_found() {
    let table = with_bug("comment-twice", "put-back:commented,1,Itself");
    assert!(table.doubled > 0, "{table}");
}

#[test]
fn a_number_taken_for_a_process_is_found() {
    // Signalled, or taken for a run that lives on for ever: both are wrong.
    let table = with_bug("any-pid", "X1:over,1,Both,Reuse");
    assert!(!table.is_clean(), "{table}");
}

#[test]
fn another_s_pid_file_taken_away_is_found() {
    let table = with_bug("clear-any-pid-file", "S5:pid-written,1,Nobody(0),Outside");
    assert!(table.doubled > 0, "{table}");
}
