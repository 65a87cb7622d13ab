//! Random calls against a small model written from the contract: moves, roll-up, blocking, order, archive, deletion.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::client::{Client, json_of};
use super::server::{Server, elsewhere, folder, serve};

const AGENTS: [&str; 3] = ["ann", "ben", "cy"];
const STATUSES: [&str; 3] = ["idle", "working", "complete"];

/// One call. Tasks and agents are named by small numbers: the n-th task ever made, which may be gone.
#[derive(Debug, Clone)]
enum Call {
    Create {
        agent: Option<usize>,
        priority: i8,
        parent: Option<usize>,
        blocker: Option<usize>,
    },
    SetStatus {
        task: usize,
        status: usize,
    },
    Assign {
        task: usize,
        agent: Option<usize>,
    },
    Block {
        task: usize,
        blocker: Option<usize>,
    },
    Reparent {
        task: usize,
        parent: Option<usize>,
    },
    Move {
        task: usize,
        from: usize,
        to: usize,
    },
    SignUp {
        agent: usize,
    },
    Archive {
        task: usize,
    },
    Delete {
        task: usize,
    },
}

fn calls() -> impl Strategy<Value = Call> {
    let task = 1..9_usize;
    let agent = 0..AGENTS.len();
    let maybe = |strategy: std::ops::Range<usize>| proptest::option::of(strategy);
    prop_oneof![
        5 => (maybe(agent.clone()), -1..3_i8, proptest::option::weighted(0.3, task.clone()), proptest::option::weighted(0.2, task.clone()))
            .prop_map(|(agent, priority, parent, blocker)| Call::Create { agent, priority, parent, blocker }),
        4 => (task.clone(), 0..3_usize).prop_map(|(task, status)| Call::SetStatus { task, status }),
        2 => (task.clone(), maybe(agent.clone())).prop_map(|(task, agent)| Call::Assign { task, agent }),
        2 => (task.clone(), maybe(task.clone())).prop_map(|(task, blocker)| Call::Block { task, blocker }),
        2 => (task.clone(), maybe(task.clone())).prop_map(|(task, parent)| Call::Reparent { task, parent }),
        3 => (task.clone(), agent.clone(), agent.clone()).prop_map(|(task, from, to)| Call::Move { task, from, to }),
        4 => agent.prop_map(|agent| Call::SignUp { agent }),
        1 => task.clone().prop_map(|task| Call::Archive { task }),
        1 => task.prop_map(|task| Call::Delete { task }),
    ]
}

#[derive(Debug, Clone, Default)]
struct Task {
    id: usize,
    status: usize,
    agent: Option<usize>,
    previous: Option<usize>,
    priority: i8,
    parent: Option<usize>,
    blocker: Option<usize>,
    archived: bool,
    comments: usize,
}

#[derive(Debug, Default)]
struct Model {
    made: usize,
    tasks: Vec<Task>,
}

impl Model {
    fn task(&mut self, id: usize) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.id == id)
    }
    fn has(&self, id: usize) -> bool {
        self.tasks.iter().any(|task| task.id == id)
    }
    fn parent_of(&self, id: usize) -> Option<usize> {
        self.tasks.iter().find(|task| task.id == id)?.parent
    }
    /// The parents above, nearest first.
    fn above(&self, id: usize) -> Vec<usize> {
        std::iter::successors(self.parent_of(id), |id| self.parent_of(*id)).collect()
    }
    fn may_have_children(&self, id: usize) -> bool {
        self.has(id) && self.above(id).len() < 3
    }
    fn roll_up(&mut self, from: Option<usize>) {
        let Some(id) = from else { return };
        let children: Vec<usize> = self
            .tasks
            .iter()
            .filter(|task| task.parent == Some(id) && !task.archived)
            .map(|task| task.status)
            .collect();
        let status = match () {
            () if children.is_empty() => return,
            () if children.iter().all(|status| *status == 2) => 2,
            () if children.contains(&1) => 1,
            () => 0,
        };
        let parent = self
            .task(id)
            .expect("a parent is there as long as its children");
        if parent.status != status {
            parent.status = status;
            let next = parent.parent;
            self.roll_up(next);
        }
    }
    /// In the order of lists.
    fn ordered(&self) -> Vec<&Task> {
        let mut tasks: Vec<&Task> = self.tasks.iter().collect();
        tasks.sort_by_key(|task| (-task.priority, task.id));
        tasks
    }
    fn shown(&self, task: &Task) -> Value {
        let agent = |agent: Option<usize>| agent.map(|agent| AGENTS[agent]);
        let blocked = self
            .tasks
            .iter()
            .any(|other| task.blocker == Some(other.id) && other.status != 2);
        json!([
            task.id,
            STATUSES[task.status],
            agent(task.agent),
            agent(task.previous),
            task.priority,
            task.parent,
            task.blocker,
            task.archived,
            blocked
        ])
    }

    /// The tool, its arguments, and whether it may succeed; the model is as it must be afterwards.
    fn apply(&mut self, call: &Call) -> (&'static str, Value, bool) {
        match call {
            Call::Create {
                agent,
                priority,
                parent,
                blocker,
            } => {
                let mut sent = json!({"title": "t", "created_by": "p", "priority": priority});
                if let Some(agent) = agent {
                    sent["assigned_to"] = AGENTS[*agent].into();
                }
                if let Some(parent) = parent {
                    sent["parent_task_id"] = (*parent).into();
                }
                if let Some(blocker) = blocker {
                    sent["blocked_by_task_id"] = (*blocker).into();
                }
                let may = parent.is_none_or(|id| self.may_have_children(id))
                    && blocker.is_none_or(|id| self.has(id));
                if may {
                    self.made += 1;
                    self.tasks.push(Task {
                        id: self.made,
                        agent: *agent,
                        priority: *priority,
                        parent: *parent,
                        blocker: *blocker,
                        ..Task::default()
                    });
                    self.roll_up(*parent);
                }
                ("create_task", sent, may)
            }
            Call::SetStatus { task, status } => {
                let sent = json!({"id": task, "status": STATUSES[*status]});
                let Some(found) = self.task(*task) else {
                    return ("update_task", sent, false);
                };
                found.status = *status;
                let parent = found.parent;
                self.roll_up(parent);
                ("update_task", sent, true)
            }
            Call::Assign { task, agent } => {
                let sent =
                    json!({"id": task, "assigned_to": agent.map_or("", |agent| AGENTS[agent])});
                let Some(found) = self.task(*task) else {
                    return ("update_task", sent, false);
                };
                if found.agent != *agent {
                    found.previous = found.agent;
                    found.agent = *agent;
                }
                ("update_task", sent, true)
            }
            Call::Block { task, blocker } => {
                let sent = json!({"id": task, "blocked_by_task_id": blocker});
                let back = blocker.and_then(|id| self.task(id)?.blocker);
                let may = self.has(*task)
                    && blocker.is_none_or(|id| self.has(id) && id != *task && back != Some(*task));
                if may {
                    self.task(*task).expect("checked above").blocker = *blocker;
                }
                ("update_task", sent, may)
            }
            Call::Reparent { task, parent } => {
                let mut sent = json!({"subtask_id": task});
                if let Some(parent) = parent {
                    sent["new_parent_id"] = (*parent).into();
                }
                let may = self.has(*task)
                    && parent.is_none_or(|id| {
                        id != *task && self.may_have_children(id) && !self.above(id).contains(task)
                    });
                if may {
                    let found = self.task(*task).expect("checked above");
                    let before = std::mem::replace(&mut found.parent, *parent);
                    self.roll_up(before);
                    self.roll_up(*parent);
                }
                ("move_subtask", sent, may)
            }
            Call::Move { task, from, to } => {
                let sent = json!({"task_id": task, "current_agent": AGENTS[*from], "new_agent": AGENTS[*to], "comment": "c"});
                let may = |found: &&mut Task| found.agent == Some(*from) && found.status != 2;
                let Some(found) = self.task(*task).filter(may) else {
                    return ("move_task", sent, false);
                };
                found.previous = Some(*from);
                found.agent = Some(*to);
                found.status = 0;
                found.comments += 1;
                let parent = found.parent;
                self.roll_up(parent);
                ("move_task", sent, true)
            }
            Call::SignUp { agent } => {
                let sent = json!({"agent_name": AGENTS[*agent]});
                let next = self
                    .ordered()
                    .into_iter()
                    .find(|task| task.agent == Some(*agent) && task.status == 0 && !task.archived)
                    .map(|task| task.id);
                if let Some(found) = next.and_then(|id| self.task(id)) {
                    found.status = 1;
                    let parent = found.parent;
                    self.roll_up(parent);
                }
                ("signup_for_task", sent, true)
            }
            Call::Archive { task } => {
                let sent = json!({"id": task});
                let Some(found) = self.task(*task) else {
                    return ("archive_task", sent, false);
                };
                found.archived = true;
                let parent = found.parent;
                self.roll_up(parent);
                ("archive_task", sent, true)
            }
            Call::Delete { task } => {
                let sent = json!({"id": task});
                if !self.has(*task) {
                    return ("delete_task", sent, false);
                }
                let parent = self.parent_of(*task);
                let gone: Vec<usize> = self
                    .tasks
                    .iter()
                    .map(|other| other.id)
                    .filter(|id| id == task || self.above(*id).contains(task))
                    .collect();
                self.tasks.retain(|task| !gone.contains(&task.id));
                for other in &mut self.tasks {
                    other.blocker = other.blocker.filter(|id| !gone.contains(id));
                }
                self.roll_up(parent);
                ("delete_task", sent, true)
            }
        }
    }
}

/// A task of an answer, in the shape of [`Model::shown`].
fn seen(task: &Value) -> Value {
    json!([
        task["id"],
        task["status"],
        task["assigned_to"],
        task["previous_assigned_to"],
        task["priority"],
        task["parent_task_id"],
        task["blocked_by_task_id"],
        !task["archived_at"].is_null(),
        task["is_currently_blocked"]
    ])
}

fn play(client: &mut Client, calls: &[Call]) {
    let mut model = Model::default();
    for call in calls {
        let (tool, sent, may) = model.apply(call);
        let (text, is_error) = client.try_tool(tool, Some(&sent)).expect("an answer");
        assert_eq!(is_error, !may, "{call:?}: {text}");
        if let (Call::SignUp { .. }, Some(task)) = (call, json_of(&text)) {
            assert_eq!(task["status"], "working", "{call:?}");
        }
        let listed = client.json("list_tasks", json!({"include_archived": true}));
        let listed: Vec<Value> = listed["tasks"]
            .as_array()
            .expect("tasks")
            .iter()
            .map(seen)
            .collect();
        let expected: Vec<Value> = model
            .ordered()
            .into_iter()
            .map(|task| model.shown(task))
            .collect();
        // A second may pass between two tasks of one priority, never the other way round: the order is that of the numbers.
        assert_eq!(listed, expected, "after {call:?}");
    }
    for (at, agent) in AGENTS.iter().enumerate() {
        let queue = client.json("get_my_queue", json!({"agent_name": agent}));
        let queue: Vec<Value> = queue["tasks"]
            .as_array()
            .expect("tasks")
            .iter()
            .map(seen)
            .collect();
        let expected: Vec<Value> = model
            .ordered()
            .into_iter()
            .filter(|task| task.agent == Some(at) && task.status != 2 && !task.archived)
            .map(|task| model.shown(task))
            .collect();
        assert_eq!(queue, expected, "{agent}'s queue");
    }
    for task in &model.tasks {
        let comments = client.json("list_comments", json!({"task_id": task.id}));
        assert_eq!(comments["count"], task.comments, "task {}", task.id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_do_what_the_contract_says(
        over_http: bool,
        calls in proptest::collection::vec(calls(), 1..60),
    ) {
        if !elsewhere() {
            let (_dir, db) = folder();
            if over_http {
                let server = Server::on(&db);
                play(&mut server.client(), &calls);
            } else {
                play(&mut Client::stdio(&mut serve(&["--stdio", "--db", db.to_str().expect("UTF-8")])), &calls);
            }
        }
    }
}
