//! Which point is come to in which story, and who dies there.

use calypso_watch::edge::kill_point;

use super::scenario::Scenario;
use super::seed::Dice;

/// Who dies when somebody has come to the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// Whoever came there.
    Itself,
    Daemon,
    Shim,
    /// Daemon and shim.
    Both,
    Agent,
    Server,
    /// Everything of ours at once.
    All,
    /// Nobody: it stands still for so many milliseconds.
    Nobody(u64),
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Once,
    /// Whoever comes there next dies as well.
    Twice,
    /// And again at another point, on the way back.
    Again(&'static str),
}

/// What somebody does while everything stands still at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prank {
    /// The victim dies, nothing else.
    None,
    /// A pid file of the bystander appears for the task: somebody works on it by hand.
    Outside,
    /// Somebody completes the task in tinytask.
    Complete,
    /// Somebody takes the task to another queue, and works on it.
    Take,
    /// The run's record names the bystander's number as its agent's, as if that had been given out again.
    Reuse,
    /// A second daemon is started.
    SecondDaemon,
}

/// A point that is armed: the `nth` to come there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arm {
    pub(super) point: &'static str,
    pub(super) nth: u32,
    pub(super) victim: Victim,
    pub(super) prank: Prank,
}

impl Arm {
    const fn kill(point: &'static str, nth: u32) -> Self {
        Self {
            point,
            nth,
            victim: Victim::Itself,
            prank: Prank::None,
        }
    }
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) scenario: Scenario,
    /// Leads to the point.
    pub(super) before: Option<Arm>,
    pub(super) arm: Arm,
    pub(super) mode: Mode,
}

/// The story in which a point is come to, what has to happen before, and the `nth` times worth a case.
fn way(point: &'static str) -> (Scenario, Option<Arm>, &'static [u32]) {
    use Scenario as S;
    let once: &[u32] = &[1];
    let lost = Some(Arm::kill("X1:over", 1));
    match point {
        "builtin:before-start"
        | "builtin:started"
        | "builtin:serves"
        | "server:locked"
        | "server:database-open"
        | "server:bound"
        | "server.json:opened"
        | "server.json:written"
        | "server.json:renamed" => (S::Revive, None, once),
        "server:asked" | "server:before-answer" => (S::Leave, None, &[2, 5, 9]),
        "server:begun" | "server:before-commit" | "server:committed" => {
            (S::Leave, None, &[1, 2, 4, 5])
        }
        "log:before-rotation" | "log:rotated" => (S::Rotation, None, once),
        "log:appended" => (S::Plain, None, &[1, 3]),
        "state.json:opened" | "state.json:written" | "state.json:renamed" => {
            (S::Plain, None, &[1, 2, 3])
        }
        "S5:refused" | "S5:child-killed" => {
            // Of somebody alive: a dead one's file would be cleared away by the daemon, perhaps before the shim comes to it.
            let intrude = Arm {
                prank: Prank::Outside,
                victim: Victim::Nobody(0),
                ..Arm::kill("S5:pid-written", 1)
            };
            (S::Plain, Some(intrude), once)
        }
        "stop:told-agent"
        | "stop:before"
        | "ended.json:opened"
        | "ended.json:written"
        | "ended.json:renamed"
        | "stop:recorded"
        | "stop:asked-shim"
        | "stop:done"
        | "stop:before-wish-removed"
        | "stop:wish-removed" => (S::Stop, None, once),
        "sweep:before" | "sweep:done" => (S::Brood, lost, once),
        "X1:group-told" | "X1:collected" | "X1:swept" => (S::Brood, None, once),
        "clear:before" | "clear:done" => (S::Plain, lost, once),
        "pid-file:is-ours" | "pid-file:removed" => (S::Plain, None, once),
        "stranger:before" | "stranger:is-same" | "stranger:removed" => (S::Stranger, None, once),
        "litter:before"
        | "litter:file-removed"
        | "litter:folder-removed"
        | "litter:entry-removed" => (S::Plain, Some(Arm::kill("D1:locked", 1)), once),
        "verdict.json:synced"
        | "verdict.json:folder-synced"
        | "put-back:before"
        | "put-back:read-again"
        | "put-back:commented"
        | "put-back:done" => (S::Leave, None, once),
        "park:before" | "park:commented" => (S::Park, None, once),
        "finish:linked" => (S::Steal, None, once),
        "folder:before" | "folder:made" => (S::Folder, None, once),
        "mark:before"
        | "marks.json:opened"
        | "marks.json:written"
        | "marks.json:synced"
        | "marks.json:renamed"
        | "marks.json:folder-synced"
        | "mark:recorded"
        | "mark:wish-removed" => (S::Leave, None, once),
        _ if point.starts_with("prune:") => (S::Retention, None, once),
        _ if point.starts_with("daemon") => (S::Restart, None, once),
        _ => (S::Plain, None, once),
    }
}

/// Each point once: whoever comes there dies. Then what no list of points gives.
pub(super) fn once() -> Vec<Case> {
    let mut cases: Vec<Case> = kill_point::ALL
        .iter()
        .flat_map(|point| {
            let (scenario, before, times) = way(point);
            times.iter().map(move |nth| Case {
                scenario,
                before,
                arm: Arm::kill(point, *nth),
                mode: Mode::Once,
            })
        })
        .collect();
    cases.extend(directed());
    cases
}

/// Interleavings that are known to be hard.
pub(super) fn directed() -> Vec<Case> {
    use Scenario as S;
    let case = |scenario, point, victim, prank| Case {
        scenario,
        before: None,
        arm: Arm {
            point,
            nth: 1,
            victim,
            prank,
        },
        mode: Mode::Once,
    };
    let nothing = Prank::None;
    vec![
        // The shim stands still beyond its spec's age, then goes on: it must not start what was decided long ago.
        case(S::Plain, "S2:subreaper", Victim::Nobody(11_000), nothing),
        case(S::Plain, "S1:begun", Victim::Nobody(11_000), nothing),
        // Between its age's check and "go" no daemon may think that it is dead.
        case(S::Plain, "S2:signals", Victim::Nobody(1500), nothing),
        case(S::Plain, "S2:young", Victim::Nobody(1500), nothing),
        case(S::Plain, "S4:grouped", Victim::Nobody(1500), nothing),
        case(S::Plain, "S5:linked", Victim::Nobody(1500), nothing),
        case(S::Plain, "S6:recorded", Victim::Nobody(1500), nothing),
        case(S::Plain, "S5:linked", Victim::Daemon, nothing),
        case(S::Plain, "S7:before", Victim::Agent, nothing),
        case(S::Plain, "S5:pid-written", Victim::Agent, nothing),
        case(S::Plain, "S7:child-through", Victim::Shim, nothing),
        case(S::Plain, "S7:child-through", Victim::Both, nothing),
        case(S::Plain, "X1:over", Victim::Both, nothing),
        case(S::Brood, "X1:collected", Victim::Both, nothing),
        // Decided and durable, not yet done, and meanwhile the world moves on.
        case(
            S::Leave,
            "put-back:before",
            Victim::Nobody(0),
            Prank::Complete,
        ),
        case(S::Leave, "put-back:before", Victim::Daemon, Prank::Complete),
        case(S::Leave, "verdict:durable", Victim::Daemon, Prank::Complete),
        case(S::Park, "park:before", Victim::Daemon, Prank::Complete),
        case(S::Leave, "put-back:before", Victim::Daemon, Prank::Take),
        case(S::Leave, "verdict:durable", Victim::Nobody(0), Prank::Take),
        case(S::Park, "verdict:durable", Victim::Daemon, Prank::Take),
        // Somebody was faster, and is still at it.
        case(
            S::Plain,
            "S5:pid-written",
            Victim::Nobody(0),
            Prank::Outside,
        ),
        case(S::Plain, "S5:before-pid", Victim::Daemon, Prank::Outside),
        // A number that is another's now.
        case(S::Plain, "X1:over", Victim::Both, Prank::Reuse),
        // Two daemons.
        case(
            S::Plain,
            "launch:read-again",
            Victim::Nobody(0),
            Prank::SecondDaemon,
        ),
        case(
            S::Restart,
            "daemon:lock-opened",
            Victim::Nobody(500),
            Prank::SecondDaemon,
        ),
        case(
            S::Restart,
            "daemon:locked",
            Victim::Itself,
            Prank::SecondDaemon,
        ),
        case(S::Inbound, "D3:started", Victim::Itself, nothing),
        case(S::Inbound, "S7:opened", Victim::Itself, nothing),
        case(S::Inbound, "X2:before", Victim::Itself, nothing),
        case(S::Inbound, "verdict:durable", Victim::Itself, nothing),
        case(S::Company, "verdict:before", Victim::Daemon, nothing),
        case(S::Company, "put-back:before", Victim::Daemon, nothing),
        case(S::Two, "verdict:durable", Victim::Itself, nothing),
        case(S::Plain, "S4:grouped", Victim::All, nothing),
        case(S::Leave, "verdict:durable", Victim::All, nothing),
        case(S::Leave, "put-back:commented", Victim::Server, nothing),
        case(S::Leave, "server:committed", Victim::Nobody(700), nothing),
    ]
}

/// Any point, any victim, any mode; the dice say which.
pub(super) fn random(dice: &mut Dice) -> Case {
    let point = kill_point::ALL[dice.below(kill_point::ALL.len())];
    let (mut scenario, before, times) = way(point);
    // What every run comes to, any run may come to.
    if scenario == Scenario::Plain && before.is_none() {
        let any = [
            Scenario::Plain,
            Scenario::Two,
            Scenario::Leave,
            Scenario::Company,
            Scenario::Brood,
            Scenario::Steal,
            Scenario::Inbound,
            Scenario::Inbound,
        ];
        scenario = any[dice.below(any.len())];
    }
    let victim = match dice.below(10) {
        0 => Victim::Daemon,
        1 => Victim::Shim,
        2 => Victim::Both,
        3 => Victim::Agent,
        4 => Victim::Server,
        5 => Victim::All,
        6 if dice.below(8) == 0 => Victim::Nobody(12_000),
        6 => Victim::Nobody(dice.below(600) as u64),
        _ => Victim::Itself,
    };
    let mode = match dice.below(4) {
        0 => Mode::Twice,
        1 => Mode::Again(kill_point::ALL[dice.below(kill_point::ALL.len())]),
        _ => Mode::Once,
    };
    Case {
        scenario,
        before,
        arm: Arm {
            victim,
            ..Arm::kill(point, times[dice.below(times.len())])
        },
        mode,
    }
}

impl Case {
    /// How a person names it, for one run of just this case.
    pub(super) fn name(&self) -> String {
        let arm = self.arm;
        let mode = match self.mode {
            Mode::Once => "once".to_owned(),
            Mode::Twice => "twice".to_owned(),
            Mode::Again(point) => format!("again={point}"),
        };
        format!(
            "{:?},{},{},{:?},{:?},{mode}",
            self.scenario, arm.point, arm.nth, arm.victim, arm.prank
        )
    }

    /// Reads [`Self::name`] back.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let words: Vec<&str> = name.split(',').collect();
        let [scenario, point, nth, victim, prank, mode] = words[..] else {
            return None;
        };
        let point_of = |text: &str| {
            kill_point::ALL
                .iter()
                .find(|point| **point == text)
                .copied()
        };
        let point = point_of(point)?;
        let victim = match victim
            .strip_prefix("Nobody(")
            .and_then(|v| v.strip_suffix(')'))
        {
            Some(span) => Victim::Nobody(span.parse().ok()?),
            None => [
                Victim::Itself,
                Victim::Daemon,
                Victim::Shim,
                Victim::Both,
                Victim::Agent,
                Victim::Server,
                Victim::All,
            ]
            .into_iter()
            .find(|v| format!("{v:?}") == victim)?,
        };
        let pranks = [
            Prank::None,
            Prank::Outside,
            Prank::Complete,
            Prank::Take,
            Prank::Reuse,
            Prank::SecondDaemon,
        ];
        let mode = match mode {
            "once" => Mode::Once,
            "twice" => Mode::Twice,
            other => Mode::Again(point_of(other.strip_prefix("again=")?)?),
        };
        Some(Self {
            scenario: (Scenario::ALL.into_iter()).find(|s| format!("{s:?}") == scenario)?,
            before: way(point).1,
            arm: Arm {
                point,
                nth: nth.parse().ok()?,
                victim,
                prank: pranks.into_iter().find(|p| format!("{p:?}") == prank)?,
            },
            mode,
        })
    }
}
