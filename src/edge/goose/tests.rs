#![expect(clippy::disallowed_methods, reason = "tests write what a person would")]

use serde_json::{Value, json};

use super::*;
use crate::core::model::{Parameter, Timestamp};
use crate::core::record::FailureClass;

const ALL: Capabilities = Capabilities {
    quiet: true,
    stream_json: true,
    max_turns: true,
};

struct Base {
    _dir: tempfile::TempDir,
    config: Config,
    layout: Layout,
}

fn base(toml: &str) -> Base {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).expect("UTF-8");
    std::fs::write(path.join("calypso.toml"), toml).expect("writable");
    let mut config = config::load_from(&path, &[], &[]).expect("good settings");
    // A short path, as it stands in what is expected.
    let file = |file: &str| path.join(file);
    if let Some(queue) = config.queues.values_mut().find(|q| q.env_file.is_some()) {
        queue.env_file = Some(file("x.env"));
    }
    Base {
        _dir: dir,
        config,
        layout: Layout::new("/srv/c"),
    }
}

fn recipe(parameters: &[(&str, bool)]) -> Recipe {
    Recipe {
        queue: queue("coder"),
        file: "coder.yaml".into(),
        title: "Coder".into(),
        parameters: parameters
            .iter()
            .map(|(key, is_required)| Parameter {
                key: (*key).into(),
                is_required: *is_required,
                default: None,
            })
            .collect(),
        provider: None,
        modified: Timestamp(0),
    }
}

fn queue(name: &str) -> QueueName {
    name.parse().expect("a queue")
}

fn task(number: i64) -> RunSubject {
    RunSubject::Task(number.try_into().expect("positive"))
}

fn line(
    base: &Base,
    recipe: &Recipe,
    subject: RunSubject,
    can: &Capabilities,
) -> Result<String, Error> {
    command(
        &base.config,
        Some(recipe),
        subject,
        &queue("coder"),
        &base.layout,
        can,
    )
    .map(|argv| argv.join(" "))
}

#[test]
fn the_command_is_the_one_a_person_types() {
    let base = base("");
    let bare = recipe(&[("base_path", true)]);
    assert_eq!(
        line(&base, &bare, task(7), &Capabilities::default()).expect("complete"),
        "goose run --recipe /srv/c/recipes/coder.yaml --params base_path=/srv/c --no-session"
    );
    assert_eq!(
        line(&base, &bare, task(7), &ALL).expect("complete"),
        "goose run --recipe /srv/c/recipes/coder.yaml --params base_path=/srv/c --no-session \
         --quiet --output-format stream-json --max-turns 200"
    );
}

#[test]
fn a_recipe_gets_what_it_declares() {
    let base = base(
        "provider = 'openai'\nmodel = 'm'\n[queues.coder]\nparams = { lane = 'fast', other = 'x' }\nmax_turns = 5",
    );
    let all = recipe(&[
        ("base_path", true),
        ("task_id", true),
        ("task_path", false),
        ("queue", false),
        ("lane", true),
        ("spare", false),
    ]);
    assert_eq!(
        line(&base, &all, task(7), &ALL).expect("complete"),
        "goose run --recipe /srv/c/recipes/coder.yaml --params base_path=/srv/c --params task_id=7 \
         --params task_path=/srv/c/workqueue/task_7 --params queue=coder --params lane=fast \
         --provider openai --model m --no-session --quiet --output-format stream-json --max-turns 5"
    );
    let error = line(&base, &all, RunSubject::Inbound, &ALL).expect_err("no task yet");
    assert!(error.to_string().contains("`task_id`"));
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("no task yet"))
    );
    let error =
        line(&base, &recipe(&[("depth", true)]), task(7), &ALL).expect_err("nothing gives it");
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("[queues.coder] params = { depth"))
    );
}

#[test]
fn a_queues_provider_does_not_get_another_ones_model() {
    let of = |toml: &str| provider_and_model(&base(toml).config, &queue("coder"));
    let some = |text: &str| Some(text.to_owned());
    let general = "provider = 'openai'\nmodel = 'm'\n";
    assert_eq!(of(general), (some("openai"), some("m")));
    let own = format!("{general}[queues.coder]\nprovider = 'anthropic'");
    assert_eq!(of(&own), (some("anthropic"), None));
    let own = format!("{general}[queues.coder]\nmodel = 'n'");
    assert_eq!(of(&own), (some("openai"), some("n")));
}

#[test]
fn an_own_command_has_its_placeholders_filled_once_and_is_never_split() {
    let base = base(
        r#"
[agent]
command = ["run me", "{recipe}", "id={task_id}", "{task_path}", "{queue}:{base_path}", "{unknown} {", "{}"]
[queues.blogger]
command = ["./blog", "{task_id}", "{task_path}"]
[queues.broken]
command = ["./blog", "{recipe}"]
"#,
    );
    let recipe = recipe(&[]);
    let argv = |name: &str, recipe: Option<&Recipe>, subject| {
        command(
            &base.config,
            recipe,
            subject,
            &queue(name),
            &base.layout,
            &ALL,
        )
    };
    assert_eq!(
        argv("coder", Some(&recipe), task(7)).expect("complete"),
        [
            "run me",
            "/srv/c/recipes/coder.yaml",
            "id=7",
            "/srv/c/workqueue/task_7",
            "coder:/srv/c",
            "{unknown} {",
            "{}"
        ]
    );
    assert_eq!(
        argv("blogger", None, task(7)).expect("needs no recipe")[1],
        "7"
    );
    // An inbound run has no task; the elements stay in place.
    assert_eq!(
        argv("blogger", None, RunSubject::Inbound).expect("complete"),
        ["./blog", "", ""]
    );
    for name in ["broken", "coder"] {
        assert!(matches!(
            argv(name, None, task(7)),
            Err(Error::NoRecipe { .. })
        ));
    }
}

#[test]
fn a_value_with_braces_is_not_filled_again() {
    let given = BTreeMap::from([
        ("base_path", "/srv/{queue}".to_owned()),
        ("queue", "q".to_owned()),
    ]);
    assert_eq!(
        fill("{base_path}/{queue}{", None, &given, &queue("q")).expect("known"),
        "/srv/{queue}/q{"
    );
}

#[test]
fn the_environment_is_goose_mode_then_file_then_settings() {
    let base = base("[queues.coder]\nenv_file = 'x.env'\nenv = { B = 'own' }");
    let file = base.config.queues[&queue("coder")]
        .env_file
        .clone()
        .expect("set");
    assert!(
        environment(&base.config, &queue("coder")).is_err(),
        "no file yet"
    );
    std::fs::write(&file, "A=1\nB=file\n").expect("writable");
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(
        environment(&base.config, &queue("coder")).expect("readable"),
        [pair("A", "1"), pair("B", "own"), pair("GOOSE_MODE", "auto")]
    );
    assert_eq!(
        environment(&base.config, &queue("other")).expect("no file"),
        [pair("GOOSE_MODE", "auto")]
    );
    std::fs::write(&file, "GOOSE_MODE=chat\n").expect("writable");
    let own = environment(&base.config, &queue("coder")).expect("readable");
    assert!(own.contains(&pair("GOOSE_MODE", "chat")));
}

// ── capabilities ────────────────────────────────────────────────────────────────────────────────────────────────────

fn program(dir: &tempfile::TempDir, script: &str) -> String {
    let path = dir.path().join("fake-goose");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    path.to_str().expect("UTF-8").to_owned()
}

/// A script just written may still be open for writing in a child that another test forked (execve(2), ETXTBSY).
fn ask(program: &str) -> Result<Capabilities, Error> {
    for _ in 0..400 {
        match capabilities(program) {
            Err(Error::Help { source, .. })
                if source.kind() == io::ErrorKind::ExecutableFileBusy =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
    capabilities(program)
}

#[test]
fn goose_is_asked_once_what_it_can_do() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = program(
        &dir,
        "echo \"$@\" >> \"$0.calls\"\necho '  --quiet  --output-format <F> [text, json, stream-json]'",
    );
    for _ in 0..3 {
        let found = ask(&path).expect("it answers");
        assert!(found.quiet && found.stream_json && !found.max_turns);
    }
    let calls = std::fs::read_to_string(format!("{path}.calls")).expect("called");
    assert_eq!(calls, "run --help\n");
    // Another goose at the same path.
    let path = program(&dir, "echo '--max-turns, and a longer text'");
    assert_eq!(
        ask(&path).expect("it answers"),
        Capabilities {
            max_turns: true,
            ..Capabilities::default()
        }
    );
}

#[test]
fn a_program_that_is_not_there_is_told_with_the_way_out() {
    let error = capabilities("no-such-program-anywhere").expect_err("not there");
    assert_eq!(
        error.to_string(),
        "`no-such-program-anywhere` is not on PATH"
    );
    assert!(error.hint().is_some());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "x").expect("writable");
    assert!(
        find_program(plain.to_str().expect("UTF-8")).is_none(),
        "not executable"
    );
    assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
}

#[test]
fn help_that_fails_says_nothing_is_known() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = program(&dir, "exit 3");
    assert_eq!(ask(&path).expect("it answers"), Capabilities::default());
}

#[test]
fn a_program_that_hangs_is_ended() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = program(&dir, "echo $$ > \"$0.pid\"; exec sleep 600");
    let read = || std::fs::read_to_string(format!("{path}.pid")).unwrap_or_default();
    // Long enough for it to begin, on a loaded machine after some tries.
    for tries in 1..100 {
        let limit = Duration::from_millis(50 * tries);
        match crate::edge::ask::ask(Utf8Path::new(&path), &["run", "--help"], &[], limit) {
            Ok(help) => assert_eq!(help, None),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ExecutableFileBusy),
        }
        if let Ok(pid) = read().trim().parse::<i32>() {
            assert!(
                !std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "reaped"
            );
            return;
        }
    }
    panic!("it never began");
}

// ── output ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn output(lines: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = Utf8PathBuf::from_path_buf(dir.path().join("output.log")).expect("UTF-8");
    std::fs::write(&path, lines.join("\n")).expect("writable");
    read_output(&path)
}

fn says(id: &str, text: &str) -> String {
    message("assistant", id, &json!({"type": "text", "text": text}))
}

fn message(role: &str, id: &str, part: &Value) -> String {
    json!({"type": "message", "message": {"id": id, "role": role, "created": 1, "content": [part]}})
        .to_string()
}

fn calls(command: &str) -> String {
    message(
        "assistant",
        "t",
        &json!({"type": "toolRequest", "id": "c", "toolCall": {"status": "success",
            "value": {"name": "shell", "arguments": {"command": command}}}}),
    )
}

fn prints(text: &str) -> String {
    message(
        "user",
        "u",
        &json!({"type": "toolResponse", "id": "c", "toolResult": {"status": "success",
            "value": {"content": [{"type": "text", "text": text}], "isError": false}}}),
    )
}

const COMPLETE: &str = r#"{"type":"complete","total_tokens":1200,"input_tokens":1000,"output_tokens":200,"cost_usd":0.25}"#;

#[test]
fn a_good_run_has_tokens_cost_and_last_words() {
    let out = output(&[
        "Loading recipe: Coder",
        &says("a", "I will "),
        &says("a", "look."),
        &calls("ls"),
        &prints("x"),
        &says("b", "Done, "),
        &says("b", "handed on."),
        COMPLETE,
    ]);
    assert_eq!(
        out,
        Output {
            tokens: Some(1200),
            cost: Some(0.25),
            sign: None,
            asked: false,
            last_text: Some("Done, handed on.".into()),
        }
    );
    assert_eq!(
        output(&[r#"{"type":"complete","input_tokens":3,"output_tokens":4}"#]).tokens,
        Some(7)
    );
    assert_eq!(
        output(&[r#"{"type":"complete","total_tokens":null}"#]).tokens,
        None
    );
    assert_eq!(output(&[]), Output::default());
}

#[test]
fn gooses_own_failures_are_known() {
    use FailureClass::{Environment, Provider, Task};
    let retry = "\n\nPlease retry if you think this is a transient or recoverable error.";
    for (text, class, reason) in [
        (
            "Ran into this error: Rate limit exceeded: 429",
            Provider,
            "rate limit exceeded",
        ),
        (
            "Ran into this error: Rate limit exceeded: insufficient_quota",
            Provider,
            "quota exceeded",
        ),
        (
            "Ran into this error: Authentication error: 401",
            Provider,
            "authentication failed",
        ),
        (
            "Ran into this error: Server error: 503",
            Provider,
            "the model's server failed",
        ),
        (
            "Ran into this error: Network error: x",
            Provider,
            "the model's server cannot be reached",
        ),
        (
            "Network error: Stream decode error",
            Provider,
            "the model's server cannot be reached",
        ),
        (
            "Ran into this error: Request failed: The model `x` does not exist",
            Environment,
            "the model does not exist",
        ),
        (
            "Ran into this error: Request failed: odd",
            Task,
            "goose failed: Request failed: odd",
        ),
        (
            "I've reached the maximum number of actions I can do without user input. Would you like me to continue?",
            Task,
            "reached its most turns",
        ),
        (
            "Unable to continue: Context limit still exceeded after compaction",
            Task,
            "its context is full",
        ),
        (
            "Maximum retry attempts (2) exceeded.",
            Task,
            "the recipe's own checks failed",
        ),
        (
            "The model returned an empty response. Please resend",
            Task,
            "the model answered nothing",
        ),
    ] {
        let out = output(&[
            &calls("ls"),
            &prints("x"),
            &says("z", &format!("{text}{retry}")),
            COMPLETE,
        ]);
        let sign = out.sign.unwrap_or_else(|| panic!("{text}"));
        assert_eq!(
            (sign.class, sign.reason.as_str()),
            (class, reason),
            "{text}"
        );
        // After words of the same message, as when a connection is cut.
        let out = output(&[
            &says("z", "par"),
            &says("z", "tial"),
            &says("z", text),
            COMPLETE,
        ]);
        assert_eq!(out.sign.map(|sign| sign.class), Some(class), "{text}");
    }
}

#[test]
fn a_text_that_an_agent_merely_mentions_is_no_failure() {
    let text = "Ran into this error: Rate limit exceeded: 429";
    for lines in [
        vec![calls("grep error log"), prints(text), says("b", "Done.")],
        vec![
            says("a", text),
            calls("sleep 60"),
            prints("ok"),
            says("b", "Done."),
        ],
        vec![says("a", text), says("b", "Done.")],
        vec![says("b", &format!("The log says: {text}"))],
        vec![
            says("b", "The log says: "),
            says("b", "Ran"),
            says("b", " into this error: x"),
        ],
        vec![
            prints("⚠ Failed to start extension 'x'"),
            says("b", "Done."),
        ],
        vec![says(
            "b",
            "Failed to start extension 'x', as the log shows.",
        )],
        // A server that goose started writes to the same standard error.
        vec![
            "Error: Invalid recipe: no, a server's own".into(),
            says("b", "Done."),
        ],
    ] {
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.push(COMPLETE);
        assert_eq!(output(&lines).sign, None, "{lines:?}");
    }
}

#[test]
fn what_goose_says_on_standard_error_is_known() {
    use FailureClass::{Environment, Provider};
    for (text, class, reason) in [
        (
            "Error: Please provide the following parameters in the command line: --params x=your_value",
            Environment,
            "a recipe parameter is missing",
        ),
        (
            "Error: Failed to read recipe file /x: No such file",
            Environment,
            "the recipe cannot be read",
        ),
        (
            "Error: Invalid recipe: missing field `title`",
            Environment,
            "the recipe is invalid",
        ),
        (
            "Error: no text provided for prompt in headless mode",
            Environment,
            "the recipe has no prompt",
        ),
        (
            "error: No provider configured. Run 'goose configure' first.",
            Environment,
            "goose has no provider configured",
        ),
        (
            "error: Error Unknown provider: nosuch.",
            Environment,
            "unknown provider",
        ),
        (
            "error: unexpected argument '--x' found",
            Environment,
            "goose does not understand its command line",
        ),
        (
            "Error: Tool approval required in non-interactive mode",
            Environment,
            "GOOSE_MODE asks for approval, and nobody is there",
        ),
        (
            "thread 'main' (12) panicked at src/x.rs:1:2:",
            Environment,
            "goose crashed",
        ),
        (
            "\u{1b}[31mError: Ran into this error: Authentication error: 401\u{1b}[0m",
            Provider,
            "authentication failed",
        ),
    ] {
        for lines in [vec![text], vec![&says("a", "Hm."), text, "  note: more"]] {
            let sign = output(&lines).sign.unwrap_or_else(|| panic!("{lines:?}"));
            assert_eq!((sign.class, sign.reason.as_str()), (class, reason));
        }
    }
}

#[test]
fn an_error_line_of_the_stream_counts() {
    let out = output(&[
        &says("a", "Hm."),
        r#"{"type":"error","error":"Ran into this error: Authentication error: 401"}"#,
    ]);
    assert_eq!(
        out.sign.map(|s| s.reason).as_deref(),
        Some("authentication failed")
    );
    let out = output(&[r#"{"type":"error","error":"something new"}"#]);
    assert_eq!(
        out.sign.map(|s| s.reason).as_deref(),
        Some("goose failed: something new")
    );
}

#[test]
fn an_extension_that_did_not_start_explains_an_agent_that_gave_up() {
    let start =
        "⚠ Failed to start extension 'tinytask' (connection refused), continuing without it";
    let reason = |lines: &[&str]| output(lines).sign.map(|sign| (sign.class, sign.reason));
    let expected = Some((
        FailureClass::Environment,
        "extension `tinytask` failed to start".to_owned(),
    ));
    assert_eq!(
        reason(&[start, &says("a", "I have no tools."), COMPLETE]),
        expected
    );
    let turns = says("a", "I've reached the maximum number of actions I can do");
    assert_eq!(reason(&[start, &turns, COMPLETE]), expected);
    let network = says("a", "Network error: x");
    let class = reason(&[start, &network, COMPLETE]).map(|(class, _)| class);
    assert_eq!(class, Some(FailureClass::Provider));
}

#[test]
fn what_goose_tells_beside_the_conversation_counts() {
    let tells = |text: &str| {
        let part =
            json!({"type": "systemNotification", "notificationType": "inlineMessage", "msg": text});
        message("assistant", "n", &part)
    };
    let compacting = tells("Context limit reached. Compacting to continue conversation...");
    let full = tells("Unable to continue: Context limit still exceeded after compaction.");
    let sign = |lines: &[&str]| output(lines).sign.map(|sign| sign.reason);
    let expected = Some("its context is full".to_owned());
    assert_eq!(sign(&[&compacting, &full, COMPLETE]), expected);
    assert_eq!(sign(&[&compacting, &says("a", "Done."), COMPLETE]), None);
    let went_on = [
        &full,
        &calls("ls"),
        &prints("x"),
        &says("a", "Done."),
        COMPLETE,
    ];
    assert_eq!(sign(&went_on.map(|line: &str| line)), None);
}

#[test]
fn a_question_in_the_last_words_is_known() {
    for (text, asked) in [
        ("Which database should I use?", true),
        ("**Shall I go on?**\n", true),
        ("PostgreSQL or SQLite? Please let me know.", true),
        ("Which one (if any?)?!\n\n1. A\n2. B", true),
        ("用哪个数据库？请告诉我。", true),
        (
            "I fetched https://example.org/?q=1 and matched `a?b`.",
            false,
        ),
        (
            &format!("Why? {}", "Then I wrote it all down. ".repeat(20)),
            false,
        ),
        ("Done.", false),
    ] {
        assert_eq!(output(&[&says("a", text), COMPLETE]).asked, asked, "{text}");
    }
    assert!(
        !output(&[
            &says("a", "Shall I look?"),
            &calls("ls"),
            &prints("x"),
            COMPLETE
        ])
        .asked
    );
}

#[test]
fn an_interrupted_stream_is_read_all_the_same() {
    let garbage = format!("Yes — what would you like me to do?{COMPLETE}");
    assert_eq!(output(&[&says("a", "Hm."), &garbage]).tokens, Some(1200));
    let torn = &says("a", "never finished")[..30];
    let out = output(&[&says("a", "Hm."), torn]);
    assert_eq!((out.last_text.as_deref(), out.tokens), (Some("Hm."), None));
}

#[test]
fn a_log_of_another_program_says_little() {
    let out = output(&["building", "Error: cannot find module x", "exit 1"]);
    assert_eq!((out.sign, out.last_text.as_deref()), (None, Some("exit 1")));
    // An old goose prints plain text.
    let out = output(&[
        "doing",
        "Ran into this error: Rate limit exceeded: x",
        "",
        "Please retry",
    ]);
    assert_eq!(out.sign.map(|s| s.class), Some(FailureClass::Provider));
    let mut lines = vec!["Ran into this error: Rate limit exceeded: x"];
    lines.extend(["and it went on"; 40]);
    assert_eq!(output(&lines).sign, None);
    assert_eq!(read_output(Utf8Path::new("/nowhere")), Output::default());
}

#[test]
fn a_large_log_is_read_at_both_ends() {
    let start = "⚠ Failed to start extension 'tinytask' (x), continuing without it";
    let filler = prints(&"x".repeat(5000));
    let mut lines = vec![start];
    lines.extend(vec![filler.as_str(); 1000]);
    let last = says("z", "I cannot.");
    lines.extend([last.as_str(), COMPLETE]);
    let out = output(&lines);
    assert_eq!(
        (out.tokens, out.last_text.as_deref()),
        (Some(1200), Some("I cannot."))
    );
    assert!(
        out.sign
            .is_some_and(|sign| sign.reason.contains("tinytask"))
    );
    // One line longer than all that is read.
    let huge = prints(&"x".repeat(5 << 20));
    assert_eq!(output(&[&huge, COMPLETE]).tokens, Some(1200));
    assert_eq!(output(&[COMPLETE, &huge]).tokens, None);
    assert_eq!(output(&[&"\u{0}".repeat(5 << 20)]).sign, None);
}

// ── rendering ───────────────────────────────────────────────────────────────────────────────────────────────────────

fn rendered(lines: &[&str]) -> String {
    let mut renderer = Renderer::new();
    let mut text: String = lines
        .iter()
        .map(|line| renderer.line(line.as_bytes()))
        .collect();
    text.push_str(&renderer.finish());
    text
}

#[test]
fn a_stream_reads_as_a_story() {
    let moved = message(
        "assistant",
        "t",
        &json!({"type": "toolRequest", "id": "d", "toolCall": {"status": "success",
            "value": {"name": "tinytask__move_task", "arguments": {"id": 7, "to": "coder"}}}}),
    );
    let failed = message(
        "user",
        "u",
        &json!({"type": "toolResponse", "id": "d", "toolResult": {"status": "error", "error": "-32603: Transport closed"}}),
    );
    let text = rendered(&[
        "Loading recipe: Coder",
        &says("a", "I will "),
        &says("a", "look."),
        &calls("npm test\necho done"),
        &prints("1\n2\n\n3\n4\n5\n6\n7\n8"),
        &moved,
        &failed,
        &says("b", "One."),
        &says("c", "Two."),
        COMPLETE,
    ]);
    assert_eq!(
        text,
        "\
Loading recipe: Coder
I will look.
→ shell: npm test ⏎ echo done
  │ 1
  │ 2
  │ 3
  │ 4
  │ 5
  │ 6
  │ … 2 more lines
→ tinytask__move_task: id=7 to=coder
  ✗ -32603: Transport closed
One.
Two.
── over: 1200 tokens, $0.25
"
    );
}

#[test]
fn the_end_of_a_cut_log_ends_its_line() {
    assert_eq!(rendered(&[&says("a", "half")]), "half\n");
    assert_eq!(rendered(&[&says("a", "whole\n")]), "whole\n");
    let error = r#"{"type":"error","error":"no"}"#;
    assert_eq!(rendered(&[&says("a", "half"), error]), "half\n✗ no\n");
}

#[test]
fn an_agent_cannot_draw_on_a_terminal() {
    let text = rendered(&[
        "\u{1b}[2J\u{1b}[31mred\u{1b}[0m\r",
        "\u{1b}]0;title\u{7}after",
        "\u{1b}]8;;http://x\u{1b}\\link",
        "bell\u{7} back\u{8} c1\u{9b}31m",
        "over\rwritten",
        "\u{202e}txt.exe",
        &says("a", "\u{1b}[1mbold\u{1b}[0m"),
        &calls("printf '\u{1b}c'"),
        "\u{1b}",
        "\u{1b}[",
    ]);
    assert!(
        !text.chars().any(|c| c.is_control() && c != '\n'),
        "{text:?}"
    );
    assert!(text.starts_with("red\nafter\nlink\nbell\\x07 back\\x08 c1\\x9b31m\nover\\x0dwritten\n\\u{202e}txt.exe\nbold\n"), "{text:?}");
    let mut renderer = Renderer::new();
    assert_eq!(renderer.line(b"\xff\xfe ok"), "\u{fffd}\u{fffd} ok\n");
}
