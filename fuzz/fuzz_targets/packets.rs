//! Any bytes give the same payloads however they are cut, or the same error, in memory that follows what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowbust::source::wire::packet::{BUFFER, PacketError, Packets};

fn run(mut rest: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<PacketError>) {
    let (mut packets, mut payloads) = (Packets::new(), Vec::new());
    loop {
        loop {
            match packets.pop() {
                Ok(Some(payload)) => payloads.push(packets.bytes(&payload).to_vec()),
                Ok(None) => break,
                Err(e) => return (payloads, Some(e)),
            }
        }
        if rest.is_empty() {
            return (payloads, None);
        }
        let space = packets.space();
        let n = piece.min(rest.len()).min(space.len());
        space[..n].copy_from_slice(&rest[..n]);
        packets.received(n);
        rest = &rest[n..];
        assert!(packets.footprint() <= BUFFER.max(4 << 20));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    assert_eq!(run(bytes, usize::from(piece) + 1), run(bytes, usize::MAX));
});
