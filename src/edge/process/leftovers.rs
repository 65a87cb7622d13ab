//! What is alive of runs whose shim is dead, found by one scan of /proc for all of them.
//!
//! A process is certainly a run's when it holds the run's agent.lock (bash passes it on to children), or carries its token in the
//! environment (python and node do not pass descriptors on), or sits in the shim's session while that session is provably the
//! shim's, or was certain at an earlier look. The rest is doubtful: told, never signalled.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8PathBuf;

use super::{Stat, TOKEN_VARIABLE, exists, stat};
use crate::core::Alive;
use crate::core::layout::{Layout, RunDir};
use crate::core::model::{ProcessId, RunState};
use crate::core::record::StateRecord;
use crate::edge::{clock, files, kill_point};

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

/// What of each run is alive, in the order of `runs`; `None` where this user cannot see, or not now (no descriptor is left, say).
pub fn leftovers(layout: &Layout, runs: &[DeadShim<'_>]) -> Vec<Option<Alive>> {
    let questions: Vec<Question<'_>> = runs.iter().map(|run| Question::new(layout, run)).collect();
    let is_scan_needed = questions.iter().any(|question| question.answered.is_none());
    let look = || Seen::look(&questions).ok();
    let mut seen = is_scan_needed.then(look).flatten();
    // A holder that handed its lock to a child and died while the list was read is found by a second reading.
    if let Some(first) = &seen
        && (0..questions.len()).any(|at| first.hides_holder(at, &questions[at]))
    {
        seen = look();
    }
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
    lock_path: Utf8PathBuf,
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
            lock_path,
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
    /// Per question: it holds the lock.
    holds_lock: Vec<bool>,
    /// Per question: it carries the token.
    has_token: Vec<bool>,
    /// It may carry a token, but its environment cannot be read.
    is_hidden: bool,
}

/// All processes, as one scan saw them.
struct Seen {
    processes: Vec<Examined>,
    /// What this process itself holds, as a bash that started it passes its lock on.
    own_locks: Vec<(u64, u64)>,
    /// This user does not even see that others' processes are there (the hidepid option of proc(5)).
    hides_others: bool,
}

impl Seen {
    fn look(questions: &[Question<'_>]) -> io::Result<Self> {
        let own = std::process::id().cast_signed();
        let wants_locks = questions.iter().any(|question| question.lock.is_some());
        let processes = stat::all()?
            .into_iter()
            // This process may itself have been started by an agent; it is not what that agent left behind.
            .filter(|stat| !stat.is_dead() && stat.pid != own)
            .map(|stat| examine(stat, questions, wants_locks))
            .collect::<io::Result<_>>()?;
        let hides_others = match stat(1) {
            Ok(init) => init.is_none(),
            Err(error) if is_out_of_descriptors(&error) => return Err(error),
            Err(_) => true,
        };
        Ok(Self {
            processes,
            own_locks: if wants_locks {
                held_files(own)?
            } else {
                Vec::new()
            },
            hides_others,
        })
    }

    /// Somebody holds the run's lock, and nobody who can be seen does: it lives where this process cannot look (a container's pid
    /// namespace, another user's program). A held lock proves life.
    fn hides_holder(&self, at: usize, question: &Question<'_>) -> bool {
        let Some(lock) = question.lock else {
            return false;
        };
        let is_seen = self.processes.iter().any(|process| process.holds_lock[at])
            || self.own_locks.contains(&lock);
        // Asked again, as the holder may have ended meanwhile.
        !is_seen && files::is_held_at(&question.lock_path).unwrap_or(true)
    }

    /// Number and start are the agent's, but neither the token nor the lock that every agent has: another process that got the number
    /// within the same tick of 10 ms, or an agent that rid itself of both. Nobody can tell, so it is never signalled.
    fn is_twin(&self, at: usize, question: &Question<'_>, process: &Examined) -> bool {
        question.run.token.is_some()
            && !process.is_hidden
            && !process.has_token[at]
            && !process.holds_lock[at]
    }

    fn answer(&self, at: usize, question: &Question<'_>) -> Option<Alive> {
        if self.hides_holder(at, question) {
            return None;
        }
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
            process.holds_lock[at]
                || process.has_token[at]
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
            let is_agent = question.agent.as_ref() == Some(&id);
            let has_number = (question.agent.as_ref()).is_some_and(|agent| agent.pid == id.pid);
            if is_agent && self.is_twin(at, question, process) {
                alive.doubtful.push(process.stat.leftover());
            } else if is_agent || (has_number && kill_point::is_planted("any-pid")) {
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

/// # Errors
/// Only what says something of this process, not of that one.
fn examine(stat: Stat, questions: &[Question<'_>], wants_locks: bool) -> io::Result<Examined> {
    let (environment, is_hidden) = match environment(stat.pid) {
        Ok(environment) => (environment, false),
        Err(error) if is_out_of_descriptors(&error) => return Err(error),
        Err(error) => (Vec::new(), error.kind() == io::ErrorKind::PermissionDenied),
    };
    let tokens = tokens(&environment);
    let locks = if wants_locks {
        held_files(stat.pid)?
    } else {
        Vec::new()
    };
    Ok(Examined {
        holds_lock: (questions.iter())
            .map(|question| question.lock.is_some_and(|lock| locks.contains(&lock)))
            .collect(),
        has_token: (questions.iter())
            .map(|question| {
                question
                    .run
                    .token
                    .is_some_and(|token| tokens.contains(&token))
            })
            .collect(),
        is_hidden,
        stat,
    })
}

/// This process's limit, or the machine's (open(2)); or no memory for one more.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM))
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

/// Device and inode of the files it holds an OFD lock on. To have such a file open is not enough. What it closes meanwhile, or
/// this user may not see, is left out.
fn held_files(pid: i32) -> io::Result<Vec<(u64, u64)>> {
    let mut held = Vec::new();
    let fds = match std::fs::read_dir(format!("/proc/{pid}/fdinfo")) {
        Err(error) if is_out_of_descriptors(&error) => return Err(error),
        fds => fds.into_iter().flatten().flatten(),
    };
    for entry in fds {
        match std::fs::read(entry.path()) {
            Ok(info) if holds_ofd_lock(&info) => {}
            Err(error) if is_out_of_descriptors(&error) => return Err(error),
            Ok(_) | Err(_) => continue,
        }
        // The lock's own line names the file too, but by a device number that differs from stat(2)'s on btrfs and overlayfs.
        let fd = entry.file_name();
        let file = std::fs::metadata(format!("/proc/{pid}/fd/{}", fd.to_string_lossy()));
        held.extend(file.map(|file| (file.dev(), file.ino())));
    }
    Ok(held)
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
