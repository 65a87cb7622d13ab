//! What is said when the daemon leaves: which agents go on, and how they are watched or ended.

use crate::core::model::{QueueName, RunSubject};
use crate::view::text::{beside_parts, plural};

/// An agent that goes on without the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoingOn {
    pub subject: RunSubject,
    pub queue: QueueName,
    /// None while it is only just starting.
    pub pid: Option<i32>,
}

/// The daemon's last words.
pub fn leaving(going_on: &[GoingOn]) -> String {
    if going_on.is_empty() {
        return "stopped watching; no agent is running\n".into();
    }
    let (verb, them) = if going_on.len() == 1 {
        ("goes", "it")
    } else {
        ("go", "them")
    };
    let mut parts: Vec<String> = going_on.iter().take(10).map(name).collect();
    if going_on.len() > 10 {
        parts.push(format!("{} more", going_on.len() - 10));
    }
    let head = format!(
        "stopped watching. {} {verb} on: ",
        plural(going_on.len(), "agent")
    );
    let said = beside_parts(&head, &parts, ", ");
    format!(
        "{said}    calypso-watch run           watches {them} again\n    calypso-watch stop --all    ends {them}\n"
    )
}

fn name(agent: &GoingOn) -> String {
    let subject = match agent.subject {
        RunSubject::Inbound => "inbound".into(),
        RunSubject::Task(id) => format!("#{id}"),
    };
    match agent.pid {
        Some(pid) => format!("{subject} {} (pid {pid})", agent.queue),
        None => format!("{subject} {} (starting)", agent.queue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample::{assert_fits, id, queue};

    fn agent(task: i64, name: &str, pid: i32) -> GoingOn {
        GoingOn {
            subject: RunSubject::Task(id(task)),
            queue: queue(name),
            pid: Some(pid),
        }
    }

    #[test]
    fn leaving_says_who_goes_on_and_how_to_end_them() {
        let starting = GoingOn {
            subject: RunSubject::Inbound,
            queue: queue("dispatcher"),
            pid: None,
        };
        let said = [
            leaving(&[]),
            leaving(&[agent(42, "architect", 5120)]),
            leaving(&[
                agent(42, "architect", 5120),
                agent(31, "coder", 4877),
                starting,
            ]),
            leaving(&(1..30).map(|n| agent(n, "coder", 4000)).collect::<Vec<_>>()),
        ];
        said.iter().for_each(|said| assert_fits(said));
        insta::assert_snapshot!(said.join("--\n"));
    }
}
