//! `status`, `why`, `plan`: the same look and the same decision as the daemon's, put into words.

use std::sync::Arc;

use camino::Utf8Path;

use super::{load, runtime, say, say_by};
use crate::cli::{Plan, Settings, Status, Why};
use crate::core::decide::decide;
use crate::core::layout::{Layout, RunDir};
use crate::core::model::{Detail, Millis, Now, ProcessId, RunSubject, TaskId, Timestamp};
use crate::core::record::{Verdict, VerdictRecord};
use crate::core::{Action, Decision, Snapshot, Subject, Tinytask};
use crate::daemon::{StoryEvent, read_story, running, said};
use crate::edge::config::Config;
use crate::edge::runs::Told;
use crate::edge::{clock, config, files, goose, process, runs};
use crate::look::{Looker, Scope, chain};
use crate::report::{Exit, Failure};
use crate::view::{
    self, Daemon, PlanInput, Start, StatusInput, StoryLine, TinytaskLine, Today, WhyInput,
};

/// More verdicts than a day brings.
const DAY: usize = 20_000;

/// So many of the last runs' starts are told.
const STARTS: usize = 100;

/// What one look found, and what follows from it.
struct Found {
    looker: Looker,
    seen: Snapshot,
    decision: Decision,
    now: Now,
    daemon: Daemon,
    generation: String,
    warnings: Vec<String>,
}

/// One look at everything.
async fn find(config: Config, asked: Option<TaskId>) -> Result<Found, Failure> {
    let mut looker = Looker::once(config);
    if let Ok(record) = running(&looker.layout) {
        looker.as_daemon(&record.process);
    }
    let now = clock::now();
    let mut seen = looker.look(&Scope::Everything, &now).await?;
    looker.vitals(&mut seen, &now);
    let mut generation = if looker.server.is_builtin {
        "built in".to_owned()
    } else {
        String::new()
    };
    if let (Some(tinytask), Tinytask::Fresh { .. }) = (&looker.tinytask, &seen.tinytask) {
        if generation.is_empty() {
            generation = tinytask
                .connect()
                .await
                .map(|dialect| dialect.to_string())
                .unwrap_or_default();
        }
        if let Some(id) = asked.filter(|id| !seen.details.contains_key(id))
            && let Ok(detail) = tinytask.detail(id).await
        {
            seen.details.insert(id, detail);
        }
    }
    if let Some(tinytask) = &looker.tinytask {
        tinytask.close().await;
    }
    let decision = decide(&seen, &looker.config.policy, &now);
    let mut warnings = config::check_permissions(&looker.layout)?;
    warnings.extend(files::no_room(looker.layout.base()));
    warnings.extend(looker.config.warnings.clone());
    let daemon = match running(&looker.layout) {
        Ok(record) => {
            let said = said(&looker.layout, &record.process);
            let (watch, trouble) = said.map(|said| (said.watch, said.trouble)).unzip();
            Daemon::Alive {
                pid: record.process.pid,
                since: record.since,
                watch: watch.unwrap_or_else(|| "inotify".into()),
                note: trouble
                    .flatten()
                    .or_else(|| outdated(&record.version, &record.process)),
            }
        }
        Err(last_look) => Daemon::Dead { last_look },
    };
    Ok(Found {
        looker,
        seen,
        decision,
        now,
        daemon,
        generation,
        warnings,
    })
}

/// A daemon goes on as the program that it was started from, whatever its file is by now.
fn outdated(version: &str, daemon: &ProcessId) -> Option<String> {
    let own = env!("CARGO_PKG_VERSION");
    let what = if version != own {
        format!("it is version {version}, and this is {own}")
    } else if process::is_program_replaced(daemon) {
        "its program was replaced since it started".to_owned()
    } else {
        return None;
    };
    Some(format!(
        "{what}: `calypso-watch quit`, then start it again; agents go on meanwhile"
    ))
}

impl Found {
    /// 3 beats 4.
    fn exit(&self) -> Exit {
        match (&self.daemon, &self.seen.tinytask) {
            (Daemon::Dead { .. }, _) => Exit::NotRunning,
            (_, Tinytask::Unreachable { .. } | Tinytask::Suspicious { .. }) => {
                Exit::TinytaskUnreachable
            }
            _ => Exit::Done,
        }
    }

    fn server(&self) -> TinytaskLine {
        TinytaskLine {
            name: self.generation.clone(),
            endpoint: self
                .looker
                .server
                .endpoint
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            disagreement: self.looker.server.disagreement.clone(),
        }
    }
}

/// What the day brought so far, and how quickly the last runs were started.
fn today(layout: &Layout) -> Result<Today, runs::Error> {
    let midnight = clock::start_of_day(clock::wall());
    let verdicts = runs::told_since(layout, midnight, DAY)?;
    Ok(Today {
        runs: count(&verdicts, |_| true),
        handed_on: count(&verdicts, |v| {
            has(v, |verdict| matches!(verdict, Verdict::HandedOff { .. }))
        }),
        done: count(&verdicts, |v| has(v, |verdict| *verdict == Verdict::Done)),
        failed: count(&verdicts, |v| v.failure.is_some()),
        cost: verdicts
            .iter()
            .filter_map(|v| v.cost)
            .reduce(|sum, cost| sum + cost),
        start: view::Percentiles::of(latencies(layout)?),
    })
}

/// From event to gate, of the last runs that an event led to: each carries its own proof.
fn latencies(layout: &Layout) -> Result<Vec<Millis>, runs::Error> {
    let last = runs::recent(layout, STARTS)?;
    let latency = |verdict: &VerdictRecord| {
        let dir = RunDir {
            id: verdict.run,
            queue: verdict.queue.clone(),
        };
        let event = runs::read_spec_head(layout, &dir).ok()??.times.event?;
        Some(verdict.started.as_ref()?.wall.since(event.wall))
    };
    Ok(last.iter().filter_map(latency).collect())
}

fn count(verdicts: &[Told], is: impl Fn(&Told) -> bool) -> u32 {
    verdicts.iter().filter(|verdict| is(verdict)).count() as u32
}

fn has(record: &Told, is: impl Fn(&Verdict) -> bool) -> bool {
    record.tasks.iter().any(|task| is(&task.verdict))
}

/// The whole state on one screen.
pub fn status(base: Option<&Utf8Path>, status: &Status) -> Result<Exit, Failure> {
    let config = load(base, &status.settings)?;
    let layout = Layout::new(config.base.clone());
    // A day's verdicts are counted beside the look.
    let (found, today) = std::thread::scope(|scope| {
        let counting = std::thread::Builder::new().spawn_scoped(scope, || today(&layout));
        let found = runtime()?.block_on(find(config, None))?;
        let today = match counting {
            Ok(counting) => counting.join().expect("counting does not panic"),
            Err(_) => today(&layout),
        };
        Ok::<_, Failure>((found, today?))
    })?;
    let time: &dyn Fn(Timestamp) -> String = if status.json {
        &clock::utc
    } else {
        &clock::local_time
    };
    let input = StatusInput {
        base: found.looker.layout.base().as_str(),
        seen: &found.seen,
        decision: &found.decision,
        policy: &found.looker.config.policy,
        now: &found.now,
        daemon: found.daemon.clone(),
        tinytask: found.server(),
        today,
        warnings: found.warnings.clone(),
        time,
    };
    if status.json {
        say_by(|out| view::status_json(&input, out))?
    } else {
        say(&view::status(&input))?
    };
    let exit = found.exit();
    // The process ends, and its memory at once: what there is to ten thousand tasks is a hundred thousand pieces.
    std::mem::forget(found);
    Ok(exit)
}

/// What would start now, with each exact command.
pub fn plan(base: Option<&Utf8Path>, plan: &Plan) -> Result<Exit, Failure> {
    let found = runtime()?.block_on(find(load(base, &plan.settings)?, None))?;
    let Found {
        looker,
        seen,
        decision,
        now,
        ..
    } = &found;
    let argv = |launch: &crate::core::Launch| {
        let recipe = seen
            .recipes
            .get(&launch.queue)
            .and_then(|recipe| recipe.as_ref().ok());
        let path = looker.path.as_deref();
        let capabilities = goose::capabilities_on(&looker.config, &launch.queue, path)?;
        goose::command(
            &looker.config,
            recipe,
            launch.subject,
            &launch.queue,
            &looker.layout,
            &capabilities,
        )
    };
    let launches = decision.actions.iter().filter_map(|action| match action {
        Action::Launch(launch) => Some((
            launch.clone(),
            argv(launch).map_err(|error: goose::Error| chain(&error)),
        )),
        _ => None,
    });
    let time: &dyn Fn(Timestamp) -> String = if plan.json {
        &clock::utc
    } else {
        &clock::local_time
    };
    let input = PlanInput {
        seen,
        decision,
        now,
        launches: launches.collect(),
        time,
    };
    if plan.json {
        say(&view::plan_json(&input))?
    } else {
        say(&view::plan(&input))?
    };
    Ok(match &seen.tinytask {
        Tinytask::Unreachable { .. } | Tinytask::Suspicious { .. } => Exit::TinytaskUnreachable,
        _ => Exit::Done,
    })
}

/// The story of one task, and what it waits for.
pub fn why(base: Option<&Utf8Path>, why: &Why) -> Result<Exit, Failure> {
    let task: TaskId = why.task.parse().map_err(|error| {
        Failure::new(Exit::Usage, Box::<crate::core::model::Invalid>::new(error))
    })?;
    let found = runtime()?.block_on(find(load(base, &Settings::default())?, Some(task)))?;
    let is_unknown = matches!(found.seen.details.get(&task), Some(Detail::NotFound));
    let story = found.story(task)?;
    if is_unknown && story.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            format!("tinytask has no task {task}, and no run of it is on record"),
        ));
    }
    let time: &dyn Fn(Timestamp) -> String = if why.json {
        &clock::utc
    } else {
        &clock::local_time
    };
    let input = WhyInput {
        task,
        seen: &found.seen,
        decision: &found.decision,
        policy: &found.looker.config.policy,
        now: &found.now,
        daemon: found.daemon.clone(),
        story,
        start: found.start(task),
        time,
    };
    if why.json {
        say(&view::why_json(&input))?
    } else {
        say(&view::why(&input))?
    };
    Ok(match &found.seen.tinytask {
        Tinytask::Unreachable { .. } => Exit::TinytaskUnreachable,
        _ => Exit::Done,
    })
}

impl Found {
    /// The runs from their records, the rest from the daemon's log, and the task's birth from tinytask.
    fn story(&self, id: TaskId) -> Result<Vec<StoryLine>, Failure> {
        let layout = &self.looker.layout;
        let mut story = Vec::new();
        let task = self
            .seen
            .tasks
            .get(&id)
            .or_else(|| match self.seen.details.get(&id) {
                Some(Detail::Found(found)) => Some(&found.task),
                _ => None,
            });
        if let Some(task) = task {
            let by = task
                .created_by
                .as_deref()
                .map(|by| format!(" by {by}"))
                .unwrap_or_default();
            let birth = self.birth(task.created_at);
            // tinytask tells whole seconds: within its second, the birth comes after the run it was part of began.
            let began = birth
                .iter()
                .map(|line| line.at)
                .filter(|at| at.seconds() <= task.created_at.seconds())
                .max();
            story.extend(birth);
            let at = began.unwrap_or(task.created_at).max(task.created_at);
            story.push(StoryLine {
                at,
                text: format!("#{id} created{by}"),
            });
        }
        // Records that cannot be read are what it waits for, and said there.
        let past = runs::history(layout, RunSubject::Task(id)).unwrap_or_default();
        for record in &past.verdicts {
            story.extend(lines_of(record));
        }
        let wanted = |event: &StoryEvent| {
            event.task == Some(id) && !matches!(event.event.as_str(), "launch" | "verdict")
        };
        story.extend(read_story(layout, wanted).iter().map(|event| StoryLine {
            at: event.at,
            text: self.words(event, id),
        }));
        story.sort_by_key(|line| line.at);
        Ok(story)
    }

    /// How the newest run of the task came to be.
    fn start(&self, id: TaskId) -> Option<Start> {
        let layout = &self.looker.layout;
        let subject = RunSubject::Task(id);
        let runs = runs::list_runs(layout, subject).ok()?;
        let newest = runs.iter().max_by_key(|dir| dir.id.number)?;
        let spec = runs::read_spec(layout, newest).ok()??;
        let state = runs::read_state(layout, newest).ok()?;
        Some(Start::of(&spec, state.as_ref()))
    }

    /// The dispatcher's run during which the task was created, and what had been dropped for it.
    fn birth(&self, created: Timestamp) -> Vec<StoryLine> {
        let inbound = runs::history(&self.looker.layout, RunSubject::Inbound).unwrap_or_default();
        let during = |record: &&Arc<VerdictRecord>| {
            let began = record.started.as_ref().map(|m| m.wall.seconds());
            let ended = record.ended.as_ref().map(|m| m.wall.seconds());
            began.is_some_and(|at| at <= created.seconds())
                && ended.is_none_or(|at| at >= created.seconds())
        };
        let Some(record) = inbound.verdicts.iter().find(during) else {
            return Vec::new();
        };
        let names: Vec<_> = record
            .files
            .iter()
            .map(|file| file.file.name.clone())
            .collect();
        let dropped = read_story(&self.looker.layout, |event| {
            event.event == "inbound" && names.contains(&event.text)
        });
        let dropped = dropped.iter().map(|event| StoryLine {
            at: event.at,
            text: format!("{} lies in inbound", event.text),
        });
        dropped.chain(lines_of(record)).collect()
    }

    fn words(&self, event: &StoryEvent, id: TaskId) -> String {
        if let Some(hold) = &event.hold {
            return format!(
                "held: {}",
                view::hold_words(&self.seen, &Subject::Task(id), hold, &self.now)
            );
        }
        match (event.event.as_str(), &event.queue) {
            ("seen", Some(queue)) => format!("{} in {queue}", event.text),
            ("seen", None) => format!("{}, with nobody", event.text),
            (what, _) => format!("{what} {}", event.text),
        }
    }
}

/// The start and the end of one run.
fn lines_of(record: &VerdictRecord) -> Vec<StoryLine> {
    let start = record.started.as_ref().map(|at| StoryLine {
        at: at.wall,
        text: format!(
            "{} started (run {}{})",
            record.queue,
            record.run,
            attempt(record)
        ),
    });
    let end = StoryLine {
        at: record
            .ended
            .as_ref()
            .map_or(record.judged.wall, |at| at.wall),
        text: format!("{} over: {}", record.queue, view::verdict_words(record)),
    };
    start.into_iter().chain([end]).collect()
}

fn attempt(record: &VerdictRecord) -> String {
    if record.attempt > 1 {
        format!(", attempt {}", record.attempt)
    } else {
        String::new()
    }
}
