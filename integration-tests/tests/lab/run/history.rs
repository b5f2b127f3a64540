//! `--history` and `--seed`: what was done can be read and judged again, and the same seed does the same.

use std::collections::BTreeMap;

use rowbust_lab::{
    checker::{self, Report, Settings},
    history::{self, Op},
};

use super::*;

/// One second of `cache-aside`; its folder.
fn short(dir: &Path, out: &str, more: &[&str]) -> Result<std::path::PathBuf> {
    let args = ["run", "--strategy", "cache-aside", "--seconds", "1", "--readers", "2", "--writers", "2"];
    run(dir, &[&args[..], &["--out", out], more].concat(), 0)?;
    let mut runs = fs::read_dir(dir.join(out).join("runs"))?.collect::<Result<Vec<_>, _>>()?;
    ensure!(runs.len() == 1, "{runs:?}");
    Ok(runs.remove(0).path())
}

fn operations(folder: &Path) -> Result<Vec<Op>> {
    Ok(history::read(fs::File::open(folder.join("history.bin"))?)?)
}

/// What each process did to which key, in its order.
fn choices(ops: &[Op]) -> BTreeMap<u32, Vec<(bool, u32)>> {
    let mut ops: Vec<&Op> = ops.iter().collect();
    ops.sort_by_key(|op| op.start);
    let mut all: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for op in ops {
        all.entry(op.process).or_default().push((op.kind.is_read(), op.key));
    }
    all
}

#[test]
fn a_history_is_judged_again_and_its_seed_repeats_the_choices() -> Result<()> {
    let Some(_) = require(&[Need::MariaDb, Need::Redis]) else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let first = short(dir.path(), "first", &["--history", "--seed", "7"])?;
    let again = short(dir.path(), "again", &["--history", "--seed", "7"])?;
    let other = short(dir.path(), "other", &["--history", "--seed", "8"])?;
    ensure!(!short(dir.path(), "without", &[])?.join("history.bin").exists(), "kept without --history");

    let mut ops = operations(&first)?;
    let summary: Value = serde_json::from_slice(&fs::read(dir.path().join("first/summary.json"))?)?;
    ensure!(summary["environment"]["seed"] == 7, "{}", summary["environment"]);
    let told: Report = serde_json::from_value(summary["runs"][0]["report"].clone())?;
    let judged = checker::check(&mut ops, &[], &Settings::default())?;
    ensure!(judged.reads > 100 && judged.writes > 10, "{judged:?}");
    // What is left in the cache at the end is no part of a history, nor what a writer waits for behind its commit.
    let expected = Report {
        permanently_stale: Vec::new(),
        absent: 0,
        right: 0,
        write_latency: judged.write_latency,
        ..told
    };
    ensure!(judged == expected, "{judged:?}\n{expected:?}");

    // How far each came in its second is chance; what it did is not.
    let [first, again, other] =
        [&first, &again, &other].map(|folder| operations(folder).map(|ops| choices(&ops)));
    let (first, again, other) = (first?, again?, other?);
    ensure!(first.len() == 4 && again.len() == 4 && other.len() == 4, "not four processes");
    let mut differ = 0;
    for (process, done) in &first {
        let common = |others: &BTreeMap<u32, Vec<(bool, u32)>>| {
            let theirs = others.get(process).map_or(0, Vec::len);
            let length = done.len().min(theirs);
            (length, others.get(process).is_some_and(|theirs| theirs[..length] == done[..length]))
        };
        let (length, same) = common(&again);
        ensure!(length > 5 && same, "process {process} with the same seed");
        differ += usize::from(!common(&other).1);
    }
    ensure!(differ == 4, "{differ} of 4 processes differ with another seed");
    Ok(())
}
