#![allow(clippy::unwrap_used)]

use rowbust_binlog::MariaGtid;

use super::{ring::TRANSACTIONS, *};
use crate::retry::{Op, Origin};

fn note(at_micros: u64) -> Note<'static> {
    Note {
        file: "b.000001",
        gtid: None,
        at_micros,
        commit_micros: at_micros - 1,
        waited: Duration::from_millis(1),
        by: By::First,
    }
}

fn gtid(seq: u64) -> Option<Gtid> {
    Some(Gtid::MariaDb(MariaGtid { domain: 0, server: 1, seq }))
}

#[test]
fn the_newest_are_found_and_memory_is_bounded() {
    let mut ring = Ring::default();
    let batches = 3 * CAPACITY as u64 / 8;
    for batch in 1..=batches {
        ring.note(note(batch));
        for key in 0..8 {
            // One hot key in each batch.
            let hash = if key == 0 { 7 } else { 1000 + batch * 8 + key };
            ring.push(hash, batch * 100 + key, 0, key == 1);
        }
        let (entries, notes) = ring.sizes();
        assert!(entries <= CAPACITY && notes <= CAPACITY / 8 + 2, "{entries} {notes}");
    }
    let hot = ring.find(7, 3, "main");
    let times: Vec<u64> = hot.iter().map(|removed| removed.at_micros).collect();
    assert_eq!(times, [batches, batches - 1, batches - 2]);
    assert_eq!((hot[0].position, &*hot[0].file, hot[0].is_field), (batches * 100, "b.000001", false));
    let last = ring.find(1000 + batches * 8 + 1, 3, "main");
    assert_eq!((last.len(), last[0].is_field), (1, true));
    // The first batches are forgotten, the oldest that is left is known.
    assert!(ring.find(1000 + 8 + 2, 3, "main").is_empty());
    assert_eq!(ring.oldest(), Some(batches - CAPACITY as u64 / 8 + 1));
    assert_eq!(ring.find(7, usize::MAX, "main").len(), CAPACITY / 8);
}

#[test]
fn files_and_gtids_are_those_of_the_note() {
    // Numbers wrap on the way.
    let mut ring = Ring::numbered(u32::MAX - u32::try_from(CAPACITY).unwrap());
    let batches = 3 * CAPACITY as u64;
    let name = |batch: u64| format!("b.{:06}", batch / 1000);
    for batch in 1..=batches {
        let (file, gtid) = (name(batch), format!("0-1-{batch}"));
        let gtid = (batch % 3 == 0).then_some(gtid.as_str());
        ring.note(Note { file: &file, gtid, ..note(batch) });
        ring.push(batch, batch, 0, false);
        let (entries, notes) = ring.sizes();
        assert!(entries <= CAPACITY && notes <= CAPACITY + 1, "{entries} {notes}");
    }
    for batch in (batches - CAPACITY as u64 + 1..=batches).step_by(7) {
        let found = ring.find(batch, 2, "main");
        assert_eq!(found.len(), 1, "{batch}");
        let expected = (batch % 3 == 0).then(|| format!("0-1-{batch}"));
        assert_eq!((&*found[0].file, &found[0].gtid), (name(batch).as_str(), &expected), "{batch}");
        assert_eq!((found[0].at_micros, found[0].waited), (batch, Duration::from_millis(1)));
    }
    assert!(ring.find(batches - CAPACITY as u64, 2, "main").is_empty());
}

#[test]
fn a_removal_is_led_back_to_its_transaction() {
    let journal = Journal::default();
    let (a, b): (Arc<str>, Arc<str>) = ("b.000001".into(), "b.000002".into());
    journal.begun(&a, &mut vec![(100, gtid(1)), (300, gtid(2))]);
    let mut second = vec![(50, gtid(3)), (60, None)];
    journal.begun(&b, &mut second);
    assert!(second.is_empty());
    let of = |file: &str, position| lock(&journal.transactions).gtid(file, position).map(|g| g.to_string());
    assert_eq!(of("b.000001", 99), None);
    assert_eq!(of("b.000001", 250).as_deref(), Some("0-1-1"));
    assert_eq!(of("b.000001", 5000).as_deref(), Some("0-1-2"));
    assert_eq!(of("b.000002", 55).as_deref(), Some("0-1-3"));
    assert_eq!(of("b.000002", 70), None);
    assert_eq!(of("b.000003", 70), None);
    // The log began anew: the same file with other transactions.
    journal.begun(&a, &mut vec![(100, gtid(9))]);
    assert_eq!(of("b.000001", 250).as_deref(), Some("0-1-9"));
    journal.begun(&b, &mut (0..2 * TRANSACTIONS as u64).map(|n| (1000 + n * 10, gtid(n))).collect());
    assert_eq!(of("b.000001", 250), None);
    assert_eq!(
        of("b.000002", 1005 + 10 * TRANSACTIONS as u64).as_deref(),
        Some(&*format!("0-1-{TRANSACTIONS}"))
    );
}

#[test]
fn what_the_retry_queue_removed_has_its_own_place() {
    let journal = Journal::default();
    let target = journal.target("main");
    let origin = Origin {
        source: "1".into(),
        gtid: "0-1-7".into(),
        file: "b.000001".into(),
        position: 77,
        row: 3,
        commit_time: 5,
        epoch: 1,
        visible_file: "b.000001".into(),
        visible_position: 70,
    };
    target.retried(&Record {
        target: "main".into(),
        key: b"k:1".to_vec(),
        op: Op::Unlink,
        origin,
        when_visible: true,
        fill_grace_ms: 0,
        attempt: 0,
        not_before_ms: 0,
        first_failed_ms: 0,
        error_code: String::new(),
    });
    let found = journal.find(b"k:1", 5);
    assert_eq!(found.len(), 1);
    let removed = &found[0];
    assert_eq!((removed.by, removed.position, removed.row), (By::Retry, 77, 3));
    assert_eq!((removed.gtid.as_deref(), removed.commit_micros), (Some("0-1-7"), 5_000_000));
    assert!(journal.find(b"k:2", 5).is_empty());
    assert_eq!(target.counts(), Counts { retried: 1, ..Counts::default() });
    assert_eq!(journal.target("main").counts(), target.counts());
    assert_eq!(journal.oldest(), None);
}
