//! Moves between RUNNING, DROPPING and EMERGENCY by what is measured, with hysteresis and a dwell time.
//!
//! A state is entered when any input reaches its enter threshold, at once. It is left for a milder one when it has been held
//! for the dwell time, all its inputs are at or below their leave thresholds, and what it sheds would fit, too: while it
//! sheds, queues are short and say nothing about the load. An operator's state stays until the operator ends it.

use crate::config::{Control, Threshold, Thresholds};
use crate::runtime::clock::Nanos;

use super::State;

/// What is looked at, in the units of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Fullest queue, in percent of its depth.
    pub queue_depth_percent: u32,
    /// Fullest pool, in percent of its slots.
    pub pool_used_percent: u32,
    /// Longest wait of an event that a worker has just taken.
    pub worker_latency_ms: u32,
    /// Events of the last interval that found no room, per million accepted.
    pub loss_per_million: u32,
    /// How much of its time, in percent, the busiest data thread would have needed in the last interval for what was shed as
    /// well as for what was not.
    pub demand_percent: u32,
}

/// A change of state and what caused it: logged once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: State,
    pub to: State,
    pub cause: String,
}

/// Dwell times after which a milder state is tried although the demand looks too high for it.
const TRY_AFTER_DWELLS: Nanos = 60;

/// Owned by the control thread.
#[derive(Debug)]
pub struct Controller {
    dropping: Thresholds,
    emergency: Thresholds,
    dwell_ns: Nanos,
    readmit_percent: u32,
    state: State,
    since_ns: Nanos,
    by_operator: bool,
}

/// An input's name and value with its threshold in one state.
fn pairs(inputs: &Inputs, thresholds: &Thresholds) -> [(&'static str, u32, Option<Threshold>); 4] {
    [
        ("queue_depth_percent", inputs.queue_depth_percent, thresholds.queue_depth_percent),
        ("pool_used_percent", inputs.pool_used_percent, thresholds.pool_used_percent),
        ("worker_latency_ms", inputs.worker_latency_ms, thresholds.worker_latency_ms),
        ("loss_per_million", inputs.loss_per_million, thresholds.loss_per_million),
    ]
}

fn entered(inputs: &Inputs, thresholds: &Thresholds) -> Option<String> {
    pairs(inputs, thresholds).into_iter().find_map(|(name, value, threshold)| {
        let enter = threshold?.enter;
        (value >= enter).then(|| format!("{name} {value} reached {enter}"))
    })
}

fn left(inputs: &Inputs, thresholds: &Thresholds) -> bool {
    pairs(inputs, thresholds)
        .into_iter()
        .all(|(_, value, threshold)| threshold.is_none_or(|threshold| value <= threshold.leave))
}

impl Controller {
    pub fn new(config: &Control) -> Self {
        Self {
            dropping: config.dropping,
            emergency: config.emergency,
            dwell_ns: config.dwell.as_nanos() as Nanos,
            readmit_percent: config.readmit_percent,
            state: State::Running,
            since_ns: 0,
            by_operator: false,
        }
    }

    /// New thresholds from a reload; the state stays.
    pub fn configure(&mut self, config: &Control) {
        self.dropping = config.dropping;
        self.emergency = config.emergency;
        self.dwell_ns = config.dwell.as_nanos() as Nanos;
        self.readmit_percent = config.readmit_percent;
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// An operator's word. RUNNING gives the decision back to the thresholds.
    pub fn set_by_operator(&mut self, state: State, now: Nanos) -> Option<Transition> {
        self.by_operator = state != State::Running;
        self.change(state, now, "operator".into())
    }

    fn change(&mut self, to: State, now: Nanos, cause: String) -> Option<Transition> {
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then(|| {
            self.since_ns = now;
            Transition { from, to, cause }
        })
    }

    /// Looks at the inputs; a transition when they ask for one.
    pub fn evaluate(&mut self, inputs: &Inputs, now: Nanos) -> Option<Transition> {
        if self.by_operator {
            return None;
        }
        let emergency = entered(inputs, &self.emergency);
        match self.state {
            State::Running | State::Dropping if emergency.is_some() => {
                self.change(State::Emergency, now, emergency.unwrap_or_default())
            }
            State::Running => {
                let cause = entered(inputs, &self.dropping)?;
                self.change(State::Dropping, now, cause)
            }
            State::Dropping if left(inputs, &self.dropping) => self.relent(State::Running, inputs, now),
            State::Emergency if left(inputs, &self.emergency) => self.relent(State::Dropping, inputs, now),
            _ => None,
        }
    }

    /// A milder state, if it is time.
    fn relent(&mut self, to: State, inputs: &Inputs, now: Nanos) -> Option<Transition> {
        let held_ns = now.saturating_sub(self.since_ns);
        // The demand is an estimate: what was shed may have been cheap. So it does not decide for ever.
        let (limit, demand) = (self.readmit_percent, inputs.demand_percent);
        let fits = limit == 0 || demand <= limit;
        let tries = held_ns >= self.dwell_ns.saturating_mul(TRY_AFTER_DWELLS);
        if held_ns < self.dwell_ns || !(fits || tries) {
            return None;
        }
        let cause = match limit {
            0 => String::new(),
            _ if fits => format!(", demand_percent {demand} within {limit}"),
            _ => format!(", demand_percent {demand} above {limit}, but it is time to try"),
        };
        self.change(to, now, format!("all inputs at or below their leave thresholds{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SECOND: Nanos = 1_000_000_000;

    fn controller() -> Controller {
        let mut config = Config::default().control;
        config.dwell = std::time::Duration::from_secs(1);
        config.dropping.queue_depth_percent = Some(Threshold { enter: 80, leave: 40 });
        config.emergency.queue_depth_percent = Some(Threshold { enter: 95, leave: 60 });
        Controller::new(&config)
    }

    fn depth(percent: u32) -> Inputs {
        Inputs { queue_depth_percent: percent, ..Inputs::default() }
    }

    #[test]
    fn enters_high_and_leaves_low() {
        let mut controller = controller();
        assert_eq!(controller.evaluate(&depth(79), 2 * SECOND), None);
        let entered = controller.evaluate(&depth(80), 2 * SECOND).unwrap();
        assert_eq!((entered.from, entered.to), (State::Running, State::Dropping));
        assert!(entered.cause.contains("queue_depth_percent 80 reached 80"), "{}", entered.cause);
        assert_eq!(controller.evaluate(&depth(41), 4 * SECOND), None, "between leave and enter nothing moves");
        assert_eq!(controller.evaluate(&depth(40), 4 * SECOND).unwrap().to, State::Running);
    }

    #[test]
    fn a_state_is_left_when_what_it_sheds_would_fit() {
        let mut controller = controller();
        assert!(controller.evaluate(&depth(80), 2 * SECOND).is_some());
        let demand = |percent| Inputs { demand_percent: percent, ..Inputs::default() };
        assert_eq!(controller.evaluate(&demand(81), 10 * SECOND), None);
        let left = controller.evaluate(&demand(80), 10 * SECOND).unwrap();
        assert!(left.to == State::Running && left.cause.contains("demand_percent 80 within 80"), "{}", left.cause);
        assert!(controller.evaluate(&depth(80), 11 * SECOND).is_some());
        assert_eq!(controller.evaluate(&demand(1000), 71 * SECOND - 1), None);
        let tried = controller.evaluate(&demand(1000), 71 * SECOND).unwrap();
        assert!(tried.to == State::Running && tried.cause.contains("time to try"), "{}", tried.cause);
        controller.readmit_percent = 0;
        assert!(controller.evaluate(&depth(80), 72 * SECOND).is_some());
        assert!(controller.evaluate(&demand(1000), 73 * SECOND).is_some(), "off");
    }

    #[test]
    fn a_harsher_state_does_not_wait_for_the_dwell_time() {
        let mut controller = controller();
        assert!(controller.evaluate(&depth(80), 0).is_some());
        assert_eq!(controller.evaluate(&depth(95), 1).unwrap().to, State::Emergency);
    }

    #[test]
    fn holds_each_state_for_the_dwell_time() {
        let mut controller = controller();
        assert!(controller.evaluate(&depth(80), 2 * SECOND).is_some());
        assert_eq!(controller.evaluate(&depth(0), 3 * SECOND - 1), None);
        assert!(controller.evaluate(&depth(0), 3 * SECOND).is_some());
    }

    #[test]
    fn emergency_is_left_by_way_of_dropping() {
        let mut controller = controller();
        assert_eq!(controller.evaluate(&depth(95), 2 * SECOND).unwrap().to, State::Emergency);
        assert_eq!(controller.evaluate(&depth(0), 4 * SECOND).unwrap().to, State::Dropping);
        assert_eq!(controller.evaluate(&depth(0), 6 * SECOND).unwrap().to, State::Running);
    }

    #[test]
    fn an_operators_state_stays() {
        let mut controller = controller();
        assert_eq!(controller.set_by_operator(State::Paused, SECOND).unwrap().to, State::Paused);
        assert_eq!(controller.evaluate(&depth(99), 9 * SECOND), None);
        assert_eq!(controller.set_by_operator(State::Running, 9 * SECOND).unwrap().to, State::Running);
        assert!(controller.evaluate(&depth(99), 11 * SECOND).is_some());
    }
}
