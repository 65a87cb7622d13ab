//! The tiny processes of a selftest: the agent, the bystander, the keeper, and a holder of a lock.
//!
//! All are this very program under a hidden word, so that nothing else need be installed, and as small as goose is large: a run
//! costs a few milliseconds. An agent says in `stamps`, by O_APPEND, that it starts and, as its last act, that it ends.
//!
//! **How two agents on one task are caught.** Each agent, before anything else, takes an OFD lock on `busy/SUBJECT` without
//! waiting, and keeps it for its life; what it forks keeps it too. The kernel drops a lock with its last holder, before anybody
//! can hear of that death (do_exit closes files before it tells the parent or a pidfd). So whoever finds it taken is the second
//! live agent of this task, or meets what a run left alive, and stamps `double`. No clock, no order of lines, and no word of the
//! killer enters, so a kill at any instant can neither hide a double nor feign one.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use nix::sys::signal::SigSet;
use nix::unistd::ForkResult;
use serde_json::{Value, json};

use super::dice::Dice;
use super::http;
use super::world::{BUILD, BUSY, DISPATCHER, POOL, REVIEW, SERVER, STAMPS};
use crate::core::layout::Layout;
use crate::edge::{clock, files, process};

/// How long an agent goes on asking a tinytask that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
const TRY: Duration = Duration::from_millis(10);
/// Longest life of what an agent leaves behind, should nobody end it.
const LEFT: Duration = Duration::from_secs(300);
/// One agent in so many leaves a child behind.
const LEAVES_ONE_IN: u64 = 10;

/// `agent BASE QUEUE TASK PACE`: one run. `PACE` is the longest time, in milliseconds, that it spends on each of three steps.
pub(super) fn run(args: &[String]) -> ExitCode {
    // The first instruction that an agent's author could call theirs.
    let began = clock::boot_us();
    let [base, queue, task, pace] = args else {
        return ExitCode::from(2);
    };
    let base = Utf8Path::new(base);
    let subject = if task.is_empty() { "inbound" } else { task };
    let me = process::own();
    let agent = Agent {
        base,
        queue,
        task,
        id: format!("{subject} {queue} {} {}", me.pid, me.start),
    };
    // Closed on exec, so only what is forked keeps it.
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(base.join(BUSY).join(subject));
    let Ok(lock) = lock else {
        return ExitCode::FAILURE;
    };
    let word = match files::try_lock(&lock) {
        Ok(true) => "start",
        Ok(false) | Err(_) => "double",
    };
    // The run's token, so that a run without a record is noticed.
    let token = environment(process::TOKEN_VARIABLE).unwrap_or_default();
    agent.stamp(word, began, &token);
    let mut dice = Dice::new(began ^ (u64::from(std::process::id()) << 32));
    let pace = pace.parse().unwrap_or(0);
    let done = agent.work(&mut dice, pace);
    if pace > 0 && dice.one_in(LEAVES_ONE_IN) {
        leave_a_child(dice.one_in(2));
    }
    agent.stamp(
        "end",
        clock::boot_us(),
        if done { "done" } else { "failed" },
    );
    drop(lock);
    if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Agent<'a> {
    base: &'a Utf8Path,
    queue: &'a str,
    task: &'a str,
    id: String,
}

impl Agent<'_> {
    /// One line in one write(2).
    fn stamp(&self, word: &str, at: u64, more: &str) {
        let line = format!("{word} {} {at} {more}", self.id);
        files::append_line(&self.base.join(STAMPS), &line, 0o644).ok();
    }

    fn work(&self, dice: &mut Dice, pace: u64) -> bool {
        let mut think = || std::thread::sleep(Duration::from_millis(dice.below(pace + 1)));
        think();
        match self.queue {
            DISPATCHER => {
                let layout = Layout::new(self.base);
                let entries = std::fs::read_dir(layout.inbound()).into_iter().flatten();
                let names: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                for path in names {
                    let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes()[0] == b'.';
                    if path.file_name().is_none_or(is_hidden) {
                        continue;
                    }
                    // Taken by name: a second taker finds nothing there.
                    let Ok(()) = std::fs::remove_file(&path) else {
                        continue;
                    };
                    think();
                }
                true
            }
            BUILD => {
                let claimed = self.change(self.task, "working");
                think();
                let done = claimed && self.hand_over(self.task, REVIEW);
                think();
                done
            }
            // As real agents do: what tinytask hands out need not be what the run is named after.
            POOL => {
                let Some((200, task)) = self.ask("POST", &format!("agents/{POOL}/signup"), None)
                else {
                    return false;
                };
                think();
                let done = self.hand_over(&task["id"].to_string(), REVIEW);
                think();
                done
            }
            REVIEW => {
                let claimed = self.change(self.task, "working");
                think();
                let done = claimed && self.change(self.task, "complete");
                think();
                done
            }
            _ => false,
        }
    }

    fn change(&self, task: &str, status: &str) -> bool {
        let body = json!({ "status": status });
        matches!(
            self.ask("PATCH", &format!("tasks/{task}"), Some(&body)),
            Some((200, _))
        )
    }

    fn hand_over(&self, task: &str, to: &str) -> bool {
        let body = json!({ "current_agent": self.queue, "new_agent": to, "comment": "next" });
        match self.ask("POST", &format!("tasks/{task}/transfer"), Some(&body)) {
            Some((200, _)) => true,
            // Asked again because the first answer was lost with the server.
            Some(_) => matches!(
                self.ask("GET", &format!("tasks/{task}"), None),
                Some((200, now)) if now["assigned_to"] == to
            ),
            None => false,
        }
    }

    /// Asks until there is an answer; `None` where none comes in the time that takes.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let address = std::fs::read_to_string(self.base.join(SERVER)).ok()?;
        let address: SocketAddr = address.trim().parse().ok()?;
        let end = clock::boot_us() + PATIENCE.as_micros() as u64;
        loop {
            match http::call(address, method, path, body) {
                // Another writer has the database: it says so, and nothing was done.
                Ok((503, _)) | Err(_) if clock::boot_us() < end => std::thread::sleep(TRY),
                Ok(answer) => return Some(answer),
                Err(_) => return None,
            }
        }
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::vars_os()
        .find(|(known, _)| known == name)
        .and_then(|(_, value)| value.into_string().ok())
}

/// What a shell's `&` leaves: a child that keeps the run's lock and this agent's; with `apart`, in a session of its own.
fn leave_a_child(apart: bool) {
    // SAFETY: the process has one thread, so the child may do whatever the parent could.
    if let Ok(ForkResult::Child) = unsafe { nix::unistd::fork() } {
        if apart {
            nix::unistd::setsid().ok();
        }
        std::thread::sleep(LEFT);
        // SAFETY: _exit(2) ends this copy at once; what would run at exit is the parent's to run.
        unsafe { nix::libc::_exit(0) };
    }
}

/// `bystander FILE`: lives, writes down each signal that it is sent, and does nothing else. Only SIGKILL and SIGSTOP get past it, and
/// these are seen from outside.
pub(super) fn bystander(args: &[String]) -> ExitCode {
    let [file, ..] = args else {
        return ExitCode::from(2);
    };
    let all = SigSet::all();
    if all.thread_block().is_err() || nix::unistd::setsid().is_err() {
        return ExitCode::FAILURE;
    }
    let say = |what: &str| files::append_line(Utf8Path::new(file), what, 0o644);
    if say("here").is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match all.wait() {
            Ok(signal) => say(signal.as_str()).ok(),
            Err(_) => return ExitCode::FAILURE,
        };
    }
}

/// `hold FILE`: takes the lock, says so, keeps it until it is killed.
pub(super) fn hold(args: &[String]) -> ExitCode {
    let [file] = args else {
        return ExitCode::from(2);
    };
    let Ok(file) = OpenOptions::new().write(true).open(file) else {
        return ExitCode::FAILURE;
    };
    if !files::try_lock(&file).unwrap_or(false) {
        return ExitCode::FAILURE;
    }
    // One byte on standard output: it holds.
    if rustix::io::write(std::io::stdout(), b"!").is_err() {
        return ExitCode::FAILURE;
    }
    wait_for_end();
    ExitCode::SUCCESS
}

/// Returns when standard input ends: whoever has its other end is gone. True where it said "keep the files".
fn wait_for_end() -> bool {
    let mut said = Vec::new();
    std::io::stdin().read_to_end(&mut said).ok();
    said.contains(&b'k')
}

/// `keeper FOLDER`: ends whatever carries this folder's mark, then removes the folder, once standard input ends: be it that the
/// selftest is done, or that it was killed. So one piece of code cleans up, however it ended.
pub(super) fn keeper(args: &[String]) -> ExitCode {
    let [folder] = args else {
        return ExitCode::from(2);
    };
    // Ctrl-C in a terminal is for the selftest, which then closes our input.
    nix::unistd::setsid().ok();
    if SigSet::all().thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    let folder = Utf8PathBuf::from(folder);
    let keep = wait_for_end();
    let is_clean = super::marks::end_all(&folder);
    if !keep {
        // Something that was on its way may still write for a moment.
        for _ in 0..100 {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if !files::is_absent(&error) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => break,
            }
        }
    }
    if is_clean && (keep || !folder.exists()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Opens a file for a child's output.
pub(super) fn log(path: &Utf8Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(path)
}
