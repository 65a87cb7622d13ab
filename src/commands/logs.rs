//! `logs`: what an agent said and did, goose's stream made readable.

use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::time::Duration;

use camino::Utf8Path;

use super::{Cannot, label, layout, subject};
use crate::cli::Logs;
use crate::core::layout::{Layout, RunDir};
use crate::edge::goose::Renderer;
use crate::edge::{files, runs};
use crate::report::{Exit, Failure};

/// With `-f`, how often the file is looked at again; a person reads no faster.
const FOLLOW: Duration = Duration::from_millis(100);
/// A longer line is shown in pieces of this size: an agent may print without ever ending one.
const PIECE: u64 = 8 << 20;

/// Prints the log of a run, and goes on until it is over where that is asked for.
pub fn call(base: Option<&Utf8Path>, logs: &Logs) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    let subject = subject(&logs.task)?;
    let all = runs::list_runs(&layout, subject)?;
    let found = match logs.run {
        Some(number) => all.iter().find(|run| run.id.number == number),
        None => all.iter().max_by_key(|run| run.id.number),
    };
    let Some(run) = found else {
        let failure = match logs.run {
            Some(number) => Failure::new(
                Exit::Failed,
                format!("{} has no run {number}", label(subject)),
            ),
            None => Failure::new(Exit::Failed, format!("{} has no run yet", label(subject))),
        };
        let known: Vec<_> = all.iter().map(|run| run.id.number.to_string()).collect();
        let hint = if known.is_empty() {
            let question = subject
                .task()
                .map_or_else(|| "status".to_owned(), |id| format!("why {id}"));
            format!("`calypso-watch {question}` tells what it waits for")
        } else {
            format!("its runs: {}", known.join(", "))
        };
        return Err(failure.hint(hint));
    };
    match print(&layout, run, logs) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let what = format!("read `{}`", layout.run(run).output());
            Err(Failure::new(
                Exit::Failed,
                Cannot {
                    what,
                    source: error,
                },
            ))
        }
        _ => Ok(Exit::Done),
    }
}

fn print(layout: &Layout, run: &RunDir, logs: &Logs) -> io::Result<()> {
    let path = layout.run(run).output();
    let mut out = io::stdout().lock();
    // A run that was just decided on may have no output yet.
    let file = loop {
        match files::open_regular(&path) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && logs.follow
                    && is_live(layout, run) =>
            {
                std::thread::sleep(FOLLOW);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => break other?,
        }
    };
    let mut reader = BufReader::new(file);
    let mut renderer = Renderer::new();
    let mut line = Vec::new();
    loop {
        // Asked before the file is read to its end: what was written before the run was over is then read after.
        let was_live = is_live(layout, run);
        while (&mut reader).take(PIECE).read_until(b'\n', &mut line)? > 0 {
            let is_half = line.last() != Some(&b'\n') && (line.len() as u64) < PIECE;
            if is_half && logs.follow && was_live {
                // Half a line: the rest comes.
                break;
            }
            show(&mut out, &mut renderer, &line, logs.raw)?;
            line.clear();
        }
        if !logs.follow || !was_live {
            break;
        }
        out.flush()?;
        std::thread::sleep(FOLLOW);
    }
    if !line.is_empty() {
        show(&mut out, &mut renderer, &line, logs.raw)?;
    }
    if !logs.raw {
        out.write_all(renderer.finish().as_bytes())?;
    }
    out.flush()
}

fn show(out: &mut impl Write, renderer: &mut Renderer, line: &[u8], raw: bool) -> io::Result<()> {
    if raw {
        return out.write_all(line);
    }
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    out.write_all(renderer.line(line).as_bytes())
}

fn is_live(layout: &Layout, run: &RunDir) -> bool {
    layout.live_entry(run).exists()
        && runs::read_verdict(layout, run).is_ok_and(|verdict| verdict.is_none())
}
