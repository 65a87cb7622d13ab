//! `init`: folders, settings and starter recipes. What is there already is never touched.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Cannot, say};
use crate::cli::Init;
use crate::core::layout::Layout;
use crate::edge::config::{self, TinytaskChoice};
use crate::edge::files::{self, Durability};
use crate::report::{Exit, Failure};

/// The address that stands in the starter recipes.
pub(super) const RECIPE_URL: &str = "http://127.0.0.1:3000/mcp";

/// The starter team, in the order in which a task crosses it.
pub(super) const RECIPES: [(&str, &str); 5] = [
    (
        "dispatcher",
        include_str!("../../fixtures/recipes/dispatcher.yaml"),
    ),
    (
        "architect",
        include_str!("../../fixtures/recipes/architect.yaml"),
    ),
    (
        "product",
        include_str!("../../fixtures/recipes/product.yaml"),
    ),
    ("devops", include_str!("../../fixtures/recipes/devops.yaml")),
    ("coder", include_str!("../../fixtures/recipes/coder.yaml")),
];

/// Which tinytask the new base path works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Server {
    Builtin(SocketAddr),
    Url(String),
    /// The one the recipes name.
    Recipes,
}

/// What goes into a new base path.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) server: Server,
    pub(super) provider: Option<&'a str>,
    pub(super) model: Option<&'a str>,
    pub(super) recipes: bool,
    /// More lines for calypso.toml.
    pub(super) more: &'a str,
}

/// Makes a base path and says what was made.
pub fn call(base: Option<&Utf8Path>, init: &Init) -> Result<Exit, Failure> {
    let dir = match init.dir.as_deref().or(base) {
        Some(dir) => dir.to_owned(),
        None => Utf8PathBuf::from("."),
    };
    let dir = camino::absolute_utf8(&dir).map_err(|source| {
        Failure::new(
            Exit::Failed,
            Cannot {
                what: format!("make `{dir}`"),
                source,
            },
        )
    })?;
    if Layout::new(&dir).config().exists()
        && (init.builtin || init.tinytask_url.is_some() || init.provider.is_some())
    {
        let failure = Failure::new(
            Exit::Usage,
            format!("`{}` is there already", Layout::new(&dir).config()),
        );
        return Err(failure.hint(
            "edit it; `init` overwrites nothing, and without these flags adds only what is missing"
                .to_owned(),
        ));
    }
    let server = match chosen_before(&dir)? {
        Some(server) => server,
        None => server(init)?,
    };
    let plan = Plan {
        server,
        provider: init.provider.as_deref(),
        model: init.model.as_deref(),
        recipes: !init.no_recipes,
        more: "",
    };
    let made = make(&dir, &plan)?;
    let tinytask = match &plan.server {
        Server::Builtin(address) => format!("built in, at http://{address}/mcp; `run` starts it"),
        Server::Url(url) => url.clone(),
        Server::Recipes => format!(
            "the one your recipes name (the starter recipes: {RECIPE_URL}); the built-in one: `[tinytask] builtin = true` in calypso.toml"
        ),
    };
    let recipes = made
        .iter()
        .filter(|path| path.starts_with("recipes/"))
        .count();
    let mut text = format!("base path  {dir}\ntinytask   {tinytask}\n");
    if recipes > 0 {
        text.push_str(&format!(
            "recipes    {recipes} starter recipe{} in recipes/: yours to read and change\n",
            if recipes == 1 { "" } else { "s" }
        ));
    }
    text.push_str(&format!(
        "\nnext: calypso-watch --base-path {dir} run\n      calypso-watch --base-path {dir} submit request.md\n"
    ));
    say(&text)
}

/// What the settings that are there say: recipes made beside them must name the same tinytask.
fn chosen_before(dir: &Utf8Path) -> Result<Option<Server>, Failure> {
    if !Layout::new(dir).config().exists() {
        return Ok(None);
    }
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
    Ok(Some(match config::load(dir, &[])?.tinytask.chosen {
        Some(TinytaskChoice::Builtin { listen }) => Server::Builtin(listen.unwrap_or(usual)),
        Some(TinytaskChoice::Url(url)) => Server::Url(url),
        Some(TinytaskChoice::Command { .. }) | None => Server::Recipes,
    }))
}

fn server(init: &Init) -> Result<Server, Failure> {
    if let Some(url) = &init.tinytask_url {
        return Ok(Server::Url(url.clone()));
    }
    if init.builtin {
        return init
            .listen
            .map_or_else(free_address, Ok)
            .map(Server::Builtin);
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(Server::Recipes);
    }
    match ask("tinytask: its address, or nothing for the built-in one: ")?.as_str() {
        "" => free_address().map(Server::Builtin),
        url => Ok(Server::Url(url.to_owned())),
    }
}

/// Asks a person, who may also press Ctrl-D.
fn ask(question: &str) -> Result<String, Failure> {
    let failed = |source| {
        Failure::new(
            Exit::Failed,
            Cannot {
                what: "ask".into(),
                source,
            },
        )
    };
    let mut talk = io::stderr().lock();
    talk.write_all(question.as_bytes())
        .and_then(|()| talk.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim().to_owned())
}

/// A port nobody listens on now. Recipes name it, so it is chosen once and kept.
pub(super) fn free_address() -> Result<SocketAddr, Failure> {
    let found =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    found.map_err(|source| {
        Failure::new(
            Exit::Failed,
            Cannot {
                what: "find a free port".into(),
                source,
            },
        )
    })
}

/// Makes what is missing; returns what was made, relative to `dir`.
pub(super) fn make(dir: &Utf8Path, plan: &Plan) -> Result<Vec<String>, Failure> {
    let layout = Layout::new(dir);
    let failed = |path: &Utf8Path| {
        let what = format!("make `{path}`");
        move |source| Failure::new(Exit::Failed, Cannot { what, source })
    };
    let mut made = Vec::new();
    let folders = [
        layout.base().to_owned(),
        layout.inbound(),
        layout.workqueue(),
        layout.running_tasks(),
        layout.recipes(),
        layout.state(),
    ];
    for folder in folders {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(failed(&folder))?;
    }
    let mut files = vec![(layout.config(), settings(plan))];
    if plan.recipes {
        let url = match &plan.server {
            Server::Builtin(address) => format!("http://{address}/mcp"),
            Server::Url(url) => url.clone(),
            Server::Recipes => RECIPE_URL.to_owned(),
        };
        files.extend(RECIPES.map(|(queue, text)| {
            (
                layout.recipes().join(format!("{queue}.yaml")),
                text.replace(RECIPE_URL, &url),
            )
        }));
    }
    for (path, text) in files {
        if path.exists() {
            continue;
        }
        files::replace(&path, text.as_bytes(), 0o644, Durability::PowerCut)
            .map_err(failed(&path))?;
        made.push(path.strip_prefix(dir).unwrap_or(&path).to_string());
    }
    Ok(made)
}

/// calypso.toml: what was chosen, and the rest as comments.
fn settings(plan: &Plan) -> String {
    let line = |key: &str, value: Option<&str>, example: &str| match value {
        Some(value) => format!("{key} = {}\n", toml::Value::from(value)),
        None => format!("# {key} = \"{example}\"\n"),
    };
    let tinytask = match &plan.server {
        Server::Builtin(address) => format!("builtin = true\nlisten = \"{address}\" # the recipes name it too\n"),
        Server::Url(url) => format!("url = {}\n", toml::Value::from(url.as_str())),
        Server::Recipes => "# url = \"http://127.0.0.1:3000/mcp\"   # else the one the recipes name\n# builtin = true\n".to_owned(),
    };
    format!(
        "# calypso-watch: everything here is optional; `calypso-watch run --help` lists all settings.\n\
         {}{}\
         # max_runs = 8         # over all queues\n\
         # time_limit = \"1h\"    # of one run\n\
         # max_attempts = 3     # in one queue, before a task is parked\n\
         {more}\n\
         [tinytask]\n{tinytask}\n\
         # [queues.coder]\n\
         # provider = \"anthropic\"\n\
         # model = \"claude-sonnet-4-5\"\n\
         # time_limit = \"3h\"\n\
         # env_file = \"/path/to/coder.env\"   # KEY=VALUE lines; never copied into a record\n",
        line("provider", plan.provider, "openai"),
        line("model", plan.model, "gpt-5.2"),
        more = plan.more,
    )
}
