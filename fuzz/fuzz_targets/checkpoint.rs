//! Any bytes as a checkpoint, also behind a right checksum: a position, or a reason why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowbust::checkpoint;

fuzz_target!(|data: &[u8]| {
    let _ = checkpoint::file::decode(data);
    let mut sealed = format!("rowbust-checkpoint 1 crc32={:08x}\n", crc32fast::hash(data)).into_bytes();
    sealed.extend_from_slice(data);
    if let Ok(saved) = checkpoint::file::decode(&sealed) {
        let _ = checkpoint::position(&saved);
    }
});
