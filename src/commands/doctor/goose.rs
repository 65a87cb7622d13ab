//! goose: found on the PATH that runs get, of a known version, with the options we use, a provider, and its key.
//!
//! Known gap: a key in a keyring cannot be seen; where one could hold it, that is said to be unknown.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;

use super::{Scene, edit, on};
use crate::core::model::QueueName;
use crate::edge::config::{self, Config};
use crate::edge::goose::{self, Keys, OwnSettings, PROGRAM};
use crate::edge::process::Environment;
use crate::edge::recipe;
use crate::look::chain;
use crate::view::text::list;
use crate::view::{Area, Level};

/// Versions that the tests ran against.
const TESTED: ((u32, u32), (u32, u32)) = ((1, 37), (1, 52));

/// The area, and goose itself where it is there and needed.
pub(super) struct Found {
    pub(super) area: Area,
    pub(super) program: Option<Utf8PathBuf>,
}

/// Settings are given too, as an `env_file` is one.
pub(super) fn examine(scene: &Scene, settings: &mut Area) -> Found {
    let mut area = Area::new("goose");
    let queues = queues(scene);
    if let Some(config) = &scene.config {
        own_commands(scene, config, &queues, &mut area);
    }
    let uses_goose = |queue: &&QueueName| {
        scene
            .config
            .as_ref()
            .is_none_or(|config| goose::own_command(config, queue).is_none())
    };
    let of_goose: Vec<&QueueName> = queues.keys().filter(uses_goose).collect();
    if of_goose.is_empty() && !queues.is_empty() {
        area.well("not needed: each queue has a command of its own");
        return Found {
            area,
            program: None,
        };
    }
    let Some(program) = goose::find_program_on(PROGRAM, scene.path()) else {
        not_found(scene, &mut area);
        return Found {
            area,
            program: None,
        };
    };
    let answers = version(&program, &mut area);
    if answers {
        flags(&program, &mut area);
    }
    // Settings that cannot be used would name one, perhaps.
    if scene.config.is_some() || scene.layout.is_none() {
        providers(scene, &of_goose, &queues, &mut area, settings);
    }
    Found {
        area,
        program: answers.then_some(program),
    }
}

/// Each queue with a recipe or settings, and the provider its recipe names.
fn queues(scene: &Scene) -> BTreeMap<QueueName, Option<String>> {
    let (Some(layout), Some(config)) = (&scene.layout, &scene.config) else {
        return BTreeMap::new();
    };
    let listed = recipe::list(&layout.recipes(), &config.recipe_files());
    let with_recipe = listed
        .into_iter()
        .map(|(queue, recipe)| (queue, recipe.ok().and_then(|recipe| recipe.provider)));
    let commanded = config
        .queues
        .iter()
        .filter(|(_, queue)| queue.command.is_some());
    let mut queues: BTreeMap<_, _> = commanded.map(|(name, _)| (name.clone(), None)).collect();
    queues.extend(with_recipe);
    queues
}

fn own_commands(
    scene: &Scene,
    config: &Config,
    queues: &BTreeMap<QueueName, Option<String>>,
    area: &mut Area,
) {
    let mut missing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for queue in queues.keys() {
        if goose::own_command(config, queue).is_none() {
            continue;
        }
        let program = goose::program(config, queue);
        // A placeholder is filled in at launch.
        if program.contains('{') || goose::find_program_on(program, scene.path()).is_some() {
            area.passed();
        } else {
            missing.entry(program).or_default().push(queue.to_string());
        }
    }
    for (program, queues) in missing {
        let why = goose::why_not_found(program);
        let found = area.finds(
            Level::Fail,
            why,
            format!(
                "it is the command of {}, which start nothing",
                list(&queues, 5)
            ),
        );
        found.about(program);
        if program.starts_with('/') && std::path::Path::new(program).is_file() {
            found.mend(on("chmod +x", program.into()));
        } else if let Some(layout) = &scene.layout {
            found.mend(edit(&layout.config(), None));
        }
    }
}

fn not_found(scene: &Scene, area: &mut Area) {
    let here = goose::find_program(PROGRAM).filter(|_| scene.daemon.is_some());
    let found = area.finds(
        Level::Fail,
        "`goose` is not on the PATH that agents get",
        "no recipe can run until it is; or name another program in calypso.toml, [agent] command",
    );
    found.about(PROGRAM);
    match here {
        // This shell knows it and the daemon does not: it was started elsewhere.
        Some(_) => found.mend(scene.restart()),
        None => found.mend(
            "curl -fsSL https://github.com/aaif-goose/goose/releases/download/stable/download_cli.sh | CONFIGURE=false bash",
        ),
    };
}

/// Does it answer at all?
fn version(program: &camino::Utf8Path, area: &mut Area) -> bool {
    let version = match goose::version(program) {
        Ok(version) => version,
        Err(why) => {
            area.finds(
                Level::Fail,
                format!("`{program}` {why}"),
                "each run would fail or hang the same way",
            )
            .about(program)
            .mend(on("file -L", program));
            return false;
        }
    };
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let ((a, b), (c, d)) = TESTED;
    if number < TESTED.0 {
        area.finds(
            Level::Warn,
            format!("goose {version} at {program} is older than what calypso-watch was tested with ({a}.{b} to {c}.{d})"),
            "its failures may not be told apart: a used-up quota could count as a task's own failure",
        )
        .about(program)
        .mend("goose update");
    } else {
        area.well(format!("{version} at {program}"));
    }
    if number > TESTED.1 {
        area.finds(
            Level::Note,
            format!("goose {version} is newer than what calypso-watch was tested with ({a}.{b} to {c}.{d})"),
            "its output may have changed; verdicts come from tinytask all the same",
        )
        .about(program);
    }
    true
}

fn flags(program: &camino::Utf8Path, area: &mut Area) {
    let missing = goose::missing_flags(program);
    if missing.is_empty() {
        area.passed();
        return;
    }
    let is_needed = |flag: &&str| {
        matches!(
            *flag,
            "--recipe" | "--params" | "--no-session" | "--provider" | "--model"
        )
    };
    let level = if missing.iter().any(is_needed) {
        Level::Fail
    } else {
        Level::Warn
    };
    let names: Vec<String> = missing.iter().map(|flag| format!("`{flag}`")).collect();
    area.finds(
        level,
        format!("this goose does not know {}", list(&names, 9)),
        "runs are started without what is missing: no limit of turns, no tokens and cost, or not at all",
    )
    .about(program)
    .mend("goose update");
}

fn providers(
    scene: &Scene,
    of_goose: &[&QueueName],
    queues: &BTreeMap<QueueName, Option<String>>,
    area: &mut Area,
    settings: &mut Area,
) {
    let mut without = Vec::new();
    let mut keyless: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut unsure: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut present: BTreeMap<String, String> = BTreeMap::new();
    let all: Vec<Option<&QueueName>> = if of_goose.is_empty() {
        vec![None]
    } else {
        of_goose.iter().map(|queue| Some(*queue)).collect()
    };
    for queue in all {
        let mut environment = scene.environment.clone();
        if let (Some(config), Some(queue)) = (&scene.config, queue) {
            match goose::environment(config, queue) {
                Ok(more) => more
                    .iter()
                    .for_each(|(name, value)| environment.insert(name, value)),
                Err(error) => env_file(&error, queue, settings),
            }
        }
        let own = goose::own_settings(|name| environment.get(name)).unwrap_or_default();
        let chosen = scene
            .config
            .as_ref()
            .zip(queue)
            .and_then(|(config, queue)| {
                let of_recipe = queues.get(queue).cloned().flatten();
                goose::provider_and_model(config, queue).0.or(of_recipe)
            });
        let provider = chosen
            .or_else(|| environment.get("GOOSE_PROVIDER").map(str::to_owned))
            .or_else(|| own.provider.clone());
        let name = queue.map_or_else(|| "goose".to_owned(), ToString::to_string);
        let Some(provider) = provider else {
            without.push(name);
            continue;
        };
        match key(&provider, &environment, &own) {
            Key::Present(key) => drop(present.insert(provider, key)),
            Key::Missing => keyless.entry(provider).or_default().push(name),
            Key::Unknown => unsure.entry(provider).or_default().push(name),
        }
    }
    for (provider, key) in present {
        area.well(format!("{provider}: {key}"));
    }
    if !without.is_empty() {
        let found = area.finds(
            // Without a base path it may be set there later.
            if scene.layout.is_some() { Level::Warn } else { Level::Note },
            format!("no provider is set for {}", list(&without, 5)),
            "goose ends at once with \"No provider configured\"; `provider` and `model` in calypso.toml set one, so does",
        );
        found.mend("goose configure");
    }
    for (provider, queues) in keyless {
        let Keys::OneOf(keys) = goose::keys_of(&provider) else {
            continue;
        };
        let how = match &scene.daemon {
            Some(_) => format!("export {}=…; {}", keys[0], scene.restart()),
            None => format!("export {}=…", keys[0]),
        };
        area.finds(
            Level::Warn,
            format!("{} is not in the environment, and {} use {provider}", keys[0], list(&queues, 5)),
            "the provider refuses each call; in a service, `EnvironmentFile=`, or `env_file` of a queue, can hold it",
        )
        .about(provider)
        .mend(how);
    }
    for (provider, queues) in unsure {
        area.finds(
            Level::Unknown,
            format!(
                "whether {provider} finds its key for {} cannot be seen",
                list(&queues, 5)
            ),
            "a keyring may hold it, or this provider's variables are not known here",
        )
        .about(provider)
        .mend("goose info -v");
    }
}

enum Key {
    Present(String),
    Missing,
    Unknown,
}

fn key(provider: &str, environment: &Environment, own: &OwnSettings) -> Key {
    let keys = match goose::keys_of(provider) {
        Keys::None => return Key::Present("no key needed".into()),
        Keys::Unknown => return Key::Unknown,
        Keys::OneOf(keys) => keys,
    };
    if let Some(key) = keys.iter().find(|key| environment.has(key)) {
        return Key::Present((*key).to_owned());
    }
    if let Some(key) = keys
        .iter()
        .find(|key| own.secrets.iter().any(|name| name == *key))
    {
        return Key::Present(format!("{key} in goose's secrets.yaml"));
    }
    // goose asks no key of a host of one's own.
    if provider == "openai"
        && (environment.has("OPENAI_HOST") || environment.has("OPENAI_BASE_URL"))
    {
        return Key::Present("a host of its own".into());
    }
    let has_keyring =
        environment.has("DBUS_SESSION_BUS_ADDRESS") && !environment.has("GOOSE_DISABLE_KEYRING");
    if has_keyring {
        Key::Unknown
    } else {
        Key::Missing
    }
}

fn env_file(error: &goose::Error, queue: &QueueName, settings: &mut Area) {
    let what = chain(error);
    if settings.findings.iter().any(|finding| finding.what == what) {
        return;
    }
    let found = settings.finds(
        Level::Fail,
        what,
        format!("it is `env_file` of {queue}, whose runs cannot be started without it"),
    );
    if let goose::Error::Config(config::Error::Read { path, .. }) = error {
        let make = if path.exists() {
            on("chmod u+r", path)
        } else {
            on("install -m 600 /dev/null", path)
        };
        found.about(path).mend(make);
    }
}
