//! Outcomes in words and as JSON.

use serde_json::{Value, json};

use super::{
    outcome::Outcome,
    setup::{Expect, Setup},
    trace::Trace,
};

impl Outcome {
    /// Whether it came out as its set-up says; only a set-up that no flag has changed says something.
    ///
    /// Example: see [`Outcome`].
    pub fn is_expected(&self) -> bool {
        match self.setup.expect {
            _ if self
                .setup
                .mutant
                .is_some_and(|mutant| !self.violations.iter().any(|v| v.property == mutant.violates())) =>
            {
                false
            }
            Expect::Holds => self.holds(),
            Expect::Stale(steps) => self.stale() == Some(steps),
            Expect::Violates(property) => {
                self.stale().is_none() && self.violations.iter().any(|v| v.property == property)
            }
        }
    }

    /// Whether it rules out what its set-up says. A search that a bound cut short may leave that open, but not if it found what must
    /// not be there.
    ///
    /// Example: see [`Outcome`].
    pub fn contradicts(&self) -> bool {
        let must_hold = self.setup.expect == Expect::Holds;
        !self.is_expected()
            && (self.cut.is_none() || self.stale().is_some() || must_hold && !self.violations.is_empty())
    }

    /// The outcome as an object. `expected` is left out if the set-up was changed.
    ///
    /// Example: see [`Outcome`].
    pub fn to_json(&self, unchanged: bool) -> Value {
        let setup = &self.setup;
        let mut value = json!({
            "strategy": self.strategy,
            "setup": {
                "name": setup.name,
                "about": setup.about,
                "readers": setup.readers,
                "writers": setup.writers,
                "writes": setup.writes,
                "keys": setup.keys,
                "conditions": setup.conditions().map(|c| c.name()).collect::<Vec<_>>(),
                "mutant": setup.mutant.map(|m| m.name()),
            },
            "verdict": verdict(self),
            "holds": self.holds(),
            "stale_for_good_steps": self.stale(),
            "violations": self.violations.iter().map(|v| json!({ "property": v.property.name(), "steps": v.steps })).collect::<Vec<_>>(),
            "values_get_cached": self.fills,
            "states": self.states,
            "depth": self.depth,
            "exhausted": self.exhausted,
            "cut_by": self.cut,
            "omission_probability": self.omission(),
            "seconds": self.elapsed.as_secs_f64(),
            "trace": self.trace.as_ref().map(Trace::to_json),
        });
        if unchanged {
            value["expected"] = json!(expected(setup));
            value["as_expected"] = json!(self.is_expected());
        }
        value
    }
}

/// An outcome in a few words.
///
/// Example: see [`check_all`](super::check_all).
pub fn verdict(outcome: &Outcome) -> String {
    if let Some(steps) = outcome.stale() {
        return format!("stale for good in {steps} steps");
    }
    if let Some(first) = outcome.violations.first() {
        return format!("violates {} in {} steps", first.property.name(), first.steps);
    }
    match outcome.cut {
        Some(bound) => format!("not exhausted: cut by the bound of {bound}"),
        None if !outcome.fills => "never caches a value".into(),
        None => "holds".into(),
    }
}

/// What a set-up is to give, in the same words.
///
/// Example: see [`cases`](super::cases).
pub fn expected(setup: &Setup) -> String {
    match setup.expect {
        Expect::Holds => "holds".into(),
        Expect::Stale(steps) => format!("stale for good in {steps} steps"),
        Expect::Violates(property) => format!("violates {}", property.name()),
    }
}

impl Trace {
    /// The steps as an array.
    fn to_json(&self) -> Value {
        let step = |step: &super::trace::Step| {
            json!({
                "actor": step.actor.name(),
                "step": step.text,
                "row": step.row,
                "replica": step.replica,
                "cached": step.cached,
            })
        };
        self.steps.iter().map(step).collect()
    }
}
