//! Files people write by hand: settings, recipes, env files.

use std::collections::BTreeMap;

use calypso_watch::edge::{clock, config, recipe};
use calypso_watch::view::text::clean;
use camino::Utf8Path;

use super::{assert_one_line, folder};

pub(super) fn config(data: &[u8]) {
    let base = folder("config");
    std::fs::write(base.join("calypso.toml"), data).expect("ours");
    match config::load_from(base, &[], &[]) {
        Ok(config) => {
            assert!(config.policy.max_runs > 0);
            for queue in config.queues.values() {
                assert!(
                    queue
                        .command
                        .as_ref()
                        .is_none_or(|argv| !argv[0].is_empty())
                );
                // Settings may be shown, values of the environment never.
                let shown = format!("{:?}", queue.env);
                for (name, value) in &queue.env.0 {
                    assert!(
                        value.len() < 8
                            || name.contains(value.as_str())
                            || !shown.contains(value.as_str())
                    );
                }
            }
        }
        Err(error) => {
            assert_one_line(&clean(&error.to_string()));
            drop(error.hint());
        }
    }
}

pub(super) fn environment(data: &[u8]) {
    match config::parse_env_file(Utf8Path::new("x.env"), data.to_vec()) {
        Ok(variables) => {
            assert!(variables.len() <= data.len());
            for (name, value) in variables {
                assert!(!name.is_empty() && !name.contains(['=', '\0', '\n', ' ']));
                assert!(!value.contains(['\0', '\n']));
            }
        }
        Err(error) => {
            // The line may be a secret: the place is told, never the words.
            let told = error.to_string();
            assert!(told.len() < 80, "{told}");
        }
    }
}

/// One recipe beside another that extends it.
pub(super) fn recipe(data: &[u8]) {
    let recipes = folder("recipes");
    std::fs::write(recipes.join("coder.yaml"), data).expect("ours");
    let other = recipes.join("other.yaml");
    if !other.exists() {
        std::fs::write(&other, "{% extends \"coder.yaml\" %}").expect("ours");
    }
    let none = BTreeMap::new();
    for (queue, recipe) in recipe::list(recipes, &none) {
        match recipe {
            Ok(recipe) => {
                assert_eq!(recipe.queue, queue);
                assert!(!recipe.title.is_empty());
            }
            Err(why) => assert!(why.lines().count() <= 1 && why.len() < 2000, "{why:?}"),
        }
    }
    let params = BTreeMap::new();
    let most = 4 << 20;
    let base = Utf8Path::new("/base");
    let found = recipe::Known::default().extensions(recipes, base, &none, &params, clock::wall());
    for found in found {
        match found.endpoint {
            recipe::Endpoint::Http(url) | recipe::Endpoint::LegacySse(url) => {
                assert!(url.len() <= most)
            }
            recipe::Endpoint::Stdio { argv, env, .. } => {
                assert!(
                    argv.iter()
                        .chain(env.values())
                        .all(|text| text.len() <= most)
                );
            }
        }
    }
}
