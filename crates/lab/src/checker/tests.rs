#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const MS: Nanos = 1_000_000;

fn op(process: u32, kind: Kind, version: Version, start: Nanos, end: Nanos) -> Op {
    Op { start: start * MS, end: end * MS, version, key: 7, process, kind, outcome: Outcome::Ok }
}

fn hit(process: u32, version: Version, start: Nanos, end: Nanos) -> Op {
    op(process, Kind::Hit, version, start, end)
}

fn load(process: u32, version: Version, start: Nanos, end: Nanos) -> Op {
    op(process, Kind::Load, version, start, end)
}

fn write(process: u32, version: Version, start: Nanos, end: Nanos) -> Op {
    op(process, Kind::Write, version, start, end)
}

fn ended(outcome: Outcome, op: Op) -> Op {
    Op { outcome, ..op }
}

fn judge(ops: &[Op]) -> Report {
    check(&mut ops.to_vec(), &[], &Settings::default()).unwrap()
}

fn refused(ops: &[Op]) -> Impossible {
    check(&mut ops.to_vec(), &[], &Settings::default()).unwrap_err()
}

#[test]
fn a_right_history_has_nothing() {
    let report =
        judge(&[load(1, 1, 0, 2), write(2, 2, 3, 5), hit(1, 1, 4, 6), load(1, 2, 7, 9), hit(3, 2, 8, 10)]);
    assert_eq!((report.reads, report.hits, report.writes), (4, 2, 1));
    assert_eq!(
        (report.stale_reads, report.own_write_missed, report.went_back, report.dirty_reads),
        (0, 0, 0, 0)
    );
    assert!(report.nines.iter().all(|n| n.inconsistent == 0 && n.at_most == Some(1.0)));
    assert_eq!(report.read_latency.max, 2 * MS);
}

#[test]
fn a_stale_read() {
    let report = judge(&[write(2, 2, 3, 5), write(2, 3, 6, 8), hit(1, 1, 25, 26)]);
    assert_eq!(report.stale_reads, 1);
    // Since version 2, not since 3.
    assert_eq!(
        report.staleness,
        Quantiles { count: 1, p50: 20 * MS, p99: 20 * MS, p999: 20 * MS, max: 20 * MS }
    );
    let expected = Stale { key: 7, process: 1, start: 25 * MS, version: 1, newest: 3, staleness: 20 * MS };
    assert_eq!(report.stalest, [expected]);
    assert_eq!(report.timeline[&0], Bucket { reads: 1, stale: 1, writes: 2 });
}

#[test]
fn a_read_that_began_before_the_answer_is_right() {
    assert_eq!(judge(&[write(2, 2, 3, 5), hit(1, 1, 5, 60)]).stale_reads, 0);
    assert_eq!(judge(&[write(2, 2, 3, 5), hit(1, 1, 6, 60)]).stale_reads, 1);
}

/// What the database gave is committed, whatever became of the write's answer; what the cache gave needn't be.
#[test]
fn a_write_without_an_answer_counts_once_it_was_read() {
    let unknown = ended(Outcome::Unknown, write(2, 2, 1, 3));
    assert_eq!(judge(&[unknown, hit(1, 1, 9, 10)]).stale_reads, 0);
    assert_eq!(judge(&[unknown, load(3, 2, 5, 6), hit(1, 1, 9, 10)]).stale_reads, 1);
    assert_eq!(judge(&[unknown, hit(3, 2, 5, 6), hit(1, 1, 9, 10)]).stale_reads, 0);
}

#[test]
fn sessions() {
    let report = judge(&[write(1, 2, 1, 3), hit(1, 1, 4, 5)]);
    assert_eq!((report.own_write_missed, report.went_back), (1, 0));
    let report = judge(&[write(2, 2, 1, 20), hit(1, 2, 4, 5), hit(1, 1, 6, 7), hit(3, 1, 6, 7)]);
    assert_eq!((report.own_write_missed, report.went_back, report.stale_reads), (0, 1, 0));
}

#[test]
fn a_dirty_read() {
    let failed = ended(Outcome::Failed, write(2, 2, 1, 3));
    let report = judge(&[failed, hit(1, 2, 2, 4)]);
    assert_eq!((report.dirty_reads, report.failed_writes, report.writes), (1, 1, 0));
    assert!(matches!(refused(&[failed, load(1, 2, 2, 4)]), Impossible::Uncommitted(_)));
    // Its version was given to another one.
    assert_eq!(judge(&[failed, write(3, 2, 4, 6), hit(1, 2, 7, 8), load(4, 2, 7, 8)]).dirty_reads, 0);
}

#[test]
fn nines() {
    // Of 100 writes one is contradicted, for 50 ms.
    let mut ops: Vec<Op> = (0..100).map(|n| write(2, n + 2, n * 10, n * 10 + 1)).collect();
    ops.push(hit(1, 41, 401 + 50, 460));
    let report = judge(&ops);
    let at = |after| *report.nines.iter().find(|n| n.after == after).unwrap();
    // It contradicts all that were visible when it began.
    assert_eq!(at(0).inconsistent, 5);
    assert_eq!(at(10 * MS).inconsistent, 4);
    assert!((at(10 * MS).nines.unwrap() - 1.397_940).abs() < 1e-6);
    assert_eq!((at(100 * MS).inconsistent, at(100 * MS).nines, at(100 * MS).at_most), (0, None, Some(0.03)));
}

#[test]
fn the_final_state() {
    let finals = [
        Final { key: 1, cached: Some(4), database: 4 },
        Final { key: 2, cached: Some(3), database: 4 },
        Final { key: 3, cached: None, database: 4 },
        Final { key: 4, cached: Some(1), database: 9 },
    ];
    let report = check(&mut [], &finals, &Settings::default()).unwrap();
    assert_eq!((report.right, report.absent), (1, 1));
    assert_eq!(report.permanently_stale.iter().map(|f| f.key).collect::<Vec<_>>(), [4, 2]);
    let twice = check(&mut [], &[finals[0], finals[0]], &Settings::default());
    assert_eq!(twice.unwrap_err(), Impossible::FinalTwice(1));
}

#[test]
fn what_no_run_can_produce_is_refused() {
    assert!(matches!(refused(&[hit(1, 1, 5, 4)]), Impossible::Backwards(_)));
    assert!(matches!(refused(&[hit(1, 1, 1, 4), hit(1, 1, 3, 5)]), Impossible::Overlap(..)));
    assert!(matches!(refused(&[write(1, 2, 1, 4), write(2, 2, 1, 4)]), Impossible::Twice(..)));
    assert!(matches!(refused(&[write(1, 3, 1, 4), write(2, 2, 5, 6)]), Impossible::Order(..)));
    assert!(matches!(refused(&[write(1, 1, 1, 4)]), Impossible::NotNew(_)));
    assert!(matches!(refused(&[hit(1, 5, 1, 4)]), Impossible::Unwritten(_)));
    assert!(matches!(refused(&[hit(1, 2, 1, 4), write(2, 2, 5, 6)]), Impossible::Unwritten(_)));
    // At one time in either order.
    judge(&[write(1, 3, 1, 4), write(2, 2, 3, 6)]);
}

#[test]
fn absence_is_version_0() {
    let settings = Settings { initial: 0, ..Settings::default() };
    let mut ops = [load(1, 0, 0, 1), write(2, 1, 2, 3), hit(1, 0, 9, 10)];
    assert_eq!(check(&mut ops, &[], &settings).unwrap().stale_reads, 1);
}

#[test]
fn the_gravest_are_kept() {
    let mut ops = vec![write(9, 2, 0, 1)];
    ops.extend((2..100).map(|n| hit(1, 1, n * 2, n * 2 + 1)));
    let kept: Vec<_> = judge(&ops).stalest.iter().map(|s| s.staleness / MS).collect();
    assert_eq!(kept, [197, 195, 193, 191, 189]);
}

/// A run that could be: writes in order per key, reads of any version that was begun.
fn run() -> impl Strategy<Value = Vec<Op>> {
    let step = (0..4_u32, 0..3_u32, 0..10_u8, 0..20_u64, 1..30_u64, 0..4_u64);
    prop::collection::vec(step, 1..60).prop_map(|steps| {
        let mut free = [0; 4];
        let mut newest = [1_u64; 3];
        let mut ops: Vec<Op> = Vec::new();
        let mut last_write = [0; 3];
        for (process, key, what, gap, length, back) in steps {
            let k = key as usize;
            let mut start = free[process as usize] + gap;
            let outcome = match what {
                8 => Outcome::Unknown,
                9 => Outcome::Failed,
                _ => Outcome::Ok,
            };
            let (kind, version) = if !(3..=7).contains(&what) {
                start = start.max(last_write[k]);
                last_write[k] = start;
                newest[k] += 1;
                (Kind::Write, newest[k])
            } else {
                let version = newest[k].saturating_sub(back).max(1);
                let written =
                    ops.iter().find(|o| o.kind == Kind::Write && (o.key, o.version) == (key, version));
                start = start.max(written.map_or(0, |w| w.start));
                let failed = written.is_some_and(|w| w.outcome == Outcome::Failed);
                (if failed || what % 2 == 0 { Kind::Hit } else { Kind::Load }, version)
            };
            free[process as usize] = start + length;
            ops.push(Op { start, end: start + length, version, key, process, kind, outcome });
        }
        ops
    })
}

/// By the definitions, each operation against each other one.
fn plainly(ops: &[Op]) -> (u64, Vec<Nanos>, u64, u64, u64, u64) {
    let (mut staleness, mut own, mut back, mut dirty) = (Vec::new(), 0, 0, 0);
    let proofs =
        |key| ops.iter().filter(move |o| o.key == key && o.outcome == Outcome::Ok && o.kind != Kind::Hit);
    let reads = || ops.iter().filter(|o| o.kind.is_read() && o.outcome == Outcome::Ok);
    for read in reads() {
        let newer = proofs(read.key).filter(|o| o.version > read.version && o.end < read.start);
        staleness.extend(newer.map(|o| o.end).min().map(|since| read.start - since));
        let before =
            || ops.iter().filter(|o| (o.key, o.process) == (read.key, read.process) && o.start < read.start);
        let ok = |o: &&Op| o.outcome == Outcome::Ok && o.version > read.version;
        own += u64::from(before().filter(ok).any(|o| o.kind == Kind::Write));
        back += u64::from(before().filter(ok).any(|o| o.kind.is_read()));
        let failed = |o: &Op| {
            (o.key, o.version, o.outcome) == (read.key, read.version, Outcome::Failed)
                && o.kind == Kind::Write
        };
        dirty += u64::from(ops.iter().any(failed));
    }
    let acknowledged = ops.iter().filter(|o| o.kind == Kind::Write && o.outcome == Outcome::Ok);
    let contradicted = acknowledged
        .filter(|w| reads().any(|r| r.key == w.key && r.version < w.version && r.start > w.end))
        .count();
    staleness.sort_unstable();
    (staleness.len() as u64, staleness, own, back, dirty, contradicted as u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn as_by_the_definitions(ops in run()) {
        let report = check(&mut ops.clone(), &[], &Settings::default()).unwrap();
        let (stale, staleness, own, back, dirty, contradicted) = plainly(&ops);
        prop_assert_eq!(report.stale_reads, stale);
        prop_assert_eq!(report.staleness, Quantiles::of(&mut staleness.clone()));
        prop_assert_eq!(report.own_write_missed, own);
        prop_assert_eq!(report.went_back, back);
        prop_assert_eq!(report.dirty_reads, dirty);
        prop_assert_eq!(report.nines[0].inconsistent, contradicted);
    }
}
