//! `status`: one screen of what runs, what waits and why. A quiet system prints little.

use crate::core::model::{Millis, Moment, Now, RunSubject, Timestamp};
use crate::core::verdict::Meaning;
use crate::core::{Decision, Hold, Policy, Snapshot, Subject, Tinytask};
use crate::view::board::{
    Board, Kind, LiveRun, Row, Waiting, meaning_word, verdict_subject, verdict_words,
};
use crate::view::hold::{shared_words, words};
use crate::view::text::{
    WIDTH, ago, beside, beside_parts, clean, count, cut, cut_front, dollars, duration, left, list,
    memory, plural, right, unbroken, wait, width, wrap, wrap_parts,
};

/// All that `status` tells.
pub struct StatusInput<'a> {
    /// The base path.
    pub base: &'a str,
    pub seen: &'a Snapshot,
    pub decision: &'a Decision,
    pub policy: &'a Policy,
    pub now: &'a Now,
    pub daemon: Daemon,
    pub tinytask: TinytaskLine,
    pub today: Today,
    /// Sentences a person should read: settings that were ignored, folders others may write to.
    pub warnings: Vec<String>,
    /// An absolute time in words: [`status_json`](super::status_json()) should be given one that writes UTC.
    pub time: &'a dyn Fn(Timestamp) -> String,
}

/// Does anybody watch?
#[derive(Debug, Clone, PartialEq)]
pub enum Daemon {
    Alive {
        pid: i32,
        since: Moment,
        /// How it hears of changes: `inotify`.
        watch: String,
        /// What it has to say of itself.
        note: Option<String>,
    },
    Dead {
        last_look: Option<Timestamp>,
    },
}

impl Daemon {
    /// Is it there?
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Alive { .. })
    }
}

/// Which tinytask it is; how it fares stands in the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TinytaskLine {
    /// `v2`, `v1`, `built in`.
    pub name: String,
    /// URL or command.
    pub endpoint: String,
    /// Recipes and watcher would talk to different servers: a sentence.
    pub disagreement: Option<String>,
}

/// What the day brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Today {
    pub runs: u32,
    pub handed_on: u32,
    pub done: u32,
    pub failed: u32,
    /// US dollars; none where no run told.
    pub cost: Option<f64>,
    /// From event to the agent's start.
    pub start: Option<Percentiles>,
}

/// Half, and all but one of a hundred, are no slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: Millis,
    pub p99: Millis,
}

impl Percentiles {
    /// Nearest rank; none of nothing.
    pub fn of(mut spans: Vec<Millis>) -> Option<Self> {
        spans.sort();
        let rank = |percent: usize| {
            spans
                .get((spans.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
        };
        Some(Self {
            p50: rank(50)?,
            p99: rank(99)?,
        })
    }
}

/// Columns of the words that begin the lines below the table.
const LABEL: usize = 10;
/// Lines of one section before the rest is only counted.
const MOST: usize = 6;

/// The screen.
pub fn status(input: &StatusInput) -> String {
    let board = Board::of(input.seen, input.decision, input.policy);
    let mut out = head(input, &board);
    table(input, &board, &mut out);
    out.push('\n');
    for (queue, hold) in &board.providers {
        let said = words(
            input.seen,
            &Subject::Provider((*queue).clone()),
            hold,
            input.now,
        )
        .text();
        out += &beside(&label("provider"), &format!("{}: {said}", clean(queue)));
    }
    lists(&board, &mut out);
    stuck(input, &board, &mut out);
    inbound(input, &board, &mut out);
    last(input, &mut out);
    today(&input.today, &mut out);
    section("odd", board.odd.clone(), &mut out);
    let warnings = input.warnings.iter().map(|w| clean(w)).collect();
    section("warning", warnings, &mut out);
    out
}

fn label(word: &str) -> String {
    left(word, LABEL)
}

// ── head ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn head(input: &StatusInput, board: &Board) -> String {
    let daemon = match &input.daemon {
        Daemon::Alive {
            pid, since, watch, ..
        } => {
            format!(
                "watching {} (pid {pid}, {})",
                duration(since.age(input.now)),
                clean(watch)
            )
        }
        Daemon::Dead { last_look } => {
            let look = match last_look {
                Some(at) => format!("last look {} ago", ago(input.now.wall.since(*at))),
                None => "never looked".into(),
            };
            let agents = board.live().filter(|run| run.is_at_work()).count();
            match agents {
                0 => format!("NOT RUNNING ({look})"),
                1 => format!("NOT RUNNING ({look}); 1 agent goes on"),
                n => format!("NOT RUNNING ({look}); {n} agents go on"),
            }
        }
    };
    let room = WIDTH - 16;
    let base = cut_front(
        &clean(input.base),
        room.saturating_sub(3 + width(&daemon)).max(28),
    );
    let mut out = beside_parts("calypso-watch · ", &[base, daemon], " · ");
    if let Daemon::Alive {
        note: Some(note), ..
    } = &input.daemon
    {
        out += &beside(&label(""), &clean(note));
    }
    if !input.daemon.is_alive() {
        out += &beside(&label(""), "start it: calypso-watch run");
    }
    out += &tinytask(input);
    for hold in &board.everything {
        if let Hold::Paused = hold {
            out += "PAUSED: nothing is started (calypso-watch resume)\n";
        }
    }
    out
}

fn tinytask(input: &StatusInput) -> String {
    let line = &input.tinytask;
    let name = clean(&line.name);
    let endpoint = cut(&clean(&line.endpoint), WIDTH - 9);
    let trouble = match &input.seen.tinytask {
        Tinytask::Fresh { took } => Err(format!("{name} ok {} ms", took.0)),
        Tinytask::NotAsked => Err(format!("{name} not asked")),
        Tinytask::Unreachable { since, error, .. } => Ok(format!(
            "UNREACHABLE {}: {}; nothing is started until it is back",
            ago(since.age(input.now)),
            clean(error)
        )),
        Tinytask::Suspicious { vanished, of } => {
            let hold = Hold::TinytaskSuspicious {
                vanished: *vanished,
                of: *of,
            };
            Ok(format!(
                "SUSPICIOUS: {}",
                words(input.seen, &Subject::Everything, &hold, input.now).text()
            ))
        }
    };
    let mut out = match trouble {
        Ok(trouble) => {
            let hint = match &input.seen.tinytask {
                Tinytask::Unreachable { hint, .. } => hint.as_deref(),
                _ => None,
            };
            let more = [hint.map(clean), Some(endpoint)].into_iter().flatten();
            let lines = more.filter(|line| !line.is_empty());
            beside("tinytask ", &trouble)
                + &lines
                    .map(|line| beside("         ", &line))
                    .collect::<String>()
        }
        Err(health) if endpoint.is_empty() => beside("tinytask ", &health),
        Err(health) => beside_parts("tinytask ", &[health, endpoint], " · "),
    };
    if let Some(sentence) = &line.disagreement {
        out += &beside("         ", &format!("BEWARE: {}", clean(sentence)));
    }
    out
}

// ── table ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Columns of the table: queue, waiting, the rest.
struct Columns {
    queue: usize,
    rest: usize,
}

const WAITING: usize = 7;

impl Columns {
    fn indent(&self) -> String {
        " ".repeat(WIDTH - self.rest)
    }
}

fn table(input: &StatusInput, board: &Board, out: &mut String) {
    let rows: Vec<&Row> = board
        .rows
        .iter()
        .filter(|row| !row.is_idle() && !is_only_of_people(row))
        .collect();
    if rows.is_empty() {
        return;
    }
    let queue = rows
        .iter()
        .map(|row| row.queue.as_str().len())
        .max()
        .unwrap_or(0)
        .clamp(LABEL, 20);
    let columns = Columns {
        queue,
        rest: WIDTH - queue - WAITING - 3,
    };
    let recipes = right(
        "each by recipes/QUEUE.yaml, unless said",
        columns.rest - "RUNNING".len(),
    );
    *out += &format!(
        "\n{} {}  RUNNING{recipes}\n",
        left("QUEUE", queue),
        right("WAITING", WAITING)
    );
    for row in rows {
        let waiting = match row.waiting() {
            _ if !row.is_known => "?".into(),
            0 => "–".into(),
            n => n.to_string(),
        };
        let lines = row_lines(input, row, &columns);
        let head = format!(
            "{} {}  ",
            left(row.queue.as_str(), columns.queue),
            right(&waiting, WAITING)
        );
        let mut lines = lines.into_iter();
        *out += &format!("{head}{}\n", lines.next().unwrap_or_else(|| "–".into()));
        for line in lines {
            *out += &format!("{}{line}\n", columns.indent());
        }
    }
}

/// Only tasks that wait for people: told in one line for all such queues.
fn is_only_of_people(row: &Row) -> bool {
    row.is_of_people()
        && row.runs.is_empty()
        && !row.is_paused
        && row
            .tasks
            .iter()
            .all(|t| matches!(t.hold, None | Some(Hold::NoRecipe)) || t.kind == Kind::Stuck)
}

fn row_lines(input: &StatusInput, row: &Row, columns: &Columns) -> Vec<String> {
    let mut lines = Vec::new();
    for run in &row.runs {
        lines.extend(run_lines(input, run, columns));
    }
    let mut note = |text: &str| lines.extend(wrap(text, columns.rest));
    if let Some(Err(error)) = row.recipe {
        note(&format!(
            "recipes/{}.yaml cannot be used: {}",
            row.queue,
            clean(error)
        ));
    }
    if let Some(Ok(recipe)) = row.recipe
        && recipe.file != format!("{}.yaml", row.queue)
    {
        note(&format!("by recipes/{}", clean(&recipe.file)));
    }
    if row.has_command {
        note("by a command of its own");
    }
    if row.is_paused {
        let command = unbroken(&format!("calypso-watch resume {}", row.queue));
        note(&format!("paused ({command})"));
    }
    for hold in &row.holds {
        note(
            &words(
                input.seen,
                &Subject::Queue(row.queue.clone()),
                hold,
                input.now,
            )
            .text(),
        );
    }
    let told = |hold: Option<&Hold>| match hold {
        Some(Hold::QueuePaused { .. }) => row.is_paused,
        Some(Hold::BrokenRecipe { .. }) => matches!(row.recipe, Some(Err(_))),
        Some(Hold::Environment { .. } | Hold::NoProgram { .. }) => !row.holds.is_empty(),
        None => true,
        Some(_) => false,
    };
    let groups = groups(
        input,
        row.tasks
            .iter()
            .filter(|t| t.kind == Kind::Starts || (t.kind != Kind::Stuck && !told(t.hold))),
    );
    let shown = if groups.len() <= 4 { groups.len() } else { 3 };
    for (n, (tasks, said)) in groups.iter().take(shown).enumerate() {
        let next = if n == 0 && tasks[0].kind == Kind::Waits {
            "next "
        } else {
            ""
        };
        let title = cut(&clean(&tasks[0].task.title), 28);
        let mut who = format!("{next}#{} {title}", tasks[0].task.id);
        if tasks.len() > 1 {
            let rest: Vec<String> = tasks[1..]
                .iter()
                .map(|t| format!("#{}", t.task.id))
                .collect();
            who += &format!(", then {}", list(&rest, 3));
        }
        note(&format!("{who} · {said}"));
    }
    let more: usize = groups
        .iter()
        .skip(shown)
        .map(|(tasks, _)| tasks.len())
        .sum();
    if more > 0 {
        note(&format!("and {more} more (calypso-watch plan)"));
    }
    lines
}

/// Tasks that wait for the same together, in order of the first of each.
fn groups<'r, 'a: 'r>(
    input: &StatusInput,
    tasks: impl Iterator<Item = &'r Waiting<'a>>,
) -> Vec<(Vec<&'r Waiting<'a>>, String)> {
    let mut groups: Vec<(Vec<&Waiting>, String)> = Vec::new();
    for waiting in tasks {
        let said = match (waiting.kind, waiting.hold) {
            (Kind::Starts, _) if input.daemon.is_alive() => "starts now".into(),
            (Kind::Starts, _) => "would start now".into(),
            (_, Some(hold)) => {
                let subject = Subject::Task(waiting.task.id);
                shared_words(input.seen, &subject, hold, input.now).text()
            }
            (_, None) => "nothing of its own stands in its way".into(),
        };
        match groups.iter_mut().find(|(_, other)| *other == said) {
            Some((tasks, _)) => tasks.push(waiting),
            None => groups.push((vec![waiting], said)),
        }
    }
    for (tasks, said) in &mut groups {
        if let [one] = tasks.as_slice()
            && let (Kind::Waits | Kind::Elsewhere, Some(hold)) = (one.kind, one.hold)
        {
            let subject = Subject::Task(one.task.id);
            *said = words(input.seen, &subject, hold, input.now).text();
        }
    }
    groups
}

fn run_lines(input: &StatusInput, live: &LiveRun, columns: &Columns) -> Vec<String> {
    const AGE: usize = 4;
    const SIGN: usize = 11;
    let run = live.run;
    let now = input.now;
    let name = match run.dir.id.subject {
        RunSubject::Inbound => {
            let cause = run
                .spec
                .as_ref()
                .map_or(String::new(), |spec| clean(&spec.cause));
            format!("inbound {cause}")
        }
        RunSubject::Task(id) => {
            let title = run.spec.as_ref().and_then(|spec| spec.title.clone());
            let title = title.or_else(|| input.seen.tasks.get(&id).map(|t| t.title.clone()));
            format!("#{id} {}", clean(&title.unwrap_or_default()))
        }
    };
    let quiet = live.quiet(input.policy, now);
    let sign = match (live.meaning, quiet, run.vitals.last_sign) {
        (_, Some(silence), _) => format!("quiet {}", ago(silence)),
        (Meaning::Running, None, Some(at)) => format!("act. {}", ago(now.wall.since(at))),
        (meaning, ..) => meaning_word(meaning).into(),
    };
    let age = live.age(now).map(ago).unwrap_or_default();
    let room = columns.rest - AGE - SIGN - 2;
    let first = format!(
        "{} {} {sign}",
        left(name.trim_end(), room),
        right(&age, AGE)
    );
    let mut lines = vec![first.trim_end().to_owned()];

    let mut parts = Vec::new();
    if let Some(pid) = live.pid() {
        parts.push(format!("pid {pid}"));
    }
    if let Some(cpu) = run.vitals.cpu_percent {
        parts.push(format!("cpu {cpu:.0}%"));
    }
    if let Some(rss) = run.vitals.rss_kb {
        parts.push(memory(rss));
    }
    if let Some(attempt) = run
        .spec
        .as_ref()
        .map(|spec| spec.attempt)
        .filter(|n| *n > 1)
    {
        parts.push(format!(
            "attempt {attempt} of {}",
            input.policy.max_attempts
        ));
    }
    if let Some(left) = live.limit_left(now)
        && live.is_at_work()
        && (quiet.is_some() || left < Millis::secs(600))
    {
        parts.push(if left.0 == 0 {
            "time is up".into()
        } else {
            format!("limit in {}", wait(left))
        });
    }
    if live.meaning == Meaning::Orphan {
        parts.push("its shim is gone; watched from here".into());
    }
    if !parts.is_empty() {
        lines.extend(wrap_parts(&parts, " · ", columns.rest));
    }
    for hold in &live.holds {
        let said = words(input.seen, &Subject::Run(run.dir.id), hold, now).text();
        lines.extend(wrap(&said, columns.rest));
    }
    lines
}

// ── below the table ────────────────────────────────────────────────────────────────────────────────────────────────────

/// One line a text, wrapped; the first one begins with `word`.
fn section(word: &str, texts: Vec<String>, out: &mut String) {
    let most = if texts.len() == MOST + 1 {
        MOST + 1
    } else {
        MOST
    };
    for (n, text) in texts.iter().take(most).enumerate() {
        *out += &beside(&label(if n == 0 { word } else { "" }), text);
    }
    if texts.len() > most {
        *out += &beside(&label(""), &format!("and {} more", texts.len() - most));
    }
}

fn lists(board: &Board, out: &mut String) {
    let idle: Vec<String> = board
        .rows
        .iter()
        .filter(|row| row.is_idle() && !row.is_of_people())
        .map(|row| row.queue.to_string())
        .collect();
    if !idle.is_empty() {
        *out += &beside(&label("idle"), &list(&idle, 24));
    }
    if board.rows.is_empty() {
        *out += &beside(
            &label("queues"),
            "none yet: a file recipes/NAME.yaml makes one; calypso-watch init makes five",
        );
    }
    let people: Vec<String> = board
        .rows
        .iter()
        .filter(|row| is_only_of_people(row) && row.waiting() > 0)
        .map(|row| format!("{} {}", row.queue, row.waiting()))
        .collect();
    if !people.is_empty() {
        *out += &beside(
            &label("people"),
            &format!("{}: no recipe, so they wait for people", list(&people, 12)),
        );
    }
    if !board.unassigned.is_empty() {
        let names: Vec<String> = board
            .unassigned
            .iter()
            .map(|t| format!("#{}", t.id))
            .collect();
        let tasks = plural(names.len(), "task");
        let names = list(&names, 8);
        *out += &beside(
            &label("nobody's"),
            &format!(
                "{tasks} assigned to no agent: {names} ({})",
                unbroken("calypso-watch task move TASK QUEUE")
            ),
        );
    }
}

fn stuck(input: &StatusInput, board: &Board, out: &mut String) {
    let stuck = board.rows.iter().flat_map(|row| {
        row.tasks
            .iter()
            .filter(|t| t.kind == Kind::Stuck)
            .filter_map(move |t| Some((row, t.task, t.hold?)))
    });
    let mut texts = Vec::new();
    for (row, task, hold) in stuck {
        let mut said = words(input.seen, &Subject::Task(task.id), hold, input.now);
        if let (Hold::Parked { .. } | Hold::TooManyRuns { .. }, Some(command)) =
            (hold, &said.command)
        {
            said.command = Some(format!("calypso-watch logs {}; {command}", task.id));
        }
        let title = cut(&clean(&task.title), 28);
        texts.push(format!(
            "#{} {} {title} · {}",
            task.id,
            row.queue,
            said.text()
        ));
    }
    section("parked", texts, out);
}

fn inbound(input: &StatusInput, board: &Board, out: &mut String) {
    if board.inbound.is_empty() {
        *out += &format!("{}empty\n", label("inbound"));
        return;
    }
    let mut groups: Vec<(Vec<String>, String)> = Vec::new();
    for (entry, hold) in &board.inbound {
        let said = match hold {
            Some(hold) => words(
                input.seen,
                &Subject::Inbound(entry.key.clone()),
                hold,
                input.now,
            )
            .text(),
            None if is_dispatched(input, entry) => "its dispatcher is at it".into(),
            None if !board.everything.is_empty() => "waits as all does".into(),
            None if input.daemon.is_alive() => "the dispatcher starts now".into(),
            None => "the dispatcher would start now".into(),
        };
        let slash = if entry.is_dir { "/" } else { "" };
        let name = cut(&clean(&entry.key.name), 40) + slash;
        match groups.iter_mut().find(|(_, other)| *other == said) {
            Some((names, _)) => names.push(name),
            None => groups.push((vec![name], said)),
        }
    }
    let texts = groups
        .into_iter()
        .map(|(names, said)| format!("{} · {said}", list(&names, 4)))
        .collect();
    section("inbound", texts, out);
}

/// Is a live run at work on exactly this file?
fn is_dispatched(input: &StatusInput, entry: &crate::core::InboundEntry) -> bool {
    input
        .seen
        .runs
        .iter()
        .filter(|run| run.verdict.is_none())
        .filter_map(|run| run.spec.as_ref())
        .any(|spec| spec.baseline.inbound.contains(&entry.key))
}

fn last(input: &StatusInput, out: &mut String) {
    const WHAT: usize = 37;
    for (n, record) in input.seen.recent.iter().rev().take(4).enumerate() {
        let what = format!(
            "{} {} {}",
            verdict_subject(record),
            record.queue,
            verdict_words(record)
        );
        let took = match (&record.started, &record.ended) {
            (Some(started), Some(ended)) => duration(ended.wall.since(started.wall)),
            _ => String::new(),
        };
        let tokens = record
            .tokens
            .map(|n| format!("{} tok", count(n)))
            .unwrap_or_default();
        let line = format!(
            "{}{} {} {} {} {}",
            label(if n == 0 { "last" } else { "" }),
            left(&what, WHAT),
            right(&format!("{} ago", ago(record.judged.age(input.now))), 7),
            right(&took, 7),
            right(&tokens, 8),
            right(&record.cost.map(dollars).unwrap_or_default(), 7),
        );
        *out += line.trim_end();
        out.push('\n');
    }
}

fn today(today: &Today, out: &mut String) {
    if today.runs == 0 {
        return;
    }
    let mut parts = vec![format!(
        "{}, {} handed on, {} done, {} failed",
        plural(today.runs as usize, "run"),
        today.handed_on,
        today.done,
        today.failed
    )];
    if let Some(cost) = today.cost {
        parts.push(dollars(cost));
    }
    if let Some(start) = today.start {
        parts.push(format!(
            "started in {} ms (p50), {} ms (p99)",
            start.p50.0, start.p99.0
        ));
    }
    *out += &beside_parts(&label("today"), &parts, " · ");
}

#[cfg(test)]
mod tests;
