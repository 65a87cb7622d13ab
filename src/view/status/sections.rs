//! What stands below the table: a word, then one line a thing.
//!
//! Tells nothing of the runs at work, which stand in the table, and computes no number: [`Today`] comes ready.

use super::table::is_only_of_people;
use super::{StatusInput, Today, label};
use crate::core::{Hold, Subject};
use crate::view::board::{Board, Kind, verdict_subject, verdict_words};
use crate::view::hold::words;
use crate::view::text::{
    ago, beside, beside_parts, clean, count, cut, dollars, duration, left, list, plural, right,
    unbroken,
};

/// Lines of one section before the rest is only counted.
const MOST: usize = 6;

/// One line a text, wrapped; the first one begins with `word`.
pub(super) fn section(word: &str, texts: Vec<String>, out: &mut String) {
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

pub(super) fn lists(board: &Board, out: &mut String) {
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
            .map(|waiting| format!("#{}", waiting.task.id))
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

pub(super) fn stuck(input: &StatusInput, board: &Board, out: &mut String) {
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

pub(super) fn inbound(input: &StatusInput, board: &Board, out: &mut String) {
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

pub(super) fn last(input: &StatusInput, out: &mut String) {
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

pub(super) fn today(today: &Today, out: &mut String) {
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
