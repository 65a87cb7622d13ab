#![expect(clippy::disallowed_methods, reason = "tests write what a person would")]

use super::safety::check_file_system;
use super::*;
use crate::core::model::Millis;

struct Base {
    _dir: tempfile::TempDir,
    path: Utf8PathBuf,
}

fn base(toml: &str) -> Base {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).expect("UTF-8");
    if !toml.is_empty() {
        std::fs::write(path.join("calypso.toml"), toml).expect("writable");
    }
    Base { _dir: dir, path }
}

fn pairs(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[track_caller]
fn read(toml: &str) -> Config {
    load_from(&base(toml).path, &[], &[]).expect("good settings")
}

#[track_caller]
fn refused(toml: &str) -> Error {
    load_from(&base(toml).path, &[], &[]).expect_err("bad settings")
}

fn queue(name: &str) -> QueueName {
    name.parse().expect("a queue")
}

#[test]
fn without_settings_the_defaults_hold() {
    let config = read("");
    assert_eq!(config.policy.max_runs, 8);
    assert_eq!(config.policy.max_attempts, 3);
    assert_eq!(config.policy.max_runs_per_task, 30);
    assert_eq!(config.policy.time_limit, Millis::secs(3600));
    assert_eq!(config.policy.quiet_after, Millis::secs(600));
    assert_eq!(config.policy.inbound_queue, queue("dispatcher"));
    assert!(!config.policy.create_folders);
    assert_eq!(config.stop_grace, Millis::secs(10));
    assert_eq!(
        (config.settle, config.rescan),
        (Millis::secs(1), Millis::secs(60))
    );
    assert_eq!((config.log_limit, config.max_turns), (256_000_000, 200));
    assert_eq!((config.keep_days, config.keep_per_task), (30, 20));
    assert_eq!(config.tinytask.timeout, Millis::secs(10));
    assert!(config.tinytask.chosen.is_none() && config.warnings.is_empty());
}

#[test]
fn the_flag_beats_the_environment_beats_the_file() {
    let base = base("max_runs = 2\ntime_limit = '10m'\nsettle = '2s'");
    let environment = pairs(&[("CALYPSO_MAX_RUNS", "3"), ("CALYPSO_TIME_LIMIT", "20m")]);
    let flags = [("max_runs", "4".to_owned())];
    let config = load_from(&base.path, &environment, &flags).expect("good settings");
    assert_eq!(config.policy.max_runs, 4);
    assert_eq!(config.policy.time_limit, Millis::secs(1200));
    assert_eq!(config.settle, Millis::secs(2));
}

#[test]
fn an_error_names_the_place_it_came_from() {
    let base = base("\nmax_runs = 0");
    let error = load_from(&base.path, &[], &[]).expect_err("zero");
    assert_eq!(
        error.to_string(),
        "`max_runs` must be at least 1, got 0 (from `calypso.toml`, line 2)"
    );
    let environment = pairs(&[("CALYPSO_MAX_RUNS", "0")]);
    let error = load_from(&base.path, &environment, &[]).expect_err("zero");
    assert_eq!(
        error.to_string(),
        "`max_runs` must be at least 1, got 0 (from `CALYPSO_MAX_RUNS`)"
    );
    let flags = [("max_runs", "many".to_owned())];
    let error = load_from(&base.path, &environment, &flags).expect_err("no number");
    assert_eq!(
        error.to_string(),
        "`max_runs` must be a number, got `many` (from `--max-runs`)"
    );
}

#[test]
fn an_unknown_key_is_refused_with_place_and_guess() {
    let error = refused("settle = '1s'\nmax_run = 3");
    assert_eq!(
        error.to_string(),
        "`calypso.toml` line 2, column 1: `max_run` is no setting here"
    );
    assert_eq!(error.hint().as_deref(), Some("did you mean `max_runs`?"));
    let error = refused("[queues.coder]\nconcurency = 2");
    assert_eq!(error.hint().as_deref(), Some("did you mean `concurrency`?"));
    let error = refused("[tinytsk]\nurl = 'x'");
    assert_eq!(error.hint().as_deref(), Some("did you mean `tinytask`?"));
    assert_eq!(refused("frobnicate = 1").hint(), None);
}

#[test]
fn what_is_not_toml_is_one_line() {
    for (toml, place) in [
        ("max_runs = ", "line 1, column"),
        ("a = 1\nb = [1,\nc = 2", "line"),
        ("max_runs = 1\nmax_runs = 2", "line 2, column 1"),
        ("queues = 3", "line 1"),
        ("[queues.coder]\nenv = 'x'", "line 2"),
    ] {
        let text = refused(toml).to_string();
        assert!(text.contains(place) && !text.contains('\n'), "{text}");
    }
    let base = base("x");
    std::fs::write(base.path.join("calypso.toml"), b"a = 1\n\xff").expect("writable");
    let error = load_from(&base.path, &[], &[]).expect_err("not UTF-8");
    assert_eq!(
        error.to_string(),
        "`calypso.toml` line 2, column 1: is not UTF-8"
    );
}

#[test]
fn a_settings_file_that_is_a_folder_or_a_symlink_is_refused() {
    let base = base("");
    std::fs::create_dir(base.path.join("calypso.toml")).expect("writable");
    let error = load_from(&base.path, &[], &[]).expect_err("a folder");
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
}

#[test]
fn a_queue_has_its_own() {
    let config = read(
        r#"
provider = "openai"
[queues.coder]
recipe = "code.yaml"
provider = "anthropic"
model = "big"
params = { lane = "fast", depth = 3, strict = true }
env = { TOKEN = "s3cret", N = 1 }
env_file = "secrets/coder.env"
leftovers = "leave"
concurrency = 2
time_limit = "2h"
max_turns = 50
[queues.blogger]
command = ["./blog", "{task_id}"]
"#,
    );
    let coder = &config.queues[&queue("coder")];
    assert_eq!(coder.recipe.as_deref(), Some("code.yaml"));
    assert_eq!(coder.params["depth"], "3");
    assert_eq!(coder.params["strict"], "true");
    assert_eq!(coder.env.0["N"], "1");
    assert_eq!(coder.env_file, Some(config.base.join("secrets/coder.env")));
    assert_eq!(coder.leftovers, Leftovers::Leave);
    assert_eq!(coder.max_turns, Some(50));
    let policy = &config.policy.queues[&queue("coder")];
    assert_eq!(policy.concurrency, Some(2));
    assert_eq!(policy.provider.as_deref(), Some("anthropic"));
    assert_eq!(policy.time_limit, Some(Millis::secs(7200)));
    assert!(!policy.has_command);
    assert!(config.policy.queues[&queue("blogger")].has_command);
    assert_eq!(config.recipe_files().len(), 1);
    assert!(
        !format!("{config:?}").contains("s3cret"),
        "a secret was printed"
    );
}

#[test]
fn bad_values_of_a_queue_name_the_queue() {
    for (toml, text) in [
        ("[queues.'a b']\nmodel = 'x'", "`queues.a b` is no queue"),
        (
            "[queues.a]\nconcurrency = 0",
            "`queues.a.concurrency` must be at least 1, got 0",
        ),
        (
            "[queues.a]\ntime_limit = 5",
            "`queues.a.time_limit` must be a time such as",
        ),
        (
            "[queues.a]\ncommand = []",
            "`queues.a.command` must name a program",
        ),
        (
            "[queues.a]\nleftovers = 'kill'",
            "`queues.a.leftovers` must be \"stop\" or \"leave\"",
        ),
        (
            "[queues.a]\nrecipe = '../x.yaml'",
            "`queues.a.recipe` names a file in recipes/",
        ),
        (
            "[queues.a]\nenv = { 'A=B' = 'x' }",
            "`queues.a.env` has a name",
        ),
        (
            "[agent]\ncommand = ['']",
            "`agent.command` must name a program",
        ),
        ("[inbound]\nqueue = '/'", "`inbound.queue` is no queue"),
        (
            "[inbound]\nignore = ['a[']",
            "`inbound.ignore` has a bad pattern",
        ),
        ("log_limit = '1KB'", "`log_limit` must be at least 64KiB"),
        ("provider = ''", "`provider` must not be empty"),
        ("max_runs = 99999999999", "`max_runs` is too large"),
        ("time_limit = '0s'", "`time_limit` must be at least 1000ms"),
    ] {
        let error = refused(toml).to_string();
        assert!(
            error.contains(text) && error.contains("calypso.toml"),
            "{error}"
        );
    }
}

#[test]
fn one_tinytask_is_chosen() {
    let chosen = |toml: &str| read(toml).tinytask.chosen;
    assert_eq!(
        chosen("[tinytask]\nurl = 'http://127.0.0.1:3000/mcp'"),
        Some(TinytaskChoice::Url("http://127.0.0.1:3000/mcp".into()))
    );
    assert_eq!(
        chosen("[tinytask]\nbuiltin = true\nlisten = '127.0.0.1:3999'"),
        Some(TinytaskChoice::Builtin {
            listen: Some("127.0.0.1:3999".parse().expect("an address"))
        })
    );
    assert_eq!(
        chosen("[tinytask]\ncommand = ['node', 'i.js']\nenv = { TINYTASK_MODE = 'stdio' }"),
        Some(TinytaskChoice::Command {
            argv: vec!["node".into(), "i.js".into()],
            env: Secrets(BTreeMap::from([("TINYTASK_MODE".into(), "stdio".into())])),
        })
    );
    assert_eq!(chosen("[tinytask]\nbuiltin = false"), None);
    for (toml, text) in [
        ("url = 'x'", "`tinytask.url` must be like"),
        ("url = 'http://a/mcp'\nbuiltin = true", "takes one of"),
        ("command = ['a']\nbuiltin = true", "takes one of"),
        (
            "builtin = 'yes'",
            "`tinytask.builtin` must be true or false",
        ),
        (
            "builtin = true\nlisten = '0.0.0.0:1'",
            "must be a loopback address",
        ),
        (
            "builtin = true\nlisten = 'here'",
            "must be an address and a port",
        ),
        (
            "timeout = '1ms'",
            "`tinytask.timeout` must be at least 100ms",
        ),
    ] {
        let error = refused(&format!("[tinytask]\n{toml}")).to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn an_address_from_outside_replaces_the_files_choice() {
    let base = base("[tinytask]\ncommand = ['node']");
    let environment = pairs(&[("CALYPSO_TINYTASK_URL", "http://127.0.0.1:1/mcp")]);
    let config = load_from(&base.path, &environment, &[]).expect("good settings");
    assert!(matches!(
        config.tinytask.chosen,
        Some(TinytaskChoice::Url(_))
    ));
    assert_eq!(
        config.tinytask.origin,
        Some(Origin::Environment("CALYPSO_TINYTASK_URL".into()))
    );
}

#[test]
fn folders_are_made_only_with_the_built_in() {
    assert!(read("[tinytask]\nbuiltin = true").policy.create_folders);
    assert!(
        !read("missing_folder = 'hold'\n[tinytask]\nbuiltin = true")
            .policy
            .create_folders
    );
    let error = refused("missing_folder = 'create'").to_string();
    assert!(error.contains("needs the built-in tinytask"), "{error}");
    assert!(
        refused("missing_folder = 'x'")
            .to_string()
            .contains("must be \"hold\"")
    );
}

#[test]
fn a_variable_that_means_nothing_is_said() {
    let environment = pairs(&[
        ("CALYPSO_MAX_RUN", "1"),
        ("CALYPSO_FROBNICATE", "1"),
        ("CALYPSO_BASE_PATH", "/x"),
        ("CALYPSO_RUN", "0"),
        ("PATH", "/bin"),
    ]);
    let config = load_from(&base("").path, &environment, &[]).expect("only warned");
    assert_eq!(
        config.warnings,
        [
            "`CALYPSO_MAX_RUN` means nothing; did you mean `CALYPSO_MAX_RUNS`?",
            "`CALYPSO_FROBNICATE` means nothing"
        ]
    );
}

#[test]
fn times_and_sizes_are_read() {
    for (text, ms) in [
        ("500ms", 500),
        ("10s", 10_000),
        ("45m", 2_700_000),
        ("1h30m", 5_400_000),
        ("2d", 172_800_000),
        ("1h 5s", 3_605_000),
    ] {
        assert_eq!(parse_span(text), Ok(Millis(ms)), "{text}");
    }
    for text in [
        "",
        "10",
        "s",
        "1x",
        "-1s",
        "1.5h",
        "30m1h",
        "1s1s",
        "99999999999999999999s",
    ] {
        assert!(parse_span(text).is_err(), "{text}");
    }
    for (text, bytes) in [
        ("256MB", 256_000_000),
        ("256 MB", 256_000_000),
        ("512KiB", 524_288),
        ("1GB", 1_000_000_000),
        ("77", 77),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "MB", "1TBB", "-1", "99999999999GB"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn an_env_file_is_read_and_its_lines_never_quoted_in_errors() {
    let base = base("");
    let path = base.path.join("x.env");
    std::fs::write(
        &path,
        "# c\n\nA=1\nexport B = two words \nC='q'\nD=\"a=b\"\nE=\n",
    )
    .expect("writable");
    let read = env_file(&path).expect("good");
    assert_eq!(
        read,
        pairs(&[
            ("A", "1"),
            ("B", "two words"),
            ("C", "q"),
            ("D", "a=b"),
            ("E", "")
        ])
    );
    std::fs::write(&path, "A=1\nhunter2\n").expect("writable");
    let error = env_file(&path).expect_err("no `=`").to_string();
    assert!(
        error.contains("line 2") && !error.contains("hunter2"),
        "{error}"
    );
    assert!(matches!(
        env_file(&base.path.join("none")),
        Err(Error::Read { .. })
    ));
    assert!(env_file(&base.path).is_err());
}

#[test]
fn an_env_file_that_everyone_can_write_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let base = base("[queues.coder]\nenv_file = 'x.env'");
    let warnings = || {
        load_from(&base.path, &[], &[])
            .expect("good settings")
            .warnings
    };
    assert_eq!(warnings(), Vec::<String>::new(), "it need not be there yet");
    let path = base.path.join("x.env");
    for (mode, count) in [(0o644, 0), (0o666, 1)] {
        std::fs::write(&path, "A=1").expect("writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
        assert_eq!(warnings().len(), count);
    }
}

#[test]
fn what_everyone_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let base = base("max_runs = 1");
    let layout = Layout::new(&base.path);
    std::fs::create_dir(layout.recipes()).expect("writable");
    let set = |path: &Utf8Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    assert_eq!(
        check_permissions(&layout).expect("safe"),
        Vec::<String>::new()
    );
    for (path, mode) in [
        (base.path.clone(), 0o777),
        (layout.recipes(), 0o757),
        (layout.config(), 0o646),
        (layout.config(), 0o1646),
    ] {
        let before = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        set(&path, mode);
        let error = check_permissions(&layout).expect_err("unsafe");
        assert!(
            matches!(&error, Error::Unsafe { path: told } if *told == path),
            "{error:?}"
        );
        assert_eq!(error.hint(), Some(format!("`chmod o-w {path}`")));
        set(&path, before);
    }
    // As /tmp is: others can add, but not replace.
    set(&layout.recipes(), 0o1777);
    assert_eq!(check_permissions(&layout).expect("sticky").len(), 1);
    set(&layout.recipes(), 0o775);
    let warnings = check_permissions(&layout).expect("group only");
    assert!(warnings[0].contains("by its group"), "{warnings:?}");
}

#[test]
fn the_nearest_base_above_is_found() {
    let outer = base("max_runs = 1");
    let inner = outer.path.join("a/b");
    std::fs::create_dir_all(&inner).expect("writable");
    assert_eq!(nearest_base(&inner).as_ref(), Some(&outer.path));
    std::fs::create_dir(outer.path.join("a/.calypso")).expect("writable");
    assert_eq!(nearest_base(&inner), Some(outer.path.join("a")));
    let missing = outer.path.join("none");
    let error = find_base(Some(&missing)).expect_err("not there");
    assert_eq!(
        error.hint(),
        Some(format!("`calypso-watch init {missing}` makes it"))
    );
    let file = outer.path.join("calypso.toml");
    assert!(find_base(Some(&file)).is_err());
    assert!(find_base(Some(&inner)).is_ok_and(|path| path.is_absolute()));
}

#[test]
fn a_network_file_system_is_known_by_its_mount() {
    let kind = crate::edge::mount::fs_type(Utf8Path::new("/proc/self"));
    assert_eq!(kind.as_deref(), Some("proc"));
    assert!(check_file_system(Utf8Path::new("/proc")).is_ok());
}
