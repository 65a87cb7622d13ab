//! The daemon: lock, look, then the loop: wake → look → decide → perform. Decides nothing itself.
//!
//! It may be killed at any line. Whatever it was doing is on disk, or was not begun: agents live on under their shims, and the
//! next daemon takes the same look and goes on from there. So nothing in here is remembered that matters, except for speed.
//!
//! One thread. inotify, pidfds, timers and signals only wake the loop; none of them is believed.

use std::collections::BTreeMap;
use std::process::Child;
use std::rc::Rc;
use std::time::Duration;

use camino::Utf8PathBuf;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::core::attention::{Attention, News};
use crate::core::decide::{carried_out, decide};
use crate::core::model::{Moment, Now, QueueName, RunId, RunState, RunSubject};
use crate::core::record::Known;
use crate::core::{Decision, Snapshot, Tinytask};
use crate::edge::watch::{self, Watch};
use crate::edge::{clock, config, kill_point, process, runs};
use crate::look::{self, Looker, Scope, chain};
use place::make_folders;
use records::Holds;
use timers::Timers;
use waiting::Signals;

mod builtin;
mod children;
mod ending;
mod journal;
mod launching;
mod lock;
mod perform;
mod place;
mod records;
mod timers;
mod waiting;

pub use builtin::{Builtin, start_builtin};
pub use journal::{StoryEvent, read_story};
pub use lock::{DaemonRecord, Lock, LockRecord, running, said};

/// Looks in a row that each led to an action, before the loop takes a breath: nothing legitimate comes near it.
const MOST_ROUNDS: u32 = 200;

/// A look that saw more tasks, or requests, than this leaves megabytes behind that the allocator would keep.
const LARGE: usize = 2000;

/// So many looks leave as much behind, piece by piece: gaps between what is kept, and code that only some of them needed. It is given
/// back once a rescan finds that nothing happens any more, and so rarely that nobody waits for its return.
const MANY: u32 = 300;

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
    #[error("cannot set up signals and timers")]
    Signals(#[source] std::io::Error),
}

/// What `run` needs besides the settings.
pub struct Options {
    /// Overrides given as flags, for a reload.
    pub flags: Vec<(&'static str, String)>,
    /// This program, for the built-in tinytask.
    pub exe: Utf8PathBuf,
    pub shim: process::ShimProgram,
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
    /// It could have been started again for long, and was not: it may be closed by now.
    fn is_past(&self) -> bool {
        self.until.elapsed() > Duration::from_secs(60)
    }

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
    /// Shims that this daemon started, until they are collected.
    shims: BTreeMap<RunId, Child>,
    /// Run directories made ahead.
    blanks: runs::Blanks,
    /// Launches that failed here before a run began, by queue; shown as holds until the next slow look.
    stuck: BTreeMap<QueueName, String>,
    /// The same of a single task, or of inbound/.
    failing: BTreeMap<RunSubject, Failing>,
    /// By how many milliseconds the wall clock was ahead of the boot clock at the last rescan.
    clocks: Option<i64>,
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
    /// What the next look has to ask tinytask about.
    attention: Attention,
    /// Why nothing happens to each, by the last look that could tell.
    holds: Holds,
    /// The start, a large look or many looks have left memory behind that is not needed at rest.
    has_to_give_back: bool,
    /// Since memory was given back.
    looks: u32,
    /// Ours; children in others are strays.
    session: i32,
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
        let blanks = runs::Blanks::find(&layout);
        Ok(Self {
            looker,
            options,
            lock,
            journal,
            bell: Rc::new(Notify::new()),
            done: mpsc::unbounded_channel(),
            watched: BTreeMap::new(),
            shims: BTreeMap::new(),
            blanks,
            stuck: BTreeMap::new(),
            failing: BTreeMap::new(),
            clocks: None,
            since: (&clock::now()).into(),
            event: None,
            builtin,
            is_displaced: false,
            trouble: None,
            heard_by: "once".into(),
            wants_everything: true,
            known: None,
            attention: Attention::default(),
            holds: Holds::default(),
            has_to_give_back: true,
            looks: 0,
            session: process::own_session(),
        })
    }

    /// Looks, decides and acts until nothing is left to do now; waits for nothing but the ends of runs it is ending itself.
    pub async fn once(mut self) -> Result<(Snapshot, Decision), Error> {
        loop {
            let (seen, decision, acted) = self.round(&Scope::Everything).await?;
            if self.looker.memory.in_hand.is_empty() && acted != Acted::Something {
                self.record(&seen);
                return Ok((seen, decision));
            }
            if acted != Acted::Something
                && let Some(done) = self.done.1.recv().await
            {
                self.is_done(&done);
            }
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

        let mut timers = Timers::new(self.looker.config.rescan).map_err(Error::Signals)?;
        let mut rounds = 0;
        let mut has_looked = false;
        loop {
            // Settings or recipes may name another one by now.
            if let Err(error) = watch.watch_database(self.looker.server.db.as_deref()) {
                warn!(error = chain(&error), "tinytask's database is not watched");
            }
            self.looker.memory.closed = watch.closed_inbound();
            let began = Instant::now();
            let asked = self.attention.take();
            let scope = if std::mem::take(&mut self.wants_everything) {
                Scope::Everything
            } else {
                Scope::Queues(asked)
            };
            let round = self.round(&scope).await;
            let answered;
            let acted = match round {
                Ok((looked, decision, acted)) => {
                    self.looks += 1;
                    self.has_to_give_back |= looked.tasks.len().max(looked.inbound.len()) > LARGE;
                    answered = looked.tinytask.clone();
                    self.watch_processes(&looked, &decision);
                    // What an action led to comes first; what is said of it can wait.
                    if acted != Acted::Something {
                        if let Err(error) = watch.watch_tasks(self.holds.waiting_folders()) {
                            debug!(error = %error, "some task folders are left to the rescan");
                        }
                        self.heard_by(&watch);
                        self.record(&looked);
                    }
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
                    self.attention.hear(News::Anything);
                    answered = Tinytask::NotAsked;
                    Acted::Failed
                }
            };
            timers.looked(&scope, self.is_told(&watch));
            // After `looked`, which sets the slow timer that this one may shorten.
            timers.answered(&answered);

            rounds = if acted == Acted::Something {
                rounds + 1
            } else {
                0
            };
            if acted == Acted::Something && rounds < MOST_ROUNDS {
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
                Acted::Nothing => timers.succeeded(self.left_alone_until()),
                Acted::Something => {}
            }
            self.event = None;
            let rest = timers.rest_after(began.elapsed());
            // No rest is none: tokio's shortest takes up to a millisecond.
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            if let Some(reason) = self.wait(&mut signals, &mut watch, &mut timers).await {
                return Ok(self.leave(reason));
            }
        }
    }

    /// When the first of the subjects whose launches failed may be tried again. Nothing else tells: a look at them meanwhile finds
    /// nothing to do.
    fn left_alone_until(&self) -> Option<Instant> {
        let now = Instant::now();
        let untils = self.failing.values().map(|failing| failing.until);
        untils.filter(|until| *until > now).min()
    }

    /// Look, decide, perform, once.
    async fn round(&mut self, scope: &Scope) -> Result<(Snapshot, Decision, Acted), Error> {
        self.keep_place()?;
        let now = clock::now();
        self.failing.retain(|_, failing| !failing.is_past());
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
        let looked = clock::now();
        let (mut decision, mut acted) = self.settle(&seen, &now).await;
        // A run is over, and the next agent waits for nothing but its verdict; or a task landed, and for nothing but its folder: the look
        // that led to that knows the rest, where another would ask the same of tinytask.
        //
        // The interleaving it survives: a task is claimed, moved or paused between that look and the launch. It is read again right
        // before its launch, whichever look that follows from; and a word in control/ that came after a look is for the next one.
        if acted == Acted::Something
            && self.looker.has_asked(&seen, &self.attention.asked())
            && carried_out(&mut seen, &decision, &clock::now())
        {
            self.attention.take();
            (decision, acted) = match self.settle(&seen, &now).await {
                // Before, there was something.
                (then, Acted::Nothing) => (then, Acted::Something),
                settled => settled,
            };
        }
        // Nobody waits for the story, or for daemon.json.
        self.journal.seen(&seen, &decision, &looked);
        self.holds.looked(&seen, &decision);
        Ok((seen, decision, acted))
    }

    /// Decides and performs.
    async fn settle(&mut self, seen: &Snapshot, looked: &Now) -> (Decision, Acted) {
        let now = clock::now();
        let decision = decide(seen, &self.looker.config.policy, &now);
        self.attention.looked(seen, &decision);
        let acted = self.perform(seen, &decision, looked).await;
        self.attention.acted(seen, &decision);
        if acted == Acted::Failed {
            self.attention.hear(News::Anything);
        }
        (decision, acted)
    }

    fn is_done(&mut self, done: &Done) {
        self.looker.memory.in_hand.remove(&done.run);
        if done.swept {
            *self.looker.memory.swept.entry(done.run).or_default() += 1;
        }
    }

    /// Says once what is left to the rescan.
    fn heard_by(&mut self, watch: &Watch) {
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
            let title = run.spec.and_then(|spec| spec.title.clone());
            going_on.push((dir.id, title, dir.queue, pid));
        }
        info!(reason, "stopped watching");
        Leaving { going_on }
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
