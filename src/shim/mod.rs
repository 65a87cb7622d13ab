//! The shim: parent of exactly one run.
//!
//! Starts the agent with its output already on the log file, waits, ends what it left behind, writes the outcome, exits. It outlives
//! the daemon, so a daemon's crash costs no run and no line of log. Knows nothing of tinytask, settings or recipes: all it needs is in
//! the run directory. No threads, no tokio, one `poll`.
//!
//! # The protocol
//!
//! Who may start a task is settled by one link(2): the pid file is complete before it has its public name, and whoever links it
//! first has the task. The agent is forked before that, so that its number can stand in the file, but behind a gate: a pipe on which
//! one byte means "go" and end-of-file means "die". Nobody but the shim holds the writing end, so when the shim dies early, for
//! whatever reason, the agent's first instruction never runs.
//!
//! ```text
//! daemon  D1 live/ entry, run directory, shim.lock locked    D2 spec.json    D3 start the shim, the lock its standard input
//! shim    S1 session of its own, the lock taken from standard input; where it was started ahead, that and the run come in a message
//!         S2 subreaper, spec young enough, agent.lock locked     S3 state: starting
//!         S4 fork the agent behind the gate     S5 link the pid file     S6 state: running     S7 go
//!         …  wait: the agent's end, a stop, the time limit, the log's limit
//!         X1 end what is left of it, collect it     X2 state: ended, synced     X3 unlink the pid file     X4 exit
//! ```
//!
//! | the shim dies | what a daemon finds, and what it means |
//! |---|---|
//! | before S2 is done | spec, shim.lock free, no pid file: nothing ran |
//! | S3, S4 | `starting`, no pid file; the gated child reads end-of-file and exits: nothing ran |
//! | after S5 | `starting` and our pid file: nothing ran, for the gate opens only after `running` is on disk; clear the file |
//! | after S6, before S7 | `running`, our pid file, nobody alive: cannot be told from an agent that died with the shim: lost |
//! | after S7 | `running`, our pid file, the agent alive: an orphan, watched by the daemon; or dead: lost, and leftovers are swept |
//! | after X2 | `ended`, our pid file: the outcome is known, clear the file |
//! | after X3 | `ended`, no pid file: over, whether shim.lock is still held or not |
//!
//! Two shims for one task: both fork a gated agent, one links; the other meets EEXIST, kills its child at the gate, and leaves
//! the file alone. A shim started twice for one run directory meets the other's agent.lock, which only one of them can make.
//! A shim frozen between D3 and S2 would start work that was decided long ago: it refuses a spec older than ten seconds.
//! A number is signalled only while it is pinned, by a child not yet collected; everything else goes through checked pidfds.
//!
//! Known gap: if the shim itself is killed the outcome is unknown, and the run is reported as lost.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use camino::Utf8PathBuf;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::core::layout::{Layout, RunDir, parse_subject_dir};
use crate::core::model::{Leftover, Millis, Moment, Outcome, RunState};
use crate::core::record::{FORMAT, SpecHead, StateRecord};
use crate::edge::files::{self, Durability};
use crate::edge::kill_point::{self, is_planted};
use crate::edge::{clock, process, runs};

mod agent;
mod order;
mod sweep;
mod watch;

use agent::Gated;

/// A spec that waited longer than this for its shim is not started any more: the daemon that wrote it has long looked again.
const SPEC_AGE: Millis = Millis::secs(10);
/// What a start left behind is synced this long after it.
const SYNC_AFTER: Millis = Millis(50);
/// How often, a second apart, `ended` is tried again where that fails for no lack of room, before the run is given up as lost.
const END_TRIES: u32 = 60;

/// Runs the shim where this process was started as one; `None` where it was not.
pub fn entry() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let word = args.next()?;
    let is_spare = word == process::SPARE_WORD;
    if !is_spare && word != process::SHIM_WORD {
        return None;
    }
    kill_point::reach("S1:begun");
    // S1
    // A session of its own, before a signal to the starter's group can meet it: no terminal's signals, and a mark on all descendants
    // that do not leave it.
    nix::unistd::setsid().ok();
    // The kernel names it after the descriptor that it was executed through.
    nix::sys::prctl::set_name(c"calypso-shim").ok();
    // What the starter left open by mistake must not live on here: from now on each descriptor is ours, and closed on exec.
    agent::close_from(3);
    let given = if is_spare {
        match order::wait() {
            order::Given::Nothing => return Some(ExitCode::SUCCESS),
            order::Given::Run(dir, lock) => Some((dir, lock)),
        }
    } else {
        let dir = args.next().map(std::path::PathBuf::from);
        dir.and_then(|dir| Utf8PathBuf::from_path_buf(dir).ok())
            .zip(order::take_stdin())
    };
    let given = given.and_then(|(dir, lock)| Some((Place::parse(dir)?, lock)));
    Some(match given {
        Some((place, lock)) if place.is_of(&lock) => {
            kill_point::reach("S1:given");
            see_to_its_end(&place, &lock);
            // What goes wrong from here on stands in the run's records.
            ExitCode::SUCCESS
        }
        // Not this run's shim.lock, or not locked: then nobody who looks could see that the shim lives.
        _ => ExitCode::from(2),
    })
}

/// Where the run lives.
struct Place {
    layout: Layout,
    dir: RunDir,
}

impl Place {
    /// `{base}/.calypso/runs/task_7/0003-architect`, absolute; `None` for anything that `Layout` would not make.
    fn parse(path: Utf8PathBuf) -> Option<Self> {
        let subject = path.parent()?;
        let base = subject.parent()?.parent()?.parent()?;
        let place = Self {
            layout: Layout::new(base),
            dir: RunDir::parse_dir(parse_subject_dir(subject.file_name()?)?, path.file_name()?)?,
        };
        (path.is_absolute() && place.layout.run(&place.dir).dir == path).then_some(place)
    }

    /// Is this the run's shim.lock, held?
    fn is_of(&self, lock: &OwnedFd) -> bool {
        let path = self.layout.run(&self.dir).shim_lock();
        let given = nix::sys::stat::fstat(lock).map(|given| (given.st_dev, given.st_ino));
        let is_ours =
            files::identity(&path).is_ok_and(|there| there.is_some() && there == given.ok());
        is_ours && (files::is_held_at(&path).unwrap_or(false) || is_planted("no-lock"))
    }
}

/// The shim proper.
struct Shim<'a> {
    place: &'a Place,
    spec: SpecHead,
    record: StateRecord,
    signals: SignalFd,
}

/// Everything from S2 on. `lock` is held until this returns, and closed by the end of the process (X4).
fn see_to_its_end(place: &Place, lock: &OwnedFd) {
    // S2
    // What an agent's child leaves behind becomes ours.
    process::become_subreaper().ok();
    kill_point::reach("S2:subreaper");
    let Some(signals) = take_signals() else {
        return;
    };
    kill_point::reach("S2:signals");
    let Ok(Some(spec)) = runs::read_spec_head(&place.layout, &place.dir) else {
        // No token, so no record could be told from another's: shim.lock comes free, and that says that nothing ran.
        return;
    };
    kill_point::reach("S2:spec-read");
    let now = clock::now();
    let record = StateRecord {
        format: FORMAT,
        token: spec.token.clone(),
        state: RunState::Starting,
        shim: process::own(),
        boot_id: now.boot_id.clone(),
        started: Moment::from(&now),
        running: None,
        ended: None,
        usage: None,
    };
    let mut shim = Shim {
        place,
        spec,
        record,
        signals,
    };
    let Some(agent_lock) = shim.lock_agent() else {
        // A shim has been here before. Its records stand.
        return;
    };
    kill_point::reach("S2:agent-locked");
    let written = &shim.spec.times.written;
    if written.boot_id != now.boot_id || written.age(&now) > SPEC_AGE {
        shim.end(Outcome::NotLaunched("its spec is too old".into()), vec![]);
        return;
    }
    kill_point::reach("S2:young");
    // S3
    let started = shim
        .write(Durability::Crash)
        .map_err(|error| not_launched(format!("cannot record that it starts: {error}")));
    let (outcome, leftovers) = match started.and_then(|()| shim.launch(agent_lock, lock)) {
        Ok((gated, log)) => shim.see_through(gated, &log),
        Err(outcome) => (outcome, vec![]),
    };
    shim.end(outcome, leftovers);
}

/// From here on signals are read, not suffered. SIGCHLD must have its default action: ignored, as some starters leave it, children would
/// be collected by the kernel and their outcome lost.
fn take_signals() -> Option<SignalFd> {
    // SAFETY: no handler is installed; the default action needs no code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) }.ok()?;
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        set.add(signal);
    }
    set.thread_block().ok()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()
}

impl Shim<'_> {
    /// `None` when the file is there already, or cannot be made.
    fn lock_agent(&self) -> Option<File> {
        let path = self.place.layout.run(&self.place.dir).agent_lock();
        let file = files::create_new(&path, 0o644).ok()?;
        kill_point::reach("S2:agent-lock-made");
        files::try_lock(&file).ok()?.then_some(file)
    }

    /// S4 to S7. Whatever fails on the way kills the child at its gate.
    fn launch(&mut self, agent_lock: File, lock: &OwnedFd) -> Result<(Gated, File), Outcome> {
        let paths = self.place.layout.run(&self.place.dir);
        let log = agent::open_log(&paths.output())
            .map_err(|error| not_launched(format!("output.log: {error}")))?;
        kill_point::reach("S4:log-open");
        if is_planted("link-before-fork") {
            self.link_pid_file(nix::unistd::getpid())?;
        }
        // S4
        let gated = Gated::fork(&self.spec, &log, &agent_lock, lock)
            .map_err(|error| not_launched(format!("fork: {error}")))?;
        // The agent's copy is what tells that it lives; ours would tell of the shim.
        drop(agent_lock);
        kill_point::reach("S4:agent-lock-left");
        let gated = match self.take_task(&gated) {
            Ok(()) => gated,
            Err(outcome) => {
                gated.kill();
                kill_point::reach("S5:child-killed");
                return Err(outcome);
            }
        };
        kill_point::reach("S7:before");
        // S7
        gated.open_gate();
        kill_point::reach("S7:opened");
        Ok((gated, log))
    }

    /// Makes what the start left behind outlive a power cut: the agent claims the task in tinytask, which does, and without a spec nobody
    /// would know whose claim that was. A moment after the start, or at an end that comes before: while the disk writes, whatever else
    /// makes a file waits, and that is the agent, the daemon and the next run. What fails here is no reason to end a run.
    fn sync_start(&self) {
        let layout = &self.place.layout;
        let paths = layout.run(&self.place.dir);
        let subject = layout.subject_runs(self.place.dir.id.subject);
        let (spec, state) = (paths.spec(), paths.state());
        for path in [spec, state, paths.dir, subject, layout.live()] {
            File::open(path).and_then(|file| file.sync_all()).ok();
        }
    }

    /// S5: from here on the task is ours, or somebody else's.
    fn link_pid_file(&self, agent: Pid) -> Result<(), Outcome> {
        let own = self.place.layout.run(&self.place.dir).pid();
        let shared = self.place.layout.pid_file(self.place.dir.id.subject);
        let name = shared.file_name().unwrap_or_default();
        kill_point::reach("S5:before-pid");
        agent::write_pid(&own, agent)
            .map_err(|error| not_launched(format!("cannot write its pid: {error}")))?;
        kill_point::reach("S5:pid-written");
        // S5
        std::fs::hard_link(&own, &shared).map_err(|error| {
            kill_point::reach("S5:refused");
            not_launched(if error.kind() == std::io::ErrorKind::AlreadyExists {
                format!("{name} exists: somebody has the task")
            } else {
                format!("cannot link {name}: {error}")
            })
        })?;
        kill_point::reach("S5:linked");
        Ok(())
    }

    /// S5 and S6: the task is ours from the link on, and the record says `running` before the gate opens.
    fn take_task(&mut self, gated: &Gated) -> Result<(), Outcome> {
        if !is_planted("link-before-fork") {
            self.link_pid_file(gated.pid)?;
        }
        let agent = process::identity(gated.pid.as_raw())
            .ok_or_else(|| not_launched("the agent died at its gate".into()))?;
        kill_point::reach("S5:identified");
        self.record.running = Some(Moment::from(&clock::now()));
        self.record.state = RunState::Running { agent };
        // S6
        self.write(Durability::Crash)
            .map_err(|error| not_launched(format!("cannot record that it runs: {error}")))?;
        kill_point::reach("S6:recorded");
        // A stop that came meanwhile is obeyed before the agent can do anything.
        match watch::read_stop(&self.signals) {
            Some(by) => Err(Outcome::Stopped(by)),
            None => Ok(()),
        }
    }

    /// From "go" to X1: waits for the agent's end or a reason to bring it about, then ends what it left.
    fn see_through(&mut self, gated: Gated, log: &File) -> (Outcome, Vec<Leftover>) {
        watch::linger(SYNC_AFTER, &gated, &self.signals);
        self.sync_start();
        let cause = watch::wait(&self.spec.limits, &gated, &self.signals, log);
        kill_point::reach("X1:over");
        // X1
        let end = sweep::end(&gated, self.spec.limits.sweep, &self.signals);
        self.record.usage = Some(end.usage);
        let outcome = match (gated.exec_error(&self.spec.cwd), cause) {
            (Some(error), _) => not_launched(error),
            (None, Some(cause)) => cause,
            (None, None) => end.outcome,
        };
        (outcome, end.leftovers)
    }

    /// X2 to X4.
    fn end(&mut self, outcome: Outcome, leftovers: Vec<Leftover>) {
        self.record.state = RunState::Ended { outcome, leftovers };
        self.record.ended = Some(Moment::from(&clock::now()));
        kill_point::reach("X2:before");
        // X2
        // A full disk will have room again, and nobody else knows how the run ended: this waits as long as that takes. Until then
        // the held lock and the pid file say "not over", which is safe. A second SIGTERM, or a minute of any other failure (the
        // folder is gone), and the run is left to be found lost.
        let mut tries = 0;
        while let Err(error) = self.write(Durability::PowerCut) {
            tries += u32::from(!error.is_no_room());
            if tries >= END_TRIES || watch::pause(&self.signals, Millis::secs(1)).is_some() {
                break;
            }
        }
        kill_point::reach("X3:before");
        // X3
        runs::clear_pid_file(&self.place.layout, &self.place.dir).ok();
        kill_point::reach("X4:before");
        // X4
    }

    fn write(&self, durability: Durability) -> Result<(), runs::Error> {
        runs::write_state(
            &self.place.layout,
            &self.place.dir,
            &self.record,
            durability,
        )
    }
}

fn not_launched(why: String) -> Outcome {
    Outcome::NotLaunched(why)
}
