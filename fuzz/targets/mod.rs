//! What is fuzzed: each parser that reads what others write, and what has to hold whatever they wrote.
//!
//! Shared with `tests/security`, which runs every target over the committed inputs, so that what was once found is checked without
//! a fuzzer. A target panics when something does not hold; libFuzzer adds limits on time and memory.

use std::sync::OnceLock;

use camino::Utf8Path;

mod files;
mod output;
mod paths;
mod records;
mod server;
mod system;
mod tinytask;

/// Takes any bytes, and panics where a promise does not hold for them.
pub(crate) type Target = fn(&[u8]);

/// By name, as the folders of `corpus/` and `regressions/` are called.
pub(crate) const ALL: [(&str, Target); 12] = [
    ("config", files::config),
    ("decide", records::decide_on_records),
    ("environment", files::environment),
    ("names", paths::names),
    ("output", output::output),
    ("paths", paths::paths),
    ("recipe", files::recipe),
    ("record", records::record),
    ("server", server::server),
    ("story", records::story),
    ("system", system::system),
    ("tinytask", tinytask::tinytask),
];

/// Fit for a terminal: nothing in it moves the cursor, colours, or turns the reading direction.
#[track_caller]
fn assert_printable(text: &str) {
    let odd = text.chars().find(|c| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    });
    assert!(odd.is_none(), "{odd:?} in {text:?}");
}

/// One printable line.
#[track_caller]
fn assert_one_line(text: &str) {
    assert_printable(text);
    assert!(!text.contains('\n'), "{text:?}");
}

/// A folder of this process, the same at each call; where there is memory to hold it, it costs no disk.
fn folder(name: &str) -> &'static Utf8Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let root = FOLDER.get_or_init(|| {
        let memory = std::path::Path::new("/dev/shm");
        let made = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        made.expect("a temporary folder")
    });
    let path = Utf8Path::from_path(root.path()).expect("UTF-8").join(name);
    std::fs::create_dir_all(&path).expect("ours");
    // Leaked: a few short paths for the life of a process that is about to be killed anyway.
    Utf8Path::new(Box::leak(path.into_string().into_boxed_str()))
}
