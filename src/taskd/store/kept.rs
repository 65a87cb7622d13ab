//! Long answers, kept until something is written to the file: idle agents ask for their queue again and again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use super::{Outcome, Store, Trouble};
use crate::taskd::text::Text;

/// Bytes of all answers together; one of two hundred tasks has a tenth of them.
const MOST: usize = 1 << 20;

/// Answers about one state of the file.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    state: Option<State>,
    by_name: HashMap<String, Text>,
    bytes: usize,
}

/// Differs at a later moment, where anybody has written meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Commits of other connections (`PRAGMA data_version`).
    others: i64,
    /// Rows changed by ours, in transactions that were rolled back too.
    own: u64,
}

impl State {
    fn of(db: &Connection) -> rusqlite::Result<Self> {
        let others = db
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        Ok(Self {
            others,
            own: db.total_changes(),
        })
    }
}

impl Store {
    /// What `make` answered under this name, if nobody has written since; else what it answers now.
    ///
    /// The interleaving it survives: the state is read, somebody writes, `make` reads what was written. That answer is kept under the
    /// older state, which the file never has again: the next call makes a new one. So an answer that is given again was
    /// made after the last write.
    pub(in crate::taskd) fn kept(
        &self,
        name: &str,
        make: impl FnOnce() -> Outcome<Text>,
    ) -> Outcome<Text> {
        let state = State::of(&self.lock()).map_err(Trouble::Read)?;
        let answers = || self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut answers = answers();
            if answers.state != Some(state) {
                *answers = Answers {
                    state: Some(state),
                    ..Answers::default()
                };
            }
            if let Some(known) = answers.by_name.get(name) {
                return Ok(known.clone());
            }
        }
        let made = make()?;
        let mut answers = answers();
        // Somebody else's answer may have begun a newer state meanwhile.
        let bytes = answers.bytes + name.len() + made.len();
        if answers.state == Some(state) && bytes <= MOST {
            answers.bytes = bytes;
            answers.by_name.insert(name.to_owned(), made.clone());
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::tasks::NewTask;
    use super::*;

    /// A store on a file of its own.
    fn store(folder: &tempfile::TempDir) -> Store {
        let path = folder.path().join("kept.db");
        Store::open(camino::Utf8Path::from_path(&path).expect("UTF-8")).expect("a file to open")
    }

    /// Asks for the answer `name`, of so many bytes; was it made anew?
    fn asked(store: &Store, name: &str, bytes: usize) -> bool {
        let is_new = Cell::new(false);
        let answer = store.kept(name, || {
            is_new.set(true);
            Ok(Text::prose(&"x".repeat(bytes)))
        });
        assert_eq!(answer.expect("an answer").len(), bytes);
        is_new.get()
    }

    fn write(store: &Store) {
        let new = NewTask {
            title: "anything",
            ..NewTask::default()
        };
        store.create(&new).expect("a task");
    }

    #[test]
    fn an_answer_is_given_again_until_anybody_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, others) = (store(&folder), store(&folder));
        assert!(asked(&ours, "a", 10));
        assert!(!asked(&ours, "a", 10));
        assert!(asked(&ours, "b", 20));
        assert!(!asked(&ours, "a", 10) && !asked(&ours, "b", 20));
        for writer in [&ours, &others] {
            write(writer);
            assert!(asked(&ours, "a", 11) && asked(&ours, "b", 21));
            assert!(!asked(&ours, "a", 11) && !asked(&ours, "b", 21));
        }
    }

    #[test]
    fn an_answer_made_while_somebody_writes_is_given_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, others) = (store(&folder), store(&folder));
        let answer = ours.kept("a", || {
            write(&others);
            Ok(Text::prose("of before or after"))
        });
        answer.expect("an answer");
        assert!(asked(&ours, "a", 10));
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(&folder);
        assert!(asked(&store, "large", MOST) && asked(&store, "large", MOST));
        assert!(asked(&store, "half", MOST / 2) && asked(&store, "other", MOST / 2));
        assert!(!asked(&store, "half", MOST / 2));
        assert!(asked(&store, "other", MOST / 2));
    }
}
