//! `demo`: a request crosses a team, in a temporary base path, with the built-in tinytask and five scripted agents.
//!
//! Nothing is staged: the daemon, the shims and the server are the real ones, each a process of its own; only the agents are
//! scripts instead of models, and with `--goose` not even those.

use std::os::unix::fs::DirBuilderExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::init::{self, Plan, Server};
use super::run::own_program;
use super::{Cannot, runtime, say};
use crate::cli::Demo;
use crate::core::layout::Layout;
use crate::core::model::{Millis, RunSubject, TaskId, Timestamp};
use crate::core::record::{Verdict, VerdictRecord};
use crate::edge::files::{self, Durability};
use crate::edge::{clock, runs};
use crate::report::{Exit, Failure};
use crate::view::{self, Hop, timeline};

/// The scripted agents, by queue.
const AGENTS: [(&str, &str); 5] = [
    (
        "dispatcher",
        include_str!("../../fixtures/agents/dispatcher.sh"),
    ),
    (
        "architect",
        include_str!("../../fixtures/agents/architect.sh"),
    ),
    ("product", include_str!("../../fixtures/agents/product.sh")),
    ("devops", include_str!("../../fixtures/agents/devops.sh")),
    ("coder", include_str!("../../fixtures/agents/coder.sh")),
];

/// The first request; more get a number.
const REQUEST: &str =
    "# Add OAuth login\n\nPeople want to sign in with the account they already have.\n";
/// How often the screen is brought up to date.
const TICK: Duration = Duration::from_millis(20);
/// Scripted agents take a second or two a request.
const LIMIT: Millis = Millis::secs(60);
/// A model takes minutes.
const GOOSE_LIMIT: Millis = Millis::secs(3600);

/// Shows the whole thing, cleans up, and ends well only if every request arrived at `complete`.
pub fn call(demo: &Demo) -> Result<Exit, Failure> {
    let requests = demo.requests.max(1);
    let base = temporary_base()?;
    let mut stage = Stage {
        layout: Layout::new(&base),
        daemon: None,
        keep: demo.keep,
    };
    let shown = show(demo, requests, &mut stage);
    stage.clean_up();
    shown
}

/// The processes and files of the demo.
struct Stage {
    layout: Layout,
    daemon: Option<Child>,
    keep: bool,
}

impl Stage {
    /// Ends the daemon, whatever still runs, the server; then removes the folder, unless it is to be kept.
    fn clean_up(&mut self) {
        let Ok(exe) = own_program() else { return };
        let ours = |arguments: &[&str]| {
            let mut command = Command::new(exe.as_str());
            command
                .args(["--base-path", self.layout.base().as_str()])
                .args(arguments);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .ok();
        };
        if runs::list_live(&self.layout).is_ok_and(|(live, _)| !live.is_empty()) {
            ours(&["stop", "--all"]);
        }
        ours(&["quit"]);
        if let Some(daemon) = &mut self.daemon {
            daemon.wait().ok();
        }
        ours(&["tinytask", "stop"]);
        if !self.keep {
            std::fs::remove_dir_all(self.layout.base()).ok();
        }
    }
}

fn cannot(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let what = what.into();
    move |source| Failure::new(Exit::Failed, Cannot { what, source })
}

fn temporary_base() -> Result<Utf8PathBuf, Failure> {
    let parent = Utf8PathBuf::from_path_buf(std::env::temp_dir()).unwrap_or_else(|_| "/tmp".into());
    for n in 0.. {
        let base = parent.join(format!("calypso-demo-{}-{n}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&base) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => {
                other.map_err(cannot(format!("make `{base}`")))?;
                return Ok(base);
            }
        }
    }
    unreachable!("the names never end")
}

fn show(demo: &Demo, requests: u32, stage: &mut Stage) -> Result<Exit, Failure> {
    let layout = stage.layout.clone();
    let address = init::free_address()?;
    let command = "\n[agent]\ncommand = [\"sh\", \"{base_path}/agents/{queue}.sh\", \"{base_path}\", \"{task_id}\"]\n";
    let plan = Plan {
        server: Server::Builtin(address),
        provider: demo.provider.as_deref(),
        model: demo.model.as_deref(),
        recipes: true,
        more: if demo.goose { "" } else { command },
    };
    init::make(layout.base(), &plan)?;
    if !demo.goose {
        write_agents(&layout)?;
    }
    let agents = if demo.goose {
        "the starter recipes, on your own goose and model"
    } else {
        "five scripted ones; with --goose your own model does the work"
    };
    let base = if demo.keep {
        layout.base().to_string()
    } else {
        "a temporary folder (use --keep to look around later)".to_owned()
    };
    say(&format!(
        "base path  {base}\ntinytask   built in, {address}\nagents     {agents}\n\n"
    ))?;

    stage.daemon = Some(start_daemon(&layout)?);
    let runtime = runtime()?;
    runtime
        .block_on(async {
            wait_until(LIMIT, || {
                crate::daemon::running(&layout).is_ok() && layout.daemon().exists()
            })
            .await
        })
        .then_some(())
        .ok_or_else(|| {
            let said = std::fs::read_to_string(daemon_log(&layout)).unwrap_or_default();
            Failure::new(
                Exit::Failed,
                format!("the daemon did not start: {}", said.trim()),
            )
        })?;

    let dropped = drop_requests(&layout, requests)?;
    let limit = if demo.goose { GOOSE_LIMIT } else { LIMIT };
    let mut progress = Progress::default();
    let complete = runtime.block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        tokio::select! {
            _ = &mut interrupted => false,
            done = wait_until(limit, || progress.is_complete(&layout, requests)) => done,
        }
    });
    let verdicts = runs::recent(&layout, 10_000)?;
    let finished = complete
        .then(|| {
            verdicts
                .iter()
                .filter_map(|v| v.ended.as_ref())
                .map(|m| m.wall)
                .max()
        })
        .flatten();
    say(&format!(
        "\n{}\n",
        timeline(&hops(&verdicts, dropped), dropped, finished)
    ))?;
    if !complete {
        let failure = Failure::new(
            Exit::Failed,
            format!("not every request was complete within {} s", limit.0 / 1000),
        );
        return Err(failure.hint(
            "run it again with `--keep`, then `calypso-watch --base-path … status`".to_owned(),
        ));
    }
    say(&files_text(&layout, stage.keep))
}

fn write_agents(layout: &Layout) -> Result<(), Failure> {
    let folder = layout.base().join("agents");
    std::fs::create_dir(&folder).map_err(cannot(format!("make `{folder}`")))?;
    for (queue, script) in AGENTS {
        let path = folder.join(format!("{queue}.sh"));
        files::replace(&path, script.as_bytes(), 0o755, Durability::Crash)
            .map_err(cannot(format!("write `{path}`")))?;
    }
    Ok(())
}

fn daemon_log(layout: &Layout) -> Utf8PathBuf {
    layout.state().join("daemon.log")
}

fn start_daemon(layout: &Layout) -> Result<Child, Failure> {
    let log_path = daemon_log(layout);
    let log = std::fs::File::create(&log_path).map_err(cannot(format!("write `{log_path}`")))?;
    let program = std::env::current_exe().map_err(cannot("find this program"))?;
    Command::new(own_program()?.as_str())
        .args([
            "--base-path",
            layout.base().as_str(),
            "run",
            "--log",
            "info",
        ])
        // The agents' word for this program.
        .env("CALYPSO_WATCH", program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(cannot("start the daemon"))
}

fn drop_requests(layout: &Layout, requests: u32) -> Result<Timestamp, Failure> {
    let mut first = None;
    for n in 1..=requests {
        let (name, text) = match n {
            1 => ("request.md".to_owned(), REQUEST.to_owned()),
            n => (
                format!("request-{n}.md"),
                format!("# Request number {n}\n\nThe same again.\n"),
            ),
        };
        let hidden = layout.inbound().join(format!(".{name}"));
        files::replace(&hidden, text.as_bytes(), 0o644, Durability::Crash)
            .map_err(cannot(format!("write `{hidden}`")))?;
        let path = layout.inbound().join(&name);
        first.get_or_insert_with(clock::wall);
        std::fs::rename(&hidden, &path).map_err(cannot(format!("write `{path}`")))?;
    }
    let what = if requests == 1 {
        "\"Add OAuth login\"".to_owned()
    } else {
        format!("{requests} requests")
    };
    say(&format!("drop       {what} into inbound/\n"))?;
    Ok(first.unwrap_or_default())
}

async fn wait_until(limit: Millis, mut is_so: impl FnMut() -> bool) -> bool {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(limit.0), waiting)
        .await
        .is_ok()
}

/// What has been said on the screen.
#[derive(Default)]
struct Progress {
    said: std::collections::BTreeSet<String>,
}

impl Progress {
    /// Says what is new; are all requests complete?
    fn is_complete(&mut self, layout: &Layout, requests: u32) -> bool {
        for run in runs::list_live(layout)
            .map(|(live, _)| live)
            .unwrap_or_default()
        {
            let name = run.live_name();
            if self.said.contains(&name) {
                continue;
            }
            let what = match run.id.subject {
                RunSubject::Inbound => "takes what lies in inbound/".to_owned(),
                RunSubject::Task(id) => format!("works on task {id}"),
            };
            say(&format!("           {} {what}\n", run.queue)).ok();
            self.said.insert(name);
        }
        let verdicts = runs::recent(layout, 10_000).unwrap_or_default();
        let done: std::collections::BTreeSet<TaskId> = verdicts
            .iter()
            .flat_map(|v| &v.tasks)
            .filter(|t| t.verdict == Verdict::Done)
            .map(|t| t.key.id)
            .collect();
        done.len() >= requests as usize
    }
}

/// Each run, with how long after its cause it started: the drop, or the end of the run that handed the task on.
fn hops(verdicts: &[VerdictRecord], dropped: Timestamp) -> Vec<Hop> {
    let ended_before = |at: Timestamp| {
        verdicts
            .iter()
            .filter_map(|v| v.ended.as_ref())
            .map(|m| m.wall)
            .filter(|end| *end <= at)
            .max()
    };
    let mut hops: Vec<Hop> = verdicts
        .iter()
        .filter_map(|verdict| {
            let (started, ended) = (verdict.started.as_ref()?.wall, verdict.ended.as_ref()?.wall);
            let cause = ended_before(started).unwrap_or(dropped).max(dropped);
            let task = verdict.run.subject.task();
            Some(Hop {
                queue: verdict.queue.clone(),
                task,
                started,
                ended,
                latency: started.since(cause),
            })
        })
        .collect();
    hops.sort_by_key(|hop| hop.started);
    hops
}

fn files_text(layout: &Layout, keep: bool) -> String {
    let list = |dir: &Utf8Path| {
        let entries = std::fs::read_dir(dir)
            .map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>());
        let mut names: Vec<_> = entries
            .unwrap_or_default()
            .iter()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names.join("  ")
    };
    let mut text = "what happened is all in files:\n".to_owned();
    let task: Option<TaskId> = "1".parse().ok();
    if let Some(task) = task {
        let mut shown = vec![layout.task_folder(task)];
        let runs = runs::list_runs(layout, RunSubject::Task(task)).unwrap_or_default();
        shown.extend(runs.first().map(|run| layout.run(run).dir));
        for dir in shown {
            let name = dir.strip_prefix(layout.base()).unwrap_or(&dir);
            text.push_str(&format!("  {name}/\n"));
            for line in view::text::wrap(&list(&dir), view::text::WIDTH - 4) {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    if keep {
        text.push_str(&format!(
            "\nlook around: calypso-watch --base-path {} status\n",
            layout.base()
        ));
    }
    text.push_str("next: calypso-watch init ~/my-team\n");
    text
}
