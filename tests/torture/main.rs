//! The torture driver: storms as long as one likes, then one table. Started by `scripts/torture.sh`, which gives it a pid namespace of
//! its own; as its init it also collects what nobody waits for.
//!
//! Judges nothing itself: that is `calypso_watch::selftest::storm`.

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

const EXE: &str = env!("CARGO_BIN_EXE_calypso-watch");
const HINT: &str = "hint: scripts/torture.sh [--deaths N] [--minutes N] [--seed S] [--json] [--in DIR] [--bases N]";

/// What was typed.
struct Asked {
    deaths: Option<u64>,
    minutes: Option<u64>,
    seed: u64,
    json: bool,
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
        folder: Utf8PathBuf::from_path_buf(std::env::temp_dir()).unwrap_or_else(|_| "/tmp".into()),
        bases: 3 * cores,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--json" {
            asked.json = true;
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("`{word}` is not known, or takes a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("`{word}` takes a number, not `{value}`"))
        };
        match word.as_str() {
            "--deaths" => asked.deaths = Some(number()?),
            "--minutes" => asked.minutes = Some(number()?),
            "--seed" => asked.seed = number()?,
            "--bases" => asked.bases = number()?.max(1),
            "--in" => asked.folder = value.into(),
            _ => return Err(format!("`{word}` is not known")),
        }
    }
    if asked.deaths.is_none() && asked.minutes.is_none() {
        asked.deaths = Some(1000);
    }
    Ok(asked)
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
    let options = storm::Options {
        exe: EXE.into(),
        folder,
        seed: asked.seed,
        bases: asked.bases,
        deaths: asked.deaths,
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
    let mut tally = storm::storm(&options, stop, &progress)?;
    let keep = !tally.kept.is_empty();
    if !cleaner.finish(keep) {
        tally.leftovers += 1;
        tally
            .findings
            .push("something that the storm started could not be ended or removed".to_owned());
    }
    let seconds = (clock::boot_us() - began) / 1_000_000;
    if asked.json {
        println!("{}", json(&tally, asked.seed, seconds));
    } else {
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
        text.push_str(&format!("{name:<14} {count:>9}\n"));
    }
    for (victim, count) in &tally.deaths {
        text.push_str(&format!("  of {victim:<9} {count:>9}\n"));
    }
    text.push_str(&format!(
        "{:<14} {:>9}\n{:<14} {seconds:>7} s",
        "pauses", tally.pauses, "took"
    ));
    text
}

fn json(tally: &Tally, seed: u64, seconds: u64) -> serde_json::Value {
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
        "seed": seed,
        "seconds": seconds,
        "machine": machine(),
        "date": &clock::utc(clock::wall())[..10],
        "findings": tally.findings,
    })
}
