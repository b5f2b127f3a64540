//! Properties: set algebra against a model, codecs there and back, and no panic on any bytes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use rowbust_binlog::{
    Decoder, Event, FileEvents, GtidSet, Header, Inflater, MariaGtid, MariaGtidPos, Projection, RawEvent,
    RowSlots, Tag, Tsid, Uuid, Value, event_type,
};

type Model = BTreeSet<(u8, u64)>;

/// Two servers, each without a tag and with one of two.
fn source(n: u8) -> Tsid {
    let tag = [&b""[..], b"a_tag", b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz9"][usize::from(n % 3)];
    Tsid { uuid: Uuid([n / 3; 16]), tag: Tag::new(tag).unwrap() }
}

fn set_of(ranges: &[(u8, u64, u64)]) -> (GtidSet, Model) {
    let (mut set, mut model) = (GtidSet::new(), Model::new());
    for &(server, start, len) in ranges {
        set.add_range(source(server), start, start + len);
        model.extend((start..=start + len).map(|gno| (server, gno)));
    }
    (set, model)
}

fn model_of(set: &GtidSet) -> Model {
    set.iter()
        .flat_map(|(of, list)| {
            let n = (0..6).find(|n| source(*n) == of).unwrap();
            list.iter().flat_map(move |i| (i.start..=i.end).map(move |g| (n, g)))
        })
        .collect()
}

fn encode(set: &GtidSet) -> Vec<u8> {
    let mut body = Vec::new();
    set.encode(&mut body);
    body
}

fn ranges() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    vec((0_u8..6, 1_u64..40, 0_u64..6), 0..16)
}

proptest! {
    #[test]
    fn gtid_sets_are_sets(a in ranges(), b in ranges()) {
        let ((a, model_a), (b, model_b)) = (set_of(&a), set_of(&b));
        prop_assert_eq!(&model_of(&a), &model_a);
        // Sorted, disjoint, and no two that could be one: the same set has one form.
        for (_, list) in a.iter() {
            prop_assert!(!list.is_empty());
            prop_assert!(list.windows(2).all(|w| w[0].end + 1 < w[1].start), "{a}");
        }
        prop_assert_eq!(a.is_subset_of(&b), model_a.is_subset(&model_b));
        for server in 0..6 {
            for gno in 1..50 {
                prop_assert_eq!(a.contains(source(server), gno), model_a.contains(&(server, gno)));
            }
        }
        let mut both = a.clone();
        both.union(&b);
        prop_assert_eq!(model_of(&both), model_a.union(&model_b).copied().collect::<Model>());
        prop_assert!(a.is_subset_of(&both) && b.is_subset_of(&both));
        prop_assert_eq!(a.is_empty(), model_a.is_empty());
        let mut only = a.subtract(&b);
        prop_assert_eq!(model_of(&only), model_a.difference(&model_b).copied().collect::<Model>());
        only.union(&b);
        prop_assert_eq!(&only, &both);
        prop_assert_eq!(a.to_string().parse::<GtidSet>().unwrap(), a.clone());
        prop_assert_eq!(GtidSet::decode(&encode(&a), event_type::PREVIOUS_GTIDS).unwrap(), a);
    }

    #[test]
    fn mariadb_positions_print_and_parse(gtids in vec((0_u32..5, any::<u32>(), any::<u64>()), 0..8)) {
        let mut pos = MariaGtidPos::new();
        let mut model = BTreeMap::new();
        for (domain, server, seq) in gtids {
            pos.update(MariaGtid { domain, server, seq });
            model.insert(domain, (server, seq));
        }
        prop_assert_eq!(pos.iter().map(|g| (g.domain, (g.server, g.seq))).collect::<BTreeMap<_, _>>(), model);
        prop_assert_eq!(&pos.to_string().parse::<MariaGtidPos>().unwrap(), &pos);
        prop_assert!(pos.is_at_or_past(&pos));
    }

    #[test]
    fn gtid_text_never_panics(text in "[-0-9a-f:, A_]{0,60}") {
        let _ = text.parse::<GtidSet>();
        let _ = text.parse::<MariaGtidPos>();
        let _ = text.parse::<rowbust_binlog::Gtid>();
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(event_type in any::<u8>(), body in vec(any::<u8>(), 0..200), flags in any::<u16>()) {
        let mut decoder = decoder();
        let header = Header { timestamp: 0, event_type, server_id: 1, event_size: 0, log_pos: 0, flags };
        let raw = RawEvent::from_parts(header, &body, None);
        walk(&mut decoder, &raw);
        // An error tells a place within the event.
        if let Err(error) = decoder.decode(&raw) {
            prop_assert!(error.offset <= Header::LEN + body.len(), "{error}");
        }
        if raw.is_compressed()
            && let Err(error) = Inflater::new().inflate(&raw, &decoder)
        {
            prop_assert!(error.offset <= Header::LEN + body.len(), "{error}");
        }
        let _ = RawEvent::parse(&body, true);
        let _ = FileEvents::new(&body).map(|events| events.count());
        let _ = GtidSet::decode(&body, event_type);
    }

    #[test]
    fn mutated_table_maps_and_rows_never_panic(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), which in 0_usize..4, cut in any::<prop::sample::Index>(),
    ) {
        let mut events = vec![
            common::table_map(7),
            common::rows(event_type::WRITE_ROWS_V2, 7, 1, 3),
            common::rows(event_type::UPDATE_ROWS_V2, 7, 1, 3),
            common::rows(event_type::DELETE_ROWS_V2, 7, 1, 3),
        ];
        let len = events[which].len();
        for (at, byte) in changes {
            events[which][19 + at.index(len - 19)] = byte;
        }
        let len = if cut.index(4) == 0 { 23 + cut.index(len - 23) } else { len };
        events[which].truncate(len);
        let mut decoder = decoder();
        for bytes in &events {
            let header = Header::parse(bytes).unwrap();
            walk(&mut decoder, &RawEvent::from_parts(header, &bytes[19..bytes.len() - 4], None));
        }
    }

    #[test]
    fn mutated_real_files_never_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), file in 0_usize..2) {
        let file: &[u8] = [
            &include_bytes!("fixtures/mariadb-10.11.full.binlog")[..],
            &include_bytes!("fixtures/mysql-9.7.full.binlog")[..],
        ][file];
        let events: Vec<_> = FileEvents::new(file).unwrap().map(Result::unwrap).collect();
        let mut decoder = decoder();
        // A window of events with a change in some of them: whole files would be too slow.
        let from = changes[0].0.index(events.len());
        for raw in events.iter().skip(from).take(12) {
            let mut body = raw.body.to_vec();
            if !body.is_empty() {
                for (at, byte) in &changes {
                    let i = at.index(body.len());
                    body[i] = *byte;
                }
            }
            walk(&mut decoder, &RawEvent::from_parts(raw.header, &body, None));
            walk(&mut decoder, raw);
        }
    }

    #[test]
    fn a_wrong_checksum_is_an_error(bit in 0_usize..8, at in any::<prop::sample::Index>()) {
        let mut bytes = common::rows(event_type::WRITE_ROWS_V2, 7, 1, 3);
        let len = bytes.len();
        bytes[13 + at.index(len - 13)] ^= 1 << bit;
        let raw = RawEvent::parse(&bytes, true).unwrap();
        prop_assert!(raw.verify_crc().is_err());
        prop_assert!(decoder().decode(&raw).is_err());
    }

    #[test]
    fn decimals_there_and_back(int in "[1-9][0-9]{0,30}|0", frac in "[0-9]{0,28}", negative in any::<bool>()) {
        let text = format!("{}{int}{}{frac}", if negative { "-" } else { "" }, if frac.is_empty() { "" } else { "." });
        let (precision, scale) = (40_u8.max((int.len() + frac.len()) as u8), frac.len() as u8);
        let bytes = encode_decimal(&int, &frac, negative, precision);
        prop_assert_eq!(text_of(246, &[precision, scale], &bytes).unwrap(), text);
    }

    #[test]
    fn datetimes_there_and_back(
        y in 0_u64..10_000, mo in 0_u64..13, d in 0_u64..32, h in 0_u64..24, mi in 0_u64..60, s in 0_u64..60,
        us in 0_u64..1_000_000, decimals in 0_u8..7,
    ) {
        let us = us / 10_u64.pow(6 - u32::from(decimals)) * 10_u64.pow(6 - u32::from(decimals));
        let packed = (((y * 13 + mo) << 5 | d) << 17 | h << 12 | mi << 6 | s) + 0x80_0000_0000;
        let mut bytes = packed.to_be_bytes()[3..].to_vec();
        bytes.extend(fraction(us, decimals));
        let fraction = if decimals == 0 { String::new() } else { format!(".{us:06}")[..1 + decimals as usize].to_owned() };
        prop_assert_eq!(
            text_of(18, &[decimals], &bytes).unwrap(),
            format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}{fraction}")
        );
        // The old form has the digits as they are, and no fraction.
        let old = ((y * 100 + mo) * 100 + d) * 1_000_000 + (h * 100 + mi) * 100 + s;
        prop_assert_eq!(
            text_of(12, &[], &old.to_le_bytes()).unwrap(),
            format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}")
        );
    }

    #[test]
    fn times_there_and_back(
        negative in any::<bool>(), h in 0_i64..839, m in 0_i64..60, s in 0_i64..60, us in 0_i64..1_000_000, decimals in 0_u8..7,
    ) {
        let unit = 10_i64.pow(6 - u32::from(decimals));
        let us = us / unit * unit;
        let zero = (h, m, s, us) == (0, 0, 0, 0);
        let sign = if negative && !zero { -1 } else { 1 };
        // One number of hours, minutes, seconds and fraction, offset by the value of its highest bit.
        let (bytes, per) = [(0, 1_000_000), (1, 10_000), (2, 100), (3, 1)][usize::from(decimals.div_ceil(2))];
        let packed = sign * ((h << 12 | m << 6 | s) << (8 * bytes) | if bytes == 0 { 0 } else { us / per });
        let raw = (packed + (0x80_0000 << (8 * bytes))).to_be_bytes();
        let fraction = if decimals == 0 { String::new() } else { format!(".{us:06}")[..1 + decimals as usize].to_owned() };
        let text = format!("{}{h:02}:{m:02}:{s:02}{fraction}", if sign < 0 { "-" } else { "" });
        prop_assert_eq!(text_of(19, &[decimals], &raw[8 - 3 - bytes..]).unwrap(), text);
        let old = sign * (h * 10_000 + m * 100 + s);
        let sign = if old < 0 { "-" } else { "" };
        prop_assert_eq!(text_of(11, &[], &old.to_le_bytes()[..3]).unwrap(), format!("{sign}{h:02}:{m:02}:{s:02}"));
    }

    #[test]
    fn integers_there_and_back(n in any::<i64>(), size in 0_usize..5) {
        let (code, len) = [(1, 1), (2, 2), (9, 3), (3, 4), (8, 8)][size];
        let n = n >> (64 - 8 * len);
        prop_assert_eq!(value_of(code, &[], &n.to_le_bytes()[..len], |v| format!("{v:?}")), format!("Int({n})"));
    }
}

fn decoder() -> Decoder {
    let mut decoder = Decoder::new();
    decoder.decode(&RawEvent::parse(&common::format_description(), true).unwrap()).unwrap();
    decoder
}

/// Decodes an event, all its rows and the text of all their values, whatever comes of it.
fn walk(decoder: &mut Decoder, raw: &RawEvent<'_>) {
    let Ok(Event::Rows(rows)) = decoder.decode(raw) else { return };
    let map = decoder.table(rows.slot);
    let all: Vec<usize> = (0..map.columns.len()).collect();
    let Ok(projection) = Projection::new(map, &all) else { return };
    let Ok(mut cursor) = rows.cursor(map, &projection) else { return };
    let (mut slots, mut text) = (RowSlots::new(), Vec::new());
    while let Ok(true) = cursor.next(&mut slots) {
        for values in [&slots.before, &slots.after] {
            for (value, column) in values.iter().zip(&map.columns) {
                let _ = value.write_text(column, &mut text);
            }
        }
        text.clear();
    }
}

/// Reads `bytes` as the one column of one inserted row, and gives its value to `then`.
fn value_of<T>(code: u8, meta: &[u8], bytes: &[u8], then: impl Fn(Value<'_>) -> T) -> T {
    read_one(code, meta, bytes, |value, _| then(value))
}

fn text_of(code: u8, meta: &[u8], bytes: &[u8]) -> Option<String> {
    read_one(code, meta, bytes, |value, column| {
        let mut text = Vec::new();
        value.write_text(column, &mut text).ok()?;
        String::from_utf8(text).ok()
    })
}

fn read_one<T>(
    code: u8,
    meta: &[u8],
    bytes: &[u8],
    then: impl Fn(Value<'_>, &rowbust_binlog::Column) -> T,
) -> T {
    let mut map = vec![9, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, 1, b't', 0, 1, code, meta.len() as u8];
    map.extend(meta);
    map.push(1);
    let mut rows = vec![9, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 1, 0];
    rows.extend(bytes);
    let (map, rows) =
        (common::event(event_type::TABLE_MAP, &map), common::event(event_type::WRITE_ROWS_V2, &rows));
    let mut decoder = decoder();
    decoder.decode(&RawEvent::parse(&map, true).unwrap()).unwrap();
    let raw = RawEvent::parse(&rows, true).unwrap();
    let Event::Rows(rows) = decoder.decode(&raw).unwrap() else { panic!() };
    let map = decoder.table(rows.slot);
    let projection = Projection::new(map, &[0]).unwrap();
    let mut slots = RowSlots::new();
    let mut cursor = rows.cursor(map, &projection).unwrap();
    assert!(cursor.next(&mut slots).unwrap());
    assert!(!cursor.next(&mut RowSlots::new()).unwrap(), "bytes left over");
    then(slots.after[0], &map.columns[0])
}

fn fraction(us: u64, decimals: u8) -> Vec<u8> {
    match decimals.div_ceil(2) {
        0 => vec![],
        1 => vec![(us / 10_000) as u8],
        2 => ((us / 100) as u16).to_be_bytes().to_vec(),
        _ => (us as u32).to_be_bytes()[1..].to_vec(),
    }
}

/// The servers' `decimal2bin`, written anew from its comment.
fn encode_decimal(int: &str, frac: &str, negative: bool, precision: u8) -> Vec<u8> {
    let width = |digits: usize| [0, 1, 1, 2, 2, 3, 3, 4, 4, 4][digits];
    let mut bytes: Vec<u8> = Vec::new();
    let mut group = |digits: &str| {
        let n: u32 = digits.parse().unwrap_or(0);
        bytes.extend(&n.to_be_bytes()[4 - width(digits.len())..]);
    };
    let int_digits = usize::from(precision) - frac.len();
    let int = format!("{int:0>int_digits$}");
    let (head, tail) = int.split_at(int_digits % 9);
    group(head);
    tail.as_bytes().chunks(9).for_each(|c| group(std::str::from_utf8(c).unwrap()));
    let (head, tail) = frac.split_at(frac.len() / 9 * 9);
    head.as_bytes().chunks(9).for_each(|c| group(std::str::from_utf8(c).unwrap()));
    group(tail);
    if negative {
        bytes.iter_mut().for_each(|b| *b = !*b);
    }
    bytes[0] ^= 0x80;
    bytes
}
