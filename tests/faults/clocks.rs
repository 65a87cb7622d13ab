//! Time stands still, jumps, and a shim stands still in it.

use std::time::{Duration, Instant};

use calypso_watch::core::model::{Millis, Moment, Outcome, RunState, Timestamp};
use calypso_watch::edge::{clock, files::Durability, runs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::World;
use crate::space::inside;
use crate::stop::stop;

fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        // An agent's sleep may be over since the list was made.
        kill(Pid::from_raw(*pid), signal).ok();
    }
}

/// Daemon, shims, agents, tinytask: everything of this world stops, as a suspended machine does, for longer than `span` by
/// CLOCK_BOOTTIME, which goes on meanwhile.
fn suspend(world: &World, span: Duration) {
    let everything = world.marked("");
    assert!(everything.len() >= 4, "{everything:?}");
    signal(&everything, Signal::SIGSTOP);
    let end = Instant::now() + span;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    signal(&everything, Signal::SIGCONT);
}

#[test]
fn everything_stands_still_for_a_while_and_goes_on_as_if_nothing_had_been() {
    let mut world = World::new()
        .queue("work", "claim; gate one; move next")
        .queue("next", "claim; finish")
        .start();
    let id = world.task("work", "suspended");
    world.eventually("it works", |w| w.count("at-one work") == 1);
    let waits = world.task("work", "waits for the slot");
    suspend(&world, Duration::from_secs(5));
    assert!(world.daemon_lives());
    world.open("one");
    world.at_length("both are done", |w| {
        w.is_complete(id) && w.is_complete(waits) && w.names(".calypso/live").is_empty()
    });
    for task in [id, waits] {
        assert_eq!(world.count(&format!("start work {task}")), 1);
        assert_eq!(world.count(&format!("start next {task}")), 1);
        assert_eq!(
            world.outcomes(task),
            [Outcome::Exited(0), Outcome::Exited(0)]
        );
    }
    world.is_clean();
}

#[test]
fn a_time_limit_that_passed_while_everything_stood_still_is_over() {
    let world = World::new()
        .queue("work", "claim; gate one; finish")
        .set("time_limit", "\"20s\"")
        .set("max_attempts", "1")
        .start();
    let id = world.task("work", "suspended for too long");
    // Not in the middle of its claim, which a tinytask that stands still would refuse it.
    world.eventually("it works", |w| w.count("at-one work") == 1);
    suspend(&world, Duration::from_secs(21));
    world.at_length("it is over", |w| w.outcomes(id) == [Outcome::TimedOut]);
    assert_eq!(world.count("start work"), 1);
    world.is_clean();
}

/// Sets both words of a run's record on when it began back: to the daemon as if the wall clock had been set forward by so much.
fn began_earlier(world: &World, id: i64, wall: i64, boot: u64) {
    let run = world.runs(id).pop().expect("it runs");
    let mut record = world.record(id).expect("it runs");
    let earlier = |moment: &mut Moment| {
        moment.wall = Timestamp(moment.wall.0 - wall);
        moment.boot = Millis(moment.boot.0.saturating_sub(boot));
    };
    earlier(&mut record.started);
    record.running.as_mut().map(earlier);
    runs::write_state(&world.layout, &run, &record, Durability::Crash).expect("ours");
}

#[test]
fn a_wall_clock_that_jumps_hours_ends_no_run() {
    for hours in [5, -5] {
        let world = World::new()
            .queue("work", "claim; gate one; finish")
            .set("time_limit", "\"1h\"")
            .start();
        let id = world.task("work", "an hour at most");
        world.processes(id);
        began_earlier(&world, id, hours * 3_600_000, 0);
        world.looks();
        world.looks();
        assert!(world.path(&format!("running_tasks/task_{id}.pid")).exists());
        assert!(
            !world
                .path(".calypso/runs")
                .join(format!("task_{id}/0001-work/ended.json"))
                .exists()
        );
        world.open("one");
        world.at_length("it ends by itself", |w| {
            w.outcomes(id) == [Outcome::Exited(0)]
        });
        assert_eq!(world.count("start work"), 1);
        world.is_clean();
    }
}

#[test]
fn a_request_whose_times_lie_hours_ahead_or_behind_is_taken_at_once() {
    let world = World::new()
        .queue(
            "dispatcher",
            "ls \"$B/inbound\" >>\"$B/taken\"; rm \"$B\"/inbound/*",
        )
        .start();
    for (number, date) in ["2 days ago", "2 days"].iter().enumerate() {
        let name = format!("request-{number}.md");
        crate::space::sh(&format!(
            "echo x >'{0}/.half'; touch -d '{date}' '{0}/.half'; mv '{0}/.half' '{0}/{name}'",
            world.path("inbound").display()
        ));
        world.eventually("it is taken", |w| {
            w.count("end dispatcher inbound") == number + 1
        });
    }
    assert_eq!(world.read("taken").lines().count(), 2);
    world.is_clean();
}

/// Start times of processes, limits and records are all of the namespace's clock.
#[test]
fn a_machine_that_has_been_up_for_ten_years() {
    let ten_years = "320000000";
    let more = [
        "--time",
        "--fork",
        "--boottime",
        ten_years,
        "--monotonic",
        ten_years,
    ];
    inside(
        "clocks::a_machine_that_has_been_up_for_ten_years",
        &more,
        || {
            assert!(clock::boot() > Millis::secs(310_000_000));
            let mut world = World::new()
                .queue("work", "claim; gate one; finish; exit 7")
                .start();
            let id = world.task("work", "adopted");
            let (shim, _) = world.processes(id);
            world.kill_daemon();
            world.run();
            world.open("one");
            world.eventually("its end is known", |w| {
                w.outcomes(id) == [Outcome::Exited(7)]
            });
            world.close("one");
            let orphan = world.task("work", "an orphan");
            let (other, _) = world.processes(orphan);
            assert_ne!(shim, other);
            kill(Pid::from_raw(other), Signal::SIGKILL).expect("ours");
            world.eventually("it is watched", |w| w.ok(&["status"]).contains("orphan"));
            world.open("one");
            world.eventually("and found lost", |w| w.outcomes(orphan) == [Outcome::Lost]);
            assert_eq!(world.count("start work"), 2);
            world.is_clean();
        },
    );
}

/// Stopped between its last word and the removal of its pid file (X2, X3), which the test says in its place. Continued, when the
/// next run of the task is at work, it must not take that one's pid file for its own.
#[test]
fn a_shim_that_is_stopped_at_its_end_is_overruled_and_harms_no_later_run() {
    let mut world = World::new()
        .queue("first", "claim; gate one; move second")
        .queue("second", "claim; gate two; finish")
        .start();
    let id = world.task("first", "its shim stands still");
    let (shim, agent) = world.processes(id);
    stop(shim);
    world.open("one");
    world.eventually("the agent is over", |w| w.count("end first") == 1);
    world.eventually("for the kernel too", |_| {
        let stat = std::fs::read_to_string(format!("/proc/{agent}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    });
    let run = world.runs(id).pop().expect("it ran");
    let mut record = world.record(id).expect("it ran");
    let now = clock::now();
    let mut ended = Moment::from(&now);
    // Longer ago than a shim needs.
    ended.boot = Millis(ended.boot.0 - 60_000);
    record.state = RunState::Ended {
        outcome: Outcome::Exited(0),
        leftovers: vec![],
    };
    record.ended = Some(ended);
    runs::write_state(&world.layout, &run, &record, Durability::Crash).expect("ours");
    world.looks();
    world.eventually("the next run is at work", |w| w.count("at-two") == 1);
    let pid_file = world.read(&format!("running_tasks/task_{id}.pid"));
    signal(&[shim], Signal::SIGCONT);
    world.eventually("the old shim ends", |_| {
        !std::path::Path::new(&format!("/proc/{shim}")).exists()
    });
    assert_eq!(
        world.read(&format!("running_tasks/task_{id}.pid")),
        pid_file
    );
    world.open("two");
    world.eventually("all is done", |w| w.is_complete(id));
    assert_eq!(
        world.starts(),
        [format!("first {id}"), format!("second {id}")]
    );
    assert!(world.daemon_lives());
    world.is_clean();
}
