#![expect(clippy::disallowed_methods, reason = "tests write what a person would")]

use camino::Utf8PathBuf;

use super::*;

struct Recipes {
    _dir: tempfile::TempDir,
    path: Utf8PathBuf,
}

fn recipes(files: &[(&str, &str)]) -> Recipes {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).expect("UTF-8");
    for (name, text) in files {
        std::fs::write(path.join(name), text).expect("writable");
    }
    Recipes { _dir: dir, path }
}

fn queue(name: &str) -> QueueName {
    name.parse().expect("a queue")
}

/// The one recipe of a folder with this file only.
fn only(name: &str, text: &str) -> Result<Recipe, String> {
    let recipes = recipes(&[(name, text)]);
    let mut all = list(&recipes.path, &BTreeMap::new());
    assert_eq!(all.len(), 1);
    all.remove(0).1
}

const GOOD: &str = r#"
version: 1.0.0
title: Architect
description: one pass
parameters:
  - {key: base_path, input_type: string, requirement: required, description: d}
  - {key: lane, input_type: string, requirement: optional, default: 3, description: d}
  - {key: who, input_type: string, requirement: user_prompt, description: d}
prompt: "do {{ lane }} in {{ base_path }}"
settings: {goose_provider: openai, temperature: 0.2}
something_new: [1, 2]
"#;

#[test]
fn a_recipe_is_read() {
    let recipe = only("architect.yaml", GOOD).expect("good");
    assert_eq!(recipe.queue, queue("architect"));
    assert_eq!(
        (recipe.file.as_str(), recipe.title.as_str()),
        ("architect.yaml", "Architect")
    );
    assert_eq!(recipe.provider.as_deref(), Some("openai"));
    assert!(recipe.requires("base_path") && recipe.requires("who"));
    assert!(recipe.declares("lane") && !recipe.requires("lane") && !recipe.declares("task_id"));
    assert_eq!(recipe.parameters[1].default.as_deref(), Some("3"));
    assert!(recipe.modified.0 > 1_700_000_000_000);
}

#[test]
fn json_is_read_too() {
    let recipe = only(
        "a.json",
        r#"{"title": "A", "description": "d", "prompt": "p"}"#,
    );
    assert_eq!(recipe.expect("good").file, "a.json");
    assert!(only("a.json", "{").is_err_and(|why| why.starts_with("is not JSON: ")));
}

#[test]
fn a_broken_one_says_why_in_one_line() {
    let error = only("a.yaml", "title: A\nx: 1\nprompt: [a").expect_err("broken");
    assert_eq!(error.matches("line").count(), 1, "{error}");
    for (text, why) in [
        ("", "is empty"),
        ("title: A\nprompt: [", "is not YAML: line"),
        ("title: A\n  prompt: x", "is not YAML: line 2"),
        ("just words", "is not YAML"),
        ("- a\n- b", "is not YAML"),
        ("description: d\nprompt: p", "has no `title`"),
        ("title: A\ninstructions: i", "has no `prompt`"),
        ("title: A\nprompt: ' '", "has no `prompt`"),
        ("\u{0}", "is not YAML"),
    ] {
        let error = only("a.yaml", text).expect_err("broken");
        assert!(
            error.starts_with(why) && !error.contains('\n'),
            "{text:?}: {error}"
        );
    }
    assert!(only("a.yml", GOOD).is_err_and(|why| why.contains("rename it to .yaml")));
}

#[test]
fn a_file_that_is_no_plain_file_says_so() {
    let recipes = recipes(&[("real.yaml", GOOD)]);
    let at = |name: &str| recipes.path.join(name);
    std::os::unix::fs::symlink(at("nowhere"), at("dangling.yaml")).expect("writable");
    std::os::unix::fs::symlink(at("real.yaml"), at("linked.yaml")).expect("writable");
    std::fs::create_dir(at("folder.yaml")).expect("writable");
    std::fs::write(at("large.yaml"), vec![b' '; (LIMIT + 1) as usize]).expect("writable");
    std::fs::write(at("bytes.yaml"), b"title: \xff").expect("writable");
    nix::unistd::mkfifo(at("fifo.yaml").as_std_path(), nix::sys::stat::Mode::S_IRWXU)
        .expect("writable");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(at("open.yaml"), GOOD).expect("writable");
    std::fs::set_permissions(at("open.yaml"), std::fs::Permissions::from_mode(0o666))
        .expect("ours");
    let all: BTreeMap<String, Result<Recipe, String>> = list(&recipes.path, &BTreeMap::new())
        .into_iter()
        .map(|(queue, recipe)| (queue.to_string(), recipe))
        .collect();
    let why = |name: &str| all[name].as_ref().expect_err("broken").clone();
    assert!(all["real"].is_ok() && all["linked"].is_ok());
    assert_eq!(why("dangling"), "is a symlink to nowhere");
    assert_eq!(why("folder"), "is not a regular file");
    assert_eq!(why("fifo"), "is not a regular file");
    assert_eq!(why("large"), format!("is larger than {LIMIT} bytes"));
    assert_eq!(why("bytes"), "is not UTF-8");
    assert!(why("open").starts_with("can be written by everyone"));
}

#[test]
fn yaml_bombs_do_no_harm() {
    let mut bomb = String::from("title: A\nprompt: p\na0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..30 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            vec![alias; 9].join(",")
        ));
    }
    assert!(only("a.yaml", &bomb).is_err_and(|why| why.starts_with("is not YAML")));
    let deep = format!(
        "title: A\nprompt: p\nx: {}{}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(only("a.yaml", &deep).is_err());
}

#[test]
fn names_decide_the_queue() {
    let recipes = recipes(&[
        ("a.yaml", GOOD),
        ("a.json", "{}"),
        ("b.yml", GOOD),
        ("b.json", r#"{"title": "B", "prompt": "p"}"#),
        (".hidden.yaml", GOOD),
        ("readme.md", "x"),
        ("a.yaml~", "x"),
        ("two words.yaml", GOOD),
        ("shared.yaml", GOOD),
    ]);
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(b"\xff.yaml");
    std::fs::write(recipes.path.as_std_path().join(name), GOOD).expect("writable");
    let chosen = BTreeMap::from([
        (queue("c"), "shared.yaml".to_owned()),
        (queue("d"), "none.yaml".to_owned()),
    ]);
    let all = list(&recipes.path, &chosen);
    let names: Vec<String> = all
        .iter()
        .map(|(queue, recipe)| match recipe {
            Ok(recipe) => format!("{queue}={}", recipe.file),
            Err(why) => format!("{queue} {why}"),
        })
        .collect();
    assert_eq!(
        names,
        [
            "a=a.yaml",
            "b=b.json",
            "c=shared.yaml",
            "d is not there",
            "shared=shared.yaml"
        ]
    );
    let listed = Known::default().look(&recipes.path, &BTreeMap::new(), |_| true, clock::wall());
    assert_eq!(listed.odd, ["\\xff.yaml", "two words.yaml"]);
    assert!(list(&recipes.path.join("none"), &BTreeMap::new()).is_empty());
}

#[test]
fn what_is_yaml_only_once_rendered_is_rendered() {
    let recipes = recipes(&[
        (
            "base.yaml",
            "title: Base\nprompt: {% block prompt %}nothing{% endblock %}\n",
        ),
        (
            "child.yaml",
            "{% extends \"base.yaml\" %}{% block prompt %}do it{% endblock %}",
        ),
        (
            "bare.yaml",
            "title: Bare\nprompt: p\nlane: {{ lane }}: {{ x }}\n",
        ),
    ]);
    let all: BTreeMap<_, _> = list(&recipes.path, &BTreeMap::new()).into_iter().collect();
    assert_eq!(
        all[&queue("child")].as_ref().expect("rendered").title,
        "Base"
    );
    assert!(all[&queue("base")].is_ok());
    // What was wrong with it, or has changed of it, may lie in another file than its own.
    let mut known = Known::default();
    let day = Timestamp(clock::wall().0 + 86_400_000);
    let mut child = || {
        let listed = known
            .look(&recipes.path, &BTreeMap::new(), |_| true, day)
            .recipes;
        let child = listed.into_iter().find(|(name, _)| *name == queue("child"));
        child.expect("listed").1
    };
    let base = recipes.path.join("base.yaml");
    for (text, title) in [
        (
            "title: Base\nprompt: {% block prompt %}{% endblock %}\n",
            Some("Base"),
        ),
        ("title: [\nprompt: {% block prompt %}{% endblock %}\n", None),
        (
            "title: Mended\nprompt: {% block prompt %}{% endblock %}\n",
            Some("Mended"),
        ),
    ] {
        std::fs::write(&base, text).expect("ours");
        assert_eq!(child().ok().map(|recipe| recipe.title).as_deref(), title);
    }
    // A template that loops is not rendered: it might never end.
    let text =
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}";
    assert!(only("a.yaml", text).is_err());
}

#[test]
fn one_that_is_not_wanted_is_as_it_was_last_read_and_a_new_or_a_broken_one_is_read() {
    let recipes = recipes(&[("a.yaml", GOOD), ("b.yaml", GOOD), ("broken.yaml", "[")]);
    let mut known = Known::default();
    let day = Timestamp(clock::wall().0 + 86_400_000);
    let mut titles = |wanted: &str| {
        let listed = known.look(
            &recipes.path,
            &BTreeMap::new(),
            |queue| queue.as_str() == wanted,
            day,
        );
        let told = listed.recipes.into_iter().map(|(queue, recipe)| {
            let title = recipe.map_or_else(|_| "broken".into(), |recipe| recipe.title);
            format!("{queue}: {title}")
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(
        titles(""),
        ["a: Architect", "b: Architect", "broken: broken"]
    );
    for name in ["a.yaml", "b.yaml", "broken.yaml", "c.yaml"] {
        std::fs::write(recipes.path.join(name), "title: New\nprompt: p\n").expect("ours");
    }
    let now = ["a: New", "b: Architect", "broken: New", "c: New"];
    assert_eq!(titles("a"), now);
    std::fs::remove_file(recipes.path.join("b.yaml")).expect("ours");
    assert_eq!(titles(""), ["a: New", "broken: New", "c: New"]);
}

#[test]
fn the_tinytask_of_the_recipes_is_found() {
    let recipes = recipes(&[
        (
            "a.yaml",
            "title: A\nprompt: p\nparameters:\n  - {key: mcp_url, requirement: optional, default: 'http://127.0.0.1:3000/mcp'}\nextensions:\n  - {type: builtin, name: developer}\n  - {type: streamable_http, name: TinyTask, uri: '{{ mcp_url }}'}\n",
        ),
        (
            "b.yaml",
            "title: B\nprompt: p\nextensions:\n  - type: stdio\n    name: tasks\n    cmd: node\n    args: ['/opt/tinytask/index.js', '{{ base_path }}/x', 3]\n    envs: {TINYTASK_MODE: stdio, N: 1, DB: '{{ base_path }}/t.db'}\n    env_keys: [TOKEN]\n",
        ),
        (
            "c.yaml",
            "title: C\nprompt: p\nextensions:\n  - {type: sse, name: x, uri: 'http://tinytask.local/mcp'}\n  - {type: platform, name: tinytask}\n",
        ),
        ("d.yaml", "broken: ["),
        (
            "e.yaml",
            "title: E\nprompt: p\nextensions:\n  - {type: streamable_http, name: tinytask, uri: '{{ url }}/{{ undefined }}'}\n",
        ),
    ]);
    let params = BTreeMap::from([(
        queue("e"),
        BTreeMap::from([("url".to_owned(), "http://127.0.0.1:4/mcp".to_owned())]),
    )]);
    let found = Known::default().extensions(
        &recipes.path,
        Utf8Path::new("/srv/c"),
        &BTreeMap::new(),
        &params,
        clock::wall(),
    );
    let found: Vec<(&str, &Endpoint)> = found
        .iter()
        .filter(|f| f.is_tinytask)
        .map(|f| (f.queue.as_str(), &f.endpoint))
        .collect();
    let env = [
        ("DB", "/srv/c/t.db"),
        ("N", "1"),
        ("TINYTASK_MODE", "stdio"),
    ];
    assert_eq!(
        found,
        [
            ("a", &Endpoint::Http("http://127.0.0.1:3000/mcp".into())),
            (
                "b",
                &Endpoint::Stdio {
                    argv: ["node", "/opt/tinytask/index.js", "/srv/c/x", "3"]
                        .map(String::from)
                        .into(),
                    env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                    env_keys: vec!["TOKEN".into()],
                }
            ),
            (
                "c",
                &Endpoint::LegacySse("http://tinytask.local/mcp".into())
            ),
            ("e", &Endpoint::Http("http://127.0.0.1:4/mcp/".into())),
        ]
    );
}
