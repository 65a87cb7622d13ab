//! The first lines of the screen: does anybody watch, how does tinytask fare, is everything paused.
//!
//! Does not know what any queue does; it only counts the agents that go on without a daemon.

use super::{Daemon, StatusInput, label};
use crate::core::{Hold, Subject, Tinytask};
use crate::view::board::Board;
use crate::view::hold::words;
use crate::view::text::{WIDTH, ago, beside, beside_parts, clean, cut, cut_front, duration, width};

pub(super) fn head(input: &StatusInput, board: &Board) -> String {
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
