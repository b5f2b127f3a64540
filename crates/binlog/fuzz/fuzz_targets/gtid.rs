//! Any text as GTIDs: what is read must print as what reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowbust_binlog::{Gtid, GtidSet, MariaGtidPos};

fuzz_target!(|data: &[u8]| {
    let _ = GtidSet::decode(data, 35);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(set) = text.parse::<GtidSet>() {
        assert_eq!(set.to_string().parse(), Ok(set));
    }
    if let Ok(pos) = text.parse::<MariaGtidPos>() {
        assert_eq!(pos.to_string().parse(), Ok(pos));
    }
    if let Ok(gtid) = text.parse::<Gtid>() {
        assert_eq!(gtid.to_string().parse(), Ok(gtid));
    }
});
