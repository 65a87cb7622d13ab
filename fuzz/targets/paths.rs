//! Names that become ids, paths and wishes, and names that are shown.

use std::ffi::OsStr;
use std::fmt::{Debug, Display};
use std::os::unix::ffi::OsStrExt as _;
use std::str::FromStr;

use calypso_watch::core::layout::{Layout, RunDir, parse_subject_dir, subject_dir};
use calypso_watch::core::model::{QueueName, RunId, RunSubject, TaskId};
use calypso_watch::edge::config::{parse_size, parse_span};
use calypso_watch::edge::control::Control;
use calypso_watch::edge::inbound;
use calypso_watch::view::text;

use super::{assert_one_line, assert_printable};

/// A name of a directory entry, wherever we watch.
pub(super) fn names(data: &[u8]) {
    let name = OsStr::from_bytes(data);
    let shown = inbound::escape(name);
    assert_printable(&text::clean(&shown));
    assert!(
        shown.len() <= 4 * data.len() + data.len(),
        "it grows without bound"
    );
    assert_eq!(unescape(&shown), data, "two names look alike: {shown:?}");
    let is_ignored = inbound::is_ignored(name, &[]);
    assert!(is_ignored || !data.starts_with(b"."));
    let Ok(name) = std::str::from_utf8(data) else {
        return;
    };
    assert_one_line(&text::clean(name));
    assert!(text::width(&text::cut(&text::clean(name), 20)) <= 20);
    assert_one_line(&text::shell_word(name));
}

/// What [`inbound::escape`] did, undone.
fn unescape(shown: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = shown.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [b'\\', rest_after @ ..]) => {
                out.push(b'\\');
                rest = rest_after;
            }
            (b'\\', [b'x', high, low, rest_after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("hexadecimal digits");
                out.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
                rest = rest_after;
            }
            (byte, after) => {
                assert_ne!(byte, b'\\', "a lone backslash: {shown:?}");
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// A text that may be an id, or a path below the base.
pub(super) fn paths(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    reads_back::<TaskId>(text, |text| {
        text.strip_prefix('#').unwrap_or(text).to_owned()
    });
    reads_back::<QueueName>(text, str::to_owned);
    reads_back::<RunSubject>(text, |text| {
        text.strip_prefix('#').unwrap_or(text).to_owned()
    });
    if let Ok(id) = text.parse::<RunId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    let layout = Layout::new("/base");
    if let Some(subject) = parse_subject_dir(text) {
        assert_eq!(subject_dir(subject), text, "not the only name of it");
        stays_below(layout.pid_file(subject).as_str());
        stays_below(layout.marks(subject).as_str());
    }
    if let Some(dir) = RunDir::parse_live(text) {
        assert_eq!(dir.live_name(), text, "not the only name of it");
        assert_eq!(
            RunDir::parse_dir(dir.id.subject, &dir.dir_name()).as_ref(),
            Some(&dir)
        );
        stays_below(layout.run(&dir).dir.as_str());
        stays_below(layout.live_entry(&dir).as_str());
        assert!(
            dir.live_name().len() <= 255,
            "no file system has such a name"
        );
    }
    if let Some(wish) = Control::parse(text) {
        assert_eq!(wish.file_name(), text, "not the only name of it");
    }
    drop(parse_span(text));
    drop(parse_size(text));
}

/// What is taken is printed as it was typed, so that nothing has two names.
fn reads_back<T>(text: &str, bare: impl Fn(&str) -> String)
where
    T: FromStr + Display + PartialEq + Debug,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(id) => assert_eq!(id.to_string(), bare(text)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn stays_below(path: &str) {
    assert!(path.starts_with("/base/"), "{path}");
    assert!(
        path.split('/')
            .skip(1)
            .all(|part| !part.is_empty() && part != "." && part != ".."),
        "{path}"
    );
    assert!(!path.contains('\0'), "{path:?}");
}
