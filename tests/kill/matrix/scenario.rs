//! What goes on in a world while something in it is killed, and which of it comes to which point.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::driver::until;
use super::world::{Role, World};

/// A small story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scenario {
    /// A task, whose agent completes it.
    Plain,
    /// Two, one after the other.
    Two,
    /// Its first agent claims the task and gives up: put back, tried again.
    Leave,
    /// The same where one attempt is all there is: parked, until a person says `retry`.
    Park,
    /// Two at once whose agents give up: the first to be judged is left working, as the other might be at it.
    Company,
    /// Its agent leaves children behind.
    Brood,
    /// Its agent completes another task of its queue too.
    Steal,
    /// A person stops the run, then says `retry`.
    Stop,
    /// A task without a folder.
    Folder,
    /// A pid file is there already, of a process that is dead.
    Stranger,
    /// A request in inbound/.
    Inbound,
    /// Old runs of a closed task, and a daemon that starts anew.
    Retention,
    /// The daemon's log is full.
    Rotation,
    /// A daemon starts anew beside a task.
    Restart,
    /// The built-in tinytask is killed, so that another is started.
    Revive,
}

/// What a case waits for.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) tasks: Vec<i64>,
    /// Those that are not in their queue yet.
    pub(super) unassigned: Vec<i64>,
    pub(super) files: Vec<String>,
}

impl Scenario {
    pub(super) const ALL: [Self; 15] = [
        Self::Plain,
        Self::Two,
        Self::Leave,
        Self::Park,
        Self::Company,
        Self::Brood,
        Self::Steal,
        Self::Stop,
        Self::Folder,
        Self::Stranger,
        Self::Inbound,
        Self::Retention,
        Self::Rotation,
        Self::Restart,
        Self::Revive,
    ];

    /// Attempts in the worlds that this one is for.
    pub(super) fn attempts(self) -> u32 {
        if self == Self::Park { 1 } else { 3 }
    }

    /// What is there before anything is armed.
    pub(super) fn prepare(self, world: &mut World) -> Work {
        let mut work = Work::default();
        match self {
            Self::Retention => {
                let task = new_task(world, "plain", true);
                until("a task is assigned", || {
                    assign(world, task, "plain").then_some(())
                });
                until("an old task is complete and judged", || {
                    let is_over =
                        is_complete(world, task) && world.names(".calypso/live").is_empty();
                    is_over.then_some(())
                });
                world.wish(&format!("retry-task_{task}"));
                until("the mark is recorded", || {
                    let marks = format!(".calypso/runs/task_{task}/marks.json");
                    let is_done = world.path(&marks).exists()
                        && !world
                            .names(".calypso/control")
                            .iter()
                            .any(|n| n.contains("retry"));
                    is_done.then_some(())
                });
                let runs = format!(".calypso/runs/task_{task}");
                for run in world.names(&runs) {
                    let verdict = world.path(&format!("{runs}/{run}/verdict.json"));
                    if let Ok(file) = std::fs::File::options().append(true).open(verdict) {
                        let old = SystemTime::now() - Duration::from_secs(3 * 86_400);
                        file.set_modified(old).expect("ours");
                    }
                }
                work.tasks.push(new_task(world, "plain", true));
            }
            Self::Rotation => {
                let log = std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(world.layout.log());
                log.and_then(|file| file.set_len(17 << 20)).expect("ours");
                work.tasks.push(new_task(world, "plain", true));
            }
            Self::Two => {
                work.tasks.push(new_task(world, "plain", true));
                work.tasks.push(new_task(world, "plain", true));
            }
            Self::Company => {
                work.tasks.push(new_task(world, "leave", true));
                work.tasks.push(new_task(world, "leave", true));
            }
            Self::Steal => {
                // The second's number follows the first's.
                work.tasks.push(new_task(world, "steal", true));
                work.tasks.push(new_task(world, "steal", true));
            }
            Self::Inbound => {}
            Self::Folder => work.tasks.push(new_task(world, "plain", false)),
            Self::Plain | Self::Stranger | Self::Restart | Self::Revive => {
                work.tasks.push(new_task(world, "plain", true));
            }
            Self::Leave | Self::Park => work.tasks.push(new_task(world, "leave", true)),
            Self::Brood => work.tasks.push(new_task(world, "brood", true)),
            Self::Stop => work.tasks.push(new_task(world, "linger", true)),
        }
        work
    }

    pub(super) fn queue(self) -> &'static str {
        match self {
            Self::Leave | Self::Park | Self::Company => "leave",
            Self::Brood => "brood",
            Self::Steal => "steal",
            Self::Stop => "linger",
            _ => "plain",
        }
    }

    /// What sets it going, once everything is armed; how many it killed for that.
    pub(super) fn begin(self, world: &mut World, work: &mut Work) -> u32 {
        work.unassigned = work.tasks.clone();
        match self {
            Self::Restart | Self::Retention => return world.kill_all(&[Role::Daemon]),
            Self::Revive => return world.kill_all(&[Role::Server]),
            // Not before: the daemon clears it within milliseconds.
            Self::Stranger => write_pid_file(world, work.tasks[0], dead_pid()),
            Self::Steal => {
                // Both are in the queue before anybody looks: a run that began with the first alone would not answer for the second.
                let killed = world.kill_all(&[Role::Daemon]);
                for task in work.unassigned.drain(..) {
                    until("it is assigned", || {
                        assign(world, task, self.queue()).then_some(())
                    });
                }
                return killed;
            }
            Self::Inbound => {
                let name = format!("request-{}", super::driver::serial());
                let half = world.root().join("half");
                std::fs::write(&half, "do this").expect("a file");
                std::fs::rename(half, world.path("inbound").join(&name)).expect("a rename");
                work.files.push(name);
            }
            _ => {}
        }
        0
    }
}

/// A task in no queue yet. The test's own call is repeated until it is answered, as somebody may have killed the server.
pub(super) fn new_task(world: &World, queue: &str, with_folder: bool) -> i64 {
    let id = until("a task is made", || {
        let args = json!({"title": format!("for {queue}"), "created_by": "a test"});
        world.ask("create_task", &args)?["id"].as_i64()
    });
    if with_folder {
        std::fs::create_dir_all(world.path(&format!("workqueue/task_{id}"))).expect("a folder");
    }
    id
}

/// `false` where tinytask did not answer.
pub(super) fn assign(world: &World, task: i64, queue: &str) -> bool {
    world.update(task, json!({"assigned_to": queue}))
}

pub(super) fn is_complete(world: &World, task: i64) -> bool {
    world
        .task(task)
        .is_some_and(|task| task["status"] == "complete")
}

pub(super) fn write_pid_file(world: &World, task: i64, pid: i32) {
    let half = world.root().join("half");
    std::fs::write(&half, format!("{pid}\n")).expect("a file");
    let path = world.path("running_tasks").join(format!("task_{task}.pid"));
    std::fs::rename(half, path).expect("a rename");
}

/// The number of a process that has been.
fn dead_pid() -> i32 {
    let mut child = std::process::Command::new("true").spawn().expect("true");
    let pid = child.id().cast_signed();
    child.wait().expect("it is ours");
    pid
}
