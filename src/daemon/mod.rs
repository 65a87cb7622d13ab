//! The daemon: lock, look, then the loop: wake → look → decide → perform. Decides nothing itself.
//!
//! It may be killed at any line. Whatever it was doing is on disk, or was not begun: agents live on under their shims, and the
//! next daemon takes the same look and goes on from there. So nothing in here is remembered that matters, except for speed.
//!
//! One thread. inotify, pidfds, timers and signals only wake the loop; none of them is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use camino::Utf8PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::core::decide::decide;
use crate::core::model::{Millis, Moment, Now, QueueName, RunId, RunState, RunSubject, Timestamp};
use crate::core::record::{FileVerdict, Known};
use crate::core::verdict::Meaning;
use crate::core::{Decision, Snapshot, Tinytask};
use crate::edge::{clock, config, control, kill_point, process, runs, watch};
use crate::look::{self, Looker, Scope, chain};
use timers::Timers;

mod builtin;
mod journal;
mod lock;
mod perform;
mod timers;

pub use builtin::{Builtin, start_builtin};
pub use journal::{StoryEvent, read_story};
pub use lock::{DaemonRecord, Lock, LockRecord, running, said};

/// Looks in a row that each led to an action, before the loop takes a breath: nothing legitimate comes near it.
const MOST_ROUNDS: u32 = 200;

/// A shim that was just started says who it is within this, or refuses its spec; and is looked at this often until then.
const SHIM_SAYS: Millis = Millis::secs(15);
const SHIM_LOOK: Duration = Duration::from_millis(100);

/// Why the daemon cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another calypso-watch (pid {pid}, up {up}) is watching `{base}`")]
    AlreadyRunning {
        pid: i32,
        up: String,
        base: Utf8PathBuf,
    },
    #[error("calypso-watch on `{host}` looked at `{base}` {ago} ago, and this is another machine")]
    OtherMachine {
        host: String,
        ago: String,
        base: Utf8PathBuf,
    },
    #[error(
        "run `{run}` is alive and cannot be seen from here: it was started in another container (pid namespace)"
    )]
    Unseen { run: RunId },
    #[error("cannot write in `{path}`")]
    Write {
        path: Utf8PathBuf,
        source: std::io::Error,
    },
    #[error(
        "`{path}` is not the folder that this daemon watches any more; nothing is started until that is back"
    )]
    Displaced { path: Utf8PathBuf },
    #[error("files in `{from}` cannot have a second name in `{to}`")]
    NoLinks {
        from: Utf8PathBuf,
        to: Utf8PathBuf,
        source: std::io::Error,
    },
    #[error("the built-in tinytask did not start: {why}")]
    Builtin { why: String },
    #[error(transparent)]
    Watch(#[from] watch::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Look(#[from] look::Error),
    #[error("cannot set up signals")]
    Signals(#[source] std::io::Error),
}

/// What `run` needs besides the settings.
pub struct Options {
    /// Overrides given as flags, for a reload.
    pub flags: Vec<(&'static str, String)>,
    /// This program, for shims and the built-in tinytask.
    pub exe: Utf8PathBuf,
}

/// A future of ours that was spawned to stop or sweep a run has ended.
struct Done {
    run: RunId,
    swept: bool,
}

/// A subject whose launches fail in this daemon's own hands.
struct Failing {
    why: String,
    until: Instant,
    failures: u32,
}

impl Failing {
    /// It is left alone for half a second, doubling up to half a minute, as the loop's own retry is.
    fn failed(&mut self, why: String) {
        let wait = Duration::from_millis(500 << self.failures.min(6));
        self.why = why;
        self.until = Instant::now() + wait.min(Duration::from_secs(30));
        self.failures += 1;
    }
}

impl Default for Failing {
    fn default() -> Self {
        Self {
            why: String::new(),
            until: Instant::now(),
            failures: 0,
        }
    }
}

/// The daemon of one base path.
pub struct Daemon {
    looker: Looker,
    options: Options,
    /// Held for the daemon's life.
    lock: Lock,
    journal: journal::Journal,
    /// Rung by anything that wants a look.
    bell: Rc<Notify>,
    done: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    watched: BTreeMap<RunId, JoinHandle<()>>,
    /// Launches that failed here before a run began, by queue; shown as holds until the next slow look.
    stuck: BTreeMap<QueueName, String>,
    /// The same of a single task, or of inbound/.
    failing: BTreeMap<RunSubject, Failing>,
    since: Moment,
    /// When the event that led to the present look was read.
    event: Option<Moment>,
    builtin: Option<Builtin>,
    /// Something else had the base path's name at the last look.
    is_displaced: bool,
    /// What failed in the last round.
    trouble: Option<String>,
    /// How changes are heard of, in words.
    heard_by: String,
    /// Something seen since the last whole look calls for another one before anything is started.
    wants_everything: bool,
    /// As it was last written down.
    known: Option<Known>,
}

/// The runs that go on when the daemon leaves.
pub struct Leaving {
    pub going_on: Vec<(RunId, Option<String>, QueueName, Option<i32>)>,
}

impl Daemon {
    /// Takes the lock, makes the folders, starts the built-in tinytask where that is chosen.
    pub async fn start(config: config::Config, options: Options) -> Result<Self, Error> {
        let layout = crate::core::layout::Layout::new(config.base.clone());
        make_folders(&layout)?;
        kill_point::reach("daemon:folders-made");
        let lock = Lock::take(&layout)?;
        runs::restore_pid_files(&layout).map_err(look::Error::from)?;
        runs::try_link(&layout).map_err(|source| Error::NoLinks {
            from: layout.state(),
            to: layout.running_tasks(),
            source,
        })?;
        process::become_subreaper().ok();
        let builtin = start_builtin(&config, &layout, &options.exe).await?;
        let journal = journal::Journal::open(&layout);
        let mut looker = Looker::new(config);
        looker.memory.is_writer = true;
        Ok(Self {
            looker,
            options,
            lock,
            journal,
            bell: Rc::new(Notify::new()),
            done: mpsc::unbounded_channel(),
            watched: BTreeMap::new(),
            stuck: BTreeMap::new(),
            failing: BTreeMap::new(),
            since: (&clock::now()).into(),
            event: None,
            builtin,
            is_displaced: false,
            trouble: None,
            heard_by: "once".into(),
            wants_everything: false,
            known: None,
        })
    }

    /// Looks, decides and acts until nothing is left to do now; waits for nothing but the ends of runs it is ending itself.
    pub async fn once(mut self) -> Result<(Snapshot, Decision), Error> {
        let mut scope = Scope::Everything;
        loop {
            let (seen, decision, acted) = self.round(scope).await?;
            if self.looker.memory.in_hand.is_empty() && acted != Acted::Something {
                self.record(&seen, &decision);
                return Ok((seen, decision));
            }
            if acted != Acted::Something
                && let Some(done) = self.done.1.recv().await
            {
                self.is_done(&done);
            }
            scope = Scope::Everything;
        }
    }

    /// Watches until a TERM or an INT; the agents go on.
    pub async fn run(mut self) -> Result<Leaving, Error> {
        let mut signals = Signals::new().map_err(Error::Signals)?;
        // Arm first, then look: what happens in between is seen by the look or heard as an event, or both.
        let mut watch = watch::start(&self.looker.layout, self.looker.server.db.as_deref())?;
        info!(base = %self.looker.layout.base(), pid = std::process::id(), "watching");
        self.journal.started(&self.since);
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();

        let own_session = process::own_session();
        let mut timers = Timers::new();
        let mut scope = Scope::Everything;
        let mut rounds = 0;
        let mut has_looked = false;
        loop {
            self.looker.memory.closed = watch.closed_inbound();
            let began = Instant::now();
            let round = self.round(scope).await;
            let (wake_at, answered);
            let acted = match round {
                Ok((looked, decision, acted)) => {
                    wake_at = decision.wake_at;
                    answered = looked.tinytask.clone();
                    if let Err(error) = watch.watch_tasks(&waited_folders(&decision)) {
                        debug!(error = %error, "some task folders are left to the rescan");
                    }
                    self.heard_by(&watch);
                    self.record(&looked, &decision);
                    self.watch_processes(&looked, &decision);
                    if scope == Scope::Everything && timers.take_prune() {
                        self.prune(&looked);
                    }
                    self.revive_builtin(&looked).await;
                    has_looked = true;
                    acted
                }
                // Somebody else has the base path now.
                Err(error @ Error::AlreadyRunning { .. }) => return Err(error),
                // At the start a person reads it; later on a folder that cannot be read for a while must not end the watch.
                Err(error) if !has_looked => return Err(error),
                Err(error) => {
                    let error = chain(&error);
                    error!(error, "cannot look; nothing is started until that is over");
                    self.lock.tell(format!("cannot look: {error}")).ok();
                    (wake_at, answered) = (None, Tinytask::NotAsked);
                    Acted::Failed
                }
            };
            timers.looked(
                scope,
                self.looker.server.db.is_some(),
                self.looker.config.rescan,
            );
            // After `looked`, which sets the slow timer that this one may shorten.
            timers.answered(&answered);

            rounds = if acted == Acted::Something {
                rounds + 1
            } else {
                0
            };
            if acted == Acted::Something && rounds < MOST_ROUNDS {
                scope = if std::mem::take(&mut self.wants_everything) {
                    Scope::Everything
                } else {
                    Scope::Queues
                };
                continue;
            }
            if rounds >= MOST_ROUNDS {
                error!(
                    rounds,
                    "acting leads to nothing but more acting; waiting a moment"
                );
                timers.failed();
            }
            match acted {
                Acted::Failed => timers.failed(),
                Acted::Nothing => timers.succeeded(),
                Acted::Something => {}
            }
            self.event = None;
            // Looks keep a gap that grows with their cost, so that a storm of events cannot keep tinytask busy.
            let rest = began.elapsed().min(Duration::from_secs(2));
            tokio::time::sleep(rest).await;

            scope = loop {
                let reason = tokio::select! {
                    biased;
                    _ = signals.term.recv() => "TERM",
                    _ = signals.int.recv() => "INT",
                    wake = watch.next() => break self.woken(&wake, &mut timers),
                    () = self.bell.notified() => break Scope::Queues,
                    Some(done) = self.done.1.recv() => {
                        self.is_done(&done);
                        break Scope::Queues;
                    }
                    () = over(self.builtin.as_ref()) => {
                        if let Some(builtin) = &mut self.builtin {
                            builtin.is_over();
                        }
                        // The look finds it unreachable, and so it is started again.
                        break Scope::Everything;
                    }
                    _ = signals.hup.recv() => {
                        self.reload();
                        break Scope::Everything;
                    }
                    _ = signals.child.recv() => {
                        // Shims, and what their runs left, are in sessions of their own. Children in ours (a tinytask) belong
                        // to whoever started them.
                        process::reap_strays(|stat| stat.session != own_session);
                        continue;
                    }
                    () = timers.due(wake_at) => {
                        if timers.take_rescan() {
                            watch.verify();
                        }
                        if timers.take_tinytask() {
                            self.stuck.clear();
                            break Scope::Everything;
                        }
                        break Scope::Queues;
                    }
                };
                return Ok(self.leave(reason));
            };
        }
    }

    /// What a wake calls for.
    fn woken(&mut self, wake: &watch::Wake, timers: &mut Timers) -> Scope {
        for what in &wake.lost {
            warn!(what, "watching was disturbed");
            if self.lock.place() == lock::Place::Ours {
                self.journal.lost(what);
            }
        }
        if wake.areas.database {
            timers.database();
        }
        self.event = wake.first_event.map(at_moment);
        if wake.areas.config || wake.areas.recipes || wake.areas.rescan {
            self.stuck.clear();
            self.reload();
            return Scope::Everything;
        }
        Scope::Queues
    }

    /// Look, decide, perform, once.
    async fn round(&mut self, scope: Scope) -> Result<(Snapshot, Decision, Acted), Error> {
        self.keep_place()?;
        let now = clock::now();
        let mut seen = self.looker.look(scope, &now).await?;
        for (queue, why) in &self.stuck {
            seen.no_program
                .entry(queue.clone())
                .or_insert_with(|| why.clone());
        }
        for (subject, failing) in &self.failing {
            if Instant::now() < failing.until {
                seen.cannot_read(*subject, failing.why.clone());
            }
        }
        self.lock.touch();
        let decided_at = clock::now();
        let decision = decide(&seen, &self.looker.config.policy, &decided_at);
        self.journal.seen(&seen, &decision, &decided_at);
        let acted = self.perform(&seen, &decision, &now).await;
        Ok((seen, decision, acted))
    }

    /// Everything below goes by names, so the names must still lead to what was locked. Where only `.calypso` went, it is made and
    /// locked anew: pid files in running_tasks/ keep tasks whose agents live from being started twice. Another base path is
    /// never taken for this one: the agents of the one that was moved away would not be seen.
    fn keep_place(&mut self) -> Result<(), Error> {
        let layout = self.looker.layout.clone();
        let place = self.lock.place();
        let displaced = match place {
            lock::Place::Elsewhere => Some(layout.base().to_owned()),
            lock::Place::Emptied if layout.state().is_symlink() => Some(layout.state()),
            lock::Place::Ours | lock::Place::Emptied => None,
        };
        let was_displaced = std::mem::replace(&mut self.is_displaced, displaced.is_some());
        if let Some(path) = displaced {
            return Err(Error::Displaced { path });
        }
        if was_displaced {
            self.reload();
        }
        match place {
            lock::Place::Ours | lock::Place::Elsewhere => {}
            lock::Place::Emptied => {
                make_folders(&layout)?;
                self.lock = Lock::take(&layout)?;
                let what = format!(
                    "`{}` was deleted or replaced; what was recorded there is forgotten",
                    layout.state()
                );
                warn!(what, "watching was disturbed");
                self.journal = journal::Journal::open(&layout);
                self.journal.lost(&what);
                self.looker.memory.forget_records();
            }
        }
        // As at the start: what was put in a folder's place must not be anybody's to write.
        config::check_permissions(&layout)?;
        Ok(())
    }

    fn is_done(&mut self, done: &Done) {
        self.looker.memory.in_hand.remove(&done.run);
        if done.swept {
            *self.looker.memory.swept.entry(done.run).or_default() += 1;
        }
    }

    /// Settings are read anew; a bad file leaves the last good ones in force.
    fn reload(&mut self) {
        // Those of another base path, or of none, are not ours; they are read when it is back.
        if self.lock.place() == lock::Place::Elsewhere {
            self.is_displaced = true;
            return;
        }
        match config::load(self.looker.layout.base(), &self.options.flags) {
            Ok(config) => self.looker.reconfigure(config),
            Err(error) => error!(
                error = chain(&error),
                "settings cannot be used; the last good ones stay in force"
            ),
        }
    }

    /// A pidfd for each process whose death no file tells: shims, agents whose shim is dead, and what outlived its run.
    fn watch_processes(&mut self, seen: &Snapshot, decision: &Decision) {
        let now = clock::now();
        let live: BTreeMap<RunId, _> = seen
            .runs
            .iter()
            .zip(&decision.meanings)
            .filter_map(|(run, meaning)| {
                let Some(state) = &run.state else {
                    // Not even begun to say who it is: nothing but another look tells whether it does, or ends without a word.
                    let spec = run.spec.as_ref().filter(|_| run.observed.shim)?;
                    let is_new = spec.times.written.age(&now) < SHIM_SAYS;
                    return is_new.then_some((run.dir.id, None));
                };
                let agent = run
                    .observed
                    .alive
                    .as_ref()
                    .and_then(|alive| alive.agent.clone());
                let left = || {
                    let alive = run.observed.alive.as_ref()?;
                    let first = alive.leftovers.first().or(alive.doubtful.first())?;
                    Some(first.process.clone())
                };
                let process = match (meaning, &state.state) {
                    // One after the other: the look after an end finds the next.
                    (Meaning::OrphanLeftovers | Meaning::StillAlive, _) => left()?,
                    (Meaning::Orphan | Meaning::SignalledAlive, _) if agent.is_some() => agent?,
                    (_, RunState::Starting | RunState::Running { .. }) if run.observed.shim => {
                        state.shim.clone()
                    }
                    _ => return None,
                };
                Some((run.dir.id, Some(process)))
            })
            .collect();
        self.watched.retain(|run, watching| {
            let keep = live.contains_key(run) && !watching.is_finished();
            if !keep {
                watching.abort();
            }
            keep
        });
        for (run, of) in live {
            if self.watched.contains_key(&run) {
                continue;
            }
            let bell = Rc::clone(&self.bell);
            let Some(of) = of else {
                let waiting = tokio::task::spawn_local(async move {
                    tokio::time::sleep(SHIM_LOOK).await;
                    bell.notify_one();
                });
                self.watched.insert(run, waiting);
                continue;
            };
            let pidfd = match process::Pidfd::open_checked(&of) {
                Ok(Some(pidfd)) => pidfd,
                Ok(None) => {
                    // Dead already, since the look: look again.
                    self.bell.notify_one();
                    continue;
                }
                Err(error) => {
                    warn!(%run, %error, "cannot watch its process; the rescan looks after it");
                    continue;
                }
            };
            let Ok(pidfd) = pidfd.watch() else { continue };
            let watching = tokio::task::spawn_local(async move {
                pidfd.over().await;
                bell.notify_one();
            });
            self.watched.insert(run, watching);
        }
    }

    /// Says once what is left to the rescan.
    fn heard_by(&mut self, watch: &watch::Watch) {
        let gaps = watch.gaps();
        let words = if gaps.is_empty() {
            "inotify".to_owned()
        } else {
            format!("inotify; {} only by rescan", gaps.join(", "))
        };
        if words != self.heard_by {
            if !gaps.is_empty() {
                warn!(
                    folders = gaps.join(", "),
                    "not everything can be watched; the rest is left to the rescan"
                );
            }
            self.heard_by = words;
        }
    }

    fn record(&mut self, seen: &Snapshot, decision: &Decision) {
        let trouble = self.trouble.clone();
        let record = DaemonRecord::new(&self.since, &self.heard_by, trouble, seen, decision);
        if let Err(error) = self.lock.record(&record) {
            warn!(error = %error, "cannot write daemon.json");
        }
        if let Err(error) = self.record_known(seen) {
            warn!(error = chain(&error), "cannot write known.json");
        }
    }

    /// What tinytask shows open, for the next daemon; then a person's word on it is taken down.
    fn record_known(&mut self, seen: &Snapshot) -> Result<(), runs::Error> {
        let known = self.looker.memory.trust.known();
        if self.known.as_ref() != Some(&known) {
            runs::write_known(&self.looker.layout, &known)?;
            self.known = Some(known);
        }
        if seen.controls.trust_tinytask && matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            let wish = control::Control::ReleaseTinytask;
            let what = "tinytask is the right one, a person says";
            self.journal.did("mark", None, None, what.into());
            if let Err(error) = control::remove(&self.looker.layout, &wish) {
                warn!(%error, "cannot remove a control file");
            }
        }
        Ok(())
    }

    async fn revive_builtin(&mut self, seen: &Snapshot) {
        if let (Tinytask::Unreachable { .. }, Some(builtin)) = (&seen.tinytask, &mut self.builtin)
            && builtin.is_gone()
        {
            warn!("the built-in tinytask is gone; starting it again");
            match start_builtin(&self.looker.config, &self.looker.layout, &self.options.exe).await {
                Ok(builtin) => {
                    self.builtin = builtin;
                    self.bell.notify_one();
                }
                Err(error) => error!(
                    error = chain(&error),
                    "the built-in tinytask does not start"
                ),
            }
        }
    }

    fn prune(&self, seen: &Snapshot) {
        let is_whole = seen.coverage == crate::core::Coverage::Everything;
        // Of another server's tasks it would follow that all of ours are closed.
        if !is_whole || !matches!(seen.tinytask, Tinytask::Fresh { .. }) {
            return;
        }
        let keep = Millis::secs(u64::from(self.looker.config.keep_days) * 86_400);
        let per_task = self.looker.config.keep_per_task as usize;
        let is_open = |id| seen.tasks.contains_key(&id);
        let is_inbound_read = !seen.unreadable.contains_key(&RunSubject::Inbound);
        let lying: BTreeMap<&str, i64> = (seen.inbound.iter())
            .map(|entry| (entry.key.name.as_str(), entry.key.modified))
            .collect();
        // By name: a file that changes while its runs live is told by nothing else. See `FileStanding::of`.
        let still_tells = |file: &FileVerdict| {
            let lies = lying.get(file.file.name.as_str());
            let counts = lies.is_some_and(|time| file.left || *time == file.file.modified);
            !is_inbound_read || counts
        };
        let layout = &self.looker.layout;
        kill_point::reach("prune:before");
        let pruned = runs::prune(layout, clock::wall(), keep, per_task, is_open, still_tells);
        kill_point::reach("prune:done");
        match pruned {
            Ok(0) => {}
            Ok(runs) => info!(runs, "forgot old runs of closed tasks"),
            Err(error) => warn!(error = chain(&error), "cannot forget old runs"),
        }
    }

    fn leave(&mut self, reason: &str) -> Leaving {
        sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
        if self.lock.place() == lock::Place::Ours {
            self.journal.left(reason);
        }
        // The last look may be long ago: runs have come to work since, or to their end.
        let (layout, mut going_on) = (&self.looker.layout, Vec::new());
        let (live, _) = runs::list_live(layout).unwrap_or_default();
        for dir in live {
            let Ok(run) = runs::observe(layout, &dir) else {
                continue;
            };
            let pid = match run.state.map(|state| state.state) {
                Some(RunState::Running { agent }) if process::is_alive(&agent) => Some(agent.pid),
                Some(RunState::Starting) | None if run.observed.shim => None,
                _ => continue,
            };
            let title = run.spec.and_then(|spec| spec.title);
            going_on.push((dir.id, title, dir.queue, pid));
        }
        info!(reason, "stopped watching");
        Leaving { going_on }
    }
}

/// The end of the built-in tinytask, where there is one.
async fn over(builtin: Option<&Builtin>) {
    match builtin {
        Some(builtin) => builtin.over().await,
        None => std::future::pending().await,
    }
}

/// Did the actions of a round change anything?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acted {
    Nothing,
    Something,
    /// One failed: it is met again by the next look, which should not come at once.
    Failed,
}

/// Tasks that wait for something in their folder.
fn waited_folders(decision: &Decision) -> BTreeSet<crate::core::model::TaskId> {
    use crate::core::{Hold, Subject};
    let waits = |hold: &Hold| {
        matches!(
            hold,
            Hold::AwaitingFiles { .. } | Hold::NoFolder | Hold::Parked { .. }
        )
    };
    let of_task = decision.holds.iter().filter(|(_, hold)| waits(hold));
    of_task
        .filter_map(|(subject, _)| {
            if let Subject::Task(id) = subject {
                Some(*id)
            } else {
                None
            }
        })
        .collect()
}

/// The daemon's folders; the base path itself must be there.
fn make_folders(layout: &crate::core::layout::Layout) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folders = [
        (layout.inbound(), 0o755),
        (layout.workqueue(), 0o755),
        (layout.running_tasks(), 0o755),
        (layout.recipes(), 0o755),
        (layout.state(), 0o755),
        (layout.live(), 0o755),
        (layout.runs(), 0o755),
        (layout.tinytask(), 0o700),
    ];
    for (path, mode) in folders {
        match std::fs::DirBuilder::new().mode(mode).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(source) => return Err(Error::Write { path, source }),
        }
    }
    control::make_folder(layout).map_err(|source| Error::Write {
        path: layout.control(),
        source,
    })
}

fn at_moment(wall: Timestamp) -> Moment {
    let now: Now = clock::now();
    let boot = Millis(now.boot.0.saturating_sub(now.wall.since(wall).0));
    Moment {
        wall,
        boot_id: now.boot_id,
        boot,
    }
}

/// What people and systemd say.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }
}
