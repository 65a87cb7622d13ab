//! What is alive of runs whose shim is dead, found by one scan of /proc for all of them.
//!
//! A process is certainly a run's when it holds the run's agent.lock (bash passes it on to children), or carries its token in the
//! environment (python and node do not pass descriptors on), or sits in the shim's session while that session is provably the
//! shim's, or was certain at an earlier look. The rest is doubtful: told, never signalled.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use super::{Stat, TOKEN_VARIABLE, exists, stat};
use crate::core::Alive;
use crate::core::layout::{Layout, RunDir};
use crate::core::model::{ProcessId, RunState};
use crate::core::record::StateRecord;
use crate::edge::{clock, files};

/// No environment is larger: the kernel allows a quarter of the stack's limit, and 6 MB at most.
const ENVIRONMENT_LIMIT: u64 = 8 << 20;

/// A run whose shim.lock is free.
#[derive(Debug, Clone, Copy)]
pub struct DeadShim<'a> {
    pub dir: &'a RunDir,
    /// The spec's token, where the spec can be read.
    pub token: Option<&'a str>,
    /// Its state, where that has this token.
    pub state: Option<&'a StateRecord>,
    /// Processes that were certainly its at an earlier look.
    pub known: &'a [ProcessId],
}

/// What of each run is alive, in the order of `runs`; `None` where this user cannot see.
pub fn leftovers(layout: &Layout, runs: &[DeadShim<'_>]) -> Vec<Option<Alive>> {
    let questions: Vec<Question<'_>> = runs.iter().map(|run| Question::new(layout, run)).collect();
    let is_scan_needed = questions.iter().any(|question| question.answered.is_none());
    let seen = is_scan_needed.then(|| Seen::look(&questions));
    questions
        .into_iter()
        .enumerate()
        .map(
            |(at, mut question)| match (question.answered.take(), &seen) {
                (Some(answer), _) => answer,
                (None, Some(seen)) => seen.answer(at, &question),
                (None, None) => None,
            },
        )
        .collect()
}

/// One run, and what is to be found out about it.
struct Question<'a> {
    run: &'a DeadShim<'a>,
    agent: Option<ProcessId>,
    /// Device and inode of its agent.lock, when somebody holds that.
    lock: Option<(u64, u64)>,
    /// Whose processes its agents are: the owner of the run directory.
    owner: Option<u32>,
    answered: Option<Option<Alive>>,
}

impl<'a> Question<'a> {
    fn new(layout: &Layout, run: &'a DeadShim<'a>) -> Self {
        let paths = layout.run(run.dir);
        let lock_path = paths.agent_lock();
        let mut agent = None;
        let mut answered = None;
        match run.state {
            // After a reboot nothing of it is left, and its numbers mean others.
            Some(state) if state.boot_id != clock::boot_id() => {
                answered = Some(Some(Alive::default()));
            }
            Some(state) => match &state.state {
                RunState::Starting => {}
                RunState::Running { agent: recorded } => agent = Some(recorded.clone()),
                // The shim was subreaper: what it wrote down is all there was.
                RunState::Ended { leftovers, .. } => {
                    let mut alive = Some(Alive::default());
                    for leftover in leftovers {
                        match stat(leftover.process.pid) {
                            Ok(Some(found)) if found.id() == leftover.process => {
                                if let (false, Some(alive)) = (found.is_dead(), &mut alive) {
                                    alive.leftovers.push(leftover.clone());
                                }
                            }
                            Ok(Some(_)) => {}
                            Ok(None) if !exists(leftover.process.pid) => {}
                            Ok(None) | Err(_) => alive = None,
                        }
                    }
                    answered = Some(alive);
                }
            },
            None => {}
        }
        let lock = match files::is_held_at(&lock_path) {
            Ok(true) => files::identity(&lock_path).ok().flatten(),
            Ok(false) => None,
            Err(_) => {
                answered.get_or_insert(None);
                None
            }
        };
        Self {
            run,
            agent,
            lock,
            owner: std::fs::symlink_metadata(&paths.dir)
                .ok()
                .map(|meta| meta.uid()),
            answered,
        }
    }
}

/// One process, with which runs it is certainly of.
struct Examined {
    stat: Stat,
    /// Per question: it holds the lock or carries the token.
    is_certain: Vec<bool>,
    /// It may carry a token, but its environment cannot be read.
    is_hidden: bool,
}

/// All processes, as one scan saw them.
struct Seen {
    processes: Vec<Examined>,
    /// This user does not even see that others' processes are there (the hidepid option of proc(5)).
    hides_others: bool,
}

impl Seen {
    fn look(questions: &[Question<'_>]) -> Self {
        let own = std::process::id().cast_signed();
        let wants_locks = questions.iter().any(|question| question.lock.is_some());
        let processes = stat::all()
            .into_iter()
            // This process may itself have been started by an agent; it is not what that agent left behind.
            .filter(|stat| !stat.is_dead() && stat.pid != own)
            .map(|stat| examine(stat, questions, wants_locks))
            .collect();
        Self {
            processes,
            hides_others: !matches!(stat(1), Ok(Some(_))),
        }
    }

    fn answer(&self, at: usize, question: &Question<'_>) -> Option<Alive> {
        let viewer = rustix::process::geteuid().as_raw();
        if self.hides_others && question.owner != Some(viewer) {
            return None;
        }
        let shim = question.run.state.map(|state| &state.shim);
        // To another user, any process of the run's owner that began since could be the run's. To the owner, one that may not be looked
        // into is a program with privileges of its own (an ssh-agent, a container's init), which no agent's child becomes unnoticed.
        let is_blind = question.owner != Some(viewer)
            && self.processes.iter().any(|process| {
                process.is_hidden
                    && process.stat.uid == question.owner
                    && shim.is_some_and(|shim| process.stat.start >= shim.start)
            });
        if is_blind {
            return None;
        }
        let is_in_session = |stat: &Stat| {
            shim.is_some_and(|shim| stat.session == shim.pid && stat.start >= shim.start)
        };
        let is_certain = |process: &Examined| {
            let id = process.stat.id();
            process.is_certain[at]
                || question.agent.as_ref() == Some(&id)
                || question.run.known.contains(&id)
        };
        // A session's number is not given out again while the session has a member. So one certain member proves that it is
        // still the shim's; a leader that is not the recorded shim proves that it is not; else nobody can tell.
        let is_proven = self
            .processes
            .iter()
            .any(|process| is_in_session(&process.stat) && is_certain(process));
        let is_refuted = shim.is_some_and(|shim| {
            self.processes
                .iter()
                .any(|process| process.stat.pid == shim.pid && process.stat.id() != *shim)
        });
        let mut alive = Alive::default();
        for process in &self.processes {
            let id = process.stat.id();
            // Asked about a shim that is alive but stopped, say: it is no leftover.
            if shim == Some(&id) {
                continue;
            }
            let is_member = is_in_session(&process.stat) && !is_refuted;
            if question.agent.as_ref() == Some(&id) {
                alive.agent = Some(id);
            } else if is_certain(process) || (is_member && is_proven) {
                alive.leftovers.push(process.stat.leftover());
            } else if is_member {
                alive.doubtful.push(process.stat.leftover());
            }
        }
        Some(alive)
    }
}

fn examine(stat: Stat, questions: &[Question<'_>], wants_locks: bool) -> Examined {
    let (environment, is_hidden) = match environment(stat.pid) {
        Ok(environment) => (environment, false),
        Err(error) => (Vec::new(), error.kind() == io::ErrorKind::PermissionDenied),
    };
    let tokens = tokens(&environment);
    let locks = if wants_locks {
        held_files(stat.pid)
    } else {
        Vec::new()
    };
    Examined {
        is_certain: questions
            .iter()
            .map(|question| {
                question
                    .run
                    .token
                    .is_some_and(|token| tokens.contains(&token))
                    || question.lock.is_some_and(|lock| locks.contains(&lock))
            })
            .collect(),
        is_hidden,
        stat,
    }
}

fn environment(pid: i32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/environ"))?
        .take(ENVIRONMENT_LIMIT)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The values of the token's variable in an environment: `NAME=value`, each ended by a NUL.
pub fn tokens(environment: &[u8]) -> Vec<&str> {
    environment
        .split(|&byte| byte == 0)
        .filter_map(|entry| {
            let value = entry
                .strip_prefix(TOKEN_VARIABLE.as_bytes())?
                .strip_prefix(b"=")?;
            std::str::from_utf8(value).ok()
        })
        .collect()
}

/// Device and inode of the files it holds an OFD lock on. To have such a file open is not enough.
fn held_files(pid: i32) -> Vec<(u64, u64)> {
    std::fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let info = std::fs::read(entry.path()).ok()?;
            if !holds_ofd_lock(&info) {
                return None;
            }
            // The lock's own line names the file too, but by a device number that differs from stat(2)'s on btrfs and overlayfs.
            let fd = entry.file_name();
            let file = std::fs::metadata(format!("/proc/{pid}/fd/{}", fd.to_str()?)).ok()?;
            Some((file.dev(), file.ino()))
        })
        .collect()
}

/// Linux writes `lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:10010635 0 EOF` for the description that holds one (proc_pid_fdinfo(5)).
pub fn holds_ofd_lock(fdinfo: &[u8]) -> bool {
    fdinfo.split(|&byte| byte == b'\n').any(|line| {
        line.strip_prefix(b"lock:").is_some_and(|rest| {
            rest.split(|byte| byte.is_ascii_whitespace())
                .any(|word| word == b"OFDLCK")
        })
    })
}

#[cfg(test)]
mod tests;
