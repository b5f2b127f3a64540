//! Records for tests of the retry queue.

use rowbust::retry::{Op, Origin, Record};

/// A removal of `key` at target `main` that failed once.
pub fn record(key: &str) -> Record {
    Record {
        target: "main".into(),
        key: key.into(),
        op: Op::Unlink,
        origin: Origin {
            source: "8c1f".into(),
            gtid: "8c1f:7".into(),
            file: "binlog.000002".into(),
            position: 1234,
            row: 3,
            commit_time: 1_700_000_000,
            epoch: 1,
            visible_file: "binlog.000002".into(),
            visible_position: 2345,
        },
        when_visible: true,
        fill_grace_ms: 1000,
        attempt: 0,
        not_before_ms: 0,
        first_failed_ms: 0,
        error_code: "IO".into(),
    }
}
