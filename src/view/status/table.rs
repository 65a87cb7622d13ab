//! The table: a row for each queue at work, with its runs and with what its tasks wait for.
//!
//! Leaves out idle queues, queues that only wait for people, and parked tasks: `sections.rs` tells those in a line.

use super::{LABEL, StatusInput};
use crate::core::model::{Millis, RunSubject};
use crate::core::verdict::Meaning;
use crate::core::{Hold, Subject};
use crate::view::board::{Board, Kind, LiveRun, Row, Waiting, meaning_word};
use crate::view::hold::{shared_words, words};
use crate::view::text::{
    WIDTH, ago, clean, cut, left, list, memory, right, unbroken, wait, wrap, wrap_parts,
};

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

pub(super) fn table(input: &StatusInput, board: &Board, out: &mut String) {
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
pub(super) fn is_only_of_people(row: &Row) -> bool {
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
    let mut last: Option<(&Waiting, usize)> = None;
    for waiting in tasks {
        // Hundreds wait for the same, one after the other.
        if let Some((other, group)) = last
            && (other.kind, other.hold) == (waiting.kind, waiting.hold)
        {
            groups[group].0.push(waiting);
            continue;
        }
        let said = match (waiting.kind, waiting.hold) {
            (Kind::Starts, _) if input.daemon.is_alive() => "starts now".into(),
            (Kind::Starts, _) => "would start now".into(),
            (_, Some(hold)) => {
                let subject = Subject::Task(waiting.task.id);
                shared_words(input.seen, &subject, hold, input.now).text()
            }
            (_, None) => "nothing of its own stands in its way".into(),
        };
        let group = match groups.iter().position(|(_, other)| *other == said) {
            Some(group) => group,
            None => {
                groups.push((Vec::new(), said));
                groups.len() - 1
            }
        };
        groups[group].0.push(waiting);
        last = Some((waiting, group));
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
