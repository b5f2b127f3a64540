#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Feeds bytes in pieces of these lengths (again and again), and takes out what is there after each.
fn run(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Result<(), PacketError>, Packets) {
    let (mut packets, mut payloads) = (Packets::new(), Vec::new());
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let space = packets.space();
        let n = (*pieces.next().unwrap()).clamp(1, rest.len().min(space.len()));
        space[..n].copy_from_slice(&rest[..n]);
        packets.received(n);
        rest = &rest[n..];
        loop {
            match packets.pop() {
                Ok(Some(payload)) => payloads.push(packets.bytes(&payload).to_vec()),
                Ok(None) => break,
                Err(e) => return (payloads, Err(e), packets),
            }
        }
    }
    (payloads, Ok(()), packets)
}

fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), 0);
    for payload in payloads {
        sequence = frame(payload, sequence, &mut out);
    }
    out
}

/// Bytes in which a shift by one shows.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i.wrapping_mul(31) % 251).unwrap()).collect()
}

#[test]
fn cut_at_every_byte() {
    let payloads = [payload(1), payload(0), payload(5), payload(300)];
    let bytes = framed(&payloads);
    for cut in 0..=bytes.len() {
        let (seen, end, packets) = run(&bytes, &[cut.max(1), bytes.len()]);
        assert_eq!((seen.as_slice(), end), (&payloads[..], Ok(())), "cut at {cut}");
        assert!(packets.is_empty());
    }
    assert_eq!(run(&bytes, &[1]).0, payloads);
}

#[test]
fn what_is_cut_off_is_not_handed_on() {
    let payloads = [payload(9), payload(20)];
    let bytes = framed(&payloads);
    for len in 0..bytes.len() {
        let (seen, end, packets) = run(&bytes[..len], &[7]);
        assert_eq!((seen.as_slice(), end), (&payloads[..usize::from(len >= 13)], Ok(())));
        assert_eq!(packets.is_empty(), len == 0 || len == 13);
    }
}

#[test]
fn large_payloads_are_joined() {
    for len in [MAX_PART - 1, MAX_PART, MAX_PART + 1, 2 * MAX_PART, 2 * MAX_PART + 9] {
        // A small one close behind: it must not be touched when the header in between goes.
        let payloads = [payload(3), payload(len), payload(70), payload(1)];
        let bytes = framed(&payloads);
        let headers = 4 * (4 + len / MAX_PART);
        assert_eq!(bytes.len(), 74 + len + headers);
        for pieces in [&[usize::MAX][..], &[65_536], &[1_000_003, 17], &[MAX_PART + 6, 1]] {
            let (seen, end, packets) = run(&bytes, pieces);
            assert_eq!(end, Ok(()));
            assert!(seen == payloads, "{len} in pieces of {pieces:?}");
            assert!(packets.is_empty());
        }
    }
}

#[test]
fn the_buffer_grows_with_what_comes_and_shrinks_again() {
    // A length field by itself takes no memory.
    let (seen, end, packets) = run(&[0xff, 0xff, 0xff, 0, 1, 2], &[1]);
    assert_eq!((seen.len(), end, packets.footprint()), (0, Ok(()), BUFFER));

    let large = framed(&[payload(MAX_PART)]);
    let (_, _, mut packets) = run(&large[..9 << 20], &[1 << 16]);
    assert!((9 << 20..=2 * (9 << 20)).contains(&packets.footprint()), "{packets:?}");
    let rest = &large[9 << 20..];
    for piece in rest.chunks(1 << 16) {
        packets.space()[..piece.len()].copy_from_slice(piece);
        packets.received(piece.len());
        packets.pop().unwrap();
    }
    assert!(packets.is_empty());
    packets.space();
    assert_eq!(packets.footprint(), BUFFER);
}

#[test]
fn out_of_order() {
    let mut bytes = framed(&[payload(4), payload(4)]);
    bytes[8 + 3] = 7;
    let (seen, end, _) = run(&bytes, &[3]);
    assert_eq!((seen, end), (vec![payload(4)], Err(PacketError::OutOfOrder { expected: 1, got: 7 })));
    // Between the packets of one payload too.
    let mut bytes = framed(&[payload(MAX_PART + 5)]);
    bytes[4 + MAX_PART + 3] = 0;
    assert_eq!(run(&bytes, &[1 << 20]).1, Err(PacketError::OutOfOrder { expected: 1, got: 0 }));
}

#[test]
fn the_number_wraps() {
    let payloads: Vec<_> = (0..600).map(|i| payload(i % 3)).collect();
    assert_eq!(run(&framed(&payloads), &[11]).0, payloads);
}

#[test]
fn a_payload_has_a_bound() {
    let mut packets = Packets::new();
    packets.joined = MAX_PAYLOAD - 10;
    packets.sequence = 3;
    packets.buffer.resize(MAX_PAYLOAD - 10 + 4, 0);
    packets.end = packets.buffer.len();
    packets.buffer[MAX_PAYLOAD - 10..].copy_from_slice(&[11, 0, 0, 3]);
    assert_eq!(packets.pop(), Err(PacketError::TooLong(MAX_PAYLOAD + 1)));
}

proptest! {
    /// Any cutting gives the same payloads.
    #[test]
    fn any_pieces(
        lengths in prop::collection::vec(prop_oneof![0_usize..40, 0_usize..3000, Just(300_000)], 1..12),
        pieces in prop::collection::vec(prop_oneof![1_usize..9, 1_usize..5000, Just(1 << 18)], 1..9),
    ) {
        let payloads: Vec<_> = lengths.iter().map(|&len| payload(len)).collect();
        let (seen, end, packets) = run(&framed(&payloads), &pieces);
        prop_assert_eq!(end, Ok(()));
        prop_assert!(seen == payloads);
        prop_assert!(packets.is_empty());
    }

    /// Any bytes give payloads or an error, the same however they are cut, in bounded memory.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..400), piece in 1_usize..50) {
        let (whole, end, _) = run(&bytes, &[usize::MAX]);
        let (cut, cut_end, packets) = run(&bytes, &[piece]);
        prop_assert_eq!((whole, end), (cut, cut_end));
        prop_assert_eq!(packets.footprint(), BUFFER);
    }
}
