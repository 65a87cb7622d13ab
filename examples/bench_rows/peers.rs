//! What else starts a program when a file lands, measured beside: incron, a pipe of inotifywait, and the floor.
//!
//! Each watches a directory of its own and starts the same tiny agent. None of them records anything, looks at anything twice, or
//! knows whether the last one still runs.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::latency::drop_file;
use crate::world::{MARK, Stamps};
use crate::{Failure, Setup, sys};

/// The three, where they are installed.
pub struct Peers {
    folder: PathBuf,
    pub running: Vec<Peer>,
    stamps: Stamps,
}

/// One of them.
pub struct Peer {
    pub name: &'static str,
    child: Child,
    inbound: PathBuf,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The pipe's shell, too: each leads a group of its own.
        sys::kill_group(self.child.id()).ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.running.clear();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

impl Peers {
    pub fn start(setup: &Setup) -> Result<Self, Failure> {
        let folder = setup.folder("peers")?;
        let mut peers = Self {
            stamps: Stamps::new(folder.join("stamps")),
            running: Vec::new(),
            folder,
        };
        for (name, program) in [
            ("incron", Some("incrond")),
            ("inotifywait", Some("inotifywait")),
            ("floor", None),
        ] {
            if let Some(program) = program
                && !is_installed(program)
            {
                eprintln!(
                    "{name} is not installed (Debian's packages incron, inotify-tools): not measured"
                );
                continue;
            }
            let inbound = peers.folder.join(name);
            std::fs::create_dir_all(&inbound)?;
            let stamps = peers.folder.join("stamps");
            let mut command = match name {
                "incron" => incron(&peers.folder, &inbound, &setup.agent, &stamps)?,
                "inotifywait" => pipe(&inbound, &setup.agent, &stamps),
                _ => {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.arg("floor").args([&inbound, &setup.agent, &stamps]);
                    command
                }
            };
            let child = command
                .env(MARK, &peers.folder)
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            peers.running.push(Peer {
                name,
                child,
                inbound,
            });
        }
        peers.warm_up()?;
        Ok(peers)
    }

    /// They say nothing when they are ready: a file is dropped until its agent starts.
    fn warm_up(&mut self) -> Result<(), Failure> {
        for at in 0..self.running.len() {
            let end = Instant::now() + Duration::from_secs(20);
            for n in 0.. {
                let peer = &self.running[at];
                drop_file(
                    &self.folder,
                    &peer.inbound,
                    &format!("warm-{n}"),
                    n % 2 == 0,
                )?;
                std::thread::sleep(Duration::from_millis(200));
                let name = peer.name;
                if self.stamps.find(0, |stamp| stamp.queue == name)?.is_some() {
                    break;
                }
                if Instant::now() > end {
                    return Err(format!("{name} starts nothing").into());
                }
            }
        }
        Ok(())
    }

    /// Drops one file for this peer; milliseconds to the agent's first instruction.
    pub fn measure(&mut self, at: usize, name: &str, rename: bool) -> Result<f64, Failure> {
        let from = self.stamps.len()?;
        let peer = &self.running[at];
        let dropped = drop_file(&self.folder, &peer.inbound, name, rename)?;
        let wanted = |stamp: &crate::world::Stamp| {
            stamp.word == "start" && stamp.queue == peer.name && stamp.task == name
        };
        let started = self.stamps.wait(from, peer.name, wanted)?;
        std::fs::remove_file(peer.inbound.join(name))?;
        Ok((started.at as f64 - dropped as f64) / 1e6)
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// incrond in the foreground, with tables, users and lock of its own.
fn incron(folder: &Path, inbound: &Path, agent: &Path, stamps: &Path) -> Result<Command, Failure> {
    let own = folder.join("incron.d");
    for name in ["system", "user", "lock"] {
        std::fs::create_dir_all(own.join(name))?;
    }
    let settings = format!(
        "system_table_dir = {0}/system\nuser_table_dir = {0}/user\nallowed_users = {0}/allow\ndenied_users = {0}/deny\n\
         lockfile_dir = {0}/lock\nlockfile_name = incrond\n",
        own.display()
    );
    std::fs::write(own.join("conf"), settings)?;
    let line = format!(
        "{} IN_CLOSE_WRITE,IN_MOVED_TO {} none {} incron $#\n",
        inbound.display(),
        agent.display(),
        stamps.display()
    );
    std::fs::write(own.join("system/bench"), line)?;
    let mut command = Command::new("incrond");
    command.args(["-n", "-f"]).arg(own.join("conf"));
    Ok(command)
}

/// What one writes in a minute.
fn pipe(inbound: &Path, agent: &Path, stamps: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "inotifywait -m -q -e close_write -e moved_to --format %f \"$1\" | while read -r name; do \"$2\" none \"$3\" inotifywait \"$name\"; done",
            "pipe",
        ])
        .args([inbound, agent, stamps]);
    command
}

/// `floor DIR AGENT STAMPS`: reads inotify and spawns, nothing else: no program on this machine can be faster by much.
pub fn floor(args: &[String]) -> Result<(), Failure> {
    let [dir, agent, stamps] = args else {
        return Err("floor DIR AGENT STAMPS".into());
    };
    let mut events = sys::watch(Path::new(dir))?;
    let mut buffer = [0; 4096];
    loop {
        let len = events.read(&mut buffer)?;
        let mut at = 0;
        while at < len {
            // struct inotify_event: the name's length at 12, the name, filled up with zeros, at 16.
            let bytes = [
                buffer[at + 12],
                buffer[at + 13],
                buffer[at + 14],
                buffer[at + 15],
            ];
            let name = &buffer[at + 16..at + 16 + u32::from_ne_bytes(bytes) as usize];
            let end = name
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len());
            let name = String::from_utf8_lossy(&name[..end]).into_owned();
            at += 16 + u32::from_ne_bytes(bytes) as usize;
            let started = Command::new(agent)
                .args(["none", stamps, "floor", &name])
                .spawn();
            started?.wait()?;
        }
    }
}
