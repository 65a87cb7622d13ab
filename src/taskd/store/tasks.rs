//! Tasks: making, changing, handing out, handing on; the roll-up of parents.

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    Family, FullTask, Handover, Number, Outcome, Store, Task, existing, is_blank, not_found, notes,
    or_null, refused, select, task, tasks,
};

/// Higher goes first, then older, then the smaller number: the order of lists and of `signup_for_task`.
macro_rules! order {
    () => {
        "ORDER BY t.priority DESC, t.created_at ASC, t.id ASC"
    };
}

/// An agent's open tasks, in the words of the index `tasks_open`, which has them in this order.
macro_rules! open_of_agent {
    () => {
        "WHERE t.assigned_to = ?1 AND t.archived_at IS NULL AND t.status <> 'complete' "
    };
}

/// The one that `signup_for_task` hands out.
const NEXT_OF_AGENT: &str = concat!(
    "SELECT t.id, t.parent_task_id FROM tasks t ",
    open_of_agent!(),
    "AND t.status = 'idle' ",
    order!(),
    " LIMIT 1"
);

/// How deep a task may lie below the top.
const MAX_DEPTH: usize = 3;

/// Arguments of `create_task`.
#[derive(Debug, Default)]
pub(in crate::taskd) struct NewTask<'a> {
    pub(in crate::taskd) title: &'a str,
    pub(in crate::taskd) description: Option<&'a str>,
    pub(in crate::taskd) assigned_to: Option<&'a str>,
    pub(in crate::taskd) created_by: Option<&'a str>,
    pub(in crate::taskd) priority: Option<Number>,
    pub(in crate::taskd) tags: Option<String>,
    pub(in crate::taskd) parent: Option<Number>,
    pub(in crate::taskd) queue_name: Option<&'a str>,
    pub(in crate::taskd) blocked_by: Option<Number>,
}

/// Arguments of `update_task`: what is `None` stays as it is. The inner `None` is null.
#[derive(Debug, Default)]
pub(in crate::taskd) struct Changes<'a> {
    pub(in crate::taskd) title: Option<&'a str>,
    pub(in crate::taskd) description: Option<&'a str>,
    pub(in crate::taskd) status: Option<&'a str>,
    pub(in crate::taskd) assigned_to: Option<&'a str>,
    pub(in crate::taskd) priority: Option<Number>,
    pub(in crate::taskd) tags: Option<String>,
    pub(in crate::taskd) parent: Option<Option<Number>>,
    pub(in crate::taskd) queue_name: Option<&'a str>,
    pub(in crate::taskd) blocked_by: Option<Option<Number>>,
}

/// What a list is narrowed by.
#[derive(Debug, Default)]
pub(in crate::taskd) struct Filter<'a> {
    pub(in crate::taskd) assigned_to: Option<&'a str>,
    /// Empty: any.
    pub(in crate::taskd) status: Vec<&'a str>,
    pub(in crate::taskd) exclude_status: Vec<&'a str>,
    pub(in crate::taskd) queue_name: Option<&'a str>,
    /// The inner `None` asks for tasks without a parent.
    pub(in crate::taskd) parent: Option<Option<Number>>,
    pub(in crate::taskd) exclude_subtasks: bool,
    pub(in crate::taskd) include_archived: bool,
    pub(in crate::taskd) limit: Option<Number>,
    pub(in crate::taskd) offset: Option<Number>,
}

impl Store {
    pub(in crate::taskd) fn create(&self, new: &NewTask<'_>) -> Outcome<Task> {
        self.write(|db| {
            if is_blank(new.title) {
                return refused("Task title is required");
            }
            let mut inherited = None;
            if let Some(parent) = &new.parent {
                let Some(parent) = task(db, parent)? else {
                    return not_found("Parent task", parent);
                };
                check_depth(db, parent.id)?;
                inherited = parent.queue_name;
            }
            if let Some(blocker) = &new.blocked_by
                && task(db, blocker)?.is_none()
            {
                return not_found("Blocking task", blocker);
            }
            db.prepare_cached(
                "INSERT INTO tasks (title, description, status, assigned_to, created_by, priority, tags, parent_task_id, \
                 queue_name, blocked_by_task_id) VALUES (?1, ?2, 'idle', ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                new.title.trim(),
                or_null(new.description),
                or_null(new.assigned_to),
                or_null(new.created_by),
                new.priority.clone().unwrap_or(0.into()),
                new.tags,
                new.parent,
                new.queue_name.or(inherited.as_deref()),
                new.blocked_by,
            ])?;
            let made = existing(db, &db.last_insert_rowid().into())?;
            roll_up(db, made.parent_task_id)?;
            Ok(made)
        })
    }

    pub(in crate::taskd) fn get(&self, id: &Number) -> Outcome<Option<FullTask>> {
        self.read(|db| match task(db, id)? {
            Some(task) => Ok(Some(full(db, task)?)),
            None => Ok(None),
        })
    }

    pub(in crate::taskd) fn update(&self, id: &Number, changes: &Changes<'_>) -> Outcome<Task> {
        self.write(|db| {
            let before = existing(db, id)?;
            if let Some(Some(parent)) = &changes.parent {
                check_parent(db, before.id, parent)?;
            }
            if let Some(Some(blocker)) = &changes.blocked_by {
                check_blocker(db, before.id, blocker)?;
            }
            if changes.title.is_some_and(is_blank) {
                return refused("`title` is blank; leave it out to keep the one it has");
            }
            let title = changes.title.map(str::trim);
            let description = changes.description.map(|text| or_null(Some(text)));
            let assigned_to = changes.assigned_to.map(|agent| or_null(Some(agent)));
            let previous = assigned_to
                .filter(|agent| *agent != before.assigned_to.as_deref())
                .map(|_| before.assigned_to.as_deref());
            let fields = [
                ("title", given(&title)),
                ("description", given(&description)),
                ("status", given(&changes.status)),
                ("previous_assigned_to", given(&previous)),
                ("assigned_to", given(&assigned_to)),
                ("priority", given(&changes.priority)),
                ("tags", given(&changes.tags)),
                ("parent_task_id", given(&changes.parent)),
                ("queue_name", given(&changes.queue_name)),
                ("blocked_by_task_id", given(&changes.blocked_by)),
            ];
            let (mut set, mut values) = (String::new(), Vec::new());
            for (name, value) in fields {
                if let Some(value) = value {
                    set += name;
                    set += " = ?, ";
                    values.push(value);
                }
            }
            if set.is_empty() {
                return Ok(before);
            }
            values.push(&before.id);
            let sql = format!("UPDATE tasks SET {set}updated_at = CURRENT_TIMESTAMP WHERE id = ?");
            db.prepare_cached(&sql)?.execute(values.as_slice())?;
            let after = existing(db, id)?;
            if changes.status.is_some() || changes.parent.is_some() {
                roll_up(db, before.parent_task_id)?;
            }
            if changes.parent.is_some() {
                roll_up(db, after.parent_task_id)?;
            }
            Ok(after)
        })
    }

    pub(in crate::taskd) fn delete(&self, id: &Number) -> Outcome<()> {
        self.write(|db| {
            let gone = existing(db, id)?;
            db.prepare_cached("DELETE FROM tasks WHERE id = ?1")?
                .execute([gone.id])?;
            roll_up(db, gone.parent_task_id)
        })
    }

    pub(in crate::taskd) fn archive(&self, id: &Number) -> Outcome<Task> {
        self.write(|db| {
            let before = existing(db, id)?;
            db.prepare_cached("UPDATE tasks SET archived_at = CURRENT_TIMESTAMP WHERE id = ?1")?
                .execute([before.id])?;
            let after = existing(db, id)?;
            roll_up(db, after.parent_task_id)?;
            Ok(after)
        })
    }

    /// `each` gets them one by one, as a list may be long.
    pub(in crate::taskd) fn list<T>(
        &self,
        filter: &Filter<'_>,
        each: impl FnMut(Task<&str>) -> T,
    ) -> Outcome<Vec<T>> {
        let mut conditions: Vec<String> = Vec::new();
        let mut values: Vec<&dyn ToSql> = Vec::new();
        if let Some(agent) = &filter.assigned_to {
            conditions.push("t.assigned_to = ?".into());
            values.push(agent);
        }
        let mut one_of = |how: &str, statuses: &'_ [&str]| {
            if !statuses.is_empty() {
                let places = vec!["?"; statuses.len()].join(", ");
                conditions.push(format!("t.status {how} ({places})"));
            }
        };
        one_of("IN", &filter.status);
        one_of("NOT IN", &filter.exclude_status);
        for status in filter.status.iter().chain(&filter.exclude_status) {
            values.push(status);
        }
        if let Some(queue) = &filter.queue_name {
            conditions.push("t.queue_name = ?".into());
            values.push(queue);
        }
        match &filter.parent {
            Some(Some(parent)) => {
                conditions.push("t.parent_task_id = ?".into());
                values.push(parent);
            }
            Some(None) => conditions.push("t.parent_task_id IS NULL".into()),
            None => {}
        }
        if filter.exclude_subtasks {
            conditions.push("t.parent_task_id IS NULL".into());
        }
        if !filter.include_archived {
            conditions.push("t.archived_at IS NULL".into());
        }
        let mut sql = select!().to_owned();
        if !conditions.is_empty() {
            sql += "WHERE ";
            sql += &conditions.join(" AND ");
        }
        sql += " ";
        sql += order!();
        // A limit of 0 is none, and so is a negative one (SQLite's own rule).
        let unlimited = Number::from(-1);
        let limit = filter.limit.as_ref().filter(|limit| !limit.is_zero());
        let offset = filter.offset.as_ref().filter(|offset| !offset.is_zero());
        if limit.is_some() || offset.is_some() {
            sql += " LIMIT ?";
            values.push(limit.unwrap_or(&unlimited));
        }
        if let Some(offset) = offset {
            sql += " OFFSET ?";
            values.push(offset);
        }
        self.read(|db| tasks(db, &sql, values.as_slice(), each))
    }

    pub(in crate::taskd) fn agent_queue<T>(
        &self,
        agent: &str,
        each: impl FnMut(Task<&str>) -> T,
    ) -> Outcome<Vec<T>> {
        let sql = select!(open_of_agent!(), order!());
        self.read(|db| tasks(db, sql, [agent], each))
    }

    /// The next idle task of this agent becomes a working one.
    ///
    /// The interleaving it survives: A and B ask at once, over two connections or two processes. `write` takes the file's
    /// write lock before the SELECT, so B's SELECT begins after A's commit and sees A's task as working.
    pub(in crate::taskd) fn sign_up(&self, agent: &str) -> Outcome<Option<FullTask>> {
        self.write(|db| {
            let next: Option<(i64, Option<i64>)> = db
                .prepare_cached(NEXT_OF_AGENT)?
                .query_row([agent], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((id, parent)) = next else {
                return Ok(None);
            };
            db.prepare_cached(
                "UPDATE tasks SET status = 'working', updated_at = CURRENT_TIMESTAMP WHERE id = ?1",
            )?
            .execute([id])?;
            roll_up(db, parent)?;
            let claimed = existing(db, &id.into())?;
            Ok(Some(full(db, claimed)?))
        })
    }

    pub(in crate::taskd) fn hand_over(
        &self,
        id: &Number,
        from: &str,
        to: &str,
        comment: &str,
    ) -> Outcome<Handover> {
        self.write(|db| {
            let before = existing(db, id)?;
            if before.assigned_to.as_deref() != Some(from) {
                let holder = or_null(before.assigned_to.as_deref()).unwrap_or("no one");
                return refused(format!(
                    "Task {id} is not assigned to {from} (currently assigned to: {holder})"
                ));
            }
            if before.status == "complete" {
                return refused(format!(
                    "Task {id} with status 'complete' cannot be transferred (only 'idle' or 'working' are allowed)"
                ));
            }
            db.prepare_cached(
                "UPDATE tasks SET assigned_to = ?1, previous_assigned_to = ?2, status = 'idle', \
                 updated_at = CURRENT_TIMESTAMP WHERE id = ?3",
            )?
            .execute(params![to, from, before.id])?;
            roll_up(db, before.parent_task_id)?;
            let comment = notes::insert_comment(db, before.id, comment.trim(), Some(from))?;
            Ok(Handover {
                task: existing(db, id)?,
                comment,
            })
        })
    }

    pub(in crate::taskd) fn has_task(&self, id: &Number) -> Outcome<bool> {
        self.read(|db| Ok(task(db, id)?.is_some()))
    }

    pub(in crate::taskd) fn subtasks<T>(
        &self,
        parent: &Number,
        recursive: bool,
        include_archived: bool,
        each: impl FnMut(Task<&str>) -> T,
    ) -> Outcome<Vec<T>> {
        self.read(|db| children(db, parent, recursive, include_archived, each))
    }

    /// A task with its children.
    pub(in crate::taskd) fn family<T>(
        &self,
        id: &Number,
        recursive: bool,
        each: impl FnMut(Task<&str>) -> T,
    ) -> Outcome<Option<Family<T>>> {
        self.read(|db| {
            let Some(task) = task(db, id)? else {
                return Ok(None);
            };
            let subtasks = children(db, id, recursive, false, each)?;
            Ok(Some(Family {
                task,
                subtask_count: subtasks.len(),
                subtasks,
            }))
        })
    }
}

/// A value to store, where one was given.
fn given<T: ToSql>(value: &Option<T>) -> Option<&dyn ToSql> {
    value.as_ref().map(|value| value as &dyn ToSql)
}

fn full(db: &Connection, task: Task) -> Outcome<FullTask> {
    let id = task.id.into();
    Ok(FullTask {
        comments: notes::comments_of(db, &id)?,
        links: notes::links_of(db, &id)?,
        task,
    })
}

fn children<T>(
    db: &Connection,
    parent: &Number,
    recursive: bool,
    include_archived: bool,
    each: impl FnMut(Task<&str>) -> T,
) -> Outcome<Vec<T>> {
    macro_rules! below {
        () => {
            // UNION, not UNION ALL: a ring of parents, which only another program can make, ends here.
            "WHERE t.id IN (WITH RECURSIVE below (id) AS (SELECT id FROM tasks WHERE parent_task_id = ?1 \
             UNION SELECT c.id FROM tasks c JOIN below ON c.parent_task_id = below.id) SELECT id FROM below) "
        };
    }
    let sql = match (recursive, include_archived) {
        (false, false) => select!(
            "WHERE t.parent_task_id = ?1 ",
            "AND t.archived_at IS NULL ",
            order!()
        ),
        (false, true) => select!("WHERE t.parent_task_id = ?1 ", order!()),
        (true, false) => select!(below!(), "AND t.archived_at IS NULL ", order!()),
        (true, true) => select!(below!(), order!()),
    };
    tasks(db, sql, [parent], each)
}

/// The chain of parents above a task, nearest first.
fn ancestors(db: &Connection, id: i64) -> Outcome<Vec<i64>> {
    Ok(db
        .prepare_cached(
            "WITH RECURSIVE above (id) AS (SELECT parent_task_id FROM tasks WHERE id = ?1 \
             UNION SELECT p.parent_task_id FROM tasks p JOIN above ON p.id = above.id) \
             SELECT id FROM above WHERE id IS NOT NULL",
        )?
        .query_map([id], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

fn check_depth(db: &Connection, parent: i64) -> Outcome<()> {
    if ancestors(db, parent)?.len() >= MAX_DEPTH {
        return refused(format!(
            "task {parent} lies {MAX_DEPTH} levels below the top, and nothing may lie deeper; choose a task above it"
        ));
    }
    Ok(())
}

fn check_parent(db: &Connection, id: i64, parent: &Number) -> Outcome<()> {
    if parent.as_i64() == Some(id) {
        return refused(format!(
            "task {id} cannot be a part of itself; name another task, or none"
        ));
    }
    let Some(parent) = task(db, parent)? else {
        return not_found("Parent task", parent);
    };
    if ancestors(db, parent.id)?.contains(&id) {
        return refused(format!(
            "task {} is a part of task {id}, so task {id} cannot become a part of it; move task {} away first",
            parent.id, parent.id
        ));
    }
    check_depth(db, parent.id)
}

fn check_blocker(db: &Connection, id: i64, blocker: &Number) -> Outcome<()> {
    if blocker.as_i64() == Some(id) {
        return refused("Task cannot be blocked by itself");
    }
    let Some(blocker) = task(db, blocker)? else {
        return not_found("Blocking task", blocker);
    };
    if blocker.blocked_by_task_id == Some(id) {
        return refused("Cannot create circular blocking relationship");
    }
    Ok(())
}

/// A parent's status follows its unarchived children: complete when all are, working when one is, else idle; and so on
/// upwards, as long as something changes. A parent without children keeps what it has.
fn roll_up(db: &Transaction<'_>, parent: Option<i64>) -> Outcome<()> {
    let mut next = parent;
    while let Some(id) = next {
        let follows: Option<String> = db
            .prepare_cached(
                "SELECT CASE WHEN COUNT(*) = 0 THEN NULL WHEN SUM(status <> 'complete') = 0 THEN 'complete' \
                 WHEN SUM(status = 'working') > 0 THEN 'working' ELSE 'idle' END \
                 FROM tasks WHERE parent_task_id = ?1 AND archived_at IS NULL",
            )?
            .query_row([id], |row| row.get(0))?;
        let Some(status) = follows else { break };
        let changed = db
            .prepare_cached(
                "UPDATE tasks SET status = ?1, updated_at = CURRENT_TIMESTAMP WHERE id = ?2 AND status <> ?1",
            )?
            .execute(params![status, id])?;
        if changed == 0 {
            break;
        }
        next = db
            .prepare_cached("SELECT parent_task_id FROM tasks WHERE id = ?1")?
            .query_row([id], |row| row.get(0))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::taskd::text::List;

    /// What SQLite says it does for a statement, one step a line.
    fn plan(sql: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path =
            camino::Utf8PathBuf::from_path_buf(folder.path().join("plan.db")).expect("UTF-8");
        let store = Store::open(&path).expect("a new file");
        let db = store.lock();
        let mut statement = db
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .expect("SQL");
        let steps = statement
            .query_map(["agent"], |row| row.get::<_, String>(3))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        steps.expect("a plan").join("\n")
    }

    #[test]
    fn a_task_in_a_list_is_written_as_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list.db");
        let store = Store::open(camino::Utf8Path::from_path(&path).expect("UTF-8"));
        let store = store.expect("a new file");
        let new = NewTask {
            title: "\"quoted\"\n\u{1}日本",
            description: Some("plain"),
            assigned_to: Some("a\\b"),
            priority: Some(7.into()),
            tags: Some(r#"["x","y \" z"]"#.into()),
            ..NewTask::default()
        };
        let first = store.create(&new).expect("a task");
        let part = NewTask {
            title: "part",
            parent: Some(first.id.into()),
            blocked_by: Some(first.id.into()),
            queue_name: Some("named"),
            ..NewTask::default()
        };
        store.create(&part).expect("a task");
        let mut list = List::new();
        let mut alone = Vec::new();
        let all = Filter::default();
        let each = |task: Task<&str>| {
            list.push(&task);
            let text = serde_json::to_string_pretty(&task).expect("JSON");
            alone.push(text.replace('\n', "\n    "));
        };
        store.list(&all, each).expect("tasks");
        assert_eq!(alone.len(), 2);
        let text = list
            .named("tasks", |count| json!({ "count": count }))
            .plain();
        let items = alone.join(",\n    ");
        let whole = format!("{{\n  \"count\": 2,\n  \"tasks\": [\n    {items}\n  ]\n}}");
        assert_eq!(text, whole);
    }

    #[test]
    fn an_agents_open_tasks_are_read_in_order_without_sorting() {
        let listed = plan(select!(open_of_agent!(), order!()));
        assert!(
            listed.contains("USING INDEX tasks_open (assigned_to=?)"),
            "{listed}"
        );
        assert!(!listed.contains("TEMP B-TREE"), "{listed}");
        let claimed = plan(NEXT_OF_AGENT);
        assert!(
            claimed.contains("USING INDEX tasks_open (assigned_to=?)"),
            "{claimed}"
        );
        assert!(!claimed.contains("TEMP B-TREE"), "{claimed}");
    }
}
