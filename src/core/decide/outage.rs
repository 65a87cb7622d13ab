//! How long a provider, or a queue's recipe and machine, has failed: told from the last verdicts, counted in probes.

use crate::core::model::Timestamp;
use crate::core::record::{FailureClass, VerdictRecord};

/// The newest of `verdicts` (newest first) and how many times in a row it failed with `class`, passing over those that say
/// nothing of it; `None` when the newest one that does say something is no such failure.
///
/// Runs that were under way together met one and the same failure: it counts once, or five queues at work in one short outage
/// would wait as long as after five probes.
pub(super) fn in_a_row<'v>(
    verdicts: impl Iterator<Item = &'v VerdictRecord>,
    class: FailureClass,
    says_nothing: impl Fn(&VerdictRecord) -> bool,
) -> Option<(&'v VerdictRecord, u32)> {
    let mut newest = None;
    let mut n = 0;
    // When the oldest run of the failure that is being counted began.
    let mut episode: Option<Timestamp> = None;
    for verdict in verdicts.filter(|v| !says_nothing(v)) {
        if verdict.failure.as_ref().is_none_or(|f| f.class != class) {
            break;
        }
        newest.get_or_insert(verdict);
        let began = verdict.started.as_ref().unwrap_or(&verdict.judged).wall;
        match episode {
            Some(began_before) if verdict.judged.wall > began_before => {
                episode = Some(began.min(began_before));
            }
            _ => {
                episode = Some(began);
                n += 1;
            }
        }
    }
    newest.map(|verdict| (verdict, n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{Millis, Moment, Outcome, RunId, RunSubject};
    use crate::core::record::{FORMAT, Failure};

    fn verdict(class: Option<FailureClass>, began: i64, judged: i64) -> VerdictRecord {
        let moment = |wall| Moment {
            wall: Timestamp(wall),
            boot_id: "a boot".into(),
            boot: Millis(wall as u64),
        };
        VerdictRecord {
            format: FORMAT,
            run: RunId {
                subject: RunSubject::Inbound,
                number: 1,
            },
            title: None,
            queue: "coder".parse().expect("a queue"),
            attempt: 1,
            stay: 1,
            provider: None,
            outcome: Outcome::Exited(0),
            tasks: Vec::new(),
            files: Vec::new(),
            failure: class.map(|class| Failure {
                class,
                reason: "quota exceeded".into(),
            }),
            tokens: None,
            cost: None,
            started: Some(moment(began)),
            ended: Some(moment(judged)),
            judged: moment(judged),
            late: false,
        }
    }

    /// Oldest first: class, began, judged.
    fn count(all: &[(Option<FailureClass>, i64, i64)]) -> Option<u32> {
        let all: Vec<_> = all.iter().map(|&(c, b, j)| verdict(c, b, j)).collect();
        let silent = |v: &VerdictRecord| {
            v.failure
                .as_ref()
                .is_some_and(|f| f.class == FailureClass::Ours)
        };
        in_a_row(all.iter().rev(), FailureClass::Provider, silent).map(|(_, n)| n)
    }

    const DOWN: Option<FailureClass> = Some(FailureClass::Provider);

    #[test]
    fn each_probe_that_fails_counts() {
        assert_eq!(count(&[]), None);
        assert_eq!(count(&[(DOWN, 0, 10)]), Some(1));
        assert_eq!(
            count(&[(DOWN, 0, 10), (DOWN, 40, 50), (DOWN, 110, 120)]),
            Some(3)
        );
    }

    #[test]
    fn a_run_that_met_no_outage_ends_the_row() {
        let task = Some(FailureClass::Task);
        for good in [None, task] {
            assert_eq!(
                count(&[(DOWN, 0, 10), (good, 40, 50), (DOWN, 60, 70)]),
                Some(1)
            );
            assert_eq!(count(&[(DOWN, 0, 10), (good, 40, 50)]), None);
        }
        let ours = Some(FailureClass::Ours);
        assert_eq!(count(&[(DOWN, 0, 10), (ours, 40, 50)]), Some(1));
    }

    #[test]
    fn runs_that_were_under_way_together_count_once() {
        let together = [(DOWN, 0, 10), (DOWN, 1, 11), (DOWN, 9, 17), (DOWN, 3, 18)];
        assert_eq!(count(&together), Some(1));
        let then_a_probe = [&together[..], &[(DOWN, 48, 55)]].concat();
        assert_eq!(count(&then_a_probe), Some(2));
    }
}
