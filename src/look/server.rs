//! Which tinytask: what settings say, else what the recipes' own extensions name.

use std::time::Duration;

use camino::Utf8PathBuf;

use crate::core::layout::Layout;
use crate::edge::config::{Config, TinytaskChoice};
use crate::edge::tinytask::{Endpoint, Tinytask};
use crate::edge::{clock, recipe};

/// The server this base path works with.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub endpoint: Option<Endpoint>,
    pub is_builtin: bool,
    /// Its SQLite file, where that is on this machine and known.
    pub db: Option<Utf8PathBuf>,
    /// Recipes and watcher, or two recipes, would talk to different servers.
    pub disagreement: Option<String>,
    /// The queue whose recipe talks to another server, and that server.
    pub other: Option<(String, Endpoint)>,
}

/// From settings, else from the recipes, so that people who have recipes configure nothing.
pub fn which_server(config: &Config, layout: &Layout, recipes: &mut recipe::Known) -> Server {
    let params = config
        .queues
        .iter()
        .map(|(name, queue)| (name.clone(), queue.params.clone()))
        .collect();
    let found = recipes.extensions(
        &layout.recipes(),
        layout.base(),
        &config.recipe_files(),
        &params,
        clock::wall(),
    );
    let of_recipes: Vec<(String, Endpoint)> = found
        .into_iter()
        .filter(|found| found.is_tinytask)
        .map(|found| (found.queue.to_string(), endpoint(found.endpoint, layout)))
        .collect();
    let is_builtin = matches!(config.tinytask.chosen, Some(TinytaskChoice::Builtin { .. }));
    let chosen = match &config.tinytask.chosen {
        Some(TinytaskChoice::Url(url)) => Some(Endpoint::Http { url: url.clone() }),
        Some(TinytaskChoice::Command { argv, env }) => Some(Endpoint::Stdio {
            command: argv.clone(),
            env: env.0.clone().into_iter().collect(),
            cwd: Some(layout.base().to_owned()),
        }),
        Some(TinytaskChoice::Builtin { listen }) => {
            let address = listen.map_or_else(
                || "127.0.0.1:3000".to_owned(),
                |address| address.to_string(),
            );
            Some(Endpoint::Http {
                url: format!("http://{address}/mcp"),
            })
        }
        None => of_recipes.first().map(|(_, endpoint)| endpoint.clone()),
    };
    let other = of_recipes.into_iter().find(|(_, endpoint)| {
        chosen
            .as_ref()
            .is_some_and(|chosen| !is_same(chosen, endpoint))
    });
    let disagreement = other.as_ref().zip(chosen.as_ref()).map(|((queue, theirs), ours)| {
        format!("recipe of `{queue}` talks to {theirs}, calypso-watch to {ours}: their tasks are not the same")
    });
    let db = config
        .tinytask
        .db
        .clone()
        .or_else(|| is_builtin.then(|| layout.tinytask_db()))
        .or_else(|| db_of(chosen.as_ref()?));
    Server {
        endpoint: chosen,
        is_builtin,
        db,
        disagreement,
        other,
    }
}

impl Server {
    /// A client for it; connects at the first call.
    pub fn client(&self, config: &Config) -> Option<Tinytask> {
        let timeout = Duration::from_millis(config.tinytask.timeout.0);
        self.endpoint
            .clone()
            .map(|endpoint| Tinytask::new(endpoint, timeout))
    }

    /// Why there is none to ask.
    pub fn why_none(&self) -> String {
        "no tinytask is configured, and no recipe names one; in calypso.toml, `[tinytask] builtin = true` takes the built-in one".into()
    }
}

fn endpoint(found: recipe::Endpoint, layout: &Layout) -> Endpoint {
    match found {
        // The client refuses the old transport with its own words.
        recipe::Endpoint::Http(url) | recipe::Endpoint::LegacySse(url) => Endpoint::Http { url },
        recipe::Endpoint::Stdio { argv, env, .. } => Endpoint::Stdio {
            command: argv,
            env: env.into_iter().collect(),
            cwd: Some(layout.base().to_owned()),
        },
    }
}

/// Do both mean one server? Two stdio children are the same where they serve the same database.
fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    let normal = |url: &str| {
        url.trim_end_matches('/')
            .replace("//localhost", "//127.0.0.1")
            .replace("//[::1]", "//127.0.0.1")
    };
    match (one, other) {
        (Endpoint::Http { url: one }, Endpoint::Http { url: other }) => {
            normal(one) == normal(other)
        }
        (Endpoint::Stdio { .. }, Endpoint::Stdio { .. }) => match (db_of(one), db_of(other)) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        },
        _ => false,
    }
}

/// The database a stdio tinytask is told to use.
fn db_of(endpoint: &Endpoint) -> Option<Utf8PathBuf> {
    let Endpoint::Stdio { env, cwd, .. } = endpoint else {
        return None;
    };
    let (_, path) = env.iter().find(|(name, _)| name == "TINYTASK_DB_PATH")?;
    Some(
        cwd.as_ref()
            .map_or_else(|| path.into(), |cwd| cwd.join(path)),
    )
}
