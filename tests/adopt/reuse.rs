//! A number is given out again: is a stranger ever taken for one of ours, or signalled, or one of ours for a stranger?
//!
//! Each reuse is made, not waited for, and checked to be one: the same number, another start. What is behind it: a process is its
//! number and its start, compared after its pidfd is open; a shim's life is its lock; an agent carries its run's token or lock.

use std::time::{Duration, Instant};

use calypso_watch::core::StrangerKind;
use calypso_watch::core::layout::{Layout, RunDir};
use calypso_watch::core::model::{
    Leftover, Millis, Moment, Outcome, ProcessId, RunId, RunState, RunSubject, Timestamp,
};
use calypso_watch::core::record::{FORMAT, StateRecord};
use calypso_watch::edge::process::{self, DeadShim, Pidfd, StopEnd};
use calypso_watch::edge::{clock, runs};
use camino::Utf8Path;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::World;
use crate::inside::{Idler, Kind, are_free, is_inside, show};

/// So many at a time: a start is told in hundredths of a second, so a number is given out again after more than one.
const BATCH: usize = 100;
const TICK: Duration = Duration::from_millis(11);

/// `CALYPSO_TEST_REUSES` asks for more.
fn reuses(usual: usize) -> usize {
    let asked = std::env::var("CALYPSO_TEST_REUSES").ok();
    asked
        .and_then(|n| n.parse().ok())
        .map_or(usual, |n: usize| n.max(usual))
}

/// Whose state a dead shim left: it and its agent had these numbers.
fn state(shim: ProcessId, agent: ProcessId) -> StateRecord {
    let now = clock::now();
    StateRecord {
        format: FORMAT,
        token: "0".repeat(32),
        state: RunState::Running { agent },
        shim,
        boot_id: now.boot_id.clone(),
        started: Moment::from(&now),
        running: Some(Moment::from(&now)),
        ended: None,
        usage: None,
    }
}

/// A base path with so many runs, whose locks nobody holds.
fn run_dirs(many: usize) -> (tempfile::TempDir, Layout, Vec<RunDir>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let layout = Layout::new(
        Utf8Path::from_path(folder.path())
            .expect("UTF-8")
            .to_owned(),
    );
    std::fs::create_dir_all(layout.state()).expect("a folder");
    let dirs: Vec<RunDir> = (1..=many as i64)
        .map(|task| RunDir {
            id: RunId {
                subject: RunSubject::Task(task.try_into().expect("positive")),
                number: 1,
            },
            queue: "coder".parse().expect("a queue"),
        })
        .collect();
    for dir in &dirs {
        drop(runs::create(&layout, dir, &mut runs::Blanks::default()).expect("a run directory"));
        std::fs::write(layout.run(dir).agent_lock(), "").expect("a file");
    }
    (folder, layout, dirs)
}

fn leftover(process: &ProcessId) -> Leftover {
    Leftover {
        process: process.clone(),
        comm: "agent".into(),
    }
}

/// Ten thousand numbers of agents and shims, each given to a stranger of the same name, every other of them leader of a session that
/// has the dead shim's number.
#[test]
fn ten_thousand_strangers_with_the_numbers_of_the_dead_are_left_alone() {
    if !is_inside("reuse::ten_thousand_strangers_with_the_numbers_of_the_dead_are_left_alone") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (_folder, layout, dirs) = run_dirs(BATCH + 10);
    let began = Instant::now();
    let wanted = reuses(10_000);
    let (mut made, mut leaders) = (0, 0);
    while made < wanted {
        let living: Vec<Idler> = (0..10).map(|_| Idler::new()).collect();
        let dead: Vec<ProcessId> = (0..BATCH)
            .map(|_| Idler::new())
            .collect::<Vec<_>>()
            .into_iter()
            .map(|idler| idler.id.clone())
            .collect();
        assert!(dead.iter().all(|id| !process::is_alive(id)));
        std::thread::sleep(TICK);
        let strangers: Vec<(ProcessId, Idler)> = dead
            .into_iter()
            .enumerate()
            .filter_map(|(n, old)| {
                let kind = if n % 2 == 0 {
                    Kind::Plain
                } else {
                    Kind::Leader
                };
                let found = Idler::at(old.pid, kind, c"agent")?;
                // Really a reuse: the same number, another process.
                (found.id.start != old.start).then_some((old, found))
            })
            .collect();
        for (old, stranger) in &strangers {
            assert_eq!(process::identity(old.pid).as_ref(), Some(&stranger.id));
            assert!(!process::is_alive(old), "a dead one taken for alive");
            assert!(
                Pidfd::open_checked(old)
                    .expect("it can be opened")
                    .is_none()
            );
            assert!(process::vitals(old).is_none() && !process::is_stopped(old));
            let long_ago = Timestamp(clock::wall().0 - 60_000);
            let found = process::stranger(Ok(old.pid), long_ago, 0);
            assert!(
                matches!(found, StrangerKind::Alive { younger: true, .. }),
                "{found:?}"
            );
        }
        // As agents of dead shims, and as dead shims whose session a stranger leads now; and some that do live.
        let gone = ProcessId { pid: 1, start: 0 };
        let states: Vec<StateRecord> = (strangers.iter())
            .map(|(old, stranger)| match stranger.member {
                None => state(gone.clone(), old.clone()),
                Some(_) => state(old.clone(), gone.clone()),
            })
            .chain(
                living
                    .iter()
                    .map(|idler| state(gone.clone(), idler.id.clone())),
            )
            .collect();
        let asked: Vec<DeadShim<'_>> = (states.iter().zip(&dirs))
            .map(|(state, dir)| DeadShim {
                dir,
                // The living carry no token either, and what carries none is told by its number and start where nobody can say.
                token: None,
                state: Some(state),
                known: &[],
            })
            .collect();
        let found = process::leftovers(&layout, &asked);
        let (of_strangers, of_living) = found.split_at(strangers.len());
        for (alive, (old, _)) in of_strangers.iter().zip(&strangers) {
            let alive = alive.as_ref().expect("root sees everything");
            assert!(alive.is_nothing(), "{old:?}: {alive:?}");
        }
        for (alive, idler) in of_living.iter().zip(&living) {
            let alive = alive.as_ref().expect("root sees everything");
            assert_eq!(
                alive.agent.as_ref(),
                Some(&idler.id),
                "a live one taken for dead"
            );
            assert!(process::is_alive(&idler.id));
        }
        // Whatever is done to the dead is done to nobody.
        runtime.block_on(async {
            let all: Vec<Leftover> = strangers.iter().map(|(old, _)| leftover(old)).collect();
            assert_eq!(process::sweep(&all, Millis::secs(5)).await, []);
            for (old, _) in &strangers {
                let end = process::stop_orphan(old, Millis(0)).await.expect("a pidfd");
                assert_eq!(end, StopEnd::WasOver);
            }
        });
        for (old, stranger) in &strangers {
            assert!(stranger.lives(), "{old:?}: a stranger was signalled");
        }
        made += strangers.len();
        leaders += strangers.iter().filter(|(_, s)| s.member.is_some()).count();
    }
    show(&format!(
        "measured: {made} reuses, {leaders} of them session leaders, in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
}

/// The number comes back within the tick of its first owner's start, so that number and start say the same of both. It takes an agent
/// that lived for less than 10 ms, its shim dead too, and a machine that runs through all its numbers meanwhile; made here by
/// force. Then it counts that every agent carries its run's token or holds its lock.
#[test]
fn a_twin_of_the_same_number_and_tick_is_doubted_and_never_signalled() {
    if !is_inside("reuse::a_twin_of_the_same_number_and_tick_is_doubted_and_never_signalled") {
        return;
    }
    let (_folder, layout, dirs) = run_dirs(1);
    let (mut twins, mut tries) = (0, 0);
    while twins < 100 && tries < 20_000 {
        tries += 1;
        let old = Idler::new().id.clone();
        let Some(twin) = Idler::at(old.pid, Kind::Plain, c"agent").filter(|twin| twin.id == old)
        else {
            continue;
        };
        twins += 1;
        let state = state(ProcessId { pid: 1, start: 0 }, old.clone());
        let token = "0".repeat(32);
        let asked = DeadShim {
            dir: &dirs[0],
            token: Some(&token),
            state: Some(&state),
            known: &[],
        };
        let found = process::leftovers(&layout, &[asked]);
        let alive = found[0].as_ref().expect("root sees everything");
        assert_eq!(alive.agent, None, "it is not the agent");
        assert_eq!(alive.leftovers, [], "nor anything to be swept");
        assert_eq!(alive.doubtful.len(), 1, "but who knows: {alive:?}");
        assert!(twin.lives());
    }
    assert!(twins >= 20, "{twins} of {tries}");
    show(&format!(
        "measured: {twins} twins of one tick in {tries} tries"
    ));
}

/// The whole daemon, killed with its runs, and all their numbers given to others before the next one starts.
#[test]
fn a_daemon_whose_runs_numbers_went_to_strangers_knows_the_dead_from_the_living() {
    if !is_inside(
        "reuse::a_daemon_whose_runs_numbers_went_to_strangers_knows_the_dead_from_the_living",
    ) {
        return;
    }
    let mut world = World::new()
        .set("max_runs", "40")
        .set("max_attempts", "1")
        .section("[queues.crowd]\nconcurrency = 40")
        .queue(
            "crowd",
            "note at; while [ ! -e \"$B/gates/go\" ]; do sleep 0.5; done; exit 9",
        )
        .start();
    let began = Instant::now();
    let wanted = reuses(200);
    let mut made = 0;
    let mut started = 0;
    while made < wanted {
        let mut tasks: Vec<i64> = (0..30)
            .map(|n| world.task("crowd", &format!("{n}")))
            .collect();
        started += tasks.len();
        world.at_length("all work", |w| w.count("at crowd") == started);
        let numbers: Vec<(i32, i32)> = tasks.iter().map(|id| world.processes(*id)).collect();
        let kept = tasks.split_off(25);
        world.kill_daemon();
        // Shims first: an agent's end is nothing they may still write down.
        let dead = &numbers[..25];
        for pid in dead
            .iter()
            .map(|(shim, _)| shim)
            .chain(dead.iter().map(|(_, agent)| agent))
        {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        let free: Vec<i32> = dead.iter().flat_map(|(a, b)| [*a, *b]).collect();
        world.eventually("their numbers are free", |_| are_free(&free));
        for id in &tasks {
            // Somebody has it done meanwhile, and the dead agent's traces are no other agent's.
            world.update(*id, json!({"status": "complete"}));
            std::fs::remove_dir_all(world.path(&format!("busy/{id}"))).ok();
        }
        std::thread::sleep(TICK);
        let strangers: Vec<Idler> = dead
            .iter()
            .flat_map(|(shim, agent)| {
                [
                    Idler::at(*shim, Kind::Leader, c"calypso-watch"),
                    Idler::at(*agent, Kind::Plain, c"sh"),
                ]
            })
            .flatten()
            .collect();
        // The rest went to whoever the living forked in between; enough rounds make up for it.
        assert!(strangers.len() > 20, "{} of 50 numbers", strangers.len());
        made += strangers.len();

        world.run();
        for id in &tasks {
            world.at_length("judged", |w| w.verdicts(*id).len() == 1);
            assert_eq!(world.outcomes(*id), [Outcome::Lost]);
        }
        world.at_length("only the living are left", |w| {
            w.names(".calypso/live").len() == kept.len()
                && w.names("running_tasks").len() == kept.len()
        });
        for (id, before) in kept.iter().zip(&numbers[25..]) {
            assert_eq!(world.processes(*id), *before, "a live one taken for dead");
        }
        assert!(
            strangers.iter().all(Idler::lives),
            "a stranger was signalled"
        );
        world.open("go");
        for id in &kept {
            world.at_length("judged", |w| !w.verdicts(*id).is_empty());
            assert_eq!(world.outcomes(*id)[0], Outcome::Exited(9));
        }
        assert!(
            strangers.iter().all(Idler::lives),
            "a stranger was signalled"
        );
        // A verdict that came late is no attempt, and may have led to another run; that one ends at once.
        for id in &kept {
            world.update(*id, json!({"status": "complete"}));
        }
        // One that was decided on before that is on record by then.
        world.looks_at_everything();
        world.at_length("all is over", |w| w.names(".calypso/live").is_empty());
        world.close("go");
        started = world.count("at crowd");
    }
    world.is_clean();
    show(&format!(
        "measured: {made} numbers of {started} runs reused under the whole daemon in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
}
