//! Slots, back-offs, limits: arithmetic only.

use crate::core::model::{FileKey, Millis, ProviderName, QueueName, Recipe, RunId, RunSubject};
use crate::core::{Policy, QueuePolicy};

/// Longest wait of a task between two attempts.
pub const MAX_TASK_BACKOFF: Millis = Millis::secs(300);
/// Longest wait of a provider or a queue between two probes.
pub const MAX_PROBE_BACKOFF: Millis = Millis::secs(900);
/// Runs of one task that may fail through no fault of it or its agent, within [`OURS_WINDOW`].
pub const MAX_OURS: u32 = 5;
/// See [`MAX_OURS`].
pub const OURS_WINDOW: Millis = Millis::secs(3600);
/// Attempts of an inbound file.
pub const MAX_FILE_ATTEMPTS: u32 = 3;
/// What the requests of one run may take in its records, as [`request_bytes`] reckons: some hundred thousand files. A record has
/// an upper size (`edge::runs`); the others wait for the run after.
pub const MOST_REQUEST_BYTES: usize = 96 << 20;
/// A verdict made this long after the run's end says little about the run.
pub const LATE_AFTER: Millis = Millis::secs(60);
/// How long beyond its limit a run may go on before the daemon takes over from a shim that does not act.
pub const SHIM_OVERDUE: Millis = Millis::secs(30);
/// How long a shim may take from its first record to opening its agent's gate. It needs milliseconds; but it also waits for room
/// on a full disk to write down that it failed.
pub const START_OVERDUE: Millis = Millis::secs(300);

/// At most so many bytes of a record tell of one request: its name twice, as it was and as it is, each character perhaps escaped;
/// the names and numbers around it; and twenty tasks.
pub fn request_bytes(file: &FileKey) -> usize {
    4 * file.name.len() + 640
}

/// Wait after the `n`th attempt that failed: 10 s · 2ⁿ⁻¹ and up to a quarter more, 5 min at most. The jitter is a function
/// of the run, so that deciding twice gives the same answer, and tasks that failed together do not come back together.
pub fn task_backoff(n: u32, run: RunId) -> Millis {
    let base = 10_000u64
        .saturating_mul(1 << n.saturating_sub(1).min(20))
        .min(MAX_TASK_BACKOFF.0);
    Millis((base + base * jitter(run) / 4000).min(MAX_TASK_BACKOFF.0))
}

/// Wait after the `n`th failure in a row of a provider, or of a queue's recipe or machine: 30 s · 2ⁿ⁻¹, 15 min at most.
pub fn probe_backoff(n: u32) -> Millis {
    Millis(
        30_000u64
            .saturating_mul(1 << n.saturating_sub(1).min(20))
            .min(MAX_PROBE_BACKOFF.0),
    )
}

/// 0 to 999, spread over runs (Fibonacci hashing).
fn jitter(run: RunId) -> u64 {
    let subject = match run.subject {
        RunSubject::Inbound => 0,
        RunSubject::Task(id) => id.number() as u64,
    };
    let mixed = (subject.wrapping_mul(31).wrapping_add(u64::from(run.number)))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) % 1000
}

impl Policy {
    /// Settings of a queue that has none.
    const NO_SETTINGS: QueuePolicy = QueuePolicy {
        concurrency: None,
        provider: None,
        time_limit: None,
        has_command: false,
    };

    /// Settings of `queue`.
    pub fn queue(&self, queue: &QueueName) -> &QueuePolicy {
        self.queues.get(queue).unwrap_or(&Self::NO_SETTINGS)
    }

    /// How many runs of `queue` may live at once. More than one only where each can be told its task.
    pub fn slots(&self, queue: &QueueName, recipe: Option<&Recipe>) -> u32 {
        let asked = self.queue(queue).concurrency.unwrap_or(1);
        let knows_task =
            self.queue(queue).has_command || recipe.is_some_and(|r| r.declares("task_id"));
        if knows_task { asked } else { 1 }
    }

    /// The provider a run of `queue` uses; `default` stands for whatever goose is configured with.
    pub fn provider_of(&self, queue: &QueueName, recipe: Option<&Recipe>) -> ProviderName {
        let of_queue = self
            .queue(queue)
            .provider
            .as_ref()
            .or(self.provider.as_ref());
        of_queue
            .or(recipe.and_then(|r| r.provider.as_ref()))
            .cloned()
            .unwrap_or_else(|| "default".into())
    }

    /// Time limit of a run of `queue`.
    pub fn time_limit_of(&self, queue: &QueueName) -> Millis {
        self.queue(queue).time_limit.unwrap_or(self.time_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(task: i64, number: u32) -> RunId {
        RunId {
            subject: RunSubject::Task(task.try_into().expect("positive")),
            number,
        }
    }

    #[test]
    fn backoff_doubles_and_is_capped() {
        for n in 1..60 {
            let wait = task_backoff(n, run(7, n));
            let base = (10_000u64 << (n - 1).min(10)).min(MAX_TASK_BACKOFF.0);
            assert!(
                wait.0 >= base && wait.0 <= (base + base / 4).min(MAX_TASK_BACKOFF.0),
                "{n}: {wait:?}"
            );
        }
        assert_eq!(probe_backoff(1), Millis::secs(30));
        assert_eq!(probe_backoff(40), MAX_PROBE_BACKOFF);
    }

    #[test]
    fn tasks_that_failed_together_come_back_apart() {
        let waits: std::collections::BTreeSet<_> =
            (1..50).map(|task| task_backoff(3, run(task, 3))).collect();
        assert!(waits.len() > 40, "{waits:?}");
    }
}
