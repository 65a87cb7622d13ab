//! Pieces of a world for the tests of the views.

use crate::core::model::{
    Millis, Moment, Now, Parameter, QueueName, Recipe, RunId, Task, TaskId, TaskStatus, Timestamp,
};

const WALL: i64 = 1_763_838_000_000;

pub(super) fn now() -> Now {
    Now {
        wall: Timestamp(WALL),
        boot_id: "boot".into(),
        boot: Millis::secs(1_000_000),
    }
}

/// `seconds` from now.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp(WALL + seconds * 1000)
}

pub(super) fn moment(seconds: i64) -> Moment {
    Moment {
        wall: at(seconds),
        boot_id: "boot".into(),
        boot: Millis(1_000_000_000u64.saturating_add_signed(seconds * 1000)),
    }
}

/// Absolute times, as the tests want them: seconds of that day, UTC.
pub(super) fn time(at: Timestamp) -> String {
    let ms = at.0.rem_euclid(86_400_000);
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3600, s / 60 % 60, s % 60)
}

pub(super) fn id(number: i64) -> TaskId {
    TaskId::try_from(number).expect("positive")
}

pub(super) fn queue(name: &str) -> QueueName {
    name.parse().expect("a queue's name")
}

pub(super) fn run(id: &str) -> RunId {
    id.parse().expect("a run's id")
}

pub(super) fn task(number: i64, queue: &str, title: &str, status: TaskStatus) -> Task {
    Task {
        id: id(number),
        title: title.into(),
        status,
        assigned_to: Some(queue.into()),
        previous_assigned_to: None,
        created_by: None,
        priority: 0.0,
        parent: None,
        queue_name: None,
        blocked_by: None,
        is_blocked: false,
        created_at: at(-86_400 + number),
        updated_at: at(-3600),
        is_archived: false,
        fields: 1,
    }
}

pub(super) fn recipe(name: &str) -> Recipe {
    Recipe {
        queue: queue(name),
        file: format!("{name}.yaml"),
        title: name.into(),
        parameters: vec![Parameter {
            key: "task_id".into(),
            is_required: false,
            default: None,
        }],
        provider: None,
        modified: at(-90_000),
    }
}
