//! `selftest`: what this program promises, tried on the disk it is to work on.
//!
//! The words only; `crate::selftest` does the work.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::atomic::Ordering;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use super::run::own_program;
use super::{Cannot, say};
use crate::cli::Selftest;
use crate::edge::{clock, config};
use crate::report::{Exit, Failure};
use crate::selftest::latency::{self, Latency, Spread, ms};
use crate::selftest::mount::{self, Mount};
use crate::selftest::storm::{self, Tally};
use crate::selftest::{Cleaner, Dice, stop_as_asked, stop_on_signals};

/// Base paths at once: enough to keep a small machine busy, and no larger one.
const BASES: u64 = 4;
/// Deaths of one round: a round that is found guilty is what a report is made of, so it should be short.
const ROUND: u64 = 200;
/// Between two words of progress, in microseconds.
const TICK: u64 = 200_000;

/// Everything that was found out. What was not reached is none.
struct Findings {
    place: Utf8PathBuf,
    mount: Mount,
    latency: Option<Latency>,
    storm: Option<Tally>,
    seed: u64,
    minutes: f64,
    left: bool,
}

/// Tries the mount, measures, kills, tells.
pub fn call(base: Option<&Utf8Path>, selftest: &Selftest) -> Result<Exit, Failure> {
    if !(0.0..=10_000.0).contains(&selftest.minutes) {
        return Err(Failure::new(
            Exit::Usage,
            format!("`--minutes {}` is no number of minutes", selftest.minutes),
        ));
    }
    let stop = stop_on_signals();
    let place = place(base)?;
    let folder = place.join(format!(".calypso-selftest-{}", std::process::id()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|source| {
            let hint = hint_for(&source);
            let cannot = Cannot {
                what: format!("make a folder in `{place}`"),
                source,
            };
            Failure::new(Exit::Failed, cannot).hint(hint)
        })?;
    let exe = own_program()?;
    let cleaner = Cleaner::start(&exe, &folder).map_err(failed)?;
    let seed = selftest
        .seed
        .unwrap_or_else(|| Dice::new(clock::boot_us()).below(1_000_000));
    let tried = try_all(&folder, &exe, seed, selftest.minutes);
    let keep = matches!(&tried, Ok((_, _, Some(tally))) if !tally.kept.is_empty());
    let left = !cleaner.finish(keep);
    if stop.load(Ordering::Relaxed) {
        stop_as_asked();
    }
    let (mount, latency, storm) = tried?;
    let findings = Findings {
        place,
        mount,
        latency,
        storm,
        seed,
        minutes: selftest.minutes,
        left,
    };
    let text = if selftest.json {
        format!("{:#}\n", findings.json())
    } else {
        findings.text()
    };
    say(&text)?;
    Ok(if findings.is_clean() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn failed(error: crate::selftest::Error) -> Failure {
    Failure::new(Exit::Failed, error)
}

/// The disk that matters: the base path's; without one, whatever holds temporary files.
fn place(base: Option<&Utf8Path>) -> Result<Utf8PathBuf, Failure> {
    match config::find_base(base) {
        Ok(base) => Ok(base),
        Err(config::Error::NoBase { .. }) => {
            Ok(Utf8PathBuf::from_path_buf(std::env::temp_dir()).unwrap_or_else(|_| "/tmp".into()))
        }
        Err(error) => Err(error.into()),
    }
}

fn hint_for(error: &std::io::Error) -> Option<String> {
    match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => {
            Some("it is mounted read-only; agents have to write there too: remount it, or choose another base path".to_owned())
        }
        std::io::ErrorKind::PermissionDenied => {
            Some("this user must be able to write there, as the daemon must".to_owned())
        }
        _ => None,
    }
}

type Tried = (Mount, Option<Latency>, Option<Tally>);

fn try_all(folder: &Utf8Path, exe: &Utf8Path, seed: u64, minutes: f64) -> Result<Tried, Failure> {
    let stop = stop_on_signals();
    let is_stopped = || stop.load(Ordering::Relaxed);
    let trial = folder.join("mount");
    std::fs::create_dir(&trial).map_err(|source| {
        let what = format!("make `{trial}`");
        Failure::new(Exit::Failed, Cannot { what, source })
    })?;
    let mount = mount::try_out(&trial, exe);
    if !mount.is_fit() || is_stopped() {
        return Ok((mount, None, None));
    }
    let mut dice = Dice::new(seed);
    show_progress("measuring");
    let latency = latency::measure(&folder.join("quiet"), exe, &mut dice, stop).map_err(failed)?;
    if minutes == 0.0 || is_stopped() {
        return Ok((mount, Some(latency), None));
    }
    let began = clock::boot_us();
    let time = (minutes * 60e6) as u64;
    let options = storm::Options {
        exe: exe.to_owned(),
        folder: folder.to_owned(),
        seed,
        bases: BASES,
        deaths: None,
        until: Some(began + time),
        round: ROUND,
        judge_when_stopped: false,
    };
    let said = std::sync::atomic::AtomicU64::new(0);
    let progress = |deaths: u64| {
        let now = clock::boot_us();
        if now >= said.fetch_max(now, Ordering::Relaxed) + TICK {
            let (passed, of) = ((now - began) / 1_000_000, time / 1_000_000);
            show_progress(&format!(
                "kill -9: {deaths} deaths, {} of {of} s",
                passed.min(of)
            ));
        }
    };
    let tally = storm::storm(&options, stop, &progress).map_err(failed)?;
    show_progress("");
    Ok((mount, Some(latency), Some(tally)))
}

/// One line that replaces itself, where a person watches.
fn show_progress(text: &str) {
    let mut talk = std::io::stderr().lock();
    if talk.is_terminal() {
        write!(talk, "\r\x1b[K{text}")
            .and_then(|()| talk.flush())
            .ok();
    }
}

impl Findings {
    fn is_clean(&self) -> bool {
        self.mount.is_fit() && !self.left && self.storm.as_ref().is_none_or(Tally::is_clean)
    }

    fn text(&self) -> String {
        let mut text = format!(
            "calypso-watch selftest · {} · {}\n\n",
            self.place, self.mount.file_system
        );
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "{}", format!("{name:<11} {value}").trim_end());
        };
        for check in &self.mount.checks {
            let Spread { p50, p99, .. } = self.mount.fsync;
            match &check.result {
                Ok(()) if check.name == "fsync" => {
                    row(
                        check.name,
                        &format!("ok      p50 {} ms, p99 {} ms", ms(p50), ms(p99)),
                    );
                }
                Ok(()) => row(check.name, "ok"),
                Err(why) => row(check.name, &format!("FAILED  {why}")),
            }
        }
        match &self.mount.mode {
            Ok(mode) | Err(mode) => row("mode", mode),
        }
        if let Some(latency) = &self.latency {
            text.push_str("\nto the agent's first instruction      p50      p99   n\n");
            for (name, spread) in [
                ("from a drop into inbound/", latency.drop_to_agent),
                (
                    "from the end of the agent before",
                    latency.hand_off_to_agent,
                ),
            ] {
                let (p50, p99) = (ms(spread.p50), ms(spread.p99));
                let _ = writeln!(
                    text,
                    "  {name:<33} {p50:>5} ms {p99:>5} ms  {:>2}",
                    spread.n
                );
            }
        }
        if let Some(tally) = &self.storm {
            let by: Vec<_> = tally
                .deaths
                .iter()
                .map(|(victim, n)| format!("{victim} {n}"))
                .collect();
            let _ = write!(
                text,
                "\nkill -9 for {} min, seed {}\n  deaths {:>8}   {}\n  tasks  {:>8}   {} runs; {} processes stopped for a while\n  \
                 lost {}, doubled {}, wrong kills {}, leftovers {}\n",
                self.minutes,
                self.seed,
                tally.all_deaths(),
                by.join(", "),
                tally.tasks,
                tally.runs,
                tally.pauses,
                tally.lost,
                tally.doubled,
                tally.wrong_kills,
                tally.leftovers
            );
            for finding in &tally.findings {
                let _ = writeln!(text, "  found: {finding}");
            }
            for kept in &tally.kept {
                let _ = writeln!(text, "  kept for a report: {kept}");
            }
        }
        let _ = writeln!(text, "\n{}", self.verdict());
        if let Some(hint) = &self.mount.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }

    /// The last line.
    fn verdict(&self) -> String {
        if !self.mount.is_fit() {
            return "verdict: calypso-watch cannot work here".to_owned();
        }
        match &self.storm {
            _ if self.left => {
                "verdict: something the selftest started could not be ended or removed".to_owned()
            }
            Some(tally) if !tally.is_clean() => {
                format!(
                    "verdict: NOT SOUND; this is a bug, and seed {} helps to find it",
                    self.seed
                )
            }
            Some(tally) => {
                format!(
                    "verdict: sound; {} deaths, nothing lost, nothing run twice",
                    tally.all_deaths()
                )
            }
            None => "verdict: the mount is fit; nothing was killed".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let spread = |of: Spread| json!({"p50_us": of.p50, "p99_us": of.p99, "n": of.n});
        let checks: serde_json::Map<String, Value> = self
            .mount
            .checks
            .iter()
            .map(|check| {
                (
                    check.name.replace(' ', "_"),
                    json!({"ok": check.result.is_ok(), "why": check.result.as_ref().err()}),
                )
            })
            .collect();
        json!({
            "base_path": self.place,
            "mount": {
                "file_system": self.mount.file_system,
                "checks": checks,
                "fsync": spread(self.mount.fsync),
                "mode": self.mount.mode.as_ref().map_or_else(String::clone, String::clone),
                "hint": self.mount.hint,
            },
            "latency": self.latency.as_ref().map(|latency| json!({
                "drop_to_agent": spread(latency.drop_to_agent),
                "hand_off_to_agent": spread(latency.hand_off_to_agent),
            })),
            "storm": self.storm.as_ref().map(|tally| json!({
                "minutes": self.minutes,
                "seed": self.seed,
                "deaths": tally.all_deaths(),
                "deaths_by_victim": tally.deaths,
                "pauses": tally.pauses,
                "tasks": tally.tasks,
                "runs": tally.runs,
                "lost": tally.lost,
                "doubled": tally.doubled,
                "wrong_kills": tally.wrong_kills,
                "leftovers": tally.leftovers,
                "exits": tally.exits,
                "findings": tally.findings,
                "kept": tally.kept,
            })),
            "sound": self.is_clean(),
            "verdict": self.verdict(),
        })
    }
}
