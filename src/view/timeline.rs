//! The demo's bars: when each queue worked on a request, and how long it took to start each.

use std::fmt::Write as _;

use crate::core::model::{Millis, QueueName, TaskId, Timestamp};
use crate::view::text::{left, right, width};

/// One run of the journey.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    pub queue: QueueName,
    /// None for the dispatcher's run over inbound/.
    pub task: Option<TaskId>,
    /// When the agent's gate opened, and when it was over.
    pub started: Timestamp,
    pub ended: Timestamp,
    /// From what led to the run (the drop, the hand-off) to the agent's start.
    pub latency: Millis,
}

/// Bars of all hops on one scale, from `dropped` to `complete`; `complete` is none while something is missing.
pub fn timeline(hops: &[Hop], dropped: Timestamp, complete: Option<Timestamp>) -> String {
    const CHART: usize = 30;
    let end = complete
        .into_iter()
        .chain(hops.iter().map(|h| h.ended))
        .max()
        .unwrap_or(dropped);
    let total = end.since(dropped).0.max(1);
    let place = |at: Timestamp| (at.since(dropped).0.min(total) as usize * CHART) / total as usize;
    let is_several = hops
        .iter()
        .filter_map(|h| h.task)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        > 1;
    let names: Vec<String> = hops
        .iter()
        .map(|hop| match hop.task {
            Some(task) if is_several => format!("#{task} {}", hop.queue),
            _ => hop.queue.to_string(),
        })
        .collect();
    let column = names
        .iter()
        .map(|n| width(n))
        .max()
        .unwrap_or(0)
        .clamp(8, 18);
    let mut out = String::new();
    for (n, (hop, name)) in hops.iter().zip(&names).enumerate() {
        let from = place(hop.started).min(CHART - 1);
        let length = (place(hop.ended).max(from) - from).max(1).min(CHART - from);
        let bar = format!("{}▕{}▏", " ".repeat(from), "█".repeat(length));
        let after = match (n, hop.task) {
            (_, None) => " after the drop",
            (0 | 1, Some(_)) => " after the hand-off",
            (_, Some(_)) => "",
        };
        // The words are dropped before the line gets too long.
        let line = format!(
            "  {} {}{}   +{} ms",
            left(name, column),
            left(&bar, CHART + 2),
            right(&seconds(hop.ended.since(hop.started)), 8),
            hop.latency.0
        );
        let line = if width(&line) + width(after) <= crate::view::text::WIDTH {
            line + after
        } else {
            line
        };
        let _ = writeln!(out, "{line}");
    }
    let ours: u64 = hops.iter().map(|h| h.latency.0).sum();
    let indent = " ".repeat(column + 3);
    if complete.is_some() {
        let _ = writeln!(
            out,
            "{indent}complete in {}, {ours} ms of it ours",
            seconds(Millis(total))
        );
    } else {
        let _ = writeln!(out, "{indent}not complete after {}", seconds(Millis(total)));
    }
    out
}

fn seconds(span: Millis) -> String {
    match span.0 {
        0..100_000 => format!("{:.2} s", span.0 as f64 / 1000.0),
        _ => crate::view::text::duration(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample::{at, id, queue};

    fn hop(name: &str, task: Option<i64>, from: i64, to: i64, latency: u64) -> Hop {
        Hop {
            queue: queue(name),
            task: task.map(id),
            started: Timestamp(at(0).0 + from),
            ended: Timestamp(at(0).0 + to),
            latency: Millis(latency),
        }
    }

    #[test]
    fn bars_show_where_the_time_went() {
        let one = [
            hop("dispatcher", None, 4, 214, 4),
            hop("architect", Some(1), 220, 520, 6),
            hop("product", Some(1), 525, 725, 5),
            hop("devops", Some(1), 731, 951, 6),
            hop("coder", Some(1), 956, 1366, 5),
        ];
        insta::assert_snapshot!(timeline(&one, at(0), Some(Timestamp(at(0).0 + 1370))));
    }

    #[test]
    fn several_requests_are_told_apart_and_an_unfinished_one_is_said() {
        let two = [
            hop("dispatcher", None, 4, 214, 4),
            hop("architect", Some(1), 220, 520, 6),
            hop("architect-of-the-big-things", Some(12), 530, 830, 10),
            hop("product", Some(1), 525, 525, 5),
        ];
        let said = [timeline(&two, at(0), None), timeline(&[], at(0), None)];
        insta::assert_snapshot!(said.join("--\n"));
    }
}
