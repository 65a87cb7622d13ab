//! What a look would show right after the verdicts that were decided on it.

use std::sync::Arc;

use crate::core::history::in_order;
use crate::core::model::RunSubject;
use crate::core::{Action, Decision, Snapshot};

/// Makes of `seen` what another look would find once the verdicts of `decision` are on record. Nothing else has changed then, so what
/// follows from them can be decided without looking again.
///
/// `false`, and `seen` as it was, where that is not so: something else than verdicts was decided on; a verdict writes to tinytask; or a
/// run over inbound/ was judged while requests lie there, and the next one needs to know the highest task of its own time.
pub fn judged(seen: &mut Snapshot, decision: &Decision) -> bool {
    let mut verdicts = Vec::new();
    for action in &decision.actions {
        let Action::RecordVerdict { run, verdict } = action else {
            return false;
        };
        let is_next_request = run.id.subject == RunSubject::Inbound && !seen.inbound.is_empty();
        if is_next_request || verdict.tasks.iter().any(|task| task.write.is_some()) {
            return false;
        }
        verdicts.push(Arc::new((**verdict).clone()));
    }
    for verdict in &verdicts {
        seen.runs.retain(|run| run.dir.id != verdict.run);
        let own = verdict.run.subject;
        let touched = verdict.tasks.iter().map(|t| RunSubject::Task(t.key.id));
        for subject in touched.filter(|subject| *subject != own).chain([own]) {
            let history = Arc::make_mut(seen.histories.entry(subject).or_default());
            // A power cut may have left a run to be judged after later ones.
            let known = std::mem::take(&mut history.verdicts);
            history.verdicts = in_order(subject, known.into_iter().chain([Arc::clone(verdict)]));
            if subject == own {
                history.last_run = history.last_run.max(verdict.run.number);
            }
        }
        seen.recent.push(Arc::clone(verdict));
    }
    !verdicts.is_empty()
}
