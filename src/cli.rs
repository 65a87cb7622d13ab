//! What can be typed. Types only: no meaning, no I/O. `main` parses them, `commands` gives them meaning.

use std::net::SocketAddr;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};

/// Starts the agents of a file-based team by themselves.
#[derive(Debug, Parser)]
#[command(
    name = "calypso-watch",
    version,
    about = "Starts the agents of a file-based team by themselves, and tells why anything waits",
    before_help = "Examples:
  calypso-watch demo                     see the whole thing in a few seconds
  calypso-watch init ~/my-team           make the folders, settings and recipes
  calypso-watch run                      watch, and start agents as tasks land
  calypso-watch submit request.md        drop a request into inbound/
  calypso-watch status                   what runs, what waits, and why
  calypso-watch why 42                   the story of one task",
    after_help = "Exit codes: 0 done; 1 failed, or findings; 2 usage or settings; 3 not running, or already running;
4 tinytask unreachable; 128+n ended by signal n.",
    max_term_width = 100
)]
pub struct Cli {
    /// The folder that holds inbound/, workqueue/, recipes/ [default: `CALYPSO_BASE_PATH`, else the nearest parent with
    /// calypso.toml or .calypso/]
    #[arg(long, global = true, value_name = "DIR")]
    pub base_path: Option<Utf8PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

/// One variant a subcommand, in the order `--help` lists them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the folders, calypso.toml and five starter recipes
    #[command(before_help = "Examples:
  calypso-watch init ~/my-team --builtin      with a tinytask of its own
  calypso-watch init ~/my-team --tinytask-url http://127.0.0.1:3000/mcp
  calypso-watch init                          here; asks which tinytask to use")]
    Init(Init),
    /// Watch, and start agents as tasks land (in the foreground)
    #[command(before_help = "Examples:
  calypso-watch run                           until Ctrl-C; the agents go on
  calypso-watch run --max-runs 2 --time-limit 30m
  * * * * *  calypso-watch --base-path /srv/team run --once      in a crontab")]
    Run(Run),
    /// Show what runs, what waits and why
    Status(Status),
    /// Tell the story of one task, and what it waits for
    Why(Why),
    /// Show what would start now and why the rest waits; starts nothing
    Plan(Plan),
    /// Drop request files into inbound/, each in one atomic step
    #[command(before_help = "Examples:
  calypso-watch submit request.md notes/      a file and a folder: two requests
  echo 'Add OAuth login' | calypso-watch submit -")]
    Submit(Submit),
    /// Print what an agent said and did
    #[command(before_help = "Examples:
  calypso-watch logs 42                       the last run of task 42, readable
  calypso-watch logs 42 -f                    go on until it is over
  calypso-watch logs inbound --run 3 --raw")]
    Logs(Logs),
    /// End the run of a task, or all runs; works with the daemon dead too
    #[command(before_help = "Examples:
  calypso-watch stop 42                       then `calypso-watch retry 42` starts it again
  calypso-watch stop --all")]
    Stop(Stop),
    /// Keep a task from being started
    Hold(OneTask),
    /// Give a parked, stopped or held task a fresh start
    Retry(OneTask),
    /// Drop what is held against a task, a process it left, or tinytask itself
    #[command(before_help = "Examples:
  calypso-watch release 42                    what its last run left behind, or somebody's pid file
  calypso-watch release tinytask              its tasks are gone on purpose: it is the right server")]
    Release(OneTask),
    /// Set a task that is stuck in `working` back to `idle` in tinytask
    Putback(Putback),
    /// Start nothing more, in one queue or in all
    Pause(PauseArgs),
    /// Lift a pause
    Resume(PauseArgs),
    /// End the daemon; the agents go on
    Quit,
    /// A thin tinytask client for people and scripts
    #[command(
        subcommand,
        before_help = "Examples:
  calypso-watch task list coder               what waits in a queue
  calypso-watch task create 'Add OAuth login' --queue architect
  calypso-watch task move 42 coder --comment 'the tests fail'"
    )]
    Task(TaskCommand),
    /// The built-in tinytask server
    #[command(
        subcommand,
        before_help = "Examples:
  calypso-watch tinytask serve                this base path's, where its calypso.toml says
  calypso-watch tinytask serve --stdio --db tasks.db
  calypso-watch tinytask stop"
    )]
    Tinytask(TinytaskCommand),
    /// See a request cross the team, in a temporary folder, with nothing else installed
    #[command(before_help = "Examples:
  calypso-watch demo                          scripted agents, in a few seconds
  calypso-watch demo --requests 3 --keep      three requests; look around afterwards
  calypso-watch demo --goose --provider openai --model gpt-5.2")]
    Demo(Demo),
    /// Examine everything a run needs, and say what mends what is amiss; changes nothing
    #[command(
        before_help = "Examples:
  calypso-watch doctor                        goose, recipes, tinytask, permissions, limits …
  calypso-watch doctor --json                 for scripts; also before `init`, in any folder",
        after_help = "Levels: fail (does not work), warn (will not work as meant), unknown (this user may not see it), note.
Exit codes: 0 no failure and no warning; 1 at least one; 2 usage.
JSON: {version, base, environment, checked, findings: [{area, level, what, why, mend, subject}],
ok: [{area, well}]}; `mend` is a command for a shell, or null; keys are added, never renamed.
A live daemon is judged by its own environment (names of variables only), else this one counts."
    )]
    Doctor(Doctor),
    /// Try this disk, measure, and kill at random for a minute: nothing may be lost or run twice
    #[command(before_help = "Examples:
  calypso-watch selftest                      on the base path's disk; leaves nothing behind
  calypso-watch selftest --base-path /srv/team --minutes 10")]
    Selftest(Selftest),
    /// Print a completion script for a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
}

/// Settings that may also be given as flags; each has the same name in calypso.toml and, upper-case with `CALYPSO_` in
/// front, in the environment.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Settings (also in calypso.toml and as CALYPSO_… variables)")]
pub struct Settings {
    /// Most runs at once, over all queues [default: 8]
    #[arg(long, value_name = "N")]
    pub max_runs: Option<String>,
    /// Longest a run may take, such as 45m or 1h [default: 1h]
    #[arg(long, value_name = "TIME")]
    pub time_limit: Option<String>,
    /// From the first, gentle signal to the next when a run is stopped [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub stop_grace: Option<String>,
    /// Attempts in one stay in a queue before a task is parked [default: 3]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<String>,
    /// Runs of one task, over all queues, before it is held [default: 30]
    #[arg(long, value_name = "N")]
    pub max_runs_per_task: Option<String>,
    /// Most turns an agent may take [default: 200]
    #[arg(long, value_name = "N")]
    pub max_turns: Option<String>,
    /// Quiet time after which an inbound file counts as complete [default: 1s]
    #[arg(long, value_name = "TIME")]
    pub settle: Option<String>,
    /// Slow look at everything, should an event be lost [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub rescan: Option<String>,
    /// Silence after which `status` calls a run quiet [default: 10m]
    #[arg(long, value_name = "TIME")]
    pub quiet_after: Option<String>,
    /// Most bytes of a run's log, such as 256MB [default: 256MB]
    #[arg(long, value_name = "SIZE")]
    pub log_limit: Option<String>,
    /// Provider passed to goose
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Model passed to goose
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// tinytask over streamable HTTP, such as http://127.0.0.1:3000/mcp
    #[arg(long, value_name = "URL")]
    pub tinytask_url: Option<String>,
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Where [default: the base path, else here]
    pub dir: Option<Utf8PathBuf>,
    /// Use the built-in tinytask, on a port of its own
    #[arg(long, conflicts_with = "tinytask_url")]
    pub builtin: bool,
    /// Address of the built-in tinytask [default: 127.0.0.1 and a free port]
    #[arg(long, value_name = "ADDRESS", requires = "builtin")]
    pub listen: Option<SocketAddr>,
    /// Use the tinytask at this address, such as http://127.0.0.1:3000/mcp
    #[arg(long, value_name = "URL")]
    pub tinytask_url: Option<String>,
    /// Provider written into calypso.toml
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Model written into calypso.toml
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Leave out the starter recipes
    #[arg(long)]
    pub no_recipes: bool,
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// Look, decide, act, wait for nothing, exit (for cron)
    #[arg(long)]
    pub once: bool,
    /// What it has to say: error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
    #[command(flatten)]
    pub settings: Settings,
}

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    /// One JSON object, with absolute times
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// `why`
#[derive(Debug, Args)]
pub struct Why {
    /// Its number in tinytask
    #[arg(allow_negative_numbers = true)]
    pub task: String,
    /// One JSON object, with absolute times
    #[arg(long)]
    pub json: bool,
}

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// One JSON object, with each argv as an array
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// `submit`
#[derive(Debug, Args)]
pub struct Submit {
    /// Files or folders; `-` reads the request from standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<std::path::PathBuf>,
    /// Name in inbound/ (one file only) [default: its own, or request-….md]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// `logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// A task's number, or `inbound` for the dispatcher's runs over inbound/
    #[arg(allow_negative_numbers = true)]
    pub task: String,
    /// Go on printing until the run is over
    #[arg(short, long)]
    pub follow: bool,
    /// Which run [default: the last one]
    #[arg(long, value_name = "N")]
    pub run: Option<u32>,
    /// The bytes as the agent wrote them
    #[arg(long)]
    pub raw: bool,
}

/// `stop`
#[derive(Debug, Args)]
pub struct Stop {
    /// A task's number, or `inbound`
    #[arg(
        required_unless_present = "all",
        conflicts_with = "all",
        allow_negative_numbers = true
    )]
    pub task: Option<String>,
    /// Every run
    #[arg(long)]
    pub all: bool,
}

/// `putback`
#[derive(Debug, Args)]
pub struct Putback {
    /// Its number in tinytask
    #[arg(allow_negative_numbers = true)]
    pub task: String,
}

/// `hold`, `retry`, `release`
#[derive(Debug, Args)]
pub struct OneTask {
    /// Its number in tinytask, or `inbound` for requests that are held there
    #[arg(allow_negative_numbers = true)]
    pub task: String,
}

/// `pause`, `resume`
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Only this queue
    pub queue: Option<String>,
}

/// `task …`: which server, and what to do there
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// List open tasks
    List {
        /// Only this queue
        queue: Option<String>,
        /// Complete and archived ones too
        #[arg(long)]
        all: bool,
        /// tinytask's own answer
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Show one task with its comments and links
    Show {
        /// Its number
        #[arg(allow_negative_numbers = true)]
        task: String,
        /// tinytask's own answer
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Create a task and print its number
    Create {
        /// One line
        title: String,
        /// Queue it starts in
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
        /// More words
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Higher goes first
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        priority: Option<i64>,
        /// Who asks
        #[arg(long, value_name = "NAME", default_value = "calypso-watch task")]
        by: String,
        #[command(flatten)]
        server: Server,
    },
    /// Hand a task from its queue to another
    Move {
        /// Its number
        #[arg(allow_negative_numbers = true)]
        task: String,
        /// The queue that gets it
        to: String,
        /// What the next agent must know
        #[arg(long, value_name = "TEXT", default_value = "moved by hand")]
        comment: String,
        #[command(flatten)]
        server: Server,
    },
    /// Say something on a task
    Comment {
        /// Its number
        #[arg(allow_negative_numbers = true)]
        task: String,
        /// What
        text: String,
        /// Who says it
        #[arg(long, value_name = "NAME", default_value = "calypso-watch task")]
        by: String,
        #[command(flatten)]
        server: Server,
    },
    /// Claim the next idle task of a queue and print its number; prints nothing, exits 1 when there is none
    Signup {
        /// As which agent
        queue: String,
        #[command(flatten)]
        server: Server,
    },
    /// Mark a task complete
    Done {
        /// Its number
        #[arg(allow_negative_numbers = true)]
        task: String,
        #[command(flatten)]
        server: Server,
    },
}

/// Which tinytask a `task` command talks to.
#[derive(Debug, Default, Clone, Args)]
pub struct Server {
    /// tinytask's address [default: the one this base path uses]
    #[arg(long, value_name = "URL")]
    pub tinytask_url: Option<String>,
}

/// `tinytask …`
#[derive(Debug, Subcommand)]
pub enum TinytaskCommand {
    /// Serve the built-in tinytask
    Serve {
        /// Where; only loopback addresses are taken [default: `listen` of the base path's calypso.toml, else 127.0.0.1:3000]
        #[arg(long, value_name = "ADDRESS", conflicts_with = "stdio")]
        listen: Option<SocketAddr>,
        /// Its SQLite file [default: .calypso/tinytask/tinytask.db of the base path, else ./tinytask.db]
        #[arg(long, value_name = "FILE")]
        db: Option<Utf8PathBuf>,
        /// Speak over standard input and output instead
        #[arg(long)]
        stdio: bool,
        /// A line for each call on standard error: agent, tool, task, milliseconds
        #[arg(long)]
        log: bool,
    },
    /// End the built-in tinytask of this base path
    Stop,
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// How many requests to drop
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub requests: u32,
    /// Keep the base path, to look around later
    #[arg(long)]
    pub keep: bool,
    /// Your own goose and model do the work, with the starter recipes
    #[arg(long)]
    pub goose: bool,
    /// Provider, with --goose
    #[arg(long, value_name = "NAME", requires = "goose")]
    pub provider: Option<String>,
    /// Model, with --goose
    #[arg(long, value_name = "NAME", requires = "goose")]
    pub model: Option<String>,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `selftest`
#[derive(Debug, Args)]
pub struct Selftest {
    /// How long to kill daemons, shims, agents and the built-in tinytask; 0 only looks and measures
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub minutes: f64,
    /// Chooses victims and moments as the run before that printed it [default: another each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}
