//! Starting the built-in tinytask, where `builtin = true`: a process of its own that outlives the daemon.

use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use camino::Utf8Path;
use tracing::info;

use super::Error;
use crate::core::layout::Layout;
use crate::core::model::ProcessId;
use crate::edge::config::{Config, TinytaskChoice};
use crate::edge::{files, kill_point, process};

/// How long it may take until it listens.
const START_TIME: Duration = Duration::from_secs(10);
/// So often it is started where somebody kills it at its start.
const STARTS: u32 = 5;
/// Between two tries of something that is about to come.
const TRY: Duration = Duration::from_millis(5);
/// Tries until a server that holds its lock has said who it is.
const SAYING_TRIES: u32 = 200;
/// server.json is a line.
const RECORD_LIMIT: u64 = 1 << 16;

/// The built-in server of this base path: started here, or found running.
pub struct Builtin {
    layout: Layout,
    /// Where it was started here: collected when it ends.
    child: Option<Child>,
    /// Rings when it ends, whoever started it. None where that was heard, or cannot be.
    watch: Option<process::WatchedPidfd>,
}

impl Builtin {
    fn watched(layout: &Layout, child: Option<Child>, server: Option<ProcessId>) -> Self {
        let watch = server
            .and_then(|server| process::Pidfd::open_checked(&server).ok().flatten())
            .and_then(|pidfd| pidfd.watch().ok());
        Self {
            layout: layout.clone(),
            child,
            watch,
        }
    }

    /// One that somebody started, perhaps only now: it locks first and says who it is last.
    async fn found(layout: &Layout) -> Self {
        let mut server = None;
        for _ in 0..SAYING_TRIES {
            server = said(layout);
            if server.is_some() {
                break;
            }
            tokio::time::sleep(TRY).await;
        }
        Self::watched(layout, None, server)
    }

    /// Returns when it ends; never where that cannot be heard.
    pub(super) async fn over(&self) {
        match &self.watch {
            Some(watch) => watch.over().await,
            None => std::future::pending().await,
        }
    }

    /// Its end was heard.
    pub(super) fn is_over(&mut self) {
        self.watch = None;
    }

    /// Nobody holds its lock.
    pub(super) fn is_gone(&mut self) -> bool {
        if let Some(child) = &mut self.child {
            child.try_wait().ok();
        }
        !files::is_held_at(&self.layout.tinytask_lock()).unwrap_or(true)
    }
}

/// server.json names its process as we do, beside other things; only a living one counts, as the last one's word stays there.
fn said(layout: &Layout) -> Option<ProcessId> {
    let text = files::read_bounded(&layout.tinytask_server(), RECORD_LIMIT).ok()?;
    let server: ProcessId = serde_json::from_slice(&text).ok()?;
    process::is_alive(&server).then_some(server)
}

/// Starts it, unless it runs already or is not chosen.
///
/// Interleavings survived: two starters at once. The server itself takes the lock before it listens, so one of the two servers
/// refuses and exits, and both starters find the other one listening. Somebody kills the server before it listens: that is no reason
/// of its own, and it is started again.
pub async fn start_builtin(
    config: &Config,
    layout: &Layout,
    exe: &Utf8Path,
) -> Result<Option<Builtin>, Error> {
    let Some(TinytaskChoice::Builtin { listen }) = &config.tinytask.chosen else {
        return Ok(None);
    };
    let address = listen.map_or_else(
        || "127.0.0.1:3000".to_owned(),
        |address| address.to_string(),
    );
    let mut starts = 1;
    loop {
        match start(layout, exe, &address).await? {
            Started::Serves(builtin) => return Ok(Some(builtin)),
            Started::Killed(_) if starts < STARTS => starts += 1,
            Started::Killed(status) => {
                let why = format!("it was killed {STARTS} times at its start: {status}");
                return Err(Error::Builtin { why });
            }
        }
    }
}

/// What came of one start.
enum Started {
    Serves(Builtin),
    /// By a signal, before it listened.
    Killed(ExitStatus),
}

async fn start(layout: &Layout, exe: &Utf8Path, address: &str) -> Result<Started, Error> {
    if files::is_held_at(&layout.tinytask_lock()).unwrap_or(true) {
        return Ok(Started::Serves(Builtin::found(layout).await));
    }
    let failed = |why: String| Error::Builtin { why };
    let log_path = layout.state().join("tinytask.log");
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&log_path)
        .map_err(|e| failed(e.to_string()))?;
    kill_point::reach("builtin:before-start");
    let mut child = Command::new(exe.as_str())
        .args([
            "--base-path",
            layout.base().as_str(),
            "tinytask",
            "serve",
            "--listen",
            address,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    kill_point::reach("builtin:started");
    info!(pid = child.id(), address, "started the built-in tinytask");
    // That somebody answers at the address is not enough: the port may be another program's.
    let listening = async {
        while !is_serving(layout, address).await {
            if let Ok(Some(status)) = child.try_wait() {
                // Another starter's server was faster: it is as good as ours.
                if files::is_held_at(&layout.tinytask_lock()).unwrap_or(false) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                if status.signal().is_some() {
                    return Ok(Some(status));
                }
                let said = std::fs::read_to_string(&log_path).unwrap_or_default();
                let last = said
                    .lines()
                    .rev()
                    .find(|line| line.starts_with("error: "))
                    .unwrap_or("no reason given");
                return Err(failed(format!(
                    "{status}: {}",
                    last.trim_start_matches("error: ")
                )));
            }
            tokio::time::sleep(TRY).await;
        }
        Ok(None)
    };
    match tokio::time::timeout(START_TIME, listening).await {
        Ok(result) => {
            if let Some(status) = result? {
                return Ok(Started::Killed(status));
            }
            kill_point::reach("builtin:serves");
            let server = process::identity(child.id().cast_signed());
            Ok(Started::Serves(Builtin::watched(
                layout,
                Some(child),
                server,
            )))
        }
        Err(_) => Err(failed(format!(
            "it does not listen at {address}; see `.calypso/tinytask.log`"
        ))),
    }
}

/// The server that holds this base path's lock says that it listens there, and does.
async fn is_serving(layout: &Layout, address: &str) -> bool {
    let record = files::read_bounded(&layout.tinytask_server(), 4096).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
    // The lock last: a record may be a dead server's.
    record["address"] == *address
        && record["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .is_some_and(|pid| process::identity(pid).is_some())
        && files::is_held_at(&layout.tinytask_lock()).unwrap_or(false)
        && tokio::net::TcpStream::connect(address).await.is_ok()
}
