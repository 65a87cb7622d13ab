//! Recipes: read as the daemon reads them, validated by goose itself, started on paper, and their extensions looked for.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::mpsc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Scene, edit, on, short};
use crate::core::layout::Layout;
use crate::core::model::{Recipe, RunSubject, TaskId};
use crate::edge::config::Config;
use crate::edge::goose::{self, Capabilities};
use crate::edge::recipe::{self, Endpoint, Extension};
use crate::edge::{clock, tinytask};
use crate::look::{chain, which_server};
use crate::view::text::{plural, shell_word};
use crate::view::{Area, Level};

/// A server on this machine or this network answers at once.
const REACH: Duration = Duration::from_millis(1500);
/// goose processes at once.
const AT_ONCE: usize = 4;

pub(super) fn examine(scene: &Scene, program: Option<&Utf8Path>) -> Area {
    let mut area = Area::new("recipes");
    let (Some(layout), Some(config)) = (&scene.layout, &scene.config) else {
        area.finds(
            Level::Unknown,
            "not examined",
            "the settings cannot be used",
        );
        return area;
    };
    let mut recipes = recipe::Known::default();
    let listed = recipes.look(
        &layout.recipes(),
        &config.recipe_files(),
        |_| true,
        clock::wall(),
    );
    let mut good: Vec<&Recipe> = Vec::new();
    for (queue, recipe) in &listed.recipes {
        match recipe {
            Ok(recipe) => good.push(recipe),
            Err(why) => {
                let chosen = config.recipe_files().remove(queue);
                let file = layout
                    .recipes()
                    .join(chosen.unwrap_or_else(|| format!("{queue}.yaml")));
                let found = area.finds(
                    Level::Fail,
                    if why.contains("ends in .yml") {
                        format!("recipes: {why}")
                    } else {
                        format!("{} {why}", short(layout, &file))
                    },
                    format!("the queue `{queue}` starts nothing until it can be read"),
                );
                found.about(short(layout, &file));
                if why.contains("written by everyone") {
                    found.mend(on("chmod o-w", &file));
                } else if why.contains(".yml") {
                    let old = file.with_extension("yml");
                    found.mend(format!(
                        "mv {} {}",
                        shell_word(old.as_str()),
                        shell_word(file.as_str())
                    ));
                } else {
                    found.mend(edit(&file, None));
                }
            }
        }
    }
    for name in &listed.odd {
        area.finds(
            Level::Warn,
            format!("recipes/{name} is no recipe's name"),
            "a queue's name is made of letters, digits, `_`, `.` and `-`; nothing is started by this file",
        )
        .about(format!("recipes/{name}"))
        .mend(on("mv -i", &layout.recipes().join(name)) + " /tmp/");
    }
    parameters(layout, config, &good, &mut area);
    without_recipe(layout, config, &listed.recipes, &mut area);
    if let Some(program) = program {
        let by_goose: Vec<&Recipe> = good
            .iter()
            .copied()
            .filter(|recipe| goose::own_command(config, &recipe.queue).is_none())
            .collect();
        validated(layout, program, &by_goose, &mut area);
    }
    extensions(scene, layout, config, &mut recipes, &good, &mut area);
    area.well(plural(good.len(), "recipe"));
    area
}

/// Started on paper: is there a value for each parameter?
fn parameters(layout: &Layout, config: &Config, good: &[&Recipe], area: &mut Area) {
    let task: TaskId = TaskId::try_from(1).expect("1 is a task's number");
    for recipe in good {
        let is_dispatcher = recipe.queue == config.inbound.queue;
        let mut subjects = vec![RunSubject::Task(task)];
        if is_dispatcher {
            subjects.insert(0, RunSubject::Inbound);
        }
        let command = |subject| {
            let nothing = Capabilities::default();
            goose::command(
                config,
                Some(recipe),
                subject,
                &recipe.queue,
                layout,
                &nothing,
            )
        };
        let file = layout.recipes().join(&recipe.file);
        match subjects
            .into_iter()
            .find_map(|subject| command(subject).err())
        {
            None => area.passed(),
            Some(error) => {
                let is_inbound = matches!(
                    error,
                    goose::Error::Parameter {
                        is_inbound: true,
                        ..
                    }
                );
                let why = error.hint().unwrap_or_default();
                let starts = if is_inbound {
                    "requests in inbound/ start nothing"
                } else {
                    "its runs cannot be started"
                };
                let found = area.finds(Level::Fail, chain(&error), format!("{starts}; {why}"));
                found.about(short(layout, &file)).mend(edit(&file, None));
            }
        }
    }
}

type Listed = [(crate::core::model::QueueName, Result<Recipe, String>)];

/// Queues that settings speak of and no recipe does.
fn without_recipe(layout: &Layout, config: &Config, listed: &Listed, area: &mut Area) {
    let has_recipe = |queue| listed.iter().any(|(name, _)| name == queue);
    for queue in config.queues.keys() {
        if has_recipe(queue) || goose::own_command(config, queue).is_some() {
            area.passed();
            continue;
        }
        area.finds(
            Level::Warn,
            format!("calypso.toml has [queues.{queue}], and there is no recipe of that name"),
            "a queue without a recipe is a person's: its settings are in force nowhere",
        )
        .about(queue.to_string())
        .mend(edit(&layout.config(), None));
    }
    let dispatcher = &config.inbound.queue;
    if has_recipe(dispatcher) || goose::own_command(config, dispatcher).is_some() {
        area.passed();
        return;
    }
    let found = area.finds(
        Level::Warn,
        format!("the queue for requests, `{dispatcher}`, has no recipe"),
        "what is dropped into inbound/ lies there; `init` adds the starter recipes that are missing",
    );
    found.about(dispatcher.to_string());
    if dispatcher.as_str() == "dispatcher" {
        found.mend(on("calypso-watch init", layout.base()));
    } else {
        found.mend(edit(&layout.config(), None));
    }
}

/// goose's own word on each, a few at a time. Its log goes into a folder that is removed again.
fn validated(layout: &Layout, program: &Utf8Path, recipes: &[&Recipe], area: &mut Area) {
    let Some(scratch) = Scratch::new() else {
        area.finds(
            Level::Unknown,
            "recipes were not shown to goose: no temporary folder can be made",
            "goose writes a log wherever it is asked something",
        );
        return;
    };
    for some in recipes.chunks(AT_ONCE) {
        let answers: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = some
                .iter()
                .map(|recipe| {
                    let file = layout.recipes().join(&recipe.file);
                    let scratch = &scratch.0;
                    scope.spawn(move || goose::validate(program, &file, scratch))
                })
                .collect();
            let joined = asked.into_iter().map(|one| one.join());
            joined.map(|answer| answer.unwrap_or(Ok(()))).collect()
        });
        for (recipe, answer) in some.iter().zip(answers) {
            let file = layout.recipes().join(&recipe.file);
            match answer {
                Ok(()) => area.passed(),
                Err(why) => {
                    area.finds(
                        Level::Fail,
                        format!("goose refuses recipes/{}: {why}", recipe.file),
                        "each run of it ends at once, before the model is asked",
                    )
                    .about(format!("recipes/{}", recipe.file))
                    .mend(edit(&file, None));
                }
            }
        }
    }
}

/// A folder for goose's own files, gone with this value.
struct Scratch(Utf8PathBuf);

impl Scratch {
    fn new() -> Option<Self> {
        let dir = Utf8PathBuf::from_path_buf(std::env::temp_dir()).ok()?;
        let path = dir.join(format!("calypso-watch-doctor-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

// ── extensions ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn extensions(
    scene: &Scene,
    layout: &Layout,
    config: &Config,
    recipes: &mut recipe::Known,
    good: &[&Recipe],
    area: &mut Area,
) {
    let params = (config.queues.iter())
        .map(|(name, queue)| (name.clone(), queue.params.clone()))
        .collect();
    let found = recipes.extensions(
        &layout.recipes(),
        layout.base(),
        &config.recipe_files(),
        &params,
        clock::wall(),
    );
    let server = which_server(config, layout, recipes);
    if let (Some(disagreement), Some((queue, theirs))) = (&server.disagreement, &server.other) {
        let file = good.iter().find(|recipe| recipe.queue.as_str() == queue);
        let file = layout
            .recipes()
            .join(file.map_or("", |recipe| recipe.file.as_str()));
        let mend = match (theirs, &server.endpoint) {
            (
                tinytask::Endpoint::Http { url: theirs },
                Some(tinytask::Endpoint::Http { url: ours }),
            ) if shown(theirs) == *theirs && shown(ours) == *ours => {
                format!(
                    "sed -i {} {}",
                    shell_word(&format!("s|{theirs}|{ours}|g")),
                    shell_word(file.as_str())
                )
            }
            _ => edit(&file, None),
        };
        area.finds(
            Level::Fail,
            disagreement.clone(),
            "the agent finds no task of ours there, and what it does is never seen here",
        )
        .about(short(layout, &file))
        .mend(mend);
    } else {
        area.passed();
    }
    for recipe in good {
        let has_tinytask =
            |extension: &Extension| extension.is_tinytask && extension.queue == recipe.queue;
        if goose::own_command(config, &recipe.queue).is_some() || found.iter().any(has_tinytask) {
            area.passed();
            continue;
        }
        area.finds(
            Level::Note,
            format!("recipes/{} names no tinytask extension", recipe.file),
            "its agent can claim and hand on tasks only if goose's own settings give it one",
        )
        .about(format!("recipes/{}", recipe.file));
    }
    let ours = |extension: &Extension| match (&extension.endpoint, &server.endpoint) {
        (Endpoint::Http(url), Some(tinytask::Endpoint::Http { url: ours })) => url == ours,
        _ => false,
    };
    let mut asked: Vec<(&str, bool)> = Vec::new();
    for extension in &found {
        match &extension.endpoint {
            Endpoint::Stdio { argv, env_keys, .. } => {
                stdio(scene, layout, extension, argv, env_keys, area);
            }
            // The area of tinytask tells more.
            Endpoint::Http(_) if ours(extension) => area.passed(),
            // Another tinytask than ours is told above.
            Endpoint::Http(_) if extension.is_tinytask && server.other.is_some() => area.passed(),
            Endpoint::Http(url) | Endpoint::LegacySse(url) => {
                let known = asked
                    .iter()
                    .find(|(known, _)| known == url)
                    .map(|(_, answer)| *answer);
                let is_there = known.unwrap_or_else(|| is_reachable(url));
                asked.push((url, is_there));
                if is_there {
                    area.passed();
                    continue;
                }
                let file = layout.recipes().join(&extension.file);
                area.finds(
                    Level::Warn,
                    format!("extension `{}` of recipes/{}: nothing listens at {}",
                        extension.name, extension.file, shown(url)),
                    "goose goes on without its tools and still exits 0, so the work is not done as meant; start its server, or mend the address",
                )
                .about(format!("recipes/{}", extension.file))
                .mend(edit(&file, None));
            }
        }
    }
}

fn stdio(
    scene: &Scene,
    layout: &Layout,
    extension: &Extension,
    argv: &[String],
    env_keys: &[String],
    area: &mut Area,
) {
    let file = layout.recipes().join(&extension.file);
    let name = format!(
        "extension `{}` of recipes/{}",
        extension.name, extension.file
    );
    let why = "goose goes on without its tools and still exits 0, so the work is not done as meant";
    let program = argv.first().map_or("", String::as_str);
    if goose::find_program_on(program, scene.path()).is_none() {
        let found = area.finds(
            Level::Warn,
            format!("{name}: {}", goose::why_not_found(program)),
            why,
        );
        found
            .about(format!("recipes/{}", extension.file))
            .mend(edit(&file, None));
        return;
    }
    // An argument that looks like a file's absolute path, or a script's beside the base path.
    let is_file = |arg: &&String| {
        let is_script = [".js", ".mjs", ".py", ".ts", ".sh"]
            .iter()
            .any(|end| arg.ends_with(end));
        !arg.starts_with('-')
            && !arg.contains("://")
            && (is_script || arg.starts_with('/') && arg.contains('.'))
    };
    let missing = argv[1..]
        .iter()
        .filter(is_file)
        .find(|arg| !layout.base().join(arg).exists());
    if let Some(missing) = missing {
        let found = area.finds(
            Level::Warn,
            format!("{name}: `{missing}` is not there"),
            why,
        );
        found
            .about(format!("recipes/{}", extension.file))
            .mend(edit(&file, None));
        return;
    }
    let environment = scene
        .config
        .as_ref()
        .and_then(|config| goose::environment(config, &extension.queue).ok())
        .unwrap_or_default();
    let is_given =
        |key: &str| scene.environment.has(key) || environment.iter().any(|(name, _)| name == key);
    match env_keys.iter().find(|key| !is_given(key)) {
        Some(key) => {
            area.finds(
                Level::Warn,
                format!("{name} needs {key}, which is not in the environment"),
                why,
            )
            .about(format!("recipes/{}", extension.file))
            .mend(format!("export {key}=…"));
        }
        None => area.passed(),
    }
}

/// An address without what may be a secret in it: a password, a query.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    tinytask::Endpoint::Http {
        url: url.to_owned(),
    }
    .to_string()
}

/// Does anybody take a connection there? Names are resolved in a thread, as that has no time limit.
fn is_reachable(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if scheme == "https" { 443 } else { 80 };
    let address = if has_port {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let addresses = address.to_socket_addrs().into_iter().flatten();
        let is_there = addresses
            .take(3)
            .any(|address| TcpStream::connect_timeout(&address, REACH / 3).is_ok());
        sender.send(is_there).ok();
    });
    receiver.recv_timeout(REACH).unwrap_or(false)
}
