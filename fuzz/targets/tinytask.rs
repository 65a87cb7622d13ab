//! tinytask's answers, of both generations.

use calypso_watch::core::model::Detail;
use calypso_watch::edge::tinytask::Error;
use calypso_watch::edge::tinytask::wire::{self, OddRows};

use super::assert_one_line;

pub(super) fn tinytask(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let odd = OddRows::default();
    if let Some(tasks) = checked(wire::tasks("get_my_queue", text, &odd)) {
        assert!(tasks.len() <= text.len());
        for task in tasks {
            assert!(task.id.number() > 0);
            drop((task.key(), task.queue(), task.is_open()));
        }
    }
    if let Some(open) = checked(wire::open_subtasks(text, &odd)) {
        assert!(open as usize <= text.len());
    }
    if let Some(Detail::Found(found)) = checked(wire::detail(text, 0)) {
        assert!(found.our_comments.len() <= text.len());
        assert_eq!(
            checked(wire::task("get_task", text)).as_ref(),
            Some(&found.task)
        );
    }
    drop(checked(wire::page(text)));
    drop(checked(wire::claimed(text)));
    if let Some(value) = checked(wire::raw("list_tasks", text)) {
        drop(wire::merge(vec![value.clone(), value]));
    }
    assert_one_line(&wire::refusal(text).to_string());
    for most in [2_100, 90_000] {
        let short = wire::shorten(text, most);
        let json = serde_json::to_string(&short).expect("a text");
        assert!(
            json.len() <= most + 12,
            "{} bytes of at most {most}",
            json.len()
        );
    }
}

/// What it is; an error's words are fit for a terminal.
fn checked<T>(read: Result<T, Error>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            let mut error: &dyn std::error::Error = &error;
            loop {
                assert_one_line(&error.to_string());
                match error.source() {
                    Some(source) => error = source,
                    None => return None,
                }
            }
        }
    }
}
