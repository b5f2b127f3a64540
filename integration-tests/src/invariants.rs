//! The invariants of a run with faults, checked at its end.
//!
//! - I1: after healing and quiescence every cached value equals the database.
//! - I2: the checkpoint never passes what Redis or the queue acknowledged. I4: it only grows.
//! - I3: every (transaction, key) of the binlog was removed for good.
//! - I7: no key disappears that no row change names.
//!
//! For good: by a removal after which no fill can bring the old value back, which the fill grace after the commit's visibility is the
//! first to be. Nothing is visible before its COMMIT was sent, so one that comes earlier than the grace after that is the first of
//! two, and doesn't count: a lost second removal is seen here, whether or not a reader came in between.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use rowbust::checkpoint::file::Saved;

use crate::load::{History, Outcome};
use crate::monitor::Removals;
use crate::oracle::Transaction;
use crate::shop;

/// What was there when the daemon died.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which death it was, for messages.
    pub name: String,
    /// The checkpoint on disk.
    pub checkpoint: Saved,
    /// How many removals Redis had run.
    pub removals: usize,
    /// Keys in the queue.
    pub queued: HashSet<String>,
}

/// What the checks went through: none of it may be 0 in a run that counts.
#[derive(Debug, Default, Clone, Copy)]
pub struct Checked {
    /// Transactions of the load that the oracle found.
    pub transactions: usize,
    /// Their (transaction, key) pairs.
    pub pairs: usize,
    /// Pairs at or before a snapshot's checkpoint, over all snapshots.
    pub behind_checkpoints: usize,
    /// Of these, pairs that only the queue vouched for.
    pub by_queue: usize,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// By the oracle, in order.
    pub binlog: &'a [Transaction],
    /// By the load.
    pub history: &'a History,
    /// By Redis.
    pub removals: &'a Removals,
    /// By the test, at each death, in order.
    pub snapshots: &'a [Snapshot],
}

/// One transaction of the load, with what it makes wrong.
struct Owed<'a> {
    transaction: &'a Transaction,
    number: u64,
    sent: u64,
    keys: HashSet<String>,
}

impl Evidence<'_> {
    /// Checks I2, I3, I4 and I7, and that history and binlog agree.
    ///
    /// # Errors
    /// Names what is violated, by which transactions and keys.
    pub fn check(&self) -> Result<Checked> {
        let owed = self.owed()?;
        let mut checked = Checked { transactions: owed.len(), ..Checked::default() };
        checked.pairs = owed.iter().map(|o| o.keys.len()).sum();
        self.i3(&owed)?;
        self.i4()?;
        self.i2(&owed, &mut checked)?;
        self.i7()?;
        Ok(checked)
    }

    fn owed(&self) -> Result<Vec<Owed<'_>>> {
        let mut owed = Vec::new();
        let mut found = HashSet::new();
        for transaction in self.binlog {
            let Some(log) = transaction.rows.iter().find(|r| r.table == "txlog") else { continue };
            let number =
                log.after.as_ref().and_then(|a| a.first()).context("a txlog row without a number")?;
            let number: u64 = number.parse()?;
            let entry = self.history.transactions.get(&number).context("a transaction that nobody wrote")?;
            ensure!(
                entry.outcome != Outcome::RolledBack,
                "transaction {number} was rolled back and is in the binlog"
            );
            found.insert(number);
            let keys = transaction.rows.iter().flat_map(|row| shop::keys(row, "")).collect();
            owed.push(Owed { transaction, number, sent: entry.sent, keys });
        }
        for (number, entry) in &self.history.transactions {
            ensure!(
                entry.outcome != Outcome::Committed || found.contains(number),
                "transaction {number} was committed and the oracle doesn't see it"
            );
        }
        Ok(owed)
    }

    /// The first removal of `key` that may be the last that a commit owes, which was sent at `sent`.
    fn removed(&self, cache: &mut HashMap<String, Vec<(u64, usize)>>, key: &str, sent: u64) -> Option<usize> {
        if !cache.contains_key(key) {
            let all = self.removals.of(key).iter().map(|r| (r.micros, r.place)).collect();
            cache.insert(key.to_owned(), all);
        }
        let earliest = sent.saturating_add(u64::try_from(shop::FILL_GRACE.as_micros()).unwrap_or(u64::MAX));
        cache.get(key)?.iter().find(|(micros, _)| *micros >= earliest).map(|(_, place)| *place)
    }

    fn i3(&self, owed: &[Owed<'_>]) -> Result<()> {
        let mut cache = HashMap::new();
        let mut missing = Vec::new();
        for o in owed {
            for key in &o.keys {
                if self.removed(&mut cache, key, o.sent).is_none() {
                    missing.push(format!("transaction {} ({:?}): {key:?}", o.number, o.transaction.end));
                }
            }
        }
        ensure!(
            missing.is_empty(),
            "I3: {} pairs were never removed after their grace: {:#?}",
            missing.len(),
            head(&missing)
        );
        Ok(())
    }

    fn i4(&self) -> Result<()> {
        for pair in self.snapshots.windows(2) {
            let [before, after] = pair else { continue };
            let (a, b) = (&before.checkpoint, &after.checkpoint);
            // With a new epoch it may go back: Redis was seen to have forgotten something.
            ensure!(
                a.epoch <= b.epoch
                    && a.generation <= b.generation
                    && (a.epoch < b.epoch || (&a.file, a.position) <= (&b.file, b.position)),
                "I4: the checkpoint went back from {a:?} ({}) to {b:?} ({})",
                before.name,
                after.name
            );
        }
        Ok(())
    }

    fn i2(&self, owed: &[Owed<'_>], checked: &mut Checked) -> Result<()> {
        let mut cache = HashMap::new();
        for snapshot in self.snapshots {
            let at = (snapshot.checkpoint.file.clone(), snapshot.checkpoint.position);
            let numbers = last_number(&snapshot.checkpoint.gtids)?;
            let mut passed = Vec::new();
            for o in owed {
                let behind = o.transaction.end <= at;
                ensure!(
                    behind == (o.transaction.gtid <= numbers),
                    "{}: the checkpoint's position {at:?} and GTIDs {} differ about transaction {:?}",
                    snapshot.name,
                    snapshot.checkpoint.gtids,
                    o.transaction.end
                );
                if !behind {
                    continue;
                }
                for key in &o.keys {
                    checked.behind_checkpoints += 1;
                    let by_redis =
                        self.removed(&mut cache, key, o.sent).is_some_and(|place| place < snapshot.removals);
                    if !by_redis && snapshot.queued.contains(key) {
                        checked.by_queue += 1;
                    } else if !by_redis {
                        passed.push(format!("transaction {} ({:?}): {key:?}", o.number, o.transaction.end));
                    }
                }
            }
            ensure!(
                passed.is_empty(),
                "I2: {}: the checkpoint {at:?} passed {} pairs that nobody acknowledged: {:#?}",
                snapshot.name,
                passed.len(),
                head(&passed)
            );
        }
        Ok(())
    }

    fn i7(&self) -> Result<()> {
        let named: HashSet<String> =
            self.binlog.iter().flat_map(|t| &t.rows).flat_map(|row| shop::keys(row, "")).collect();
        let extra: Vec<String> =
            self.removals.since(0).into_keys().filter(|k| !named.contains(k) && k != PROBE).collect();
        ensure!(extra.is_empty(), "I7: removed, and named by no row change: {:?}", head(&extra));
        Ok(())
    }
}

/// What the daemon removes to see whether a server takes writes; it never exists.
pub const PROBE: &str = "rowbust:probe";

/// The last number of a GTID position of one server: `uuid:1-57` or `0-1-57`.
fn last_number(gtids: &str) -> Result<u64> {
    let digits = gtids.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no GTID in the checkpoint: {gtids:?}"))
}

fn head(all: &[String]) -> &[String] {
    &all[..all.len().min(10)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::Entry;
    use crate::oracle::Row;

    fn text(values: &[&str]) -> Option<Vec<String>> {
        Some(values.iter().map(|v| (*v).to_owned()).collect())
    }

    fn checkpoint(position: u64, gtid: u64) -> Snapshot {
        let checkpoint = Saved {
            generation: gtid,
            epoch: 1,
            flavor: "mariadb".into(),
            source: "1".into(),
            gtids: format!("0-1-{gtid}"),
            file: "f".into(),
            position,
            anchor: None,
            followed_since: 0,
            commit_time: 0,
            saved_at: 0,
            covered: None,
            lineage: String::new(),
            published: Default::default(),
            fence: 0,
        };
        Snapshot { name: "here".into(), checkpoint, removals: 3, queued: HashSet::new() }
    }

    /// A run of two transactions on one order each, the first removed twice before the death, the second once before it and once after; with
    /// one thing wrong.
    fn judged(wrong: impl FnOnce(&mut Vec<&str>, &mut Vec<Snapshot>, &mut History)) -> String {
        let transaction = |n: u64| Transaction {
            end: ("f".into(), n * 100),
            gtid: n,
            rows: vec![
                Row { table: "txlog".into(), before: None, after: text(&[&n.to_string()]) },
                Row { table: "orders".into(), before: None, after: text(&[&n.to_string(), "1", "1"]) },
            ],
        };
        let mut lines = vec![
            "+1.000100 [0 127.0.0.1:5] \"UNLINK\" \"order:1\"",
            "+1.000200 [0 127.0.0.1:5] \"UNLINK\" \"order:2\"",
            "+1.200090 [0 127.0.0.1:5] \"UNLINK\" \"order:1\"",
            "+1.200200 [0 127.0.0.1:5] \"UNLINK\" \"order:2\"",
        ];
        let mut history = History::default();
        for n in [1, 2] {
            let entry = Entry { sent: 1_000_000 + n * 90, outcome: Outcome::Committed };
            history.transactions.insert(n, entry);
        }
        let mut snapshots = vec![checkpoint(100, 1)];
        wrong(&mut lines, &mut snapshots, &mut history);
        let removals = Removals::default();
        lines.iter().for_each(|line| removals.note(line));
        let binlog = [transaction(1), transaction(2)];
        let evidence =
            Evidence { binlog: &binlog, history: &history, removals: &removals, snapshots: &snapshots };
        evidence.check().map_or_else(|e| e.to_string(), |checked| format!("{} pairs", checked.pairs))
    }

    #[test]
    fn each_violation_is_found() {
        assert_eq!(judged(|_, _, _| {}), "2 pairs");
        let never = judged(|lines, _, _| _ = lines.pop());
        assert!(
            never.starts_with("I3") && never.contains("order:2") && !never.contains("order:1"),
            "{never}"
        );
        // One removal is enough if it comes late: that is how a backlog is drained.
        assert_eq!(judged(|lines, _, _| _ = lines.remove(1)), "2 pairs");
        let lost = judged(|lines, snapshots, _| {
            lines.remove(2);
            snapshots[0].removals = 2;
        });
        assert!(lost.starts_with("I3") && lost.contains("order:1") && !lost.contains("order:2"), "{lost}");
        let unowed = judged(|_, snapshots, _| snapshots[0].removals = 2);
        assert!(unowed.starts_with("I2") && unowed.contains("order:1"), "{unowed}");
        let early = judged(|_, _, history| history.transactions.get_mut(&2).unwrap().sent = 1_000_201);
        assert!(early.starts_with("I3") && early.contains("order:2"), "{early}");
        let passed = judged(|_, snapshots, _| snapshots[0] = checkpoint(200, 2));
        assert!(passed.starts_with("I2") && passed.contains("order:2"), "{passed}");
        let differ = judged(|_, snapshots, _| snapshots[0] = checkpoint(100, 2));
        assert!(differ.contains("differ"), "{differ}");
        let back = judged(|_, snapshots, _| snapshots.push(checkpoint(99, 1)));
        assert!(back.starts_with("I4"), "{back}");
        let extra = judged(|lines, _, _| lines.push("+1.000300 [0 127.0.0.1:5] \"UNLINK\" \"control:1\""));
        assert!(extra.starts_with("I7") && extra.contains("control:1"), "{extra}");
        let ghost =
            judged(|_, _, history| history.transactions.get_mut(&1).unwrap().outcome = Outcome::RolledBack);
        assert!(ghost.contains("rolled back"), "{ghost}");
        let vouched = judged(|_, snapshots, _| {
            snapshots[0] = checkpoint(200, 2);
            snapshots[0].queued.insert("order:2".into());
        });
        assert_eq!(vouched, "2 pairs");
    }
}
