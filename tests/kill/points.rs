//! The list of kill points against the source: none is missing, none is left over.

use std::collections::BTreeSet;
use std::path::Path;

use calypso_watch::edge::kill_point::{ALL, BUGS};

fn sources(dir: &Path, found: &mut String) {
    for entry in std::fs::read_dir(dir).expect("src is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("kill_point.rs") {
            *found += &std::fs::read_to_string(path).expect("UTF-8");
        }
    }
}

/// The literals that stand behind `call(`.
fn literals(text: &str, call: &str) -> Vec<String> {
    let after = text.split(call).skip(1);
    after
        .filter_map(|rest| Some(rest.split('"').nth(1)?.to_owned()))
        .collect()
}

#[test]
fn the_list_is_the_source() {
    let mut text = String::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut text,
    );
    let reached = literals(&text, "kill_point::reach(");
    let in_source: BTreeSet<&str> = reached.iter().map(String::as_str).collect();
    assert_eq!(
        reached.len(),
        in_source.len(),
        "one name for two places: {reached:?}"
    );
    let is_file = |point: &&str| point.contains(".json:");
    let listed: BTreeSet<&str> = ALL.iter().copied().filter(|p| !is_file(p)).collect();
    assert_eq!(in_source, listed);
    let steps: BTreeSet<String> = literals(&text, "kill_point::reach_writing(")
        .into_iter()
        .collect();
    let listed: BTreeSet<String> = (ALL.iter().filter(|point| is_file(point)))
        .filter_map(|point| Some(point.split_once(':')?.1.to_owned()))
        .collect();
    assert_eq!(steps, listed);
}

#[test]
fn every_bug_in_the_list_can_be_planted() {
    let mut text = String::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut text,
    );
    let planted: BTreeSet<String> = literals(&text, "is_planted(").into_iter().collect();
    assert_eq!(planted, BUGS.iter().map(|bug| (*bug).to_owned()).collect());
}
