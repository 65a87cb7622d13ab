//! The torture driver: the kill matrix, then storms as long as one likes, then one table. Started by `scripts/torture.sh`, which gives it
//! a pid namespace of its own; as its init it also collects what nobody waits for.
//!
//! Judges nothing itself: that is `calypso_watch::selftest::storm`, and the matrix that `tests/kill` has.

#![expect(
    clippy::disallowed_methods,
    reason = "the matrix writes its scripts and waits by the clock"
)]
#![expect(clippy::print_stdout, reason = "the table is for whoever started it")]
#![expect(clippy::print_stderr, reason = "progress, where a person watches")]

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use calypso_watch::edge::clock;
use calypso_watch::selftest::storm::{self, Tally};
use calypso_watch::selftest::{Cleaner, Dice, stop_on_signals};
use camino::Utf8PathBuf;

#[expect(
    dead_code,
    reason = "its own test asks whether it is clean; here its counts are added up"
)]
#[path = "../kill/matrix/mod.rs"]
mod matrix;

const EXE: &str = env!("CARGO_BIN_EXE_calypso-watch");
const HINT: &str = "hint: scripts/torture.sh [--deaths N] [--minutes N] [--seed S] [--json] [--storms | --matrix] [--in DIR] [--bases N]";

/// What was typed.
struct Asked {
    deaths: Option<u64>,
    minutes: Option<u64>,
    seed: u64,
    json: bool,
    matrix: bool,
    storms: bool,
    folder: Utf8PathBuf,
    bases: u64,
}

fn asked() -> Result<Asked, String> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let mut asked = Asked {
        deaths: None,
        minutes: None,
        seed: Dice::new(clock::boot_us()).below(1_000_000),
        json: false,
        matrix: true,
        storms: true,
        folder: Utf8PathBuf::from_path_buf(std::env::temp_dir()).unwrap_or_else(|_| "/tmp".into()),
        bases: 3 * cores,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => asked.json = true,
            "--storms" => asked.matrix = false,
            "--matrix" => asked.storms = false,
            _ => asked.take(&word, words.next())?,
        }
    }
    if asked.deaths.is_none() && asked.minutes.is_none() {
        asked.deaths = Some(1000);
    }
    Ok(asked)
}

impl Asked {
    /// A flag with its value.
    fn take(&mut self, word: &str, value: Option<String>) -> Result<(), String> {
        let value = value.ok_or_else(|| format!("`{word}` is not known, or takes a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("`{word}` takes a number, not `{value}`"))
        };
        match word {
            "--deaths" => self.deaths = Some(number()?),
            "--minutes" => self.minutes = Some(number()?),
            "--seed" => self.seed = number()?,
            "--bases" => self.bases = number()?.max(1),
            "--in" => self.folder = value.into(),
            _ => return Err(format!("`{word}` is not known")),
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("error: {why}\n{HINT}");
            return ExitCode::from(2);
        }
    };
    match torture(&asked) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn torture(asked: &Asked) -> Result<bool, Box<dyn std::error::Error>> {
    let folder = asked.folder.join(format!(
        "calypso-torture-{}-{}",
        asked.seed,
        std::process::id()
    ));
    std::fs::create_dir(&folder)?;
    let cleaner = Cleaner::start(EXE.into(), &folder)?;
    let stop = stop_on_signals();
    let began = clock::boot_us();
    let points = asked.matrix.then(|| matrix::run(&plan(asked)));
    let mut tally = points.as_ref().map_or_else(Tally::default, of_matrix);
    let options = storm::Options {
        exe: EXE.into(),
        folder,
        seed: asked.seed,
        bases: asked.bases,
        deaths: asked
            .deaths
            .map(|deaths| deaths.saturating_sub(tally.all_deaths())),
        until: asked.minutes.map(|minutes| began + minutes * 60_000_000),
        round: 400,
        judge_when_stopped: true,
    };
    let is_watched = std::io::stderr().is_terminal();
    let said = AtomicU64::new(began);
    let progress = |deaths: u64| {
        let now = clock::boot_us();
        let last = said.load(Ordering::Relaxed);
        let is_due = now > last + if is_watched { 500_000 } else { 60_000_000 };
        if is_due
            && said
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let end = if is_watched { '\r' } else { '\n' };
            eprint!("{deaths} deaths, {} s{end}", (now - began) / 1_000_000);
        }
    };
    if asked.storms {
        tally.add(storm::storm(&options, stop, &progress)?);
    }
    let keep = !tally.kept.is_empty();
    if !cleaner.finish(keep) {
        tally.leftovers += 1;
        tally
            .findings
            .push("something that the storm started could not be ended or removed".to_owned());
    }
    let seconds = (clock::boot_us() - began) / 1_000_000;
    if asked.json {
        println!("{}", json(&tally, points.as_ref(), asked.seed, seconds));
    } else {
        if let Some(points) = &points {
            print!("{points}");
        }
        println!("{}", table(&tally, asked.seed, seconds));
    }
    for finding in &tally.findings {
        eprintln!("found: {finding}");
    }
    for kept in &tally.kept {
        eprintln!("kept: {kept}");
    }
    Ok(tally.is_clean())
}

/// Every point once, whatever may die there.
fn plan(asked: &Asked) -> matrix::Plan {
    matrix::Plan {
        seed: asked.seed,
        every_point: true,
        deaths: 0,
        jobs: asked.bases as usize,
        bugs: String::new(),
        only: None,
    }
}

/// What the matrix found, in the storm's words.
fn of_matrix(table: &matrix::Table) -> Tally {
    let mut findings = table.wrongs.clone();
    for point in table.never_hit() {
        findings.push(format!("nothing ever happened at the kill point {point}"));
    }
    Tally {
        deaths: BTreeMap::from([("the kill matrix", table.deaths)]),
        pauses: table.stops,
        tasks: table.tasks,
        lost: table.lost,
        doubled: table.doubled,
        wrong_kills: table.wrong_kills,
        leftovers: table.leftovers,
        findings,
        ..Tally::default()
    }
}

/// `AMD EPYC, 2 cores, Linux 6.18.1`
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, {cores} cores, Linux {}",
        cpu.map_or("unknown CPU", |(_, cpu)| cpu.trim()),
        kernel.trim()
    )
}

fn rows(tally: &Tally) -> [(&'static str, u64); 8] {
    [
        ("deaths", tally.all_deaths()),
        ("tasks", tally.tasks),
        ("runs", tally.runs),
        ("lost", tally.lost),
        ("doubled", tally.doubled),
        ("wrong kills", tally.wrong_kills),
        ("leftovers", tally.leftovers),
        ("unasked exits", tally.exits),
    ]
}

fn table(tally: &Tally, seed: u64, seconds: u64) -> String {
    let mut text = format!(
        "seed {seed} · {} · {}\n",
        machine(),
        &clock::utc(clock::wall())[..10]
    );
    for (name, count) in rows(tally) {
        text.push_str(&format!("{name:<20} {count:>8}\n"));
    }
    for (victim, count) in &tally.deaths {
        text.push_str(&format!("  of {victim:<16} {count:>7}\n"));
    }
    text.push_str(&format!(
        "{:<20} {:>8}\n{:<20} {seconds:>6} s",
        "pauses", tally.pauses, "took"
    ));
    text
}

fn json(
    tally: &Tally,
    points: Option<&matrix::Table>,
    seed: u64,
    seconds: u64,
) -> serde_json::Value {
    let deaths_by_victim: BTreeMap<_, _> = tally.deaths.iter().collect();
    serde_json::json!({
        "deaths": tally.all_deaths(),
        "tasks": tally.tasks,
        "runs": tally.runs,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "wrong_kills": tally.wrong_kills,
        "leftovers": tally.leftovers,
        "exits": tally.exits,
        "pauses": tally.pauses,
        "deaths_by_victim": deaths_by_victim,
        "deaths_by_point": points.map(|points| {
            let deaths = points.hits.iter().map(|(point, (_, deaths))| (point.clone(), *deaths));
            deaths.collect::<BTreeMap<_, _>>()
        }),
        "seed": seed,
        "seconds": seconds,
        "machine": machine(),
        "date": &clock::utc(clock::wall())[..10],
        "findings": tally.findings,
    })
}
