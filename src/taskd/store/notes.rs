//! Comments and links. Neither changes its task's `updated_at`.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    Comment, Link, Number, Outcome, Store, is_blank, missing, not_found, or_null, refused, task,
    time,
};

impl Comment {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            task_id: row.get(1)?,
            content: row.get(2)?,
            created_by: row.get(3)?,
            created_at: time(row, 4)?,
            updated_at: time(row, 5)?,
        })
    }
}

impl Link {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            task_id: row.get(1)?,
            url: row.get(2)?,
            description: row.get(3)?,
            created_by: row.get(4)?,
            created_at: time(row, 5)?,
        })
    }
}

pub(super) fn comments_of(db: &Connection, task: &Number) -> Outcome<Vec<Comment>> {
    Ok(db
        .prepare_cached(
            "SELECT id, task_id, content, created_by, created_at, updated_at FROM comments WHERE task_id = ?1 \
             ORDER BY created_at, id",
        )?
        .query_map([task], Comment::read)?
        .collect::<Result<_, _>>()?)
}

pub(super) fn links_of(db: &Connection, task: &Number) -> Outcome<Vec<Link>> {
    Ok(db
        .prepare_cached(
            "SELECT id, task_id, url, description, created_by, created_at FROM links WHERE task_id = ?1 \
             ORDER BY created_at, id",
        )?
        .query_map([task], Link::read)?
        .collect::<Result<_, _>>()?)
}

pub(super) fn insert_comment(
    db: &Connection,
    task: i64,
    content: &str,
    by: Option<&str>,
) -> Outcome<Comment> {
    db.prepare_cached("INSERT INTO comments (task_id, content, created_by) VALUES (?1, ?2, ?3)")?
        .execute(params![task, content, by])?;
    existing_comment(db, &db.last_insert_rowid().into())
}

fn existing_comment(db: &Connection, id: &Number) -> Outcome<Comment> {
    let found = db
        .prepare_cached(
            "SELECT id, task_id, content, created_by, created_at, updated_at FROM comments WHERE id = ?1",
        )?
        .query_row([id], Comment::read)
        .optional()?;
    match found {
        Some(comment) => Ok(comment),
        None => missing(format!(
            "there is no comment {id}; `list_comments` shows those of a task"
        )),
    }
}

fn existing_link(db: &Connection, id: &Number) -> Outcome<Link> {
    let found = db
        .prepare_cached(
            "SELECT id, task_id, url, description, created_by, created_at FROM links WHERE id = ?1",
        )?
        .query_row([id], Link::read)
        .optional()?;
    match found {
        Some(link) => Ok(link),
        None => missing(format!(
            "there is no link {id}; `list_links` shows those of a task"
        )),
    }
}

fn existing_task(db: &Connection, id: &Number) -> Outcome<i64> {
    match task(db, id)? {
        Some(task) => Ok(task.id),
        None => not_found("Task", id),
    }
}

impl Store {
    pub(in crate::taskd) fn add_comment(
        &self,
        to: &Number,
        content: &str,
        by: Option<&str>,
    ) -> Outcome<Comment> {
        if is_blank(content) {
            return refused("Comment content is required");
        }
        self.write(|db| insert_comment(db, existing_task(db, to)?, content.trim(), or_null(by)))
    }

    pub(in crate::taskd) fn comment(&self, id: &Number) -> Outcome<Comment> {
        self.read(|db| existing_comment(db, id))
    }

    pub(in crate::taskd) fn update_comment(&self, id: &Number, content: &str) -> Outcome<Comment> {
        if is_blank(content) {
            return refused("it must say something; `delete_comment` takes it away");
        }
        self.write(|db| {
            let before = existing_comment(db, id)?;
            db.prepare_cached(
                "UPDATE comments SET content = ?1, updated_at = CURRENT_TIMESTAMP WHERE id = ?2",
            )?
            .execute(params![content.trim(), before.id])?;
            existing_comment(db, id)
        })
    }

    pub(in crate::taskd) fn delete_comment(&self, id: &Number) -> Outcome<()> {
        self.write(|db| {
            let gone = existing_comment(db, id)?;
            db.prepare_cached("DELETE FROM comments WHERE id = ?1")?
                .execute([gone.id])?;
            Ok(())
        })
    }

    /// The comment gets a new number and new times on the other task.
    pub(in crate::taskd) fn move_comment(&self, id: &Number, to: &Number) -> Outcome<Comment> {
        self.write(|db| {
            let before = existing_comment(db, id)?;
            let to = existing_task(db, to)?;
            let after = insert_comment(db, to, &before.content, before.created_by.as_deref())?;
            db.prepare_cached("DELETE FROM comments WHERE id = ?1")?
                .execute([before.id])?;
            Ok(after)
        })
    }

    pub(in crate::taskd) fn comments(&self, of: &Number) -> Outcome<Vec<Comment>> {
        self.read(|db| comments_of(db, of))
    }

    pub(in crate::taskd) fn add_link(
        &self,
        to: &Number,
        url: &str,
        description: Option<&str>,
        by: Option<&str>,
    ) -> Outcome<Link> {
        if is_blank(url) {
            return refused("`url` is blank; it takes a path or an address");
        }
        self.write(|db| {
            let task = existing_task(db, to)?;
            db.prepare_cached(
                "INSERT INTO links (task_id, url, description, created_by) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![task, url.trim(), or_null(description), or_null(by)])?;
            existing_link(db, &db.last_insert_rowid().into())
        })
    }

    pub(in crate::taskd) fn update_link(
        &self,
        id: &Number,
        url: Option<&str>,
        description: Option<&str>,
    ) -> Outcome<Link> {
        self.write(|db| {
            let before = existing_link(db, id)?;
            if url.is_some_and(is_blank) {
                return refused("`url` is blank; leave it out to keep it, or take the link away with `delete_link`");
            }
            if let Some(url) = url {
                db.prepare_cached("UPDATE links SET url = ?1 WHERE id = ?2")?
                    .execute(params![url.trim(), before.id])?;
            }
            if let Some(description) = description {
                db.prepare_cached("UPDATE links SET description = ?1 WHERE id = ?2")?
                    .execute(params![or_null(Some(description)), before.id])?;
            }
            existing_link(db, id)
        })
    }

    pub(in crate::taskd) fn delete_link(&self, id: &Number) -> Outcome<()> {
        self.write(|db| {
            let gone = existing_link(db, id)?;
            db.prepare_cached("DELETE FROM links WHERE id = ?1")?
                .execute([gone.id])?;
            Ok(())
        })
    }

    pub(in crate::taskd) fn links(&self, of: &Number) -> Outcome<Vec<Link>> {
        self.read(|db| links_of(db, of))
    }
}
