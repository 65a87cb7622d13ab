//! What a look would show right after what was decided on it is done.

use std::sync::Arc;

use crate::core::history::in_order;
use crate::core::model::{Now, RunSubject};
use crate::core::{Action, Decision, Snapshot};

/// Makes of `seen` what another look would find once `decision` is carried out. Nothing else has changed then, so what follows from it
/// can be decided without looking again.
///
/// `false`, and `seen` as it was, where that is not so: something else was decided than verdicts, and folders for tasks; a verdict writes
/// to tinytask; or a run over inbound/ was judged while requests lie there, and the next one needs to know the highest task of its own
/// time.
pub fn carried_out(seen: &mut Snapshot, decision: &Decision, now: &Now) -> bool {
    let (mut verdicts, mut folders) = (Vec::new(), Vec::new());
    for action in &decision.actions {
        match action {
            Action::RecordVerdict { run, verdict } => {
                let is_inbound = run.id.subject == RunSubject::Inbound;
                let is_next_request = is_inbound && !seen.inbound.is_empty();
                if is_next_request || verdict.tasks.iter().any(|task| task.write.is_some()) {
                    return false;
                }
                verdicts.push(Arc::new((**verdict).clone()));
            }
            Action::CreateFolder { task } => folders.push((*task, now.wall)),
            _ => return false,
        }
    }
    let is_anything = !verdicts.is_empty() || !folders.is_empty();
    seen.folders.extend(folders);
    for verdict in verdicts {
        seen.runs.retain(|run| run.dir.id != verdict.run);
        let own = verdict.run.subject;
        let touched = verdict.tasks.iter().map(|t| RunSubject::Task(t.key.id));
        for subject in touched.filter(|subject| *subject != own).chain([own]) {
            let history = seen.histories.entry(subject).or_default().make_mut();
            // A power cut may have left a run to be judged after later ones.
            let known = std::mem::take(&mut history.verdicts);
            let all = known.into_iter().chain([Arc::clone(&verdict)]);
            history.verdicts = in_order(subject, all);
            if subject == own {
                history.last_run = history.last_run.max(verdict.run.number);
            }
        }
        seen.recent.push(verdict);
    }
    is_anything
}
