//! From values as given to settings that mean something.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use camino::Utf8Path;
use glob::Pattern;
use toml::Spanned;

use super::file::{Read, Scalar};
use super::safety;
use super::value::{Given, Values, parse_size};
use super::{
    Config, Error, InboundConfig, Leftovers, Origin, QueueConfig, TinytaskChoice, TinytaskConfig,
};
use crate::core::model::{Millis, QueueName};
use crate::core::{Policy, QueuePolicy};

pub(super) fn build(
    base: &Utf8Path,
    file: &Read,
    values: &Values<'_>,
    mut warnings: Vec<String>,
) -> Result<Config, Error> {
    let queues = queues(base, file)?;
    warnings.extend(
        queues
            .values()
            .filter_map(|q| q.env_file.as_deref())
            .filter(|path| safety::is_writable_by_everyone(path))
            .map(|path| format!("`{path}` can be written by everyone: `chmod o-w {path}`")),
    );
    let tinytask = tinytask(base, file, values)?;
    let is_builtin = matches!(tinytask.chosen, Some(TinytaskChoice::Builtin { .. }));
    let create_folders = match values.0.get("missing_folder") {
        None => is_builtin,
        Some(given) => match given.text.as_str() {
            "hold" => false,
            "create" if is_builtin => true,
            "create" => {
                return Err(given.problem(
                    "missing_folder",
                    "= \"create\" needs the built-in tinytask: two base paths on one tinytask would each make the folder and run the task".into(),
                ));
            }
            other => {
                return Err(given.problem(
                    "missing_folder",
                    format!("must be \"hold\" or \"create\", got `{other}`"),
                ));
            }
        },
    };
    let inbound_queue = match values.0.get("inbound_queue") {
        Some(given) => given
            .text
            .parse()
            .map_err(|error| given.problem("inbound_queue", format!("is no queue: {error}")))?,
        None => "dispatcher".parse().expect("a valid queue name"),
    };
    let provider = values.text("provider")?;
    Ok(Config {
        base: base.to_owned(),
        policy: Policy {
            max_runs: values.count("max_runs", 8)?,
            max_attempts: values.count("max_attempts", 3)?,
            max_runs_per_task: values.count("max_runs_per_task", 30)?,
            time_limit: values.span("time_limit", Millis::secs(3600), Millis::secs(1))?,
            quiet_after: values.span("quiet_after", Millis::secs(600), Millis::secs(1))?,
            provider: provider.clone(),
            inbound_queue: QueueName::clone(&inbound_queue),
            create_folders,
            queues: queues
                .iter()
                .map(|(name, queue)| {
                    let policy = QueuePolicy {
                        concurrency: queue.concurrency,
                        provider: queue.provider.clone(),
                        time_limit: queue.time_limit,
                        has_command: queue.command.is_some(),
                    };
                    (name.clone(), policy)
                })
                .collect(),
        },
        stop_grace: values.span("stop_grace", Millis::secs(10), Millis(0))?,
        settle: values.span("settle", Millis::secs(1), Millis(0))?,
        rescan: values.span("rescan", Millis::secs(60), Millis::secs(1))?,
        log_limit: match values.0.get("log_limit") {
            None => 256_000_000,
            Some(given) => {
                let size = parse_size(&given.text)
                    .map_err(|problem| given.problem("log_limit", problem))?;
                if size < 64 * 1024 {
                    return Err(given.problem(
                        "log_limit",
                        format!("must be at least 64KiB, got {}", given.text),
                    ));
                }
                size
            }
        },
        max_turns: values.count("max_turns", 200)?,
        provider,
        model: values.text("model")?,
        keep_days: values.count("keep_days", 30)?,
        keep_per_task: values.count("keep_per_task", 20)?,
        inbound: InboundConfig {
            queue: inbound_queue,
            ignore: ignore(file)?,
        },
        agent_command: match file.toml.agent.as_ref().and_then(|a| a.command.as_ref()) {
            Some(command) => Some(file.command("agent.command", command)?),
            None => None,
        },
        queues,
        tinytask,
        warnings,
    })
}

fn ignore(file: &Read) -> Result<Vec<Pattern>, Error> {
    let patterns = file.toml.inbound.iter().flat_map(|i| &i.ignore);
    let read = |pattern: &Spanned<String>| {
        Pattern::new(pattern.get_ref()).map_err(|error| {
            let problem = format!("has a bad pattern `{}`: {}", pattern.get_ref(), error.msg);
            file.problem("inbound.ignore", pattern, problem)
        })
    };
    patterns.map(read).collect()
}

fn queues(base: &Utf8Path, file: &Read) -> Result<BTreeMap<QueueName, QueueConfig>, Error> {
    let mut queues = BTreeMap::new();
    for (name, table) in &file.toml.queues {
        let key = |field: &str| format!("queues.{name}.{field}");
        let queue = table.get_ref();
        let parsed: QueueName = name.parse().map_err(|error| {
            file.problem(
                &format!("queues.{name}"),
                table,
                format!("is no queue: {error}"),
            )
        })?;
        let count = |field: &str, value: &Option<Spanned<Scalar>>| match value {
            None => Ok(None),
            Some(value) => Given::from_file(value, &file.text)
                .count(&key(field))
                .map(Some),
        };
        if let Some(recipe) = &queue.recipe
            && (recipe.get_ref().contains('/') || recipe.get_ref().starts_with('.'))
        {
            return Err(file.problem(
                &key("recipe"),
                recipe,
                format!(
                    "names a file in recipes/, without a folder, got `{}`",
                    recipe.get_ref()
                ),
            ));
        }
        let config = QueueConfig {
            recipe: queue.recipe.as_ref().map(|r| r.get_ref().clone()),
            provider: queue.provider.clone(),
            model: queue.model.clone(),
            params: queue
                .params
                .iter()
                .map(|(k, v)| (k.clone(), v.to_string()))
                .collect(),
            env: file.variables(&key("env"), &queue.env)?,
            env_file: queue.env_file.as_ref().map(|path| base.join(path)),
            command: match &queue.command {
                Some(command) => Some(file.command(&key("command"), command)?),
                None => None,
            },
            leftovers: match &queue.leftovers {
                None => Leftovers::Stop,
                Some(at) => at
                    .get_ref()
                    .parse()
                    .map_err(|problem| file.problem(&key("leftovers"), at, problem))?,
            },
            concurrency: count("concurrency", &queue.concurrency)?,
            time_limit: match &queue.time_limit {
                None => None,
                Some(value) => Some(
                    Given::from_file(value, &file.text)
                        .span(&key("time_limit"), Millis::secs(1))?,
                ),
            },
            max_turns: count("max_turns", &queue.max_turns)?,
        };
        queues.insert(parsed, config);
    }
    Ok(queues)
}

fn tinytask(base: &Utf8Path, file: &Read, values: &Values<'_>) -> Result<TinytaskConfig, Error> {
    let table = file.toml.tinytask.as_ref();
    let url = values.0.get("tinytask_url");
    let builtin = match values.0.get("tinytask_builtin") {
        None => None,
        Some(given) => match given.text.as_str() {
            "true" => Some(given),
            "false" => None,
            other => {
                return Err(given.problem(
                    "tinytask_builtin",
                    format!("must be true or false, got `{other}`"),
                ));
            }
        },
    };
    let is_file = |given: &&Given| matches!(given.origin, Origin::File { .. });
    let mut chosen: Vec<(TinytaskChoice, Origin)> = Vec::new();
    if let Some(given) = url {
        let is_http = given.text.starts_with("http://") || given.text.starts_with("https://");
        if !is_http || given.text.contains(char::is_whitespace) {
            return Err(given.problem(
                "tinytask_url",
                format!(
                    "must be like `http://127.0.0.1:3000/mcp`, got `{}`",
                    given.text
                ),
            ));
        }
        chosen.push((
            TinytaskChoice::Url(given.text.clone()),
            given.origin.clone(),
        ));
    }
    if let Some(given) = builtin {
        chosen.push((
            TinytaskChoice::Builtin {
                listen: listen(file)?,
            },
            given.origin.clone(),
        ));
    }
    // What the environment or a flag chooses replaces the file's choice of another kind; two in one place are a mistake.
    let is_overridden = url.into_iter().chain(builtin).any(|given| !is_file(&given));
    if is_overridden {
        chosen.retain(|(_, origin)| !matches!(origin, Origin::File { .. }));
    } else if let Some(command) = table.and_then(|t| t.command.as_ref()) {
        let env = table.map(|t| &t.env).expect("the table has a command");
        chosen.push((
            TinytaskChoice::Command {
                argv: file.command("tinytask.command", command)?,
                env: file.variables("tinytask.env", env)?,
            },
            file.origin(command),
        ));
    }
    if let [_, (_, second), ..] = chosen.as_slice() {
        return Err(Error::Value {
            key: "tinytask".into(),
            problem: "takes one of `url`, `command` and `builtin = true`, got more".into(),
            origin: second.clone(),
        });
    }
    let (chosen, origin) = chosen
        .pop()
        .map_or((None, None), |(c, o)| (Some(c), Some(o)));
    Ok(TinytaskConfig {
        chosen,
        origin,
        db: values.text("tinytask_db")?.map(|path| base.join(path)),
        timeout: values.span("tinytask_timeout", Millis::secs(10), Millis(100))?,
    })
}

fn listen(file: &Read) -> Result<Option<SocketAddr>, Error> {
    let Some(listen) = file.toml.tinytask.as_ref().and_then(|t| t.listen.as_ref()) else {
        return Ok(None);
    };
    match listen.get_ref().parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
        Ok(address) => Err(file.problem(
            "tinytask.listen",
            listen,
            format!("must be a loopback address such as 127.0.0.1:3000, got {address}"),
        )),
        Err(_) => Err(file.problem(
            "tinytask.listen",
            listen,
            format!(
                "must be an address and a port such as 127.0.0.1:3000, got `{}`",
                listen.get_ref()
            ),
        )),
    }
}
