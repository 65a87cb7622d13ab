//! Is the verdict right? And is the meaning of a run's traces total, and does acting on it come to an end?

use proptest::prelude::*;

use super::*;
use crate::core::given::{
    World, before, ended, failure, file, given, id, key, leftover, moment, process, run, run_id,
    spec_of, time, world,
};
use crate::core::model::StoppedBy;
use crate::core::{StrangerKind, Tinytask};

// ── verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const BY: StoppedBy = StoppedBy { uid: 7, pid: None };

/// Run 1/1 of coder is over, and tinytask tells all of task 1.
fn over(outcome: Outcome, change: impl FnOnce(&mut Task)) -> World {
    world()
        .run(ended("1/1", "coder", outcome))
        .task_but(1, "coder", change)
        .detail(1, 3)
}

fn working(task: &mut Task) {
    task.status = TaskStatus::Working;
    task.updated_at = time(-50);
}

fn spec(seen: &mut Snapshot) -> &mut Spec {
    spec_of(&mut seen.runs[0])
}

fn evidence(seen: &mut Snapshot) -> &mut Evidence {
    seen.runs[0].evidence.as_mut().expect("evidence")
}

/// What becomes of it, and whose fault it was.
#[track_caller]
fn judged(world: World, deeds: &str) -> Option<(FailureClass, String)> {
    let decided = given(world).at(0);
    let said: Vec<String> = (decided.decision.actions.iter())
        .map(crate::core::given::deed)
        .filter(|deed| deed.starts_with("judge"))
        .collect();
    assert_eq!(said, [deeds], "{:#?}", decided.decision.holds);
    decided.verdict().failure.map(|f| (f.class, f.reason))
}

fn fails(class: FailureClass, reason: &str) -> Option<(FailureClass, String)> {
    Some((class, reason.into()))
}

#[test]
fn a_task_that_moved_on_is_handed_off_whatever_the_exit_code() {
    for outcome in [
        Outcome::Exited(0),
        Outcome::Exited(1),
        Outcome::Signaled(9),
        Outcome::TimedOut,
        Outcome::Stopped(BY),
        Outcome::LogLimit,
        Outcome::Lost,
    ] {
        let world = over(outcome, |t| {
            t.assigned_to = Some("devops".into());
            t.previous_assigned_to = Some("coder".into());
        });
        assert_eq!(judged(world, "judge 1/1: #1 handed to devops"), None);
    }
}

#[test]
fn complete_or_archived_is_done_and_deleted_is_gone() {
    let done = over(Outcome::Exited(0), |t| t.status = TaskStatus::Complete);
    assert_eq!(judged(done, "judge 1/1: #1 done"), None);
    let archived = over(Outcome::Exited(0), |t| t.is_archived = true);
    assert_eq!(judged(archived, "judge 1/1: #1 done"), None);
    let gone = over(Outcome::Exited(0), |_| {}).but(|seen| {
        seen.tasks.clear();
        seen.details.insert(id(1), Detail::NotFound);
    });
    assert_eq!(judged(gone, "judge 1/1: #1 gone"), None);
    // The same number, born at another time, is another task.
    let reborn = over(Outcome::Exited(0), |t| t.created_at = time(-5));
    assert_eq!(judged(reborn, "judge 1/1: #1 gone"), None);
}

#[test]
fn idle_and_unchanged_is_no_progress_whatever_the_exit_code_said() {
    let same = || over(Outcome::Exited(0), |_| {});
    assert_eq!(
        judged(same(), "judge 1/1: #1 no progress"),
        fails(FailureClass::Task, "made no progress")
    );
    let asked = same().but(|seen| evidence(seen).asked = true);
    assert_eq!(
        judged(asked, "judge 1/1: #1 no progress"),
        fails(FailureClass::Task, "asked a question and stopped")
    );
    let killed = over(Outcome::Signaled(9), |_| {});
    assert_eq!(
        judged(killed, "judge 1/1: #1 no progress"),
        fails(FailureClass::Task, "was ended by signal 9")
    );
}

#[test]
fn a_changed_field_comment_or_folder_is_progress() {
    let progress = "judge 1/1: #1 progress";
    let fields = over(Outcome::Exited(0), |t| t.fields = 2);
    assert_eq!(judged(fields, progress), None);
    let comment = over(Outcome::Exited(0), |_| {}).detail(1, 4);
    assert_eq!(judged(comment, progress), None);
    let folder = over(Outcome::Exited(0), |_| {}).but(|seen| evidence(seen).folder = 8);
    assert_eq!(judged(folder, progress), None);
}

#[test]
fn progress_does_not_hide_that_the_provider_failed() {
    let quota = failure(FailureClass::Provider, "quota exceeded");
    let world = over(Outcome::Exited(0), |_| {}).but(|seen| {
        evidence(seen).folder = 8;
        evidence(seen).sign = quota;
    });
    assert_eq!(
        judged(world, "judge 1/1: #1 progress"),
        fails(FailureClass::Provider, "quota exceeded")
    );
}

#[test]
fn left_working_is_put_back_but_not_with_company_and_not_a_parent() {
    let left = || over(Outcome::Exited(0), working);
    assert_eq!(
        judged(left(), "judge 1/1: #1 left working + put back"),
        fails(FailureClass::Task, "left it working")
    );
    let company = left().run(run("2/1", "coder"));
    judged(company, "judge 1/1: #1 left working");
    let parent = left().task_but(5, "human", |t| t.parent = Some(id(1)));
    let told = parent.but(|seen| {
        if let Some(Detail::Found(found)) = seen.details.get_mut(&id(1)) {
            found.open_subtasks = 1;
        }
    });
    assert_eq!(judged(told, "judge 1/1: #1 progress"), None);
}

#[test]
fn each_outcome_of_a_task_left_working_has_its_class() {
    let class = |outcome| {
        let put_back = "judge 1/1: #1 left working + put back";
        judged(over(outcome, working), put_back)
    };
    use FailureClass::{Ours, Task};
    assert_eq!(class(Outcome::Exited(1)), fails(Task, "left it working"));
    assert_eq!(
        class(Outcome::Signaled(11)),
        fails(Task, "was ended by signal 11")
    );
    assert_eq!(class(Outcome::TimedOut), fails(Task, "timed out"));
    assert_eq!(class(Outcome::LogLimit), fails(Task, "log limit"));
    assert_eq!(class(Outcome::Stopped(BY)), None);
    assert_eq!(class(Outcome::Lost), fails(Ours, "lost"));
    let machine = StoppedBy {
        uid: 0,
        pid: Some(1),
    };
    assert_eq!(
        class(Outcome::Stopped(machine)),
        fails(Ours, "stopped by the system, which was going down")
    );
}

#[test]
fn what_is_working_after_a_run_that_never_ran_is_somebody_elses() {
    use FailureClass::{Environment, Ours};
    for (why, fault) in [
        (
            "the task has a pid file",
            fails(Ours, "not launched: the task has a pid file"),
        ),
        (
            "exec goose: not found",
            fails(Environment, "exec goose: not found"),
        ),
    ] {
        // #2 was in the queue at the launch too, and has been claimed since.
        let world = over(Outcome::NotLaunched(why.into()), working)
            .task_but(2, "coder", working)
            .detail(2, 0)
            .but(|seen| spec(seen).baseline.tasks.push(before(key(2))));
        assert_eq!(judged(world, "judge 1/1: #1 no progress"), fault);
    }
}

#[test]
fn a_task_somebody_works_on_with_a_pid_file_of_his_own_is_not_put_back() {
    let subject = RunSubject::Task(id(1));
    let alive = StrangerKind::Alive {
        process: process(900),
        comm: "goose".into(),
        younger: false,
    };
    let world = over(Outcome::Exited(0), working).stranger(subject, alive);
    assert_eq!(given(world).at(0).verdict().tasks, []);
    // A task is not put back beside any pid file, so that of a dead process goes first.
    let dead = over(Outcome::Exited(0), working).stranger(subject, StrangerKind::Dead { pid: 900 });
    (given(dead).at(0)).then([
        "clear stranger 1 5",
        "judge 1/1: #1 left working + put back",
    ]);
}

#[test]
fn the_signs_of_goose_tell_provider_from_environment_from_task() {
    for (class, reason) in [
        (FailureClass::Provider, "quota exceeded"),
        (FailureClass::Environment, "extension github did not start"),
        (FailureClass::Task, "reached its turn limit"),
    ] {
        let world = over(Outcome::Exited(0), working)
            .but(|seen| evidence(seen).sign = failure(class, reason));
        let put_back = "judge 1/1: #1 left working + put back";
        assert_eq!(judged(world, put_back), fails(class, reason));
    }
}

#[test]
fn the_last_attempt_parks_and_only_failures_of_the_task_are_attempts() {
    let last = |change: fn(&mut Snapshot)| {
        over(Outcome::Exited(0), working).but(|seen| {
            spec(seen).attempt = 3;
            change(seen);
        })
    };
    let world = last(|_| {});
    let verdict = given(world.clone()).at(0).verdict();
    let Some(Write::Park { comment, .. }) = &verdict.tasks[0].write else {
        panic!("parked: {verdict:?}");
    };
    assert!(comment.contains("calypso-watch retry 1"), "{comment}");
    assert!(comment.contains("(run 1/1 toke)"), "{comment}");
    assert!(
        comment.contains(".calypso/runs/task_1/0001-coder/output.log"),
        "{comment}"
    );
    judged(world, "judge 1/1: #1 left working + park + put back");
    let quota = last(|seen| evidence(seen).sign = failure(FailureClass::Provider, "quota"));
    judged(quota, "judge 1/1: #1 left working + put back");
    let late = last(|seen| seen.runs[0].state.as_mut().expect("state").ended = Some(moment(-61)));
    judged(late, "judge 1/1: #1 left working + put back");
    let idle = over(Outcome::Exited(0), |_| {}).but(|seen| spec(seen).attempt = 3);
    judged(idle, "judge 1/1: #1 no progress + park");
}

#[test]
fn a_verdict_is_late_when_tinytask_was_away_during_the_run_or_long_after_it() {
    let is_late = |world: World| given(world).at(0).verdict().late;
    let world = || over(Outcome::Exited(0), |_| {});
    assert!(!is_late(world()));
    assert!(is_late(
        world().but(|seen| seen.last_unreachable = Some(moment(-50)))
    ));
    assert!(!is_late(
        world().but(|seen| seen.last_unreachable = Some(moment(-150)))
    ));
    let long_ago = |seen: &mut Snapshot| {
        seen.runs[0].state.as_mut().expect("state").ended = Some(moment(-61));
    };
    assert!(is_late(world().but(long_ago)));
}

#[test]
fn an_agent_that_took_another_task_than_the_named_one_is_judged_by_that() {
    let other = |change: fn(&mut Task)| {
        over(Outcome::Exited(0), |_| {})
            .task_but(2, "coder", change)
            .but(|seen| spec(seen).baseline.tasks.push(before(key(2))))
    };
    let left = other(working);
    judged(left.clone(), "judge 1/1: #2 left working + put back");
    let moved = other(|t| t.assigned_to = Some("devops".into()));
    assert_eq!(judged(moved, "judge 1/1: #2 handed to devops"), None);
    // It may be somebody else's who has a pid file, or another run's of the queue.
    let somebodys = left.clone().stranger(
        RunSubject::Task(id(2)),
        StrangerKind::Alive {
            process: process(900),
            comm: "goose".into(),
            younger: false,
        },
    );
    judged(somebodys, "judge 1/1: #1 no progress");
    judged(left.run(run("3/1", "coder")), "judge 1/1: #1 no progress");
}

#[test]
fn a_parent_in_the_queue_that_works_because_its_subtask_does_is_not_touched() {
    let world = over(Outcome::Exited(0), |t| {
        t.assigned_to = Some("devops".into())
    })
    .task_but(2, "coder", working)
    .task_but(3, "human", |t| t.parent = Some(id(2)))
    .but(|seen| spec(seen).baseline.tasks.push(before(key(2))));
    judged(world, "judge 1/1: #1 handed to devops");
}

#[test]
fn a_task_that_came_after_the_launch_and_was_claimed_is_the_runs() {
    let later = |updated: i64| {
        over(Outcome::Exited(0), |t| {
            t.assigned_to = Some("devops".into())
        })
        .task_but(2, "coder", move |t| {
            t.status = TaskStatus::Working;
            t.updated_at = time(updated);
        })
    };
    judged(
        later(-50),
        "judge 1/1: #1 handed to devops, #2 left working + put back",
    );
    // Claimed before the run began, so not by it.
    judged(later(-500), "judge 1/1: #1 handed to devops");
}

#[test]
fn a_verdict_waits_for_the_answers_and_the_evidence_it_needs() {
    let world = || over(Outcome::Exited(0), |_| {});
    let waits = |world: World| {
        let hold = crate::core::Hold::VerdictWaits { run: run_id("1/1") };
        given(world)
            .at(0)
            .then([])
            .holds(crate::core::Subject::Run(run_id("1/1")), hold);
    };
    waits(world().but(|seen| seen.runs[0].evidence = None));
    waits(world().but(|seen| seen.tinytask = Tinytask::NotAsked));
    // Absent from the list is not deleted: only `get_task` can say so.
    let absent = world().but(|seen| {
        seen.tasks.clear();
        seen.details.clear();
    });
    assert_eq!(
        questions(&absent.seen.runs[0], |_| false),
        [id(1)],
        "and so it is asked"
    );
    waits(absent);
}

#[test]
fn an_inbound_run_is_judged_file_by_file() {
    let world = |left: &[&str], created: &[i64]| {
        let mut over = ended("inbound/1", "dispatcher", Outcome::Exited(0));
        let spec = spec_of(&mut over);
        spec.baseline.inbound = vec![file("a.md"), file("b.md")];
        let evidence = over.evidence.as_mut().expect("evidence");
        evidence.left = left.iter().map(|name| file(name)).collect();
        evidence.created = created.iter().map(|n| id(*n)).collect();
        world().run(over)
    };
    let taken = given(world(&[], &[12])).at(0).verdict();
    assert!(taken.failure.is_none() && taken.files.iter().all(|f| !f.left));
    let left = given(world(&["b.md"], &[12])).at(0).verdict();
    assert_eq!(
        left.failure.map(|f| f.reason),
        Some("left 1 of 2 requests in inbound".into())
    );
    assert_eq!(left.files[0].created, []);
    assert_eq!(left.files[1].created, [id(12)]);
}

#[test]
fn a_request_that_was_edited_in_place_while_its_run_lived_is_left() {
    let mut over = ended("inbound/1", "dispatcher", Outcome::Exited(0));
    spec_of(&mut over).baseline.inbound = vec![file("a.md")];
    let evidence = over.evidence.as_mut().expect("evidence");
    let mut now = file("a.md");
    now.modified = 5;
    evidence.changed.insert(file("a.md"), now.clone());
    evidence.created = vec![id(12)];
    let verdict = given(world().run(over)).at(0).verdict();
    let judged = &verdict.files[0];
    assert!(judged.left);
    assert_eq!((judged.as_judged(), &judged.file), (&now, &file("a.md")));
    assert_eq!(judged.created, [id(12)]);
    assert_eq!(
        verdict.failure.map(|f| f.reason),
        Some("left 1 of 1 requests in inbound, and changed by then".into())
    );
}

#[test]
fn an_end_nobody_wrote_is_lost_or_never_was() {
    let mut lost = run("1/1", "coder");
    assert_eq!(lost.outcome(), Outcome::Lost);
    lost.ended_by_daemon = Some(Outcome::TimedOut);
    assert_eq!(lost.outcome(), Outcome::TimedOut);
    lost.ended_by_daemon = None;
    lost.state = None;
    assert!(matches!(lost.outcome(), Outcome::NotLaunched(_)));
    // The shim's word goes before the daemon's.
    let mut told = ended("1/1", "coder", Outcome::Exited(3));
    told.ended_by_daemon = Some(Outcome::TimedOut);
    assert_eq!(told.outcome(), Outcome::Exited(3));
}

// ── meanings ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn lives() -> Vec<Option<Alive>> {
    let some = |bit: bool, pid| if bit { vec![leftover(pid)] } else { Vec::new() };
    let each = (0..8u8).map(|bits| Alive {
        agent: (bits & 1 != 0).then(|| process(500)),
        leftovers: some(bits & 2 != 0, 77),
        doubtful: some(bits & 4 != 0, 78),
    });
    each.map(Some).chain([None]).collect()
}

fn observed() -> impl Strategy<Value = Observed> {
    let states = [
        ObservedState::None,
        ObservedState::Starting,
        ObservedState::Running,
        ObservedState::Ended,
    ];
    (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::sample::select(states.to_vec()),
        proptest::sample::select(lives()),
    )
        .prop_map(|(spec, pid_file, shim, state, alive)| Observed {
            spec,
            pid_file,
            shim,
            state,
            alive,
        })
}

/// What becomes of the traces when whoever is to act on the meaning does: the shim while it lives, the daemon, or a person.
/// `None`: the run is off the books.
fn acted_on(seen: &Observed, shim_dies: bool) -> Option<Observed> {
    use ObservedState as S;
    let mut next = seen.clone();
    let alive = |alive: &mut Option<Alive>, change: fn(&mut Alive)| {
        change(alive.get_or_insert_default());
    };
    match meaning(seen) {
        Meaning::Litter | Meaning::Complete => return None,
        // The shim (for a run without a spec: the daemon before it) goes on, or dies where it stands.
        Meaning::Starting | Meaning::Running | Meaning::Ending if shim_dies => {
            next.shim = false;
            next.alive = Some(Alive::default());
        }
        Meaning::Starting if !seen.spec => next.spec = true,
        Meaning::Starting if seen.state == S::None => next.state = S::Starting,
        Meaning::Starting => (next.state, next.pid_file) = (S::Running, true),
        Meaning::Running => (next.state, next.alive) = (S::Ended, Some(Alive::default())),
        Meaning::Ending => next.pid_file = false,
        // The agent ends by itself, or at its limit.
        Meaning::SignalledAlive if seen.shim => {
            (next.state, next.alive) = (S::Ended, Some(Alive::default()));
        }
        Meaning::SignalledAlive | Meaning::Orphan => alive(&mut next.alive, |a| a.agent = None),
        Meaning::OrphanLeftovers => alive(&mut next.alive, |a| a.leftovers.clear()),
        // It ends, or a person lets go of it.
        Meaning::StillAlive => next.alive = Some(Alive::default()),
        // Somebody who may see it looks.
        Meaning::Unknown => alive(&mut next.alive, |_| {}),
        Meaning::Clear => next.pid_file = false,
    }
    Some(next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// `meaning` is total by its types; that acting on it always moves on, and ends, is this.
    #[test]
    fn acting_on_the_meaning_reaches_an_end(start in observed(), deaths in any::<u16>()) {
        let mut seen = start;
        for step in 0..12 {
            prop_assert_eq!(meaning(&seen), meaning(&seen.clone()));
            let Some(next) = acted_on(&seen, deaths >> step & 1 == 1) else {
                return Ok(());
            };
            prop_assert_ne!(&next, &seen, "{:?} does not move on", meaning(&seen));
            seen = next;
        }
        prop_assert!(false, "no end: {:?}", seen);
    }

    /// A run is judged, or its directory cleared, only when its pid file is gone and nothing of it is known to live.
    #[test]
    fn nothing_alive_is_ever_complete(seen in observed()) {
        if matches!(meaning(&seen), Meaning::Complete | Meaning::Litter) {
            prop_assert!(!seen.pid_file);
            prop_assert!(seen.alive.as_ref().is_some_and(Alive::is_nothing));
            prop_assert!(!seen.shim || seen.state == ObservedState::Ended);
        }
        if meaning(&seen) == Meaning::Clear {
            prop_assert!(!seen.shim && seen.alive.as_ref().is_some_and(Alive::is_nothing));
        }
    }
}

#[test]
fn the_table_of_deaths_is_as_the_design_says() {
    let nothing = || Some(Alive::default());
    let agent = || {
        Some(Alive {
            agent: Some(process(500)),
            ..Alive::default()
        })
    };
    let left = || {
        Some(Alive {
            leftovers: vec![leftover(77)],
            ..Alive::default()
        })
    };
    use ObservedState as S;
    let table = [
        // (killed between, spec, pid file, shim, state, alive, means)
        (
            "D1-D2",
            false,
            false,
            false,
            S::None,
            nothing(),
            Meaning::Litter,
        ),
        (
            "D2-S5",
            true,
            false,
            false,
            S::None,
            nothing(),
            Meaning::Complete,
        ),
        (
            "S3-S5",
            true,
            false,
            false,
            S::Starting,
            nothing(),
            Meaning::Complete,
        ),
        (
            "S5-S6",
            true,
            true,
            false,
            S::Starting,
            nothing(),
            Meaning::Clear,
        ),
        (
            "S6-S7",
            true,
            true,
            false,
            S::Running,
            nothing(),
            Meaning::Clear,
        ),
        (
            "S7-X1",
            true,
            true,
            false,
            S::Running,
            agent(),
            Meaning::Orphan,
        ),
        (
            "X1-X2",
            true,
            true,
            false,
            S::Running,
            left(),
            Meaning::OrphanLeftovers,
        ),
        (
            "X2-X3",
            true,
            true,
            false,
            S::Ended,
            nothing(),
            Meaning::Clear,
        ),
        (
            "X3-X4",
            true,
            false,
            true,
            S::Ended,
            nothing(),
            Meaning::Complete,
        ),
        (
            "by hand",
            true,
            false,
            true,
            S::Running,
            nothing(),
            Meaning::SignalledAlive,
        ),
    ];
    for (killed, spec, pid_file, shim, state, alive, means) in table {
        let seen = Observed {
            spec,
            pid_file,
            shim,
            state,
            alive,
        };
        assert_eq!(meaning(&seen), means, "{killed}");
    }
}
