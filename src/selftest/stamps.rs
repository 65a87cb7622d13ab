//! What the agents wrote, read as it grows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read as _, Seek as _, SeekFrom};

use camino::Utf8Path;

use crate::core::model::ProcessId;

/// One agent's life as it told it.
#[derive(Debug, Clone)]
pub(super) struct Life {
    pub(super) subject: String,
    pub(super) queue: String,
    pub(super) began: u64,
    /// When it said that it ends; none: it was killed, or lives.
    pub(super) ended: Option<u64>,
    pub(super) token: String,
    pub(super) is_double: bool,
}

/// All lives told so far.
#[derive(Default)]
pub(super) struct Stamps {
    offset: u64,
    half: String,
    /// By process: pid and start time, as a pid alone may be another's later.
    pub(super) lives: HashMap<(i32, u64), Life>,
    /// When each subject was last heard of.
    pub(super) last: BTreeMap<String, u64>,
}

impl Stamps {
    /// Reads what was added since.
    pub(super) fn read(&mut self, path: &Utf8Path) -> std::io::Result<()> {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = String::new();
        self.offset += file.read_to_string(&mut text)? as u64;
        let text = std::mem::take(&mut self.half) + &text;
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => self.add(line),
                None => line.clone_into(&mut self.half),
            }
        }
        Ok(())
    }

    /// `start 7 build 4711 123456 987654321 TOKEN`; anything else is nobody's.
    fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [word, subject, queue, pid, start, at, more] = words[..] else {
            return;
        };
        let (Ok(pid), Ok(start), Ok(at)) = (pid.parse(), start.parse(), at.parse()) else {
            return;
        };
        self.last.insert(subject.to_owned(), at);
        if word == "end" {
            if let Some(life) = self.lives.get_mut(&(pid, start)) {
                life.ended = Some(at);
            }
            return;
        }
        let life = Life {
            subject: subject.to_owned(),
            queue: queue.to_owned(),
            began: at,
            ended: None,
            token: more.to_owned(),
            is_double: word == "double",
        };
        self.lives.insert((pid, start), life);
    }

    /// Agents that began and never said that they end.
    pub(super) fn cut_short(&self) -> impl Iterator<Item = (ProcessId, &Life)> {
        self.lives
            .iter()
            .filter(|(_, life)| life.ended.is_none())
            .map(|((pid, start), life)| {
                let process = ProcessId {
                    pid: *pid,
                    start: *start,
                };
                (process, life)
            })
    }

    /// Did this one say that it ends?
    pub(super) fn has_ended(&self, process: &ProcessId) -> bool {
        let life = self.lives.get(&(process.pid, process.start));
        life.is_some_and(|life| life.ended.is_some())
    }

    /// Runs that agents told of.
    pub(super) fn tokens(&self) -> HashSet<&str> {
        self.lives
            .values()
            .map(|life| life.token.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_told_by_pid_and_start_time() {
        let mut stamps = Stamps::default();
        for line in [
            "start 7 build 100 5 1000 aa",
            "end 7 build 100 5 2000 done",
            "start 7 build 100 6 3000 bb",
            "double 8 build 101 6 3000 cc",
            "not a stamp",
        ] {
            stamps.add(line);
        }
        let cut: Vec<_> = stamps.cut_short().map(|(process, _)| process).collect();
        assert_eq!(cut.len(), 2);
        assert!(stamps.has_ended(&ProcessId { pid: 100, start: 5 }));
        assert!(!stamps.has_ended(&ProcessId { pid: 100, start: 6 }));
        assert_eq!(
            stamps.lives.values().filter(|life| life.is_double).count(),
            1
        );
        assert_eq!(stamps.last["7"], 3000);
        assert_eq!(stamps.tokens().len(), 3);
    }
}
