//! What each subcommand means. One file for each that has a body of its own; the one-liners are here.

use std::io::{BufWriter, StdoutLock, Write as _};

use camino::Utf8Path;

use crate::cli::{Cli, Command, OneTask, PauseArgs, Server, Settings, TaskCommand};
use crate::core::layout::Layout;
use crate::core::model::{QueueName, RunSubject};
use crate::edge::config::{self, Config};
use crate::edge::control::{self, Control};
use crate::look::Looker;
use crate::report::{Exit, Failure};

pub mod demo;
pub mod doctor;
pub mod init;
pub mod logs;
pub mod run;
pub mod selftest;
pub mod show;
pub mod stop;
pub mod submit;
pub mod task;
pub mod tinytask;

/// Does what was typed.
pub fn call(cli: Cli) -> Result<Exit, Failure> {
    let base = cli.base_path.as_deref();
    match cli.command {
        Command::Init(init) => init::call(base, &init),
        Command::Run(run) => run::call(base, &run),
        Command::Status(status) => show::status(base, &status),
        Command::Why(why) => show::why(base, &why),
        Command::Plan(plan) => show::plan(base, &plan),
        Command::Submit(submit) => submit::call(base, &submit),
        Command::Logs(logs) => logs::call(base, &logs),
        Command::Stop(stop) => stop::stop(base, &stop),
        Command::Hold(task) => wish(base, &task, Control::Hold),
        Command::Retry(task) => retry(base, &task),
        Command::Release(task) if task.task == "tinytask" => release_tinytask(base),
        Command::Release(task) => wish(base, &task, Control::Release),
        Command::Putback(task) => task::putback(base, &task),
        Command::Pause(queue) => pause(base, &queue),
        Command::Resume(queue) => resume(base, &queue),
        Command::Quit => stop::quit(base),
        Command::Task(command) => on_task(base, command),
        Command::Tinytask(command) => tinytask::call(base, command),
        Command::Demo(_) if base.is_some() => Err(Failure::new(
            Exit::Usage,
            "`demo` makes a base path of its own, in a temporary folder",
        )
        .hint("leave `--base-path` out; `--keep` keeps it".to_owned())),
        Command::Demo(demo) => demo::call(&demo),
        Command::Doctor(doctor) => doctor::call(base, &doctor),
        Command::Selftest(selftest) => selftest::call(base, &selftest),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut <Cli as clap::CommandFactory>::command(),
                "calypso-watch",
                &mut script,
            );
            say(&String::from_utf8_lossy(&script))
        }
    }
}

// ── what they share ────────────────────────────────────────────────────────────────────────────────────────────────────

type Out = BufWriter<StdoutLock<'static>>;

/// As much as a pipe takes at once (pipe(7)).
const PIPE: usize = 64 << 10;

/// Prints data on standard output. A reader who has seen enough (a broken pipe) is no failure.
fn say(text: &str) -> Result<Exit, Failure> {
    say_by(|out| out.write_all(text.as_bytes()))
}

/// As [`say`], of what `write` writes: whoever reads it begins while the rest is still being written.
fn say_by(write: impl FnOnce(&mut Out) -> std::io::Result<()>) -> Result<Exit, Failure> {
    let mut out = Out::with_capacity(PIPE, std::io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, error))
        }
        _ => Ok(Exit::Done),
    }
}

/// The settings of the base path, with those typed as flags.
fn load(base: Option<&Utf8Path>, settings: &Settings) -> Result<Config, Failure> {
    let base = config::find_base(base)?;
    Ok(config::load(&base, &flags(settings))?)
}

/// The tree of the base path.
fn layout(base: Option<&Utf8Path>) -> Result<Layout, Failure> {
    Ok(Layout::new(config::find_base(base)?))
}

/// What was typed of the settings, by their keys in calypso.toml.
fn flags(settings: &Settings) -> Vec<(&'static str, String)> {
    let Settings {
        max_runs,
        time_limit,
        stop_grace,
        max_attempts,
        max_runs_per_task,
        max_turns,
        settle,
        rescan,
        quiet_after,
        log_limit,
        provider,
        model,
        tinytask_url,
    } = settings;
    let typed = [
        ("max_runs", max_runs),
        ("time_limit", time_limit),
        ("stop_grace", stop_grace),
        ("max_attempts", max_attempts),
        ("max_runs_per_task", max_runs_per_task),
        ("max_turns", max_turns),
        ("settle", settle),
        ("rescan", rescan),
        ("quiet_after", quiet_after),
        ("log_limit", log_limit),
        ("provider", provider),
        ("model", model),
        ("tinytask_url", tinytask_url),
    ];
    typed
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.clone()?)))
        .collect()
}

/// One thread is enough: everything waits for files, processes and one server.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))
}

/// Reads `42`, `#42` or `inbound`.
fn subject(text: &str) -> Result<RunSubject, Failure> {
    text.parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            Box::<dyn std::error::Error>::from(crate::core::model::Invalid::clone(&error)),
        )
    })
}

// ── the one-liners ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn leave(layout: &Layout, control: &Control) -> Result<(), Failure> {
    let cannot = |error| {
        Failure::new(
            Exit::Failed,
            Cannot {
                what: format!("write `{}`", layout.control()),
                source: error,
            },
        )
    };
    control::create(layout, control).map(drop).map_err(cannot)
}

fn take_back(layout: &Layout, control: &Control) -> Result<bool, Failure> {
    let cannot = |error| {
        Failure::new(
            Exit::Failed,
            Cannot {
                what: format!("write in `{}`", layout.control()),
                source: error,
            },
        )
    };
    control::remove(layout, control).map_err(cannot)
}

/// Something that was tried, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
struct Cannot {
    what: String,
    source: std::io::Error,
}

/// A sentence that says whether anybody will act on a wish now.
fn when(layout: &Layout) -> &'static str {
    if crate::daemon::running(layout).is_ok() {
        ""
    } else {
        "; no daemon is running, so it counts from the next `calypso-watch run`"
    }
}

fn wish(
    base: Option<&Utf8Path>,
    task: &OneTask,
    control: impl Fn(RunSubject) -> Control,
) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    let subject = subject(&task.task)?;
    let control = control(subject);
    leave(&layout, &control)?;
    let text = match control {
        Control::Hold(_) => format!(
            "{} is held; `calypso-watch retry {subject}` lifts it",
            label(subject)
        ),
        _ => format!(
            "{} is released from what was held against it",
            label(subject)
        ),
    };
    say(&format!("{text}{}\n", when(&layout)))
}

/// A person's word that tinytask is the right one, after most of its tasks vanished.
fn release_tinytask(base: Option<&Utf8Path>) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    leave(&layout, &Control::ReleaseTinytask)?;
    say(&format!(
        "tinytask is taken for the right one, with the tasks it has now{}\n",
        when(&layout)
    ))
}

fn label(subject: RunSubject) -> String {
    match subject {
        RunSubject::Task(id) => format!("#{id}"),
        RunSubject::Inbound => "inbound".into(),
    }
}

/// A fresh start: whatever else people asked for it is taken back too.
fn retry(base: Option<&Utf8Path>, task: &OneTask) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    let subject = subject(&task.task)?;
    leave(&layout, &Control::Retry(subject))?;
    take_back(&layout, &Control::Hold(subject))?;
    say(&format!(
        "{} gets a fresh start{}\n",
        label(subject),
        when(&layout)
    ))
}

fn pause_control(queue: &PauseArgs) -> Result<Control, Failure> {
    let Some(queue) = &queue.queue else {
        return Ok(Control::PauseAll);
    };
    let name: Result<QueueName, _> = queue.parse();
    name.map(Control::Pause)
        .map_err(|error| Failure::new(Exit::Usage, error))
}

fn pause(base: Option<&Utf8Path>, queue: &PauseArgs) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    leave(&layout, &pause_control(queue)?)?;
    let (what, resume) = match &queue.queue {
        Some(queue) => (format!("queue {queue}"), format!("resume {queue}")),
        None => ("everything".into(), "resume".into()),
    };
    say(&format!(
        "{what} is paused: nothing more is started there, what runs goes on; `calypso-watch {resume}` lifts it\n"
    ))
}

fn resume(base: Option<&Utf8Path>, queue: &PauseArgs) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    let was_paused = take_back(&layout, &pause_control(queue)?)?;
    let what = queue
        .queue
        .as_ref()
        .map_or_else(|| "everything".to_owned(), |queue| format!("queue {queue}"));
    say(&if was_paused {
        format!("{what} goes on{}\n", when(&layout))
    } else {
        format!("{what} was not paused\n")
    })
}

fn on_task(base: Option<&Utf8Path>, command: TaskCommand) -> Result<Exit, Failure> {
    let (TaskCommand::List { server, .. }
    | TaskCommand::Show { server, .. }
    | TaskCommand::Create { server, .. }
    | TaskCommand::Move { server, .. }
    | TaskCommand::Comment { server, .. }
    | TaskCommand::Signup { server, .. }
    | TaskCommand::Done { server, .. }) = &command;
    let tinytask = client(base, server)?;
    runtime()?.block_on(task::call(&tinytask, command, &mut std::io::stdout()))
}

/// The tinytask a person means: the one typed, else the base path's.
fn client(
    base: Option<&Utf8Path>,
    server: &Server,
) -> Result<crate::edge::tinytask::Tinytask, Failure> {
    let settings = Settings {
        tinytask_url: server.tinytask_url.clone(),
        ..Settings::default()
    };
    let loaded = config::find_base(base).and_then(|base| config::load(&base, &flags(&settings)));
    // A server that was typed needs no settings, so a mistake in them stops no agent that names it; only one in the flag does.
    let is_typed_wrong = |error: &config::Error| {
        matches!(
            error,
            config::Error::Value {
                origin: config::Origin::Flag(_),
                ..
            }
        )
    };
    if let (Some(url), Err(error)) = (&server.tinytask_url, &loaded)
        && !is_typed_wrong(error)
    {
        let endpoint = crate::edge::tinytask::Endpoint::Http { url: url.clone() };
        return Ok(crate::edge::tinytask::Tinytask::new(
            endpoint,
            std::time::Duration::from_secs(10),
        ));
    }
    let looker = Looker::new(loaded?);
    let why = looker.server.why_none();
    looker
        .tinytask
        .ok_or_else(|| Failure::new(Exit::TinytaskUnreachable, why))
}
