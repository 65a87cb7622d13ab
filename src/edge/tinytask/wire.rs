//! tinytask's answers, read with tolerance: two generations, prose around JSON, fields that come and go.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use siphasher::sip::SipHasher13;

use super::error::{Cause, one_line};
use super::{AUTHOR, Error};
use crate::core::model::{Detail, FoundDetail, RunMark, Task, TaskId, TaskStatus, Text, Timestamp};

/// One task as a person reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub task: Task,
    pub description: Option<String>,
    pub tags: Vec<String>,
    pub comments: Vec<Comment>,
    pub links: Vec<Link>,
}

/// See [`Page`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    pub by: Option<String>,
    pub at: Option<Timestamp>,
    pub text: String,
}

/// See [`Page`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub url: String,
    pub description: Option<String>,
}

/// A text that is looked at and let go: without a copy where JSON has it as it is.
#[derive(Deserialize)]
pub(super) struct Words<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// A task row. v1 has no parent, queue name, blocker or `is_currently_blocked`.
#[derive(Deserialize)]
pub(super) struct Row<'a> {
    pub(super) id: i64,
    pub(super) title: String,
    #[serde(borrow)]
    pub(super) description: Option<Words<'a>>,
    pub(super) status: TaskStatus,
    pub(super) assigned_to: Option<Text>,
    pub(super) previous_assigned_to: Option<Text>,
    pub(super) created_by: Option<Text>,
    pub(super) priority: Option<f64>,
    #[serde(borrow)]
    pub(super) tags: Option<Vec<Words<'a>>>,
    pub(super) parent_task_id: Option<i64>,
    pub(super) queue_name: Option<Text>,
    pub(super) blocked_by_task_id: Option<i64>,
    pub(super) is_currently_blocked: Option<bool>,
    #[serde(borrow)]
    pub(super) created_at: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) updated_at: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) archived_at: Option<Words<'a>>,
}

#[derive(Deserialize)]
struct Tasks<T> {
    tasks: Vec<T>,
}

#[derive(Deserialize)]
struct Subtasks<T> {
    subtasks: Vec<T>,
}

#[derive(Deserialize)]
struct Around {
    comments: Option<Vec<CommentRow>>,
    links: Option<Vec<LinkRow>>,
}

#[derive(Deserialize)]
struct CommentRow {
    id: i64,
    content: String,
    created_by: Option<String>,
    created_at: Option<String>,
}

#[derive(Deserialize)]
struct LinkRow {
    url: String,
    description: Option<String>,
}

/// Rows that were skipped, so that each is told once and not at every look.
#[derive(Default)]
pub struct OddRows(Mutex<BTreeSet<String>>);

impl OddRows {
    const MOST: usize = 1000;

    fn skip(&self, row: &Value, why: &str) {
        let id = row
            .get("id")
            .map_or_else(|| "none".to_owned(), Value::to_string);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < Self::MOST && known.insert(id.clone()) {
            tracing::warn!(
                task = one_line(&id),
                why = one_line(why),
                "skipped a task that cannot be read"
            );
        }
    }
}

impl Row<'_> {
    pub(super) fn into_task(self) -> Result<Task, String> {
        let positive = |id: Option<i64>| id.and_then(|id| TaskId::try_from(id).ok());
        let time = |text: &str| parse_time(text).ok_or_else(|| format!("`{text}` is no time"));
        let fields = self.fields();
        let created_at = time(&self.created_at)?;
        let is_unchanged = self.updated_at == self.created_at;
        Ok(Task {
            id: TaskId::try_from(self.id).map_err(|error| error.to_string())?,
            status: self.status,
            parent: positive(self.parent_task_id),
            blocked_by: positive(self.blocked_by_task_id),
            is_blocked: self.is_currently_blocked.unwrap_or(false),
            priority: self.priority.unwrap_or(0.0),
            created_at,
            updated_at: if is_unchanged {
                created_at
            } else {
                time(&self.updated_at)?
            },
            is_archived: self.archived_at.is_some(),
            title: self.title,
            assigned_to: self.assigned_to,
            previous_assigned_to: self.previous_assigned_to,
            created_by: self.created_by,
            queue_name: self.queue_name,
            fields,
        })
    }

    /// Stands in records, so it must stay the same for ever: lengths before texts, so that no two rows read alike; a marker
    /// before what may be missing, and SipHash-1-3 with fixed keys.
    fn fields(&self) -> u64 {
        fn text(bytes: &mut Vec<u8>, text: &str) {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        fn maybe(bytes: &mut Vec<u8>, value: Option<&str>) {
            bytes.push(value.is_some().into());
            text(bytes, value.unwrap_or_default());
        }
        let mut bytes = Vec::with_capacity(256);
        text(&mut bytes, &self.title);
        maybe(&mut bytes, self.description.as_ref().map(|words| &*words.0));
        bytes.extend(self.priority.unwrap_or(0.0).to_bits().to_le_bytes());
        maybe(&mut bytes, self.assigned_to.as_deref());
        let tags = self.tags.as_deref().unwrap_or_default();
        bytes.extend((tags.len() as u64).to_le_bytes());
        for tag in tags {
            text(&mut bytes, &tag.0);
        }
        bytes.extend(self.blocked_by_task_id.unwrap_or(0).to_le_bytes());
        SipHasher13::new_with_keys(0x6361_6c79_7073_6f2d, 0x7761_7463_685f_7631).hash(&bytes)
    }
}

/// `2026-11-22T18:38:55Z` (v2) or `2026-11-22 18:38:55` (v1, UTC without saying so), to the second.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    // A look at everything meets twenty thousand of them, nearly all in those very forms.
    let at = plain_time(text.as_bytes()).or_else(|| any_time(text))?;
    Some(Timestamp(at.as_second() * 1000))
}

fn any_time(text: &str) -> Option<jiff::Timestamp> {
    let utc = |at: jiff::civil::DateTime| jiff::tz::Offset::UTC.to_timestamp(at).ok();
    let with_zone = text.parse().ok();
    with_zone.or_else(|| utc(text.parse().ok()?))
}

/// `2026-11-22T18:38:55Z` or `2026-11-22 18:38:55`, to the letter. `None`: of another form, or no such moment.
fn plain_time(text: &[u8]) -> Option<jiff::Timestamp> {
    let (civil, zone) = text.split_at_checked(19)?;
    let separators = [4, 7, 10, 13, 16].map(|at| civil[at]);
    if !matches!((&separators, zone), (b"--T::", b"Z") | (b"-- ::", b"")) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let mut digits = civil[from..to].iter();
        digits.try_fold(0, |sum: i16, byte| {
            byte.is_ascii_digit()
                .then(|| sum * 10 + i16::from(byte - b'0'))
        })
    };
    let two = |from| number(from, from + 2).map(|n| n as i8);
    let at = jiff::civil::DateTime::new(
        number(0, 4)?,
        two(5)?,
        two(8)?,
        two(11)?,
        two(14)?,
        two(17)?,
        0,
    );
    jiff::tz::Offset::UTC.to_timestamp(at.ok()?).ok()
}

/// The JSON in an answer: the whole text; else what begins after the first blank line with `{`; else it is prose.
fn parse<'a, T: Deserialize<'a>>(call: &'static str, text: &'a str) -> Result<T, Error> {
    let bad = |error: serde_json::Error| Error::BadAnswer {
        call,
        source: Cause::new(format!("{error}: {}", head(text))),
    };
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(error) => match after_prose(text) {
            Some(json) => serde_json::from_str(json).map_err(bad),
            None => Err(bad(error)),
        },
    }
}

fn after_prose(text: &str) -> Option<&str> {
    text.find("\n\n{").map(|at| &text[at + 2..])
}

fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

/// The rows of a list. One bad row among good ones is skipped and told; the rest must not suffer.
fn rows<'a, T, L: Deserialize<'a>, O: DeserializeOwned>(
    call: &'static str,
    text: &'a str,
    odd: &OddRows,
    good: impl Fn(L) -> Vec<Row<'a>>,
    any: impl Fn(O) -> Vec<Value>,
    each: impl Fn(Row<'_>) -> Result<T, String>,
) -> Result<Vec<T>, Error> {
    // The quick way reads 100,000 rows without building a tree for each; the slow way finds out which one is bad.
    if let Ok(list) = parse::<L>(call, text)
        && let Ok(read) = good(list).into_iter().map(&each).collect()
    {
        return Ok(read);
    }
    let mut read = Vec::new();
    for value in any(parse::<O>(call, text)?) {
        match Row::deserialize(&value)
            .map_err(|error| error.to_string())
            .and_then(&each)
        {
            Ok(row) => read.push(row),
            Err(why) => odd.skip(&value, &why),
        }
    }
    Ok(read)
}

/// The tasks of `list_tasks` and `get_my_queue`.
pub fn tasks(call: &'static str, text: &str, odd: &OddRows) -> Result<Vec<Task>, Error> {
    rows(
        call,
        text,
        odd,
        |list: Tasks<Row<'_>>| list.tasks,
        |list: Tasks<Value>| list.tasks,
        |row| row.into_task(),
    )
}

/// How many of `get_subtasks` are open.
pub fn open_subtasks(text: &str, odd: &OddRows) -> Result<u32, Error> {
    let subtasks = rows(
        "get_subtasks",
        text,
        odd,
        |list: Subtasks<Row<'_>>| list.subtasks,
        |list: Subtasks<Value>| list.subtasks,
        |row| row.into_task(),
    )?;
    Ok(subtasks.iter().filter(|task| task.is_open()).count() as u32)
}

/// An answer that is a task, with prose before it or not.
pub fn task(call: &'static str, text: &str) -> Result<Task, Error> {
    parse::<Row<'_>>(call, text)?
        .into_task()
        .map_err(|why| Error::BadAnswer {
            call,
            source: Cause::new(why),
        })
}

/// `get_task`, as the core needs it.
pub fn detail(text: &str, open_subtasks: u32) -> Result<Detail, Error> {
    let task = task("get_task", text)?;
    let comments = parse::<Around>("get_task", text)?
        .comments
        .unwrap_or_default();
    let (ours, others): (Vec<_>, Vec<_>) = comments
        .iter()
        .partition(|comment| comment.created_by.as_deref() == Some(AUTHOR));
    Ok(Detail::Found(FoundDetail {
        task,
        last_comment: others.iter().map(|comment| comment.id).max().unwrap_or(0),
        our_comments: ours
            .iter()
            .flat_map(|comment| RunMark::all_in(&comment.content))
            .collect(),
        open_subtasks,
    }))
}

/// `get_task`, as a person reads it.
pub fn page(text: &str) -> Result<Page, Error> {
    let row = parse::<Row<'_>>("get_task", text)?;
    let around = parse::<Around>("get_task", text)?;
    Ok(Page {
        description: row.description.map(|words| words.0.into_owned()),
        tags: (row.tags.into_iter().flatten())
            .map(|tag| tag.0.into_owned())
            .collect(),
        task: task("get_task", text)?,
        comments: around
            .comments
            .unwrap_or_default()
            .into_iter()
            .map(|comment| Comment {
                by: comment.created_by,
                at: comment.created_at.as_deref().and_then(parse_time),
                text: comment.content,
            })
            .collect(),
        links: around
            .links
            .unwrap_or_default()
            .into_iter()
            .map(|link| Link {
                url: link.url,
                description: link.description,
            })
            .collect(),
    })
}

/// `signup_for_task`: a task, or prose that there is none.
pub fn claimed(text: &str) -> Result<Option<Task>, Error> {
    if text.starts_with("No idle tasks") {
        return Ok(None);
    }
    task("signup_for_task", text).map(Some)
}

/// The JSON itself.
pub fn raw(call: &'static str, text: &str) -> Result<Value, Error> {
    parse(call, text)
}

/// Several lists as one, in the shape of each; of a task that is in two, the later row.
pub fn merge(lists: Vec<Value>) -> Value {
    let mut rows: Vec<Value> = Vec::new();
    for mut list in lists {
        if let Some(later) = list.get_mut("tasks").and_then(Value::as_array_mut) {
            let ids: HashSet<String> = later.iter().map(|row| row["id"].to_string()).collect();
            rows.retain(|row| !ids.contains(&row["id"].to_string()));
            rows.append(later);
        }
    }
    json!({ "count": rows.len(), "tasks": rows })
}

/// What a tool's error text asks of us.
pub fn refusal(text: &str) -> Error {
    if text.contains("database is locked") {
        return Error::Locked;
    }
    if let Some((_, id)) = text.split_once("Task not found: ")
        && let Ok(id) = id.trim().parse()
    {
        return Error::NotFound(id);
    }
    if text.contains(" is not assigned to ") || text.contains(" cannot be transferred ") {
        return Error::LostRace(one_line(without_prefix(text)));
    }
    Error::Refused(schema_error(text).unwrap_or_else(|| one_line(without_prefix(text))))
}

/// "Error moving task: …" says twice what failed.
fn without_prefix(text: &str) -> &str {
    match text.split_once(": ") {
        Some((prefix, rest)) if prefix.starts_with("Error ") => rest,
        _ => text,
    }
}

/// An argument of the wrong shape comes as a JSON list of complaints.
fn schema_error(text: &str) -> Option<String> {
    let list: Vec<Value> = serde_json::from_str(text.split_once(": ")?.1).ok()?;
    let told: Vec<String> = list
        .iter()
        .map(|issue| {
            let path: Vec<String> = issue["path"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|part| {
                    part.as_str()
                        .map_or_else(|| part.to_string(), str::to_owned)
                })
                .collect();
            let message = issue["message"].as_str().unwrap_or("not valid");
            match path.is_empty() {
                true => message.to_owned(),
                false => format!("{}: {message}", path.join(".")),
            }
        })
        .collect();
    Some(one_line(&told.join("; ")))
}

/// `text`, or its beginning and end, so that it takes at most `most` bytes as JSON.
pub fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    const TAIL: usize = 2000;
    let cost = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    };
    if text.chars().map(cost).sum::<usize>() <= most {
        return Cow::Borrowed(text);
    }
    let upto = |chars: &mut dyn Iterator<Item = char>, limit: usize| -> usize {
        let mut spent = 0;
        chars
            .take_while(|&c| {
                spent += cost(c);
                spent <= limit
            })
            .map(char::len_utf8)
            .sum()
    };
    let head = upto(&mut text.chars(), most - TAIL - 10);
    let tail = upto(&mut text.chars().rev(), TAIL);
    Cow::Owned(format!(
        "{} … {}",
        &text[..head],
        &text[text.len() - tail..]
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_both_generations_are_read() {
        let at = Some(Timestamp(1_795_372_735_000));
        for text in [
            "2026-11-22T18:38:55Z",
            "2026-11-22 18:38:55",
            "2026-11-22T18:38:55.999Z",
            "2026-11-22T19:38:55+01:00",
        ] {
            assert_eq!(parse_time(text), at, "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2026-02-30 00:00:00",
            "2026-11-22 24:00:00",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    proptest! {
        /// Near the plain forms, the short way reads what the long one does, or nothing.
        #[test]
        fn a_plain_time_is_what_it_is_to_jiff(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z?",
            at in 0..20_usize,
            odd in "[0-9:/ Zé-]",
        ) {
            let mut changed: Vec<char> = text.chars().collect();
            if let Some(place) = changed.get_mut(at) {
                *place = odd.chars().next().unwrap_or_default();
            }
            for text in [text, changed.into_iter().collect()] {
                if let Some(read) = plain_time(text.as_bytes()) {
                    prop_assert_eq!(Some(read), any_time(&text), "{}", text);
                }
            }
        }
    }
}
