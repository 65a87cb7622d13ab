//! Is the decision right? One sentence a test.

use crate::core::decide::{carried_out, decide};
use crate::core::given::{
    World, agent_alive, attempt, before, deed, ended, failure, file, given, id, key, left_lying,
    leftover, leftovers_alive, moment, now, process, queue, record, run, run_id, shimless, spec_of,
    time, world,
};
use crate::core::model::{Millis, Now, Outcome, RunSubject, StoppedBy, Task, TaskStatus};
use crate::core::policy::task_backoff;
use crate::core::record::{FailureClass, Marks, Verdict, Write};
use crate::core::{
    Action, Alive, Hold, InboundState, Observed, ObservedState, QueuePolicy, StrangerKind, Subject,
    Tinytask,
};

fn queue_policy(name: &str, settings: QueuePolicy) -> impl FnOnce(&mut crate::core::Policy) {
    let name = queue(name);
    move |policy| {
        policy.queues.insert(name, settings);
    }
}

fn concurrency(n: u32) -> QueuePolicy {
    QueuePolicy {
        concurrency: Some(n),
        ..QueuePolicy::default()
    }
}

fn subject(number: i64) -> RunSubject {
    RunSubject::Task(id(number))
}

fn on_file(name: &str) -> Subject {
    Subject::Inbound(file(name))
}

fn slot_of(name: &str) -> Hold {
    Hold::NoSlot {
        by: vec![run_id(name)],
        limit: 1,
    }
}

// ── what starts ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn two_architect_and_two_blogger_tasks_start_exactly_one_run_each() {
    let world = world()
        .task(1, "architect")
        .task(2, "architect")
        .task(3, "blogger")
        .task(4, "blogger");
    given(world)
        .at(0)
        .then(["launch 1/1 architect", "launch 3/1 blogger"])
        .holds_task(2, slot_of("1/1"))
        .holds_task(4, slot_of("3/1"));
}

#[test]
fn a_queue_hands_out_by_priority_then_age_then_number() {
    let world = world()
        .task_but(1, "coder", |t| t.priority = -1.0)
        .task_but(2, "coder", |t| t.created_at = time(-10))
        .task_but(3, "coder", |t| t.created_at = time(-20))
        .task_but(4, "coder", |t| t.created_at = time(-20))
        .task_but(5, "coder", |t| t.priority = 0.5)
        .policy(queue_policy("coder", concurrency(9)));
    given(world).at(0).then([
        "launch 5/1 coder",
        "launch 3/1 coder",
        "launch 4/1 coder",
        "launch 2/1 coder",
        "launch 1/1 coder",
    ]);
}

#[test]
fn a_run_that_lives_keeps_its_task_and_its_slot() {
    let world = world()
        .task_but(1, "coder", |t| t.status = TaskStatus::Working)
        .task(2, "coder")
        .run(run("1/1", "coder"));
    given(world)
        .at(0)
        .then([])
        .holds_task(1, Hold::Running { run: run_id("1/1") })
        .holds_task(2, slot_of("1/1"))
        .wakes_at(time(-100 + 3600 + 30 + 10));
}

#[test]
fn when_max_runs_binds_the_queue_that_waited_longest_goes_first() {
    let world = world()
        .policy(|p| p.max_runs = 1)
        .task(1, "architect")
        .task(2, "blogger")
        .task(3, "coder")
        .past(record("8/1", "architect", Verdict::Done, -100))
        .past(record("7/1", "blogger", Verdict::Done, -300))
        .past(record("9/1", "coder", Verdict::Done, -200));
    given(world)
        .at(0)
        .then(["launch 2/1 blogger"])
        .holds_task(1, Hold::MaxRuns { limit: 1 })
        .holds_task(3, Hold::MaxRuns { limit: 1 });
}

#[test]
fn more_than_one_run_of_a_queue_needs_a_recipe_that_is_told_its_task() {
    let base = world()
        .task(1, "coder")
        .task(2, "coder")
        .policy(queue_policy("coder", concurrency(2)));
    given(base.clone())
        .at(0)
        .then(["launch 1/1 coder", "launch 2/1 coder"]);
    given(base.recipe("coder", &[]))
        .at(0)
        .then(["launch 1/1 coder"])
        .holds(Subject::Queue(queue("coder")), Hold::NoTaskId { asked: 2 })
        .holds_task(2, slot_of("1/1"));
}

#[test]
fn a_queue_with_a_command_of_its_own_needs_no_recipe() {
    let settings = QueuePolicy {
        has_command: true,
        ..QueuePolicy::default()
    };
    let world = world()
        .task(1, "tester")
        .policy(queue_policy("tester", settings));
    given(world).at(0).then(["launch 1/1 tester"]);
}

// ── what waits ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_queue_without_a_recipe_is_a_persons_and_a_broken_recipe_says_why() {
    let world = world().task(1, "human").task(2, "coder").but(|seen| {
        seen.recipes
            .insert(queue("coder"), Err("no `prompt`".into()));
    });
    given(world)
        .at(0)
        .then([])
        .holds_task(1, Hold::NoRecipe)
        .holds_task(
            2,
            Hold::BrokenRecipe {
                error: "no `prompt`".into(),
            },
        );
}

#[test]
fn a_program_that_is_not_there_holds_its_queue() {
    let hold = || Hold::NoProgram {
        why: "`goose` is not on PATH".into(),
    };
    let world = world().task(1, "coder").task(2, "blogger").but(|seen| {
        seen.no_program
            .insert(queue("coder"), "`goose` is not on PATH".into());
    });
    given(world)
        .at(0)
        .then(["launch 2/1 blogger"])
        .holds(Subject::Queue(queue("coder")), hold())
        .holds_task(1, hold());
}

#[test]
fn a_blocked_task_waits_for_its_blocker_and_a_parent_for_its_subtasks() {
    let world = world()
        .task_but(1, "coder", |t| {
            t.is_blocked = true;
            t.blocked_by = Some(id(9));
        })
        .task(2, "coder")
        .task_but(3, "human", |t| t.parent = Some(id(2)));
    given(world)
        .at(0)
        .then([])
        .holds_task(1, Hold::BlockedBy { task: Some(id(9)) })
        .holds_task(2, Hold::OpenSubtasks { open: 1 });
}

#[test]
fn subtasks_that_only_the_full_answer_shows_count_too() {
    let world = world().task(1, "coder").detail(1, 0).but(|seen| {
        if let Some(crate::core::model::Detail::Found(found)) = seen.details.get_mut(&id(1)) {
            found.open_subtasks = 2;
        }
    });
    given(world)
        .at(0)
        .then([])
        .holds_task(1, Hold::OpenSubtasks { open: 2 });
}

#[test]
fn a_task_without_an_agent_is_nobodys() {
    let world = world()
        .task_but(1, "coder", |t| {
            t.assigned_to = None;
            t.queue_name = Some("ready-for-development".into());
        })
        .task_but(2, "two words", |_| {});
    given(world)
        .at(0)
        .then([])
        .holds_task(
            1,
            Hold::NotAssigned {
                queue_name: Some("ready-for-development".into()),
            },
        )
        .holds_task(
            2,
            Hold::NotAssigned {
                queue_name: Some("two words".into()),
            },
        );
}

#[test]
fn files_are_awaited_while_the_dispatcher_lives_and_missed_afterwards() {
    let missing = world().task(5, "coder").but(|seen| {
        seen.folders.clear();
    });
    let hold = Hold::AwaitingFiles {
        run: run_id("inbound/1"),
    };
    given(missing.clone().run(run("inbound/1", "dispatcher")))
        .at(0)
        .then([])
        .holds_task(5, hold.clone());
    // A folder that the run made, and may still be filling.
    let filling = missing
        .clone()
        .run(run("inbound/1", "dispatcher"))
        .but(|seen| {
            seen.folders.insert(id(5), time(-10));
        });
    given(filling).at(0).then([]).holds_task(5, hold);
    given(missing.clone())
        .at(0)
        .then([])
        .holds_task(5, Hold::NoFolder);
    given(missing.policy(|p| p.create_folders = true))
        .at(0)
        .then(["create folder 5"])
        .holds_task(5, Hold::NoFolder);
}

#[test]
fn a_folder_from_before_the_dispatchers_run_is_complete() {
    let world = world().task(5, "coder").run(run("inbound/1", "dispatcher"));
    given(world).at(0).then(["launch 5/1 coder"]);
}

#[test]
fn people_hold_pause_and_stop() {
    let base = || world().task(1, "coder");
    given(base().but(|seen| {
        seen.controls.held.insert(subject(1));
    }))
    .at(0)
    .then([])
    .holds_task(1, Hold::HeldByFile);
    given(base().but(|seen| {
        seen.controls.paused.insert(queue("coder"));
    }))
    .at(0)
    .then([])
    .holds_task(
        1,
        Hold::QueuePaused {
            queue: queue("coder"),
        },
    );
    given(base().but(|seen| seen.controls.pause_all = true))
        .at(0)
        .then([])
        .holds(Subject::Everything, Hold::Paused);
    given(base().but(|seen| {
        seen.controls.stop.insert(subject(1));
    }))
    .at(0)
    .then(["clear stop 1"])
    .holds_task(1, Hold::StopAsked);
}

#[test]
fn a_working_task_that_no_run_of_ours_touched_is_left_alone() {
    let working = || world().task_but(1, "coder", |t| t.status = TaskStatus::Working);
    given(working())
        .at(0)
        .then([])
        .holds_task(1, Hold::WorkingElsewhere);
    // A run of its queue may have taken it beside the task it is named after.
    let hold = Hold::RunNotOver { run: run_id("2/1") };
    given(working().run(run("2/1", "coder")))
        .at(0)
        .then([])
        .holds_task(1, hold);
}

#[test]
fn the_next_hop_waits_for_the_run_that_handed_the_task_on() {
    let handed = |world: World| {
        world.task_but(1, "coder", |t| {
            t.previous_assigned_to = Some("architect".into());
            t.updated_at = time(-2);
        })
    };
    let hold = || Hold::RunNotOver { run: run_id("2/1") };
    // It stood in the run's baseline.
    let mut older = run("2/1", "architect");
    let spec = spec_of(&mut older);
    spec.baseline.tasks.push(before(key(1)));
    given(handed(world()).run(older))
        .at(0)
        .then([])
        .holds_task(1, hold());
    // It came after the launch and left again.
    given(handed(world()).run(run("2/1", "architect")))
        .at(0)
        .then([])
        .holds_task(1, hold());
    given(handed(world())).at(0).then(["launch 1/1 coder"]);
    // Its own run, which is complete but for the verdict.
    let hold = Hold::VerdictWaits { run: run_id("1/1") };
    let world = handed(world()).run(ended("1/1", "architect", Outcome::Exited(0)));
    given(world)
        .at(0)
        .then(["judge 1/1: #1 handed to coder"])
        .holds_task(1, hold);
}

#[test]
fn a_task_that_came_back_to_the_queue_of_its_last_run_waits_for_who_had_it_meanwhile() {
    let back = |last: crate::core::record::VerdictRecord| {
        world()
            .task_but(1, "coder", |t| {
                t.previous_assigned_to = Some("architect".into());
                t.updated_at = time(-2);
            })
            .run(run("2/1", "architect"))
            .past(last)
    };
    let from_architect = |verdict| {
        let mut last = record("1/1", "coder", verdict, -20);
        last.tasks[0].previous_assigned_to = Some("architect".into());
        last
    };
    let waits = |last| {
        given(back(last))
            .at(0)
            .then([])
            .holds_task(1, Hold::RunNotOver { run: run_id("2/1") });
    };
    // It never went away.
    let stayed = from_architect(Verdict::NoProgress);
    given(back(stayed)).at(0).then(["launch 1/2 coder"]);
    // Its last run handed it on, a person moved it, and a number that was given out twice.
    let to = Some("architect".into());
    waits(from_architect(Verdict::HandedOff { to }));
    waits(record("1/1", "coder", Verdict::NoProgress, -20));
    let mut anothers = from_architect(Verdict::NoProgress);
    anothers.tasks[0].key.created_at -= 1000;
    waits(anothers);
}

#[test]
fn a_clock_set_back_does_not_hide_that_a_live_run_handed_the_task_on() {
    let set_back = Now {
        wall: time(-900),
        ..now(0)
    };
    let handed = world().task_but(1, "coder", |t| {
        t.previous_assigned_to = Some("architect".into());
        t.updated_at = time(-902);
    });
    given(handed.run(run("2/1", "architect")))
        .by(set_back)
        .then([])
        .holds_task(1, Hold::RunNotOver { run: run_id("2/1") });
}

#[test]
fn what_another_users_eyes_may_not_see_is_unknown_and_starts_nothing() {
    let mut hidden = run("1/1", "coder");
    hidden.observed.shim = false;
    hidden.observed.alive = None;
    let hold = || Hold::Unknown { run: run_id("1/1") };
    given(world().task(1, "coder").run(hidden))
        .at(0)
        .then([])
        .holds(Subject::Run(run_id("1/1")), hold())
        .holds_task(1, hold());
}

#[test]
fn somebodys_own_run_has_its_task_and_its_queues_slot() {
    let alive = |younger| StrangerKind::Alive {
        process: process(900),
        comm: "goose".into(),
        younger,
    };
    let hold = |younger| Hold::RunningOutside {
        process: process(900),
        comm: "goose".into(),
        since: time(-60),
        younger,
    };
    let two = world().task(1, "coder").task(2, "coder");
    given(two.clone().stranger(subject(1), alive(false)))
        .at(0)
        .then([])
        .holds_task(1, hold(false))
        .holds_task(2, slot_of("1/0"));
    // Its task lies in a queue that was not asked; it has its place under max_runs all the same.
    let elsewhere = world()
        .policy(|p| p.max_runs = 1)
        .task(2, "coder")
        .stranger(subject(9), alive(false));
    given(elsewhere)
        .at(0)
        .then([])
        .holds_task(2, Hold::MaxRuns { limit: 1 });
    let younger = two.clone().stranger(subject(1), alive(true));
    given(younger.clone())
        .at(0)
        .then([])
        .holds_task(1, hold(true));
    given(younger.clone().but(|seen| {
        seen.controls.release.insert(subject(1));
    }))
    .at(0)
    .then(["release 1 from 900"]);
    given(younger.but(|seen| {
        let history = seen.histories.entry(subject(1)).or_default().make_mut();
        history.marks.released = vec![process(900)];
    }))
    .at(0)
    .then(["clear stranger 1 5", "launch 1/1 coder"]);
}

#[test]
fn a_dead_pid_file_is_cleared_and_an_odd_one_blocks_only_its_own_task() {
    let two = world().task(1, "coder").task(2, "coder");
    given(
        two.clone()
            .stranger(subject(1), StrangerKind::Dead { pid: 900 }),
    )
    .at(0)
    .then(["clear stranger 1 5", "launch 2/1 coder"]);
    given(two.stranger(subject(1), StrangerKind::Odd("a directory".into())))
        .at(0)
        .then(["launch 2/1 coder"])
        .holds_task(
            1,
            Hold::OddPidFile {
                what: "a directory".into(),
            },
        );
}

// ── tinytask away ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn without_tinytask_nothing_is_started_or_judged_but_processes_are_seen_to() {
    let mut over = shimless("3/1", "blogger", Alive::default());
    over.observed.state = ObservedState::Running;
    let mut put_back = record("4/1", "blogger", Verdict::LeftWorking, -5);
    put_back.tasks[0].write = Some(Write::PutBack {
        comment: String::new(),
    });
    let mut unfinished = ended("4/1", "blogger", Outcome::Exited(0));
    unfinished.verdict = Some(put_back);
    let base = world()
        .task(1, "coder")
        .drop("request.md")
        .run(ended("2/1", "architect", Outcome::Exited(0)))
        .run(over)
        .run(shimless("5/1", "blogger", leftovers_alive()))
        .run(unfinished);
    let away = Tinytask::Unreachable {
        since: moment(-9),
        error: "refused".into(),
        hint: None,
    };
    given(base.clone().but(|seen| seen.tinytask = away))
        .at(0)
        .then(["clear pid file of 3/1", "sweep 5/1 of 1"])
        .holds(
            Subject::Everything,
            Hold::TinytaskUnreachable {
                since: moment(-9),
                error: "refused".into(),
                hint: None,
            },
        )
        .holds(
            Subject::Run(run_id("2/1")),
            Hold::VerdictWaits { run: run_id("2/1") },
        )
        .holds(
            Subject::Run(run_id("4/1")),
            Hold::VerdictWaits { run: run_id("4/1") },
        );
    let other = Tinytask::Suspicious {
        vanished: 12,
        of: 14,
    };
    given(base.but(|seen| seen.tinytask = other))
        .at(0)
        .then(["clear pid file of 3/1", "sweep 5/1 of 1"])
        .holds(
            Subject::Everything,
            Hold::TinytaskSuspicious {
                vanished: 12,
                of: 14,
            },
        );
}

// ── runs whose shim is dead ──────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_orphan_is_watched_and_ended_at_its_limit_or_when_a_person_says_so() {
    let orphan = || world().run(shimless("1/1", "coder", agent_alive()));
    given(orphan()).at(0).then([]).wakes_at(time(3500));
    given(orphan()).at(3500).then(["stop 1/1: timed out"]);
    let stop = orphan().but(|seen| {
        seen.controls.stop.insert(subject(1));
    });
    given(stop).at(0).then(["stop 1/1: asked"]);
    let in_hand = orphan().but(|seen| seen.runs[0].in_hand = true);
    given(in_hand).at(9999).then([]);
}

#[test]
fn a_shim_that_does_not_act_is_overruled_half_a_minute_after_limit_and_grace() {
    let running = || world().run(run("1/1", "coder"));
    given(running()).at(3539).then([]);
    given(running()).at(3540).then(["stop 1/1: timed out"]);
}

#[test]
fn a_shim_that_is_stuck_before_its_agents_start_is_ended() {
    let starting = || {
        let mut run = run("1/1", "coder");
        run.observed.state = ObservedState::Starting;
        let state = run.state.as_mut().expect("it has one");
        state.state = crate::core::model::RunState::Starting;
        state.started = moment(0);
        state.running = None;
        world().run(run)
    };
    given(starting()).at(299).then([]).wakes_at(time(300));
    given(starting()).at(300).then(["stop 1/1: timed out"]);
}

#[test]
fn a_shim_that_said_how_it_ended_and_does_not_go_is_not_waited_for() {
    let ending = || {
        let mut run = ended("1/1", "coder", Outcome::Exited(0));
        run.observed.shim = true;
        run.observed.pid_file = true;
        run.state.as_mut().expect("it has one").ended = Some(moment(0));
        world().run(run)
    };
    given(ending()).at(29).then([]).wakes_at(time(30));
    given(ending()).at(30).then(["clear pid file of 1/1"]);
}

#[test]
fn a_wall_clock_that_is_set_forward_ends_no_run() {
    let mut later = now(0);
    later.wall = time(1_000_000);
    for run in [run("1/1", "coder"), shimless("1/1", "coder", agent_alive())] {
        given(world().run(run)).by(later.clone()).then([]);
    }
}

#[test]
fn leftovers_are_swept_once_then_held_and_can_be_released() {
    let left = || {
        world()
            .task(1, "coder")
            .run(shimless("1/1", "coder", leftovers_alive()))
    };
    let hold = || Hold::StillAlive {
        run: run_id("1/1"),
        leftovers: vec![leftover(77)],
    };
    given(left())
        .at(0)
        .then(["sweep 1/1 of 1"])
        .holds_task(1, hold());
    let swept = || left().but(|seen| seen.runs[0].swept = true);
    given(swept())
        .at(0)
        .then([])
        .holds(Subject::Run(run_id("1/1")), hold());
    let released = swept().but(|seen| {
        seen.controls.release.insert(subject(1));
    });
    given(released).at(0).then(["release 1 from 77"]);
}

#[test]
fn a_pid_file_removed_by_hand_kills_nobody_and_starts_nobody() {
    let mut signalled = run("1/1", "coder");
    signalled.observed.pid_file = false;
    given(world().task(1, "coder").run(signalled))
        .at(0)
        .then([])
        .holds(
            Subject::Run(run_id("1/1")),
            Hold::StillAlive {
                run: run_id("1/1"),
                leftovers: Vec::new(),
            },
        )
        .holds_task(1, Hold::Running { run: run_id("1/1") });
}

#[test]
fn litter_is_cleared_and_a_durable_verdict_is_finished() {
    let mut litter = run("1/1", "coder");
    litter.spec = None;
    litter.state = None;
    litter.observed = Observed {
        spec: false,
        pid_file: false,
        shim: false,
        state: ObservedState::None,
        alive: Some(Alive::default()),
    };
    let mut judged = ended("2/1", "coder", Outcome::Exited(0));
    judged.verdict = Some(record("2/1", "coder", Verdict::NoProgress, -1));
    let world = world().task(2, "coder").run(litter).run(judged);
    given(world)
        .at(0)
        .then(["clear litter 1/1", "finish 2/1"])
        .holds_task(2, Hold::VerdictWaits { run: run_id("2/1") });
}

// ── attempts, stays, caps ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_failed_attempt_backs_off_and_then_is_tried_again() {
    let world = world().task(1, "coder").past(attempt("1/1", "coder", 1, 0));
    let wait = task_backoff(1, run_id("1/1"));
    let until = time(0).plus(wait);
    let hold = Hold::BackingOff {
        until,
        attempt: 2,
        of: 3,
        reason: "made no progress".into(),
    };
    given(world.clone())
        .at(0)
        .then([])
        .holds_task(1, hold)
        .wakes_at(until);
    given(world).at(13).then(["launch 1/2 coder"]);
}

#[test]
fn a_clock_set_back_does_not_prolong_a_hold() {
    let world = world().task(1, "coder").past(attempt("1/1", "coder", 1, 0));
    let set_back = Now {
        wall: time(-7200),
        ..now(13)
    };
    given(world.clone()).by(set_back).then(["launch 1/2 coder"]);
    // After a reboot only the wall clock is left, and it never says longer than the wait itself.
    let rebooted = Now {
        wall: time(-7200),
        boot_id: "next boot".into(),
        boot: Millis(5),
    };
    let decided = given(world).by(rebooted).then([]);
    let until = decided.decision.wake_at.expect("a wait");
    assert!(until <= time(-7200).plus(Millis::secs(13)), "{until:?}");
}

#[test]
fn after_max_attempts_a_task_is_parked_until_something_about_it_changes() {
    let parked = || {
        let mut last = attempt("1/3", "coder", 3, -1000);
        last.tasks[0].write = Some(Write::Park {
            comment: String::new(),
            put_back: false,
        });
        world()
            .task(1, "coder")
            .past(attempt("1/1", "coder", 1, -3000))
            .past(attempt("1/2", "coder", 2, -2000))
            .past(last)
    };
    let hold = Hold::Parked {
        attempts: 3,
        reason: "made no progress".into(),
    };
    given(parked()).at(0).then([]).holds_task(1, hold.clone());
    // Our own comment, or none that is new.
    given(parked().detail(1, 3))
        .at(0)
        .then([])
        .holds_task(1, hold);
    let launched = ["launch 1/4 coder"];
    given(parked().detail(1, 4)).at(0).then(launched);
    given(parked().but(|seen| seen.tasks.get_mut(&id(1)).expect("above").fields = 2))
        .at(0)
        .then(launched);
    given(parked().but(|seen| {
        let history = seen.histories.entry(subject(1)).or_default().make_mut();
        history.marks.retried_after = 3;
    }))
    .at(0)
    .then(launched);
    given(parked().but(|seen| {
        seen.controls.retry.insert(subject(1));
    }))
    .at(0)
    .then(["retry 1 after 3"]);
}

#[test]
fn ping_pong_between_queues_ends_at_the_cap_until_a_person_says_retry() {
    let mut base = world().policy(|p| p.max_runs_per_task = 4).task(1, "coder");
    for n in 1..=4 {
        let (from, to) = if n % 2 == 0 {
            ("coder", "architect")
        } else {
            ("architect", "coder")
        };
        let to = Some(to.into());
        let mut record = record(
            &format!("1/{n}"),
            from,
            Verdict::HandedOff { to },
            n * 10 - 1000,
        );
        record.tasks[0].stay = n as u32;
        base = base.past(record);
    }
    given(base.clone())
        .at(0)
        .then([])
        .holds_task(1, Hold::TooManyRuns { runs: 4 });
    let retried = base.but(|seen| {
        let history = seen.histories.entry(subject(1)).or_default().make_mut();
        history.marks = Marks {
            retried_after: 4,
            ..Marks::default()
        };
    });
    given(retried).at(0).then(["launch 1/5 coder"]);
}

#[test]
fn a_run_that_a_person_stopped_is_not_started_again_before_retry() {
    let by = StoppedBy { uid: 0, pid: None };
    for verdict in [
        Verdict::NoProgress,
        Verdict::LeftWorking,
        // It had begun to fill the folder.
        Verdict::Progress,
    ] {
        let mut stopped = record("1/1", "coder", verdict, -1000);
        stopped.outcome = Outcome::Stopped(by);
        let world = world().task(1, "coder").past(stopped);
        given(world.clone())
            .at(0)
            .then([])
            .holds_task(1, Hold::StoppedByPerson { run: run_id("1/1") });
        let retried = world.but(|seen| {
            let history = seen.histories.entry(subject(1)).or_default().make_mut();
            history.marks.retried_after = 1;
        });
        given(retried).at(0).then(["launch 1/2 coder"]);
    }
}

#[test]
fn runs_lost_through_no_fault_of_the_task_are_five_an_hour() {
    let mut base = world().task(1, "coder");
    for n in 1..=5 {
        let mut lost = record(
            &format!("1/{n}"),
            "coder",
            Verdict::NoProgress,
            n * 10 - 100,
        );
        lost.outcome = Outcome::Lost;
        lost.failure = failure(FailureClass::Ours, "lost");
        base = base.past(lost);
    }
    let hold = Hold::LostTooOften {
        runs: 5,
        until: time(10 - 100 + 3600),
    };
    given(base.clone()).at(0).then([]).holds_task(1, hold);
    given(base).at(3511).then(["launch 1/6 coder"]);
}

#[test]
fn records_of_an_earlier_task_with_the_same_number_do_not_count() {
    let mut parked = attempt("1/3", "coder", 3, -10);
    parked.tasks[0].key.created_at -= 1;
    parked.tasks[0].write = Some(Write::Park {
        comment: String::new(),
        put_back: false,
    });
    let decided = given(world().task(1, "coder").past(parked))
        .at(0)
        .then(["launch 1/4 coder"]);
    let Some(Action::Launch(launch)) = decided.decision.actions.first() else {
        panic!("a launch");
    };
    assert_eq!((launch.attempt, launch.stay), (1, 1));
}

#[test]
fn a_task_left_working_beside_other_runs_is_put_back_when_they_are_over() {
    let left = |change: fn(&mut Task)| {
        world()
            .task_but(1, "coder", |t| {
                t.status = TaskStatus::Working;
                change(t);
            })
            .past({
                let mut left = record("1/1", "coder", Verdict::LeftWorking, -10);
                left.failure = failure(FailureClass::Task, "left it working");
                left
            })
    };
    given(left(|_| {})).at(0).then(["put back 1 of 1/1"]);
    given(left(|_| {}).run(run("2/1", "coder")))
        .at(0)
        .then([])
        .holds_task(1, Hold::RunNotOver { run: run_id("2/1") });
    // Somebody touched it since, so it may be his.
    given(left(|t| t.updated_at = time(-5)))
        .at(0)
        .then([])
        .holds_task(1, Hold::WorkingElsewhere);
    // A parent works as long as its subtasks do.
    let parent = left(|_| {}).task_but(2, "human", |t| t.parent = Some(id(1)));
    given(parent).at(0).then([]);
}

// ── provider and environment ─────────────────────────────────────────────────────────────────────────────────────────────

fn quota(name: &str, queue: &str, at: i64) -> crate::core::record::VerdictRecord {
    let mut record = record(name, queue, Verdict::NoProgress, at);
    record.failure = failure(FailureClass::Provider, "quota exceeded");
    record
}

#[test]
fn a_failing_provider_holds_all_its_queues_and_one_run_at_a_time_probes_it() {
    let hold = |until, probing: Option<&str>| Hold::Provider {
        reason: "quota exceeded".into(),
        until: time(until),
        probing: probing.map(run_id),
    };
    let elsewhere = QueuePolicy {
        provider: Some("ollama".into()),
        ..QueuePolicy::default()
    };
    let base = world()
        .task(1, "architect")
        .task(2, "coder")
        .task(3, "blogger")
        .policy(queue_policy("blogger", elsewhere))
        .past(quota("1/1", "architect", 0));
    given(base.clone())
        .at(10)
        .then(["launch 3/1 blogger"])
        .holds(Subject::Provider("default".into()), hold(30, None))
        .holds_task(1, hold(30, None))
        .holds_task(2, hold(30, None))
        .wakes_at(time(30));
    // The wait is over: one probe, the rest waits for it.
    given(base.clone())
        .at(31)
        .then(["launch 3/1 blogger", "launch 2/1 coder"])
        .holds_task(1, hold(31, None));
    // The probe lives, though its shim has not written a state yet.
    let mut probe = run("2/1", "coder");
    probe.observed.state = ObservedState::None;
    probe.state = None;
    spec_of(&mut probe).times.written = moment(32);
    let probing = base.clone().run(probe);
    given(probing)
        .at(33)
        .then(["launch 3/1 blogger"])
        .holds_task(1, hold(33, Some("2/1")));
    // A second failure in a row waits twice as long; a success ends it all.
    let mut second = quota("2/1", "coder", 40);
    second.started = Some(moment(31));
    let again = base.clone().past(second);
    given(again.clone())
        .at(50)
        .then(["launch 3/1 blogger"])
        .holds_task(1, hold(100, None));
    given(again.past(record("9/1", "coder", Verdict::Done, 60)))
        .at(61)
        .then([
            "launch 3/1 blogger",
            "launch 1/2 architect",
            "launch 2/2 coder",
        ]);
}

#[test]
fn an_environment_failure_holds_the_queue_until_its_recipe_changes() {
    let mut broken = record("1/1", "coder", Verdict::NoProgress, 0);
    broken.failure = failure(FailureClass::Environment, "extension github did not start");
    let hold = Hold::Environment {
        reason: "extension github did not start".into(),
        until: time(30),
    };
    let base = world().task(1, "coder").task(2, "blogger").past(broken);
    given(base.clone())
        .at(10)
        .then(["launch 2/1 blogger"])
        .holds(Subject::Queue(queue("coder")), hold.clone())
        .holds_task(1, hold)
        .wakes_at(time(30));
    let mended = base.clone().but(|seen| {
        if let Some(Ok(recipe)) = seen.recipes.get_mut(&queue("coder")) {
            recipe.modified = time(5);
        }
    });
    given(mended)
        .at(10)
        .then(["launch 2/1 blogger", "launch 1/2 coder"]);
    given(base)
        .at(30)
        .then(["launch 2/1 blogger", "launch 1/2 coder"]);
}

// ── inbound ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn many_files_are_one_run() {
    let decided = given(world().drop("a.md").drop("b.md"))
        .at(0)
        .then(["launch inbound/1 dispatcher"]);
    let Some(Action::Launch(launch)) = decided.decision.actions.first() else {
        panic!("a launch");
    };
    assert_eq!(launch.files, [file("a.md"), file("b.md")]);
    assert_eq!(launch.cause, "a.md and 1 more in inbound");
}

#[test]
fn a_file_waits_until_it_is_settled_and_an_odd_one_for_ever() {
    let world = world()
        .file("a.md", InboundState::Settling { until: time(1) })
        .file("pipe", InboundState::Odd("a FIFO".into()))
        .drop("b.md");
    let what = "a FIFO".into();
    given(world)
        .at(0)
        .then(["launch inbound/1 dispatcher"])
        .holds(on_file("a.md"), Hold::Settling { until: time(1) })
        .holds(on_file("pipe"), Hold::OddFile { what })
        .wakes_at(time(1));
}

#[test]
fn a_file_that_a_run_is_at_is_not_started_twice_whatever_the_concurrency() {
    let mut at_it = run("inbound/1", "dispatcher");
    let spec = spec_of(&mut at_it);
    spec.baseline.inbound = vec![file("a.md")];
    let world = world()
        .policy(queue_policy("dispatcher", concurrency(3)))
        .drop("a.md")
        .drop("new.md");
    let hold = Hold::Running {
        run: run_id("inbound/1"),
    };
    given(world.clone().run(at_it.clone()))
        .at(0)
        .then([])
        .holds(on_file("a.md"), hold)
        .holds(on_file("new.md"), slot_of("inbound/1"));
    // Judged, but the verdict is not finished: the history may not know it yet.
    at_it.verdict = Some(left_lying("inbound/1", "a.md", &[], -1));
    let hold = Hold::VerdictWaits {
        run: run_id("inbound/1"),
    };
    given(world.run(at_it))
        .at(0)
        .then(["finish inbound/1"])
        .holds(on_file("a.md"), hold.clone())
        .holds(on_file("new.md"), hold);
}

#[test]
fn dispatched_but_not_moved_is_never_dispatched_again() {
    let world = world()
        .drop("a.md")
        .past(left_lying("inbound/1", "a.md", &[12], -9000));
    let tasks = vec![id(12)];
    given(world.clone())
        .at(0)
        .then([])
        .holds(on_file("a.md"), Hold::DispatchedNotMoved { tasks });
    // An edited file is a new one; so is one that a person wants retried.
    let edited = world.clone().but(|seen| seen.inbound[0].key.modified = 5);
    given(edited).at(0).then(["launch inbound/2 dispatcher"]);
    let retried = world.but(|seen| {
        let history = seen
            .histories
            .entry(RunSubject::Inbound)
            .or_default()
            .make_mut();
        history.marks.retried_after = 1;
    });
    given(retried).at(0).then(["launch inbound/2 dispatcher"]);
}

#[test]
fn a_file_left_lying_backs_off_and_is_parked_after_three_attempts() {
    let once = world()
        .drop("a.md")
        .past(left_lying("inbound/1", "a.md", &[], 0));
    let until = time(0).plus(task_backoff(1, run_id("inbound/1")));
    given(once.clone()).at(0).then([]).holds(
        on_file("a.md"),
        Hold::FileBackingOff {
            until,
            attempt: 2,
            of: 3,
        },
    );
    given(once.clone())
        .at(13)
        .then(["launch inbound/2 dispatcher"]);
    let thrice = once
        .past(left_lying("inbound/2", "a.md", &[], 100))
        .past(left_lying("inbound/3", "a.md", &[], 200));
    given(thrice.clone()).at(9000).then([]).holds(
        on_file("a.md"),
        Hold::FileParked {
            attempts: 3,
            reason: "left 1 of 1 requests in inbound".into(),
        },
    );
    given(thrice.drop("new.md"))
        .at(9000)
        .then(["launch inbound/4 dispatcher"]);
}

#[test]
fn requests_need_a_dispatcher_that_needs_no_task() {
    let dispatcher = || queue("dispatcher");
    let none = world().drop("a.md").but(|seen| {
        seen.recipes.remove(&queue("dispatcher"));
    });
    given(none).at(0).then([]).holds(
        on_file("a.md"),
        Hold::NoDispatcher {
            queue: dispatcher(),
        },
    );
    let needs = world().drop("a.md").but(|seen| {
        if let Some(Ok(recipe)) = seen.recipes.get_mut(&queue("dispatcher")) {
            recipe.parameters[0].is_required = true;
        }
    });
    given(needs).at(0).then([]).holds(
        on_file("a.md"),
        Hold::DispatcherNeedsTask {
            queue: dispatcher(),
        },
    );
}

#[test]
fn the_dispatchers_two_kinds_of_work_share_a_slot_and_take_turns() {
    let both = world().drop("a.md").task(1, "dispatcher");
    given(both.clone())
        .at(0)
        .then(["launch inbound/1 dispatcher"])
        .holds_task(1, slot_of("inbound/1"));
    let mut moved = record("inbound/1", "dispatcher", Verdict::Done, -10);
    moved.files = Vec::new();
    given(both.past(moved))
        .at(0)
        .then(["launch 1/1 dispatcher"])
        .holds(on_file("a.md"), slot_of("1/1"));
}

#[test]
fn inbound_is_held_paused_and_stopped_like_a_task() {
    let base = || world().drop("a.md");
    given(base().but(|seen| {
        seen.controls.held.insert(RunSubject::Inbound);
    }))
    .at(0)
    .then([])
    .holds(on_file("a.md"), Hold::HeldByFile);
    given(base().but(|seen| {
        seen.controls.stop.insert(RunSubject::Inbound);
    }))
    .at(0)
    .then(["clear stop inbound"])
    .holds(on_file("a.md"), Hold::StopAsked);
    given(base().but(|seen| {
        seen.controls.paused.insert(queue("dispatcher"));
    }))
    .at(0)
    .then([])
    .holds(
        on_file("a.md"),
        Hold::QueuePaused {
            queue: queue("dispatcher"),
        },
    );
}

#[test]
fn retry_waits_until_it_can_be_read_what_it_forgives() {
    let wish = |unreadable: bool| {
        world().task(1, "coder").but(|seen| {
            seen.controls.retry.insert(subject(1));
            if unreadable {
                seen.cannot_read(subject(1), "cannot read `marks.json`".into());
            }
        })
    };
    given(wish(true)).at(0).then([]);
    given(wish(false))
        .at(0)
        .then(["retry 1 after 0", "launch 1/1 coder"]);
}

#[test]
fn a_run_that_lived_while_a_person_said_retry_parks_nothing() {
    let third = || {
        let mut third = ended("1/3", "coder", Outcome::Exited(0));
        spec_of(&mut third).attempt = 3;
        world()
            .task(1, "coder")
            .detail(1, 3)
            .past(attempt("1/1", "coder", 1, -300))
            .past(attempt("1/2", "coder", 2, -200))
            .run(third)
    };
    let parks = ["judge 1/3: #1 no progress + park"];
    given(third()).at(0).then(parks);
    let judges = "judge 1/3: #1 no progress";
    let said = third().but(|seen| {
        let history = seen.histories.entry(subject(1)).or_default().make_mut();
        history.marks.retried_after = 3;
    });
    given(said).at(0).then([judges]);
    // The wish and the verdict in one decision.
    let says = third().but(|seen| {
        seen.controls.retry.insert(subject(1));
    });
    given(says).at(0).then(["retry 1 after 3", judges]);
}

#[test]
fn a_providers_hold_ends_and_its_probe_is_known_after_a_reboot_with_the_clock_ahead() {
    let before_reboot = || {
        let mut down = attempt("1/1", "coder", 1, 86_400);
        down.failure = failure(FailureClass::Provider, "quota exceeded");
        down.judged.boot_id = "the boot before".into();
        world().task(1, "coder").task(2, "architect").past(down)
    };
    // The machine has been up for longer than the wait.
    given(before_reboot()).at(0).then(["launch 2/1 architect"]);
    let probing = before_reboot().run(run("1/2", "coder"));
    let decided = given(probing).at(0).then([]);
    let probe = decided.decision.holds.iter().find_map(|(who, hold)| {
        let Hold::Provider { probing, .. } = hold else {
            return None;
        };
        matches!(who, Subject::Provider(_)).then_some(*probing)
    });
    assert_eq!(probe, Some(Some(run_id("1/2"))));
}

#[test]
fn requests_beyond_what_a_record_can_tell_of_wait_for_the_run_after() {
    let mut world = world();
    for n in 0..30 {
        world = world.drop(&format!("{n:02}{}", "x".repeat(1 << 20)));
    }
    let decided = given(world).at(0).then(["launch inbound/1 dispatcher"]);
    let Some(Action::Launch(launch)) = decided.decision.actions.first() else {
        panic!("a launch");
    };
    let (n, holds) = (launch.files.len(), &decided.decision.holds);
    assert!(n > 20 && n < 30, "{n}");
    assert_eq!(holds.len(), 30 - n);
    assert!(holds.iter().all(|(_, hold)| *hold == slot_of("inbound/1")));
}

// ── what follows on the same look ──────────────────────────────────────────────────────────────────────────────────────────

/// What is decided on a look, and then, where it can be, on the same look again.
fn in_turn(mut world: World) -> Vec<Vec<String>> {
    let mut turns = Vec::new();
    loop {
        let decision = decide(&world.seen, &world.policy, &now(0));
        turns.push(decision.actions.iter().map(deed).collect());
        if !carried_out(&mut world.seen, &decision, &now(0)) {
            return turns;
        }
    }
}

/// Run 1/1 of the architect is over, and this is what it did with task 1; another task waits in its queue.
fn over_and(change: impl FnOnce(&mut Task)) -> World {
    let over = ended("1/1", "architect", Outcome::Exited(0));
    let alive = run("9/1", "blogger");
    let world = world().run(over).run(alive).task(2, "architect");
    world.task(3, "blogger").task_but(1, "architect", change)
}

#[test]
fn what_a_verdict_leads_to_is_decided_on_the_same_look() {
    let handed_on = |task: &mut Task| {
        task.assigned_to = Some("coder".into());
        task.previous_assigned_to = Some("architect".into());
    };
    assert_eq!(
        in_turn(over_and(handed_on)),
        [
            vec!["judge 1/1: #1 handed to coder"],
            vec!["launch 1/2 coder", "launch 2/1 architect"]
        ]
    );
}

/// Found by the simulator: a power cut took the record of 1/1's verdict, and 1/2 was judged long ago.
#[test]
fn a_run_that_is_judged_after_later_ones_stands_before_them() {
    let handed_back = record(
        "1/2",
        "coder",
        Verdict::HandedOff {
            to: Some("architect".into()),
        },
        -100,
    );
    let mut world = over_and(|_| {}).past(handed_back);
    let decision = decide(&world.seen, &world.policy, &now(0));
    assert!(carried_out(&mut world.seen, &decision, &now(0)));
    let numbers = |number| {
        let history = &world.seen.histories[&subject(number)];
        let numbers = history.verdicts.iter().map(|verdict| verdict.run.number);
        (numbers.collect::<Vec<_>>(), history.last_run)
    };
    assert_eq!(numbers(1), (vec![1, 2], 2));
}

#[test]
fn a_failed_attempt_counts_on_the_same_look() {
    let nothing_done = |_: &mut Task| {};
    assert_eq!(
        in_turn(over_and(nothing_done)),
        [
            vec!["judge 1/1: #1 no progress"],
            vec!["launch 2/1 architect"]
        ]
    );
}

#[test]
fn a_verdict_that_writes_to_tinytask_calls_for_another_look() {
    let left_working = |task: &mut Task| task.status = TaskStatus::Working;
    assert_eq!(
        in_turn(over_and(left_working)),
        [["judge 1/1: #1 left working + put back"]]
    );
}

#[test]
fn a_verdict_on_requests_calls_for_another_look_while_others_lie_there() {
    let over = || {
        let mut over = ended("inbound/1", "dispatcher", Outcome::Exited(0));
        spec_of(&mut over).baseline.inbound = vec![file("a.md")];
        world().run(over)
    };
    assert_eq!(in_turn(over()), [vec!["judge inbound/1: "], vec![]]);
    assert_eq!(in_turn(over().drop("b.md")), [["judge inbound/1: "]]);
}

#[test]
fn a_task_is_started_on_the_look_that_made_its_folder() {
    let world = world()
        .task(1, "architect")
        .policy(|policy| policy.create_folders = true);
    let world = world.but(|seen| seen.folders.clear());
    assert_eq!(
        in_turn(world),
        [["create folder 1"], ["launch 1/1 architect"]]
    );
}
