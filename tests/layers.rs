//! Do the arrows of the house point down? Reads every `crate::` path in src/ and fails on one that rises.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The layers, top to bottom. An arrow may skip one, never rise.
const LAYERS: [&[&str]; 5] = [
    &["main", "bin"],
    &["commands", "report", "cli"],
    &["look", "daemon", "selftest", "shim", "taskd"],
    &["edge", "view"],
    &["core"],
];

/// Arrows within one layer that are meant, and arrows down that are not.
const MEANT: [(&str, &str); 8] = [
    ("commands", "report"),
    ("commands", "cli"),
    ("daemon", "look"),
    ("edge::anything", "edge::ask"),
    ("edge::anything", "edge::clock"),
    ("edge::anything", "edge::files"),
    ("edge::anything", "edge::kill_point"),
    ("edge::config", "edge::mount"),
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| {
            panic!("`{module}` has no layer: give it one in this test and in lib.rs")
        })
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The module path of a source file: `["edge", "runs", "past"]`.
fn module_of(path: &Path) -> Vec<String> {
    let relative = path
        .strip_prefix(root())
        .expect("below src")
        .with_extension("");
    let mut parts: Vec<String> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every `crate::a::b` in the text, `use` groups opened, comments left out.
fn paths(text: &str) -> Vec<Vec<String>> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    let word = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let end = group.find(';').unwrap_or(group.len());
            let first_level = group[..end].split(',').map(|part| word(part.trim()));
            found.extend(first_level.filter(|w| !w.is_empty()).map(|w| vec![w]));
            continue;
        }
        let first = word(rest);
        let second = rest[first.len()..].strip_prefix("::").unwrap_or_default();
        if let Some(group) = second.strip_prefix('{') {
            let end = group.find('}').unwrap_or(group.len());
            found.extend(
                group[..end]
                    .split(',')
                    .map(|part| vec![first.clone(), word(part.trim())]),
            );
        } else {
            found.push(vec![first, word(second)]);
        }
    }
    found
}

#[test]
fn no_arrow_rises() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut arrows: BTreeMap<(String, String), String> = BTreeMap::new();
    for file in &files {
        let from = module_of(file);
        if from.is_empty() {
            continue;
        }
        let text = std::fs::read_to_string(file).expect("UTF-8");
        for to in paths(&text) {
            let names = [vec![from[0].clone()], vec![to[0].clone()]];
            let [mut name_from, mut name_to] = names.map(|n| n[0].clone());
            if from[0] == "edge" && to[0] == "edge" {
                let to_file = to.get(1).cloned().unwrap_or_default();
                if from.get(1) == Some(&to_file) || to_file.is_empty() {
                    continue;
                }
                name_from = format!("edge::{}", from.get(1).map_or("mod", String::as_str));
                name_to = format!("edge::{to_file}");
            }
            arrows
                .entry((name_from, name_to))
                .or_insert_with(|| file.display().to_string());
        }
    }
    assert!(
        arrows.len() > 20,
        "the reader of `use` lines found almost nothing: {arrows:?}"
    );
    let mut wrong = Vec::new();
    for ((from, to), file) in &arrows {
        if from == to {
            continue;
        }
        let meant = |(a, b): &(&str, &str)| {
            (*a == from || (*a == "edge::anything" && from.starts_with("edge::"))) && b == to
        };
        if MEANT.iter().any(meant) {
            continue;
        }
        if from.starts_with("edge::") {
            // Siblings of the edge never import each other; goose's command line is made from settings, which it may read.
            if (from.as_str(), to.as_str()) != ("edge::goose", "edge::config") {
                wrong.push(format!("{from} → {to} ({file})"));
            }
            continue;
        }
        if layer(from) >= layer(to) {
            wrong.push(format!("{from} → {to} ({file})"));
        }
    }
    // The built-in server and the client read one protocol apart, so that each checks the other.
    for forbidden in [
        ("taskd", "edge::tinytask"),
        ("taskd", "view"),
        ("view", "edge"),
        ("core", "edge"),
    ] {
        if arrows.contains_key(&(forbidden.0.to_owned(), forbidden.1.to_owned())) {
            wrong.push(format!("{} → {}", forbidden.0, forbidden.1));
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that rise, or join siblings:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    let mut files = Vec::new();
    sources(&root().join("core"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("UTF-8");
        for barred in [
            "std::fs",
            "std::env",
            "std::process",
            "std::time::",
            "SystemTime",
            "tokio",
            "tracing",
            "async fn",
            "rand",
        ] {
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let hit = code.into_iter().find(|line| line.contains(barred));
            assert!(
                hit.is_none(),
                "{} has `{barred}`: {}",
                file.display(),
                hit.unwrap_or_default()
            );
        }
    }
}
