//! output.log: goose's stream, whatever an agent's shell printed into it, and what is shown of it.

use calypso_watch::edge::goose::{Renderer, judge};

use super::{assert_one_line, assert_printable};

pub(super) fn output(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (head, tail) = match text.split_once("\n--\n") {
        Some((head, tail)) => (head, tail),
        None => ("", &*text),
    };
    let said = judge(head, tail);
    assert_eq!(said, judge(head, tail), "read twice, told twice");
    if let Some(sign) = &said.sign {
        assert_one_line(&sign.reason);
        assert!(sign.reason.chars().count() <= 200, "{:?}", sign.reason);
    }
    if let Some(last) = &said.last_text {
        assert_printable(last);
    }
    let mut renderer = Renderer::new();
    let mut shown = String::new();
    for line in data.split(|byte| *byte == b'\n') {
        shown += &renderer.line(line);
    }
    shown += &renderer.finish();
    assert_printable(&shown);
    // A control character of one byte takes four columns, a mark of direction at most eight; each line may add a few of its own.
    assert!(
        shown.len() <= 8 * data.len() + 100,
        "{} bytes of {}",
        shown.len(),
        data.len()
    );
}
