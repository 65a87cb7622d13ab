//! `tinytask serve | stop`: the built-in tinytask.
//!
//! Over HTTP with a base path known, one server serves it: a lock says that it lives, server.json where. Over standard input
//! and output there may be many on one database, each the child of its client, so neither is touched.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::TinytaskCommand;
use crate::core::layout::Layout;
use crate::core::model::ProcessId;
use crate::edge::config::{self, TinytaskChoice};
use crate::edge::files::{self, Durability};
use crate::edge::kill_point;
use crate::edge::machine;
use crate::edge::process::{self, Pidfd};
use crate::report::{Exit, Failure};
use crate::taskd::http;
use crate::taskd::mcp::Server;
use crate::taskd::store::Store;

use super::runtime;

/// Where nothing says where.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);
/// Longest wait of `stop`.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What server.json says: who serves this base path, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// `pid` and `start`: one process, until the next boot.
    #[serde(flatten)]
    pub process: ProcessId,
    /// `127.0.0.1:3000`; the MCP URL is `http://…/mcp`.
    pub address: SocketAddr,
    pub version: String,
}

/// Serves or ends the built-in tinytask.
///
/// # Errors
/// What a person has to know: a taken lock or port, a database that cannot be used, nothing to stop.
pub fn call(base: Option<&Utf8Path>, command: TinytaskCommand) -> Result<Exit, Failure> {
    match command {
        TinytaskCommand::Serve {
            listen,
            db,
            stdio,
            log,
        } => {
            // With a database of its own the server belongs to no base path, unless told so.
            let layout = match (&db, base) {
                (Some(_), None) => None,
                _ => base_path(base)?,
            };
            machine::give_large_buffers_back();
            if stdio {
                serve_stdio(layout.as_ref(), db, log)
            } else {
                let listen = match (listen, &db) {
                    (Some(listen), _) => listen,
                    (None, Some(_)) => DEFAULT,
                    (None, None) => listen_of(layout.as_ref())?,
                };
                serve_http(layout.as_ref(), db, listen, log)
            }
        }
        TinytaskCommand::Stop => stop(&super::layout(base)?),
    }
}

/// The base path, where there is one: a server with a database of its own needs none.
fn base_path(flag: Option<&Utf8Path>) -> Result<Option<Layout>, Failure> {
    match config::find_base(flag) {
        Ok(base) => Ok(Some(Layout::new(base))),
        Err(config::Error::NoBase { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the daemon of this base path would have it served, and its recipes look for it.
fn listen_of(layout: Option<&Layout>) -> Result<SocketAddr, Failure> {
    let Some(layout) = layout else {
        return Ok(DEFAULT);
    };
    Ok(match config::load(layout.base(), &[])?.tinytask.chosen {
        Some(TinytaskChoice::Builtin {
            listen: Some(listen),
        }) => listen,
        _ => DEFAULT,
    })
}

fn open_store(layout: Option<&Layout>, db: Option<Utf8PathBuf>) -> Result<Store, Failure> {
    let path = match (db, layout) {
        (Some(db), _) => db,
        (None, Some(layout)) => {
            make_folder(layout)?;
            layout.tinytask_db()
        }
        (None, None) => "tinytask.db".into(),
    };
    Store::open(&path).map_err(|error| {
        let hint = error.hint().to_owned();
        Failure::new(Exit::Failed, error).hint(hint)
    })
}

fn make_folder(layout: &Layout) -> Result<(), Failure> {
    // Its database holds what agents were told: for its owner only, as the daemon makes it.
    let folders = [(layout.state(), 0o755), (layout.tinytask(), 0o700)];
    for (path, mode) in folders {
        let made = DirBuilder::new().recursive(true).mode(mode).create(&path);
        made.map_err(|error| Failure::new(Exit::Failed, format!("cannot make `{path}`: {error}")))?;
    }
    Ok(())
}

fn serve_stdio(
    layout: Option<&Layout>,
    db: Option<Utf8PathBuf>,
    log: bool,
) -> Result<Exit, Failure> {
    let store = Arc::new(open_store(layout, db)?);
    let runtime = runtime()?;
    runtime.block_on(async {
        let end = stop_signal()?;
        tokio::select! {
            () = Server::new(store.clone(), log).serve_stdio() => {}
            () = end => {}
        }
        Ok::<(), Failure>(())
    })?;
    // A thread may still wait for input that never comes.
    runtime.shutdown_background();
    close(store);
    Ok(Exit::Done)
}

fn serve_http(
    layout: Option<&Layout>,
    db: Option<Utf8PathBuf>,
    listen: SocketAddr,
    log: bool,
) -> Result<Exit, Failure> {
    if !listen.ip().is_loopback() {
        return Err(Failure::new(
            Exit::Usage,
            format!("`{listen}` is not a loopback address"),
        )
        .hint("tinytask has no passwords, so it is served to this machine only: `--listen 127.0.0.1:3000`".to_owned()));
    }
    // Held, and never unlocked, until this process ends.
    let lock = layout.map(take_lock).transpose()?;
    kill_point::reach("server:locked");
    let store = Arc::new(open_store(layout, db)?);
    kill_point::reach("server:database-open");
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let end = stop_signal()?;
        let taken = |error: std::io::Error| {
            let taken = error.kind() == std::io::ErrorKind::AddrInUse;
            Failure::new(Exit::Failed, format!("cannot listen on `{listen}`: {error}")).hint(
                taken.then(|| {
                    "another server has this port; name a free one with `--listen`, or any with `--listen 127.0.0.1:0`".to_owned()
                }),
            )
        };
        let listener = http::bind(listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        kill_point::reach("server:bound");
        if let Some(layout) = layout {
            write_record(layout, address)?;
        }
        // Data, for whoever started it; that nobody reads it is no reason not to serve.
        let mut out = std::io::stdout();
        writeln!(out, "listening on http://{address}/mcp").ok();
        out.flush().ok();
        http::serve(listener, Server::new(store.clone(), log), end)
            .await
            .map_err(|error| Failure::new(Exit::Failed, error))
    });
    runtime.shutdown_background();
    close(store);
    if let Some(layout) = layout {
        remove_own_record(layout);
    }
    drop(lock);
    served.map(|()| Exit::Done)
}

/// The last one to hold the store ends it with a checkpoint.
fn close(store: Arc<Store>) {
    if let Some(store) = Arc::into_inner(store) {
        store.close();
    }
}

/// Ready at SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let failed = |error| Failure::new(Exit::Failed, error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// An OFD lock (fcntl(2)): it ends with its last descriptor, however the process ends.
fn take_lock(layout: &Layout) -> Result<File, Failure> {
    make_folder(layout)?;
    let path = layout.tinytask_lock();
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot lock `{path}`: {error}"))
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(&path)
        .map_err(failed)?;
    match files::try_lock(&file) {
        Ok(true) => {
            // Of a server that was killed while it wrote server.json; whoever holds the lock is its only writer.
            files::remove_temporary(&layout.tinytask());
            Ok(file)
        }
        Ok(false) => {
            let (who, at) = match read_record(layout) {
                Some(record) => (
                    format!("(pid {})", record.process.pid),
                    format!("it listens on http://{}/mcp; ", record.address),
                ),
                None => ("(starting)".into(), String::new()),
            };
            Err(Failure::new(
                Exit::Failed,
                format!("another built-in tinytask {who} serves `{}`", layout.base()),
            )
            .hint(format!("{at}`calypso-watch tinytask stop` ends it")))
        }
        Err(error) => Err(failed(error)),
    }
}

fn write_record(layout: &Layout, address: SocketAddr) -> Result<(), Failure> {
    let path = layout.tinytask_server();
    let record = ServerRecord {
        process: process::own(),
        address,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let text = serde_json::to_string_pretty(&record).expect("plain values only") + "\n";
    files::replace(&path, text.as_bytes(), 0o644, Durability::Crash)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write `{path}`: {error}")))
}

pub(super) fn read_record(layout: &Layout) -> Option<ServerRecord> {
    let bytes = files::read_bounded(&layout.tinytask_server(), 4096).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn remove_own_record(layout: &Layout) {
    if read_record(layout).is_some_and(|record| record.process == process::own()) {
        std::fs::remove_file(layout.tinytask_server()).ok();
    }
}

#[expect(clippy::print_stdout, reason = "what a person asked for")]
fn stop(layout: &Layout) -> Result<Exit, Failure> {
    let not_running = || {
        Failure::new(
            Exit::NotRunning,
            format!("no built-in tinytask serves `{}`", layout.base()),
        )
    };
    // Without the lock held, the record is a dead server's, whose number may be another's by now.
    if !files::is_held_at(&layout.tinytask_lock()).unwrap_or(false) {
        return Err(not_running());
    }
    let record = read_record(layout).ok_or_else(not_running)?;
    let pid = record.process.pid;
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Failed,
            format!("cannot end the built-in tinytask (pid {pid}): {error}"),
        )
    };
    let pidfd = Pidfd::open_checked(&record.process)
        .map_err(failed)?
        .ok_or_else(not_running)?;
    pidfd.signal(process::Signal::TERM).map_err(failed)?;
    let ended = runtime()?.block_on(async {
        let gone = pidfd.watch()?;
        Ok(tokio::time::timeout(STOP_LIMIT, gone.over()).await.is_ok())
    });
    if !ended.map_err(failed)? {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "the built-in tinytask (pid {pid}) has not ended within {} s",
                STOP_LIMIT.as_secs()
            ),
        )
        .hint(format!(
            "another program may hold its database; `kill -9 {pid}` loses nothing it has answered"
        )));
    }
    println!("ended the built-in tinytask (pid {pid})");
    Ok(Exit::Done)
}
