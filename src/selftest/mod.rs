//! The selftest: what calypso-watch promises, tried on the disk it is to work on, with real processes and real deaths.
//!
//! `mount` asks the file system what it can do, `latency` measures a quiet base path, `storm` kills. The agents, the bystanders and
//! whoever cleans up are this very program under a hidden word (`agent`). Says nothing itself: `commands::selftest` has the words, and
//! the torture driver uses the storm as it is.
//!
//! Knows the program as its users do: folders, records, pid files, tinytask's plain calls. Not the daemon's inside.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

mod agent;
mod dice;
mod http;
pub mod latency;
mod marks;
pub mod mount;
mod stamps;
pub mod storm;
mod world;

pub use dice::Dice;
pub use world::Error;

/// The hidden word that makes this program one of a selftest's tiny processes.
const WORD: &str = "__selftest";

/// Is one of the tiny processes, where this program was started as one; `None` where it was not.
pub fn entry() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != WORD {
        return None;
    }
    let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
    let (what, args) = args.split_first()?;
    Some(match what.as_str() {
        "agent" => agent::run(args),
        "bystander" => agent::bystander(args),
        "hold" => agent::hold(args),
        "keeper" => agent::keeper(args),
        _ => ExitCode::from(2),
    })
}

static STOP: AtomicBool = AtomicBool::new(false);
static STOPPED_BY: AtomicI32 = AtomicI32::new(0);

/// Set by the first INT, TERM or HUP, from now on. A handler and no mask, which what is started here would inherit.
pub fn stop_on_signals() -> &'static AtomicBool {
    extern "C" fn stop(signal: i32) {
        STOPPED_BY.store(signal, Ordering::Relaxed);
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let action = SigAction::new(
            SigHandler::Handler(stop),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler stores into atomics and does nothing else, so it may interrupt anything.
        unsafe { nix::sys::signal::sigaction(signal, &action) }.ok();
    }
    &STOP
}

/// Ends this program as the signal that [`stop_on_signals`] heard would have, so that a shell knows. Returns where there was none.
pub fn stop_as_asked() {
    if let Ok(signal) = Signal::try_from(STOPPED_BY.load(Ordering::Relaxed)) {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed; the default action needs no code of ours.
        unsafe { nix::sys::signal::sigaction(signal, &default) }.ok();
        nix::sys::signal::raise(signal).ok();
    }
}

/// Ends whatever a selftest started, and removes its folder, when this program ends, be it by `kill -9`.
pub struct Cleaner(world::Keeper);

impl Cleaner {
    /// For everything below `folder`, which is there. Makes this program the one that inherits what daemons leave when they are killed.
    pub fn start(exe: &camino::Utf8Path, folder: &camino::Utf8Path) -> Result<Self, Error> {
        crate::edge::process::become_subreaper().ok();
        Ok(Self(world::Keeper::start(exe, folder)?))
    }

    /// Cleans up now; true when nothing is left (besides the files, where these are to be kept).
    pub fn finish(self, keep_files: bool) -> bool {
        self.0.finish(keep_files)
    }
}
