//! What a soak found, and what that means.
//!
//! Guarantees: it held only if no key of `guarded` was left stale, some of `cache-aside` were, and each fault struck all that it can strike.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use rowbust_lab::summary::Run;
use serde::Serialize;

const OURS: &str = "guarded";
const OTHER: &str = "cache-aside";

/// One strategy in one round.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Round {
    seed: u64,
    strategy: String,
    reads: u64,
    hits: u64,
    writes: u64,
    /// Of reads: a newer version had been visible before they began.
    stale_reads: u64,
    /// The longest that one was, in milliseconds.
    stalest_ms: u64,
    /// Keys that were left with another version than their row's.
    stale_for_good: u64,
    /// Keys that held what their row does.
    right: u64,
    /// Keys that held nothing.
    absent: u64,
    refused_fills: u64,
    /// How often each fault struck, of those that can strike the strategy.
    struck: BTreeMap<String, u64>,
    /// Why the round counts for nothing, if it does, but for a fault that didn't strike in it.
    void: Option<String>,
}

impl Round {
    pub(crate) fn of(seed: u64, run: &Run) -> Self {
        let report = &run.report;
        Self {
            seed,
            strategy: run.strategy.clone(),
            reads: report.reads,
            hits: report.hits,
            writes: report.writes,
            stale_reads: report.stale_reads,
            stalest_ms: report.staleness.max / 1_000_000,
            stale_for_good: report.permanently_stale.len() as u64,
            right: report.right,
            absent: report.absent,
            refused_fills: run.measures.refused_fills,
            struck: run.struck.clone(),
            void: run.void.clone().filter(|why| !why.contains("never struck")),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub(crate) enum Verdict {
    /// As promised.
    Held,
    /// Not.
    Failed(Vec<String>),
    /// It shows nothing.
    Void(Vec<String>),
}

impl Verdict {
    /// Whether something was found, as opposed to nothing shown.
    pub(crate) fn is_failure(&self) -> bool {
        if let Self::Failed(why) = self {
            eprintln!("failed: {}", why.join("; "));
        }
        matches!(self, Self::Failed(_))
    }

    /// # Errors
    /// When it didn't hold.
    pub(crate) fn into_result(self) -> Result<()> {
        match self {
            Self::Held => Ok(()),
            Self::Failed(why) => bail!("{}", why.join("; ")),
            Self::Void(why) => bail!("void: {}", why.join("; ")),
        }
    }
}

/// All rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Soak {
    format: u32,
    minutes: u32,
    readers: u32,
    writers: u32,
    servers: Vec<String>,
    /// By strategy, all rounds taken together.
    totals: BTreeMap<String, Round>,
    #[serde(flatten)]
    verdict: Verdict,
    /// Rounds that broke off, and why: they were begun anew.
    repeated: Vec<String>,
    rounds: Vec<Vec<Round>>,
}

impl Soak {
    pub(crate) fn repeat(&mut self, why: String) {
        self.repeated.push(why);
    }

    pub(crate) fn new(minutes: u32, readers: u32, writers: u32, servers: [&str; 2]) -> Self {
        let verdict = Verdict::Void(vec!["no round was finished".to_owned()]);
        let servers = servers.map(str::to_owned).to_vec();
        Self {
            format: 1,
            minutes,
            readers,
            writers,
            servers,
            totals: BTreeMap::new(),
            verdict,
            repeated: Vec::new(),
            rounds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, round: Vec<Round>) {
        for one in &round {
            let total = self.totals.entry(one.strategy.clone()).or_insert_with(|| Round {
                seed: one.seed,
                strategy: one.strategy.clone(),
                ..Round::default()
            });
            total.reads += one.reads;
            total.hits += one.hits;
            total.writes += one.writes;
            total.stale_reads += one.stale_reads;
            total.stalest_ms = total.stalest_ms.max(one.stalest_ms);
            total.stale_for_good += one.stale_for_good;
            total.right += one.right;
            total.absent += one.absent;
            total.refused_fills += one.refused_fills;
            for (fault, times) in &one.struck {
                *total.struck.entry(fault.clone()).or_default() += times;
            }
            total.void = total.void.take().or_else(|| one.void.clone());
        }
        self.rounds.push(round);
        self.verdict = judge(&self.totals);
    }

    /// Whether nothing is wrong but that the faults have shown too little.
    pub(crate) fn is_too_mild(&self) -> bool {
        let total = |name| self.totals.get(name).map_or(0, |round: &Round| round.stale_for_good);
        total(OURS) == 0 && (total(OTHER) == 0 || matches!(self.verdict, Verdict::Void(_)))
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    /// The newest round.
    pub(crate) fn line(&self) -> String {
        let one = |round: &Round| {
            format!(
                "{}: {} reads, {} writes, {} stale for good",
                round.strategy, round.reads, round.writes, round.stale_for_good
            )
        };
        let rounds: Vec<String> = self.rounds.last().into_iter().flatten().map(one).collect();
        format!("round {} of {}: {}", self.rounds.len(), self.minutes, rounds.join("; "))
    }

    /// For a person.
    pub(crate) fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        let head = self.totals.keys().map(String::as_str);
        table.set_header(std::iter::once("").chain(head));
        type Of = fn(&Round) -> u64;
        let figures: [(&str, Of); 8] = [
            ("keys left stale for good", |r| r.stale_for_good),
            ("keys right at the end", |r| r.right),
            ("keys absent at the end", |r| r.absent),
            ("reads", |r| r.reads),
            ("writes", |r| r.writes),
            ("stale reads", |r| r.stale_reads),
            ("stalest read, ms", |r| r.stalest_ms),
            ("fills refused", |r| r.refused_fills),
        ];
        for (name, of) in figures {
            table.add_row(
                std::iter::once(name.to_owned()).chain(self.totals.values().map(|r| of(r).to_string())),
            );
        }
        let faults: BTreeSet<&String> = self.totals.values().flat_map(|r| r.struck.keys()).collect();
        for fault in faults {
            let of = |r: &Round| r.struck.get(fault).map_or_else(|| "-".to_owned(), u64::to_string);
            let times = self.totals.values().map(of);
            table.add_row(std::iter::once(format!("{fault} struck")).chain(times));
        }
        table.to_string()
    }
}

fn judge(totals: &BTreeMap<String, Round>) -> Verdict {
    let (Some(ours), Some(other)) = (totals.get(OURS), totals.get(OTHER)) else {
        return Verdict::Void(vec![format!("{OURS} and {OTHER} must both run")]);
    };
    let mut failed = Vec::new();
    // What is found is found, void or not.
    if ours.stale_for_good > 0 {
        failed.push(format!("{} keys of {OURS} were left stale", ours.stale_for_good));
    }
    if !failed.is_empty() {
        return Verdict::Failed(failed);
    }
    let mut void: Vec<String> = [ours, other].iter().filter_map(|round| round.void.clone()).collect();
    for round in [ours, other] {
        let idle = round.struck.iter().filter(|(_, times)| **times == 0);
        void.extend(idle.map(|(fault, _)| format!("{fault} never struck {}", round.strategy)));
        if round.struck.is_empty() {
            void.push(format!("no fault was on for {}", round.strategy));
        }
        if round.reads == 0 || round.writes == 0 || round.right + round.absent + round.stale_for_good == 0 {
            void.push(format!("{} did nothing", round.strategy));
        }
    }
    if !void.is_empty() {
        return Verdict::Void(void);
    }
    if other.stale_for_good == 0 {
        return Verdict::Failed(vec![format!("no key of {OTHER} was left stale: the faults were too mild")]);
    }
    Verdict::Held
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn round(strategy: &str, stale: u64) -> Round {
        Round {
            strategy: strategy.to_owned(),
            reads: 10,
            writes: 5,
            right: 3,
            stale_for_good: stale,
            struck: [("eviction".to_owned(), 2)].into(),
            ..Round::default()
        }
    }

    fn soak(rounds: Vec<Vec<Round>>) -> Soak {
        let mut soak = Soak::new(1, 8, 4, ["MariaDB", "Redis"]);
        for round in rounds {
            soak.add(round);
        }
        soak
    }

    #[test]
    fn it_holds_only_where_the_faults_did_harm_and_ours_took_none() {
        let of = |ours, other| soak(vec![vec![round(OURS, ours), round(OTHER, other)]]).verdict();
        assert_eq!(of(0, 2), Verdict::Held);
        assert!(matches!(of(1, 2), Verdict::Failed(why) if why[0].contains("1 keys of guarded")));
        assert!(matches!(of(0, 0), Verdict::Failed(why) if why[0].contains("too mild")));
        assert!(matches!(soak(Vec::new()).verdict(), Verdict::Void(_)));
        let mild = |ours, other| soak(vec![vec![round(OURS, ours), round(OTHER, other)]]).is_too_mild();
        assert_eq!((mild(0, 0), mild(0, 1), mild(1, 0)), (true, false, false));
        assert!(matches!(soak(vec![vec![round(OURS, 0)]]).verdict(), Verdict::Void(_)));
    }

    #[test]
    fn a_fault_that_never_struck_makes_it_void() {
        let idle =
            |strategy, stale| Round { struck: [("eviction".to_owned(), 0)].into(), ..round(strategy, stale) };
        let both = |first, second| soak(vec![first, second]).verdict();
        let struck = vec![round(OURS, 0), round(OTHER, 2)];
        let missed = vec![idle(OURS, 0), idle(OTHER, 1)];
        assert_eq!(both(missed.clone(), struck), Verdict::Held, "in one of the rounds is enough");
        let void = both(missed.clone(), vec![idle(OURS, 0), round(OTHER, 1)]);
        assert_eq!(void, Verdict::Void(vec!["eviction never struck guarded".to_owned()]));
        let stale = both(missed, vec![idle(OURS, 1), round(OTHER, 1)]);
        assert!(matches!(stale, Verdict::Failed(_)), "a stale key counts in any case");
        let told = Round { void: Some("undrained".to_owned()), ..round(OURS, 0) };
        let void = soak(vec![vec![told, round(OTHER, 1)]]).verdict();
        assert_eq!(void, Verdict::Void(vec!["undrained".to_owned()]));
    }

    #[test]
    fn a_fault_that_cannot_strike_a_strategy_is_not_asked_of_it() {
        let mut ours = round(OURS, 0);
        ours.struck.insert("daemon-kill".to_owned(), 4);
        let both = soak(vec![vec![ours.clone(), round(OTHER, 1)]]);
        assert_eq!(both.verdict(), Verdict::Held);
        let table = both.table();
        let line = table.lines().find(|line| line.contains("daemon-kill")).unwrap();
        assert_eq!(
            line.split('|').map(str::trim).collect::<Vec<_>>(),
            ["", "daemon-kill struck", "-", "4", ""]
        );
        ours.struck.insert("daemon-kill".to_owned(), 0);
        let void = soak(vec![vec![ours, round(OTHER, 1)]]).verdict();
        assert_eq!(void, Verdict::Void(vec!["daemon-kill never struck guarded".to_owned()]));
    }

    #[test]
    fn rounds_add_up() {
        let soak = soak(vec![
            vec![round(OURS, 0), round(OTHER, 2)],
            vec![round(OURS, 0), Round { stalest_ms: 7, ..round(OTHER, 3) }],
        ]);
        let total = &soak.totals[OTHER];
        assert_eq!(
            (total.reads, total.stale_for_good, total.stalest_ms, total.struck["eviction"]),
            (20, 5, 7, 4)
        );
        let json = serde_json::to_value(&soak).unwrap();
        assert_eq!((&json["verdict"], json["rounds"].as_array().unwrap().len()), (&"held".into(), 2));
        assert!(soak.table().contains("keys left stale for good"));
    }
}
