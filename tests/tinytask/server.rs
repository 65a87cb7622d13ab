//! The built-in server as a process of its own, on a database in a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::client::{Client, Reply, exchange};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_calypso-watch");

/// How long anything may take to come about.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Is the suite pointed at somebody else's server? Then what is about the built-in alone is left out.
pub(crate) fn elsewhere() -> bool {
    std::env::var("TINYTASK_UNDER_TEST").is_ok()
}

/// `calypso-watch tinytask serve`, with nothing of this machine's base paths.
pub(crate) fn serve(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["tinytask", "serve"])
        .args(arguments)
        .env_remove("CALYPSO_BASE_PATH")
        .current_dir(std::env::temp_dir());
    command
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn on(db: &Path) -> Self {
        Self::start(&mut serve(&[
            "--listen",
            "127.0.0.1:0",
            "--db",
            db.to_str().expect("a test's path is UTF-8"),
        ]))
    }
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped above"));
        out.read_line(&mut line).expect("a readable pipe");
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.strip_suffix("/mcp"))
            .unwrap_or_else(|| panic!("the server did not start: {line:?}"))
            .to_owned();
        Self { child, address }
    }
    pub(crate) fn client(&self) -> Client {
        Client::http(&format!("http://{}/mcp", self.address))
    }
    #[track_caller]
    pub(crate) fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        exchange(&self.address, method, path, headers, body).expect("a whole answer")
    }
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("our child, not yet reaped");
    }
    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the server ends", || {
            self.child.try_wait().expect("our child")
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder with a place for a database.
pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a writable temporary directory");
    let db = dir.path().join("tinytask.db");
    (dir, db)
}
