//! Bytes of forms that servers have, as no server writes them.

use super::*;

#[test]
fn tagged_gtids_of_no_server() {
    // Of MySQL 9.7: version, size, field that must be known; flags, UUID, number, tag.
    let event = |body: &[u8]| {
        let mut bytes = vec![2, 0];
        bytes.extend(body);
        bytes[1] = (bytes.len() as u8) << 1;
        common::event(t::GTID_TAGGED, &bytes)
    };
    let uuid = [2_u8; 16];
    let good = [&[0, 0, 0, 2][..], &uuid, &[4, 4 * 5, 6, 2 * 2, b'a', b'1']].concat();
    let gtid = |body: &[u8]| match decode(&mut decoder(), &event(body)) {
        Ok(Event::Gtid(gtid)) => Ok((gtid.gtid.to_string(), gtid.commit_micros)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.kind.to_string()),
    };
    let text = "01010101-0101-0101-0101-010101010101:a1:5".to_owned();
    assert_eq!(gtid(&good), Ok((text.clone(), None)));
    // Fields of a newer server, which need not be known; and such as need.
    assert_eq!(gtid(&[&good[..], &[2 * 63, 1, 2, 3]].concat()), Ok((text, None)));
    let mut needs = good.clone();
    needs[0] = 2 * 12;
    assert_eq!(gtid(&needs).unwrap_err(), "field that can't be ignored can't be 12");
    for (wrong, why) in [
        (good[..19].to_vec(), "server UUID needs 1 bytes, 0 left"),
        (good[..20].to_vec(), "GTID needs 1 bytes, 0 left"),
        ([&good[..20], &[4, 0]].concat(), "transaction number can't be 0"),
        ([&good[..20], &[4, 2]].concat(), "transaction number can't be 18446744073709551615"),
        ([&good[..22], &[6, 2, b'A']].concat(), "tag with letters that no tag has"),
        ([&good[..22], &[6, 2 * 33], &[b'a'; 33]].concat(), "tag with letters that no tag has"),
        ([&good[..22], &[4, 4]].concat(), "field number can't be 2"),
        ([&[0, 0, 0, 2][..], &[1, 4], &uuid].concat(), "byte of the server UUID can't be 256"),
    ] {
        assert_eq!(gtid(&wrong).unwrap_err(), why);
    }
    let mut sized = event(&good);
    sized[20] += 2;
    let raw = RawEvent::parse(&sized, true).unwrap();
    let raw = RawEvent::from_parts(raw.header, raw.body, None);
    assert!(decoder().decode(&raw).unwrap_err().to_string().contains("message size"));
}

#[test]
fn sets_of_no_server() {
    let set = |head: u64, rest: &[&[u8]]| [&head.to_le_bytes()[..], &rest.concat()].concat();
    let intervals = |list: &[(u64, u64)]| {
        let mut out = (list.len() as u64).to_le_bytes().to_vec();
        for (start, end) in list {
            out.extend([start.to_le_bytes(), end.to_le_bytes()].concat());
        }
        out
    };
    let decode = |body: &[u8]| GtidSet::decode(body, t::PREVIOUS_GTIDS).map(|set| set.to_string());
    let uuid = [1; 16];
    let name = "01010101-0101-0101-0101-010101010101";
    assert_eq!(
        decode(&set(1, &[&uuid, &intervals(&[(1, 3), (3, 4), (9, 10)])])),
        Ok(format!("{name}:1-3:9"))
    );
    let tagged = 1 << 56 | 2 << 8 | 1;
    let two = set(tagged, &[&uuid, &[0], &intervals(&[(1, 2)]), &uuid, &[2], b"t", &intervals(&[(5, 7)])]);
    assert_eq!(decode(&two), Ok(format!("{name}:1:t:5-6")));
    for wrong in [
        set(1, &[&uuid, &intervals(&[(0, 3)])]),
        set(1, &[&uuid, &intervals(&[(3, 3)])]),
        set(1, &[&uuid, &intervals(&[(1, 1 << 63)])]),
        set(1, &[&uuid, &intervals(&[(5, 6), (1, 3)])]),
        set(1, &[&uuid, &intervals(&[(1, 4), (3, 5)])]),
        set(1, &[&uuid, &intervals(&[(1, 2)]), b"behind"]),
        set(2, &[&uuid, &intervals(&[(1, 2)])]),
        set(tagged, &[&uuid, &[2], b"T", &intervals(&[(1, 2)]), &uuid, &[0], &intervals(&[])]),
        set(tagged, &[&uuid, &[66], &[b't'; 33], &intervals(&[(1, 2)]), &uuid, &[0], &intervals(&[])]),
        set(u64::MAX >> 8, &[]),
    ] {
        assert!(decode(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn partial_updates_of_no_server() {
    let mut decoder = decoder();
    // Two JSON columns around an INT.
    let map = [&[9, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, 1, b't', 0, 3, 245, 3, 245, 2, 4, 4, 7][..]].concat();
    decode(&mut decoder, &common::event(t::TABLE_MAP, &map)).unwrap();
    let before = [0, 1, 0, 0, 0, 4, 5, 0, 0, 0, 1, 0, 0, 0, 4];
    let mut read = |after: &[u8]| {
        let body = [&[9, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3, 7, 7][..], &before, after].concat();
        let bytes = common::event(t::PARTIAL_UPDATE_ROWS, &body);
        let Event::Rows(rows) = decode(&mut decoder, &bytes).unwrap() else { panic!() };
        let map = decoder.table(rows.slot);
        let projection = Projection::new(map, &[0, 1, 2]).unwrap();
        let mut cursor = rows.cursor(map, &projection).unwrap();
        let mut slots = RowSlots::new();
        match cursor.next(&mut slots) {
            Ok(more) => {
                assert!(more && !cursor.next(&mut RowSlots::new()).unwrap());
                Ok(slots.after.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" "))
            }
            Err(error) => {
                assert!(error.offset <= bytes.len() && cursor.next(&mut RowSlots::new()) == Ok(false));
                Err(error.kind.to_string())
            }
        }
    };
    // No options: all values are whole.
    assert_eq!(read(&[0, 2, 1, 0, 0, 0, 4, 1, 0, 0, 0, 4]).unwrap(), "Json([4]) Null Json([4])");
    // One difference, before and behind.
    assert_eq!(
        read(&[1, 1, 0, 2, 0, 0, 0, 8, 9, 5, 0, 0, 0, 1, 0, 0, 0, 4]).unwrap(),
        "JsonDiff([8, 9]) Int(5) Json([4])"
    );
    assert_eq!(read(&[1, 2, 3, 0, 0, 0, 0]).unwrap(), "Null Null JsonDiff([])");
    for (wrong, why) in [
        (&[][..], "value options needs 1 bytes, 0 left"),
        (&[2, 0], "value options can't be 2"),
        (&[252, 1, 1], "value options can't be 257"),
        (&[1], "bitmap of differences needs 1 bytes, 0 left"),
        (&[1, 1], "bitmap of NULLs needs 1 bytes, 0 left"),
        (&[1, 1, 0, 9, 0, 0, 0, 1], "column needs 9 bytes, 1 left"),
    ] {
        assert_eq!(read(wrong).unwrap_err(), why);
    }
}
