//! `stop` ends runs, `quit` ends the daemon. Both work by pidfd, so neither can hit a stranger.

use std::time::Duration;

use camino::Utf8Path;

use super::{Cannot, label, layout, leave, runtime, say, subject, when};
use crate::cli::Stop;
use crate::core::layout::{Layout, RunDir};
use crate::core::model::{ProcessId, RunState};
use crate::daemon::running;
use crate::edge::control::Control;
use crate::edge::{clock, process, runs};
use crate::report::{Exit, Failure};

/// How long `quit` waits for the daemon to go.
const QUIT_TIME: Duration = Duration::from_secs(10);

/// Leaves the wish as a file, so that a daemon knows, and tells the shim at once, so that none is needed.
///
/// Interleaving survived: the run ends on its own in between. The pidfd is opened before the identity is compared, so the
/// signal goes to the very process or to nobody; the daemon removes a wish that has nothing left to end.
pub fn stop(base: Option<&Utf8Path>, stop: &Stop) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    let wanted = stop.task.as_deref().map(subject).transpose()?;
    let (live, _) = runs::list_live(&layout)?;
    let live: Vec<RunDir> = live
        .into_iter()
        .filter(|run| wanted.is_none_or(|subject| run.id.subject == subject))
        .collect();
    let mut text = String::new();
    for run in &live {
        leave(&layout, &Control::Stop(run.id.subject))?;
        let how = match tell(&layout, run)? {
            Told::Shim => "is being stopped".to_owned(),
            Told::Agent => "has no shim any more; its agent was told to stop".to_owned(),
            Told::Nobody => format!("will be stopped{}", when(&layout)),
        };
        text.push_str(&format!(
            "{} {} (run {}) {how}\n",
            label(run.id.subject),
            run.queue,
            run.id
        ));
    }
    if live.is_empty() {
        let what = wanted.map_or_else(
            || "nothing runs".to_owned(),
            |subject| format!("{} has no run", label(subject)),
        );
        return say(&format!("{what}\n"));
    }
    text.push_str("a stopped task waits until `calypso-watch retry TASK`\n");
    say(&text)
}

enum Told {
    Shim,
    Agent,
    Nobody,
}

/// TERM to the shim, which is its word for "stop this run"; INT to an agent whose shim is dead.
fn tell(layout: &Layout, run: &RunDir) -> Result<Told, Failure> {
    let runs::Seen {
        state, observed, ..
    } = runs::observe(layout, run)?;
    let Some(state) = state.filter(|state| state.boot_id == clock::boot_id()) else {
        return Ok(Told::Nobody);
    };
    let agent = match &state.state {
        RunState::Running { agent } => Some(agent),
        _ => None,
    };
    if observed.shim && signal(&state.shim, process::Signal::TERM)? {
        return Ok(Told::Shim);
    }
    match agent {
        Some(agent) if signal(agent, process::Signal::INT)? => Ok(Told::Agent),
        _ => Ok(Told::Nobody),
    }
}

fn signal(process: &ProcessId, signal: process::Signal) -> Result<bool, Failure> {
    let cannot = |source| {
        let what = format!("signal process {}", process.pid);
        Failure::new(Exit::Failed, Cannot { what, source })
            .hint("is it another user's? runs belong to the daemon's user".to_owned())
    };
    match process::Pidfd::open_checked(process).map_err(cannot)? {
        Some(pidfd) => pidfd.signal(signal).map(|()| true).map_err(cannot),
        None => Ok(false),
    }
}

/// Ends the daemon and waits for its end; the agents go on.
pub fn quit(base: Option<&Utf8Path>) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    let not_running = || {
        Failure::new(
            Exit::NotRunning,
            format!("no calypso-watch is watching `{}`", layout.base()),
        )
    };
    let record = running(&layout).map_err(|_| not_running())?;
    let cannot = |source| {
        Failure::new(
            Exit::Failed,
            Cannot {
                what: format!("end process {}", record.process.pid),
                source,
            },
        )
    };
    let Some(pidfd) = process::Pidfd::open_checked(&record.process).map_err(cannot)? else {
        return Err(not_running());
    };
    pidfd.signal(process::Signal::TERM).map_err(cannot)?;
    let gone = runtime()?.block_on(async {
        let waiting = async {
            while !pidfd.is_over() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(QUIT_TIME, waiting).await.is_ok()
    });
    if !gone {
        let failure = Failure::new(
            Exit::Failed,
            format!(
                "the daemon (pid {}) did not end within 10 s",
                record.process.pid
            ),
        );
        return Err(failure.hint(format!(
            "`kill -9 {}` is safe: everything is on disk",
            record.process.pid
        )));
    }
    let (live, _) = runs::list_live(&layout)?;
    let rest = match live.len() {
        0 => String::new(),
        1 => "; 1 agent goes on".to_owned(),
        n => format!("; {n} agents go on"),
    };
    say(&format!(
        "stopped watching (pid {}){rest}\n",
        record.process.pid
    ))
}
