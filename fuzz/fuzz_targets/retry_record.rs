//! Any bytes as a record of the retry queue, also behind a right checksum: a record that encodes to the same, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowbust::retry::codec;

fuzz_target!(|data: &[u8]| {
    let _ = codec::decode(data);
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    if let Ok(record) = codec::decode(&sealed) {
        assert_eq!(codec::encode(&record), sealed);
    }
});
