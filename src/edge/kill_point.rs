//! Places at which a test may kill, or stop, this process; and planted bugs, which such tests have to find.
//!
//! Only with the feature `kill-points`. Without it every call here is an empty function, and nothing of this is in the program.
//! With it, and with a folder named by `KILL_POINTS`, each place adds a line to `hits` there; where a file `armed/NAME` stands,
//! which says "the n-th time" and what then, the process does that to itself. Planted bugs are named by `PLANTED_BUGS`.
//!
//! Safe after fork(2) in a process of one thread, as the shim and the child at its gate are: files are opened, written once with
//! O_APPEND and closed, nothing is held. Decides nothing, and does not know who drives it (`tests/kill`).

/// This process has come to `point`, one of `ALL`.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub fn reach(_point: &str) {}

/// The writing of the record at this path has come to a step; see `edge::files`.
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub fn reach_writing(_path: &camino::Utf8Path, _step: &str) {}

/// Is this bug wanted?
#[cfg(not(feature = "kill-points"))]
#[inline(always)]
pub fn is_planted(_bug: &str) -> bool {
    false
}

#[cfg(feature = "kill-points")]
pub use with::{ALL, BUGS, BUGS_VARIABLE, VARIABLE, is_planted, reach, reach_writing};

#[cfg(feature = "kill-points")]
mod with {
    use std::fs::{File, OpenOptions};
    use std::io::{Seek as _, Write as _};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;

    use camino::Utf8Path;
    use nix::sys::signal::{Signal, raise};

    /// Names the driver's folder.
    pub const VARIABLE: &str = "KILL_POINTS";
    /// Names the planted bugs, with commas between them.
    pub const BUGS_VARIABLE: &str = "PLANTED_BUGS";

    /// The bugs that can be planted.
    pub const BUGS: &[&str] = &[
        "gate-open",
        "no-lock",
        "link-before-fork",
        "blind-put-back",
        "comment-twice",
        "any-pid",
        "clear-any-pid-file",
    ];

    /// Every place, in the order in which a run comes to them. A place that no test ever comes to is a mistake.
    pub const ALL: &[&str] = &[
        // The daemon comes to life.
        "daemon:folders-made",
        "daemon:lock-opened",
        "daemon:locked",
        "daemon:lock-emptied",
        "daemon:lock-written",
        "builtin:before-start",
        "builtin:started",
        "builtin:serves",
        "daemon.json:opened",
        "daemon.json:written",
        "daemon.json:renamed",
        "log:before-rotation",
        "log:rotated",
        "log:appended",
        // The built-in tinytask.
        "server:locked",
        "server:database-open",
        "server:bound",
        "server.json:opened",
        "server.json:written",
        "server.json:renamed",
        "server:asked",
        "server:begun",
        "server:before-commit",
        "server:committed",
        "server:before-answer",
        // A launch.
        "launch:read-again",
        "blank:folder-made",
        "blank:made",
        "D1:entry-made",
        "D1:folder-made",
        "D1:lock-made",
        "D1:locked",
        "spec.json:opened",
        "spec.json:written",
        "spec.json:renamed",
        "D3:before",
        "D3:started",
        "D3:told",
        "S1:begun",
        "S1:spare",
        "S1:given",
        "S2:subreaper",
        "S2:signals",
        "S2:spec-read",
        "S2:agent-lock-made",
        "S2:agent-locked",
        "S2:young",
        // `starting`, `running` and `ended` are written alike.
        "state.json:opened",
        "state.json:written",
        "state.json:synced",
        "state.json:renamed",
        "state.json:folder-synced",
        "S4:log-open",
        "S4:forked",
        "S4:child-begins",
        "S4:child-in-group",
        "S4:child-at-gate",
        "S4:grouped",
        "S4:agent-lock-left",
        "S5:before-pid",
        "S5:pid-made",
        "S5:pid-written",
        "S5:refused",
        "S5:child-killed",
        "S5:linked",
        "S5:identified",
        "S6:recorded",
        "S7:before",
        "S7:child-through",
        "S7:opened",
        // The end of an agent.
        "stop:told-agent",
        "X1:over",
        "X1:group-told",
        "X1:collected",
        "X1:swept",
        "X2:before",
        "X3:before",
        "pid-file:is-ours",
        "pid-file:removed",
        "X4:before",
        // What the daemon does for a run whose shim cannot.
        "stop:before",
        "ended.json:opened",
        "ended.json:written",
        "ended.json:renamed",
        "stop:recorded",
        "stop:asked-shim",
        "stop:done",
        "sweep:before",
        "sweep:done",
        "clear:before",
        "clear:done",
        "stranger:before",
        "stranger:is-same",
        "stranger:removed",
        "litter:before",
        "litter:file-removed",
        "litter:folder-removed",
        "litter:entry-removed",
        // The verdict.
        "verdict:before",
        "verdict.json:opened",
        "verdict.json:written",
        "verdict.json:synced",
        "verdict.json:renamed",
        "verdict.json:folder-synced",
        "verdict:durable",
        "put-back:before",
        "put-back:read-again",
        "put-back:commented",
        "put-back:done",
        "park:before",
        "park:commented",
        "finish:before",
        "finish:linked",
        "finish:before-history",
        "finish:history-told",
        "finish:half-written-gone",
        "finish:entry-removed",
        "verdict:done",
        // People's marks, folders, retention.
        "mark:before",
        "marks.json:opened",
        "marks.json:written",
        "marks.json:synced",
        "marks.json:renamed",
        "marks.json:folder-synced",
        "mark:recorded",
        "mark:wish-removed",
        "stop:before-wish-removed",
        "stop:wish-removed",
        "folder:before",
        "folder:made",
        "prune:before",
        "prune:before-run",
        "prune:run-gone",
        "prune:marks-gone",
        "prune:done",
    ];

    fn folder() -> Option<&'static Path> {
        static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
        FOLDER
            .get_or_init(|| Some(PathBuf::from(variable(VARIABLE)?)))
            .as_deref()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "no setting of the program: a test's word to a program that was built for tests"
    )]
    fn variable(name: &str) -> Option<std::ffi::OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    /// This process has come to `point`, one of [`ALL`].
    pub fn reach(point: &str) {
        if let Some(folder) = folder() {
            // A driver that has gone took its folder with it; nobody counts then.
            come_to(folder, point).ok();
        }
    }

    /// The writing of the record at this path has come to a step. Files that are no records of ours are written alike, and not counted.
    pub fn reach_writing(path: &Utf8Path, step: &str) {
        if folder().is_none() {
            return;
        }
        let point = format!("{}:{step}", path.file_name().unwrap_or_default());
        if ALL.contains(&point.as_str()) {
            reach(&point);
        }
    }

    /// Is this bug wanted?
    pub fn is_planted(bug: &str) -> bool {
        static WANTED: OnceLock<String> = OnceLock::new();
        let wanted = WANTED.get_or_init(|| {
            variable(BUGS_VARIABLE)
                .map(|text| text.to_string_lossy().into_owned())
                .unwrap_or_default()
        });
        wanted.split(',').any(|word| word == bug)
    }

    fn come_to(folder: &Path, point: &str) -> std::io::Result<()> {
        let pid = std::process::id();
        append(&folder.join("hits"), &format!("{point} {pid}\n"))?;
        let Ok(armed) = std::fs::read_to_string(folder.join("armed").join(point)) else {
            return Ok(());
        };
        let mut words = armed.split_whitespace();
        let (Some(nth), Some(deed)) = (words.next(), words.next()) else {
            return Ok(());
        };
        // Where O_APPEND put our byte is our place among all who came here, in whatever process.
        let place = append(&folder.join("counts").join(point), ".")?;
        if nth.parse() != Ok(place) {
            return Ok(());
        }
        append(&folder.join("fired"), &format!("{point} {pid} {deed}\n"))?;
        match deed {
            "kill" => raise(Signal::SIGKILL)?,
            _ => raise(Signal::SIGSTOP)?,
        }
        Ok(())
    }

    /// Where the file ends afterwards.
    fn append(path: &Path, text: &str) -> std::io::Result<u64> {
        let mut file: File = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_CLOEXEC)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.stream_position()
    }
}
