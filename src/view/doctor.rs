//! What `doctor` found, as a screen and as JSON. Areas that are well take a line; a finding says what, why it matters, what mends it.
//!
//! Does not know how anything was found out. The shape of the JSON is a promise: keys are added, never renamed.

use serde_json::{Value, json};

use super::text::{WIDTH, clean, plural, unbroken, width, wrap};

/// How bad it is; worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing; nothing is wrong.
    Note,
    /// This user may not see it.
    Unknown,
    /// Something will not work as meant.
    Warn,
    /// Something does not work.
    Fail,
}

impl Level {
    /// As it stands in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
    fn shown(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            other => other.word(),
        }
    }
    /// Does it make the exit code 1?
    pub fn counts(self) -> bool {
        self >= Self::Warn
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// The fact, in a sentence without its full stop.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// A command for a shell; none where no command can mend it.
    pub mend: Option<String>,
    /// The file, queue, task or program it is about.
    pub subject: Option<String>,
}

/// One area, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    pub name: &'static str,
    /// What is well, in a few words each.
    pub well: Vec<String>,
    /// How many questions were asked.
    pub checked: u32,
    pub findings: Vec<Finding>,
}

impl Area {
    /// Nothing asked yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            well: Vec::new(),
            checked: 0,
            findings: Vec::new(),
        }
    }
    /// A question whose answer is worth a word.
    pub fn well(&mut self, words: impl Into<String>) {
        self.checked += 1;
        self.well.push(words.into());
    }
    /// A question whose answer is that all is well.
    pub fn passed(&mut self) {
        self.checked += 1;
    }
    /// A question whose answer is a finding.
    pub fn finds(
        &mut self,
        level: Level,
        what: impl Into<String>,
        why: impl Into<String>,
    ) -> &mut Finding {
        self.checked += 1;
        self.findings.push(Finding {
            level,
            what: what.into(),
            why: why.into(),
            mend: None,
            subject: None,
        });
        self.findings.last_mut().expect("pushed just above")
    }
}

impl Finding {
    /// The command that mends it.
    pub fn mend(&mut self, command: impl Into<String>) -> &mut Self {
        self.mend = Some(command.into());
        self
    }
    /// What it is about.
    pub fn about(&mut self, subject: impl std::fmt::Display) -> &mut Self {
        self.subject = Some(subject.to_string());
        self
    }
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkup {
    pub version: &'static str,
    /// None: there is no base path yet.
    pub base: Option<String>,
    /// Whose environment was judged, in words.
    pub environment: String,
    pub areas: Vec<Area>,
}

impl Checkup {
    fn all(&self) -> impl Iterator<Item = (&'static str, &Finding)> {
        self.areas
            .iter()
            .flat_map(|area| area.findings.iter().map(|finding| (area.name, finding)))
    }
    fn count(&self, is: impl Fn(Level) -> bool) -> usize {
        self.all().filter(|(_, finding)| is(finding.level)).count()
    }
    /// Warnings and failures; notes, and what this user may not see, are none.
    pub fn findings(&self) -> usize {
        self.count(Level::counts)
    }
    fn checked(&self) -> u32 {
        self.areas.iter().map(|area| area.checked).sum()
    }
}

/// Columns of the area's name, and of the level behind it.
const NAME: usize = 13;
const LEVEL: usize = 9;

/// The screen.
pub fn doctor(checkup: &Checkup) -> String {
    let base = checkup.base.as_deref().unwrap_or("no base path");
    let mut out = String::new();
    let head = format!("calypso-watch {} · {}", checkup.version, clean(base));
    out += &format!("{head}\n");
    for line in wrap(&clean(&checkup.environment), WIDTH) {
        out += &format!("{line}\n");
    }
    out.push('\n');
    for area in &checkup.areas {
        out += &show(area);
    }
    out.push('\n');
    out += &verdict(checkup);
    out
}

fn show(area: &Area) -> String {
    if area.findings.is_empty() {
        return row(area.name, "ok", &clean(&area.well.join(", ")), true);
    }
    let mut findings: Vec<&Finding> = area.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let mut out = String::new();
    let mut name = area.name;
    if findings.iter().all(|finding| finding.level == Level::Note) && !area.well.is_empty() {
        out += &row(name, "ok", &clean(&area.well.join(", ")), true);
        name = "";
    }
    for finding in findings {
        out += &row(name, finding.level.shown(), &clean(&finding.what), false);
        out += &row("", "", &clean(&finding.why), false);
        if let Some(mend) = &finding.mend {
            out += &row("", "mend it", &unbroken(&clean(mend)), false);
        }
        name = "";
    }
    out
}

fn row(name: &str, level: &str, text: &str, is_one_line: bool) -> String {
    let indent = NAME + LEVEL;
    let head = format!("{name:NAME$}{level:LEVEL$}");
    let mut lines = wrap(text, WIDTH - indent);
    if is_one_line && lines.len() > 1 {
        lines = vec![super::text::cut(text, WIDTH - indent)];
    }
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        let head = if at == 0 { head.as_str() } else { "" };
        out += format!("{head:indent$}{line}").trim_end();
        out.push('\n');
    }
    if lines.is_empty() {
        out += head.trim_end();
        out.push('\n');
    }
    debug_assert!(width(&head) == indent);
    out
}

fn verdict(checkup: &Checkup) -> String {
    let (fails, warnings) = (
        checkup.count(|level| level == Level::Fail),
        checkup.count(|level| level == Level::Warn),
    );
    let mut parts = Vec::new();
    if fails > 0 {
        parts.push(if fails == 1 {
            "1 fails".into()
        } else {
            format!("{fails} fail")
        });
    }
    if warnings > 0 {
        parts.push(plural(warnings, "warning"));
    }
    let head = match checkup.findings() {
        0 => format!(
            "all is well: {}",
            plural(checkup.checked() as usize, "check")
        ),
        n => format!("{}: {}", plural(n, "finding"), parts.join(", ")),
    };
    let mut rest = Vec::new();
    match checkup.count(|level| level == Level::Note) {
        0 => {}
        n => rest.push(plural(n, "note")),
    }
    match checkup.count(|level| level == Level::Unknown) {
        0 => {}
        n => rest.push(format!("{n} unknown")),
    }
    let rest = if rest.is_empty() {
        String::new()
    } else {
        format!("; {}", rest.join(", "))
    };
    format!("{head}{rest}\n")
}

/// One object: `version`, `base`, `environment`, `checked`, `findings` (each with `area`, `level`, `what`, `why`, `mend`,
/// `subject`), `ok` (`area: what is well`).
pub fn doctor_json(checkup: &Checkup) -> Value {
    let findings: Vec<Value> = checkup
        .all()
        .map(|(area, finding)| {
            json!({
                "area": area,
                "level": finding.level.word(),
                "what": finding.what,
                "why": finding.why,
                "mend": finding.mend,
                "subject": finding.subject,
            })
        })
        .collect();
    let is_well = |area: &&Area| !area.findings.iter().any(|finding| finding.level.counts());
    let ok: Vec<Value> = checkup
        .areas
        .iter()
        .filter(is_well)
        .map(|area| json!({"area": area.name, "well": area.well}))
        .collect();
    json!({
        "version": checkup.version,
        "base": checkup.base,
        "environment": checkup.environment,
        "checked": checkup.checked(),
        "findings": findings,
        "ok": ok,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkup() -> Checkup {
        let mut goose = Area::new("goose");
        goose.well("1.52.0 at /usr/local/bin/goose");
        goose.well("openai: OPENAI_API_KEY");
        let mut recipes = Area::new("recipes");
        recipes.well("5 recipes");
        recipes
            .finds(
                Level::Fail,
                "recipes/architect.yaml has no `prompt`",
                "goose needs one when nobody is there to type, so the queue `architect` starts nothing",
            )
            .about("recipes/architect.yaml")
            .mend("${EDITOR:-vi} /srv/calypso/recipes/architect.yaml");
        recipes.finds(
            Level::Note,
            "a name that would steer \u{1b}[31m the terminal",
            "it does not",
        );
        let mut clock = Area::new("clock");
        clock.well("kept right");
        clock.finds(Level::Note, "no zone is set", "times are shown in UTC");
        Checkup {
            version: "0.1.0",
            base: Some("/srv/calypso".into()),
            environment: "judged by the environment of the daemon (pid 4121)".into(),
            areas: vec![goose, recipes, clock],
        }
    }

    #[test]
    fn a_screen_expands_what_is_found_and_nothing_else() {
        let screen = [
            "calypso-watch 0.1.0 · /srv/calypso",
            "judged by the environment of the daemon (pid 4121)",
            "",
            "goose        ok       1.52.0 at /usr/local/bin/goose, openai: OPENAI_API_KEY",
            "recipes      FAIL     recipes/architect.yaml has no `prompt`",
            "                      goose needs one when nobody is there to type, so the queue",
            "                      `architect` starts nothing",
            "             mend it  ${EDITOR:-vi} /srv/calypso/recipes/architect.yaml",
            "             note     a name that would steer ␛[31m the terminal",
            "                      it does not",
            "clock        ok       kept right",
            "             note     no zone is set",
            "                      times are shown in UTC",
            "",
            "1 finding: 1 fails; 2 notes",
            "",
        ];
        assert_eq!(doctor(&checkup()), screen.join("\n"));
        for line in doctor(&checkup()).lines() {
            assert!(width(line) <= WIDTH, "{line}");
        }
    }

    #[test]
    fn json_has_every_level_and_the_areas_that_are_well() {
        let json = doctor_json(&checkup());
        assert_eq!(json["checked"], 7);
        let levels: Vec<_> = (json["findings"].as_array().expect("a list").iter())
            .map(|finding| finding["level"].clone())
            .collect();
        assert_eq!(levels, ["fail", "note", "note"]);
        assert_eq!(json["findings"][0]["subject"], "recipes/architect.yaml");
        assert_eq!(json["findings"][2]["mend"], Value::Null);
        let ok: Vec<_> = (json["ok"].as_array().expect("a list").iter())
            .map(|area| area["area"].clone())
            .collect();
        assert_eq!(ok, ["goose", "clock"]);
    }

    #[test]
    fn only_warnings_and_failures_count() {
        let mut checkup = checkup();
        assert_eq!(checkup.findings(), 1);
        checkup.areas[1].findings.clear();
        assert_eq!(checkup.findings(), 0);
        assert!(doctor(&checkup).ends_with("all is well: 7 checks; 1 note\n"));
    }
}
