//! The quiescence gate: notify-debouncer-full, fed by us.
//!
//! A debouncer of its own would need a second watcher, and its thread polls for ever. So it is built around a watcher that
//! watches nothing: the handler the debouncer gives to it is put aside, and raw events are fed to that. It begins to live
//! with the first event that has to settle and ends when all is quiet; dropping it discards what it still holds, which
//! [`end_if_quiet`] therefore tells itself. It also swallows a file that came and went; the same rule tells of that.
//!
//! To begin its thread takes time (clone(2), a stack), and a file that is written in one go is made, and so has to settle, microseconds
//! before it is closed. So while no debouncer lives, what comes waits in `unfed` for a moment, and for as long as the daemon has
//! something better to do.
//!
//! Interleavings survived: a file's creation rings the bell, and the daemon is there before its close is sorted: the debouncer does not
//! begin before [`ONE_GO`] is over, so the close does not wait for it. The daemon is at a look meanwhile, which may take seconds: its
//! next [`Watch::next`](super::Watch::next) begins the debouncer, or the handler does once [`MOST_UNFED`] wait. The debouncer cannot be
//! begun: what waits is told at once.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{Config, Event, EventHandler, RecursiveMode, Watcher, WatcherKind};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};
use tokio::time::Instant;

use super::{Areas, Shared, State};
use crate::core::model::{Millis, Timestamp};

/// Quiet for this long is settled.
const QUIET: Duration = Duration::from_millis(50);
/// How often the debouncer looks.
const TICK: Duration = Duration::from_millis(10);
/// Without an event for this long it ends: by then everything in it was told.
const LINGER: Duration = Duration::from_millis(200);
/// What never settles is told this often all the same.
const CAP: Millis = Millis::secs(2);

/// A live debouncer.
pub(super) struct Gate {
    /// Its way in.
    handler: Box<dyn EventHandler>,
    /// Its thread lives as long as this.
    _debouncer: Debouncer<FedWatcher, NoCache>,
    last_fed: Instant,
    /// Fed and not told yet, since when.
    held: Areas,
    since: Timestamp,
}

impl Gate {
    fn holds(&self, areas: Areas) -> bool {
        let mut rest = self.held;
        rest.remove(areas);
        rest != self.held
    }
    /// When it ends, if nothing more comes.
    pub(super) fn ends(&self) -> Instant {
        self.last_fed + LINGER
    }
}

thread_local! {
    /// Where [`FedWatcher::new`] puts the debouncer's handler, for [`open`] to take within the same call.
    static HANDLER: RefCell<Option<Box<dyn EventHandler>>> = const { RefCell::new(None) };
}

/// A watcher that watches nothing.
struct FedWatcher;

impl Watcher for FedWatcher {
    fn new<F: EventHandler>(handler: F, _: Config) -> notify::Result<Self> {
        HANDLER.set(Some(Box::new(handler)));
        Ok(Self)
    }
    fn watch(&mut self, _: &Path, _: RecursiveMode) -> notify::Result<()> {
        Ok(())
    }
    fn unwatch(&mut self, _: &Path) -> notify::Result<()> {
        Ok(())
    }
    fn kind() -> WatcherKind {
        WatcherKind::NullWatcher
    }
}

fn open(shared: &Arc<Shared>, at: Timestamp) -> Option<Gate> {
    // Weak: the debouncer's thread must not keep alive what owns the debouncer.
    let shared = Arc::downgrade(shared);
    let settled = move |result: DebounceEventResult| {
        if let Some(shared) = shared.upgrade() {
            told(&shared, result);
        }
    };
    let debouncer = new_debouncer_opt::<_, FedWatcher, NoCache>(
        QUIET,
        Some(TICK),
        settled,
        NoCache,
        Config::default(),
    )
    .ok()?;
    Some(Gate {
        handler: HANDLER.take()?,
        _debouncer: debouncer,
        last_fed: Instant::now(),
        held: Areas::default(),
        since: at,
    })
}

/// An event that waits for the debouncer to begin.
pub(super) struct Unfed {
    event: Event,
    areas: Areas,
    at: Timestamp,
    since: Instant,
}

/// A file that is written in one go is closed by then.
const ONE_GO: Duration = Duration::from_millis(2);

/// So many may wait, while a look takes long.
const MOST_UNFED: usize = 100;

/// Is any of these settling?
pub(super) fn holds(state: &State, areas: Areas) -> bool {
    let is_held = state.gate.as_ref().is_some_and(|gate| gate.holds(areas));
    is_held || state.unfed.iter().any(|unfed| unfed.areas == areas)
}

/// Lets `event` settle before `areas` are told.
pub(super) fn feed(
    state: &mut State,
    shared: &Arc<Shared>,
    event: &Event,
    areas: Areas,
    at: Timestamp,
) {
    if state.gate.is_some() {
        return feed_now(state, event, areas, at);
    }
    state.unfed.push(Unfed {
        event: event.clone(),
        areas,
        at,
        since: Instant::now(),
    });
    if state.unfed.len() >= MOST_UNFED {
        open_for_unfed(state, shared);
    }
}

/// When it is time to begin, if there is anything to settle.
pub(super) fn begins(state: &State) -> Option<Instant> {
    state.unfed.first().map(|first| first.since + ONE_GO)
}

/// Begins, if it is time.
pub(super) fn begin_if_due(state: &mut State, shared: &Arc<Shared>) {
    if begins(state).is_some_and(|at| at <= Instant::now()) {
        open_for_unfed(state, shared);
    }
}

fn open_for_unfed(state: &mut State, shared: &Arc<Shared>) {
    let unfed = std::mem::take(&mut state.unfed);
    let Some(first) = unfed.first() else { return };
    // Nothing waits while one lives.
    state.gate = open(shared, first.at);
    for unfed in unfed {
        feed_now(state, &unfed.event, unfed.areas, unfed.at);
    }
}

fn feed_now(state: &mut State, event: &Event, areas: Areas, at: Timestamp) {
    let Some(gate) = &mut state.gate else {
        // No thread to be had: tell it now, which costs a look too many.
        return state.raise(areas, at);
    };
    if gate.held.is_empty() {
        gate.since = at;
    }
    gate.last_fed = Instant::now();
    gate.handler.handle_event(Ok(event.clone()));
    gate.held.add(areas);
    if at.since(gate.since) > CAP {
        let (held, since) = (std::mem::take(&mut gate.held), gate.since);
        state.raise(held, since);
    }
}

/// On the debouncer's thread: these paths are quiet.
fn told(shared: &Shared, result: DebounceEventResult) {
    let mut state = shared.lock();
    let mut areas = Areas::default();
    for event in result.unwrap_or_default() {
        for path in &event.paths {
            let parts = path.parent().and_then(|dir| state.places.get(dir));
            for area in parts.into_iter().flatten() {
                areas.add(Areas::only(*area));
            }
        }
    }
    let Some(gate) = &mut state.gate else {
        return;
    };
    // Only what was fed: a debounced rename may name a path of another part, which was told already.
    let mut told = gate.held;
    gate.held.remove(areas);
    told.remove(gate.held);
    let since = gate.since;
    let is_settled = !gate.held.workqueue;
    if !told.is_empty() {
        state.raise(told, since);
        shared.bell.notify_one();
    }
    if is_settled {
        state.settling.clear();
    }
}

/// Ends the debouncer when nothing came for a while, and tells what it never told.
pub(super) fn end_if_quiet(state: &mut State) {
    if let Some(gate) = state.gate.take_if(|gate| gate.ends() <= Instant::now())
        && !gate.held.is_empty()
    {
        state.raise(gate.held, gate.since);
        state.settling.clear();
    }
}
