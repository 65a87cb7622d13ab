//! `run`: the daemon in the foreground, or one look for cron.

use camino::{Utf8Path, Utf8PathBuf};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{flags, load, runtime, say};
use crate::cli::Run;
use crate::core::Tinytask;
use crate::core::layout::Layout;
use crate::daemon::{Daemon, Leaving, Options};
use crate::edge::process::ShimProgram;
use crate::edge::{config, machine};
use crate::report::{Exit, Failure};
use crate::view;

/// Watches until it is told to stop; with `--once`, acts once.
pub fn call(base: Option<&Utf8Path>, run: &Run) -> Result<Exit, Failure> {
    check_descriptors()?;
    machine::give_large_buffers_back();
    let config = load(base, &run.settings)?;
    log_to_stderr(&run.log)?;
    let layout = Layout::new(config.base.clone());
    for warning in config::check_permissions(&layout)?
        .iter()
        .chain(&config.warnings)
    {
        tracing::warn!("{warning}");
    }
    let options = Options {
        flags: flags(&run.settings),
        exe: own_program()?,
        shim: ShimProgram::find(),
    };
    let runtime = runtime()?;
    // Futures of ours that end runs live on this thread, beside the loop.
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let daemon = Daemon::start(config, options).await?;
        if run.once {
            let (seen, _) = daemon.once().await?;
            return match seen.tinytask {
                Tinytask::Unreachable { error, hint, .. } => {
                    Err(Failure::new(Exit::TinytaskUnreachable, error).hint(hint))
                }
                Tinytask::Suspicious { vanished, of } => {
                    let what = format!("{vanished} of {of} known tasks vanished from tinytask at once");
                    let hint = "is it another server, or an old backup? If it is the right one: `calypso-watch release tinytask`";
                    Err(Failure::new(Exit::TinytaskUnreachable, what).hint(hint.to_owned()))
                }
                _ => Ok(Exit::Done),
            };
        }
        let Leaving { going_on } = daemon.run().await?;
        let going_on: Vec<_> = going_on
            .into_iter()
            .map(|(run, _, queue, pid)| view::GoingOn {
                subject: run.subject,
                queue,
                pid,
            })
            .collect();
        say(&view::leaving(&going_on))
    })
}

/// With fewer the runtime cannot even begin, or each look fails.
fn check_descriptors() -> Result<(), Failure> {
    const LEAST: u64 = 64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < LEAST => Err(Failure::new(
            Exit::Failed,
            format!("this process may have {limit} files open, and needs {LEAST}"),
        )
        .hint("raise the limit first: `ulimit -n 1024`".to_owned())),
        Some(_) | None => Ok(()),
    }
}

/// The built-in tinytask is started from the program that runs now, even when its file was replaced since
/// (proc(5): /proc/self/exe).
pub(super) fn own_program() -> Result<Utf8PathBuf, Failure> {
    Ok(Utf8PathBuf::from("/proc/self/exe"))
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let known = ["error", "warn", "info", "debug", "trace"];
    let level: LevelFilter = match level.parse() {
        Ok(parsed) if known.contains(&level) => parsed,
        _ => {
            let failure = Failure::new(Exit::Usage, format!("`--log {level}` is no level"));
            return Err(failure.hint(format!("one of {}", known.join(", "))));
        }
    };
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("rmcp", LevelFilter::OFF)
        .with_target("calypso_watch", level);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false);
    let log = tracing_subscriber::registry().with(filter).with(lines);
    log.try_init()
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}
