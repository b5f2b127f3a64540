#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use proptest::prelude::*;

use super::*;

/// A value, to be written as the server writes it.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Str(String),
    Array(Vec<Json>),
    /// In the order of keys, each once.
    Object(Vec<(String, Json)>),
}

impl Json {
    fn object(mut members: Vec<(String, Json)>) -> Self {
        members.sort_by(|(a, _), (b, _)| binary::order(a.as_bytes(), b.as_bytes()));
        members.dedup_by(|(a, _), (b, _)| a == b);
        Self::Object(members)
    }

    fn text(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Int(n) => n.to_string(),
            Self::UInt(n) => n.to_string(),
            Self::Double(n) => format!("{n:?}"),
            Self::Str(s) => {
                format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\"").replace('\u{1}', "\\u0001"))
            }
            Self::Array(members) => {
                format!("[{}]", members.iter().map(Self::text).collect::<Vec<_>>().join(", "))
            }
            Self::Object(members) => {
                let member =
                    |(k, v): &(String, Self)| format!("{}: {}", Self::Str(k.clone()).text(), v.text());
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Type code and bytes.
    fn parts(&self, large: bool) -> (u8, Vec<u8>) {
        let sized = |text: &str| {
            let (mut bytes, mut len) = (Vec::new(), text.len());
            while len > 0x7f {
                bytes.push((len & 0x7f) as u8 | 0x80);
                len >>= 7;
            }
            bytes.push(len as u8);
            bytes.extend(text.as_bytes());
            bytes
        };
        match self {
            Self::Null => (4, vec![0]),
            Self::Bool(b) => (4, vec![if *b { 1 } else { 2 }]),
            Self::Int(n) => match (i16::try_from(*n), i32::try_from(*n)) {
                (Ok(n), _) => (5, n.to_le_bytes().to_vec()),
                (_, Ok(n)) => (7, n.to_le_bytes().to_vec()),
                _ => (9, n.to_le_bytes().to_vec()),
            },
            Self::UInt(n) => match (u16::try_from(*n), u32::try_from(*n)) {
                (Ok(n), _) => (6, n.to_le_bytes().to_vec()),
                (_, Ok(n)) => (8, n.to_le_bytes().to_vec()),
                _ => (10, n.to_le_bytes().to_vec()),
            },
            Self::Double(n) => (11, n.to_le_bytes().to_vec()),
            Self::Str(s) => (12, sized(s)),
            Self::Array(members) => {
                let values: Vec<_> = members.iter().collect();
                (2 + u8::from(large), container(&[], &values, large))
            }
            Self::Object(members) => {
                let keys: Vec<_> = members.iter().map(|(k, _)| k.as_str()).collect();
                let values: Vec<_> = members.iter().map(|(_, v)| v).collect();
                (u8::from(large), container(&keys, &values, large))
            }
        }
    }

    fn document(&self, large: bool) -> Vec<u8> {
        let (code, bytes) = self.parts(large);
        [vec![code], bytes].concat()
    }

    /// What stands at a path, by the rules of the documentation.
    fn at(&self, legs: &[Leg]) -> Option<&Self> {
        self.find(legs, true)
    }

    /// `last`: what is no array has itself as its last element. On MariaDB only as its first.
    fn find(&self, legs: &[Leg], last: bool) -> Option<&Self> {
        let Some((leg, rest)) = legs.split_first() else { return Some(self) };
        match (self, leg) {
            (Self::Object(members), Leg::Key(key)) => {
                members.iter().find(|(k, _)| **k == **key)?.1.find(rest, last)
            }
            (Self::Array(members), Leg::Index(i)) => members.get(*i as usize)?.find(rest, last),
            (Self::Array(members), Leg::Last(i)) => members.iter().rev().nth(*i as usize)?.find(rest, last),
            (_, Leg::Key(_)) => None,
            (_, Leg::Index(0)) => self.find(rest, last),
            (_, Leg::Last(0)) if last => self.find(rest, last),
            _ => None,
        }
    }
}

fn container(keys: &[&str], values: &[&Json], large: bool) -> Vec<u8> {
    let number = |n: usize| {
        if large { (n as u32).to_le_bytes().to_vec() } else { (n as u16).to_le_bytes().to_vec() }
    };
    let width = if large { 4 } else { 2 };
    let entries = 2 * width + keys.len() * (width + 2) + values.len() * (width + 1);
    let (mut key_entries, mut value_entries, mut tail) = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        key_entries.extend(number(entries + tail.len()));
        key_entries.extend((key.len() as u16).to_le_bytes());
        tail.extend(key.as_bytes());
    }
    for value in values {
        let (code, bytes) = value.parts(large);
        value_entries.push(code);
        if matches!(code, 4..=6) || large && matches!(code, 7 | 8) {
            let mut inlined = bytes;
            inlined.resize(width, 0);
            value_entries.extend(inlined);
        } else {
            value_entries.extend(number(entries + tail.len()));
            tail.extend(bytes);
        }
    }
    [number(values.len()), number(entries + tail.len()), key_entries, value_entries, tail].concat()
}

fn text(document: &[u8]) -> Result<String, TextError> {
    let mut out = b"kept".to_vec();
    let result = Document::new(document).write_text(&mut out);
    assert!(result.is_ok() || out == b"kept");
    result.map(|()| String::from_utf8(out.split_off(4)).unwrap())
}

fn extract(document: Document<'_>, path: &str, unquote: bool) -> Result<Option<String>, TextError> {
    let mut out = Vec::new();
    let found = document.extract(&Path::parse(path).unwrap(), unquote, &mut out)?;
    assert!(found == Found::Text || out.is_empty());
    Ok((found == Found::Text).then(|| String::from_utf8(out).unwrap()))
}

fn json() -> impl Strategy<Value = Json> {
    let scalar = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(Json::Int),
        (-40_000..40_000_i64).prop_map(Json::Int),
        any::<u64>().prop_map(Json::UInt),
        (-1000..1000_i32).prop_map(|n| Json::Double(f64::from(n) / 8.0)),
        "[a-zé\"\\\\\u{1}]{0,5}".prop_map(Json::Str),
        "x{120,140}".prop_map(Json::Str),
    ];
    scalar.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::Array),
            prop::collection::vec(("[ab]{0,2}", inner), 0..6).prop_map(Json::object),
        ]
    })
}

fn legs() -> impl Strategy<Value = Vec<Leg>> {
    let leg = prop_oneof![
        "[ab]{0,2}".prop_map(|key| Leg::Key(key.into())),
        (0..4_u32).prop_map(Leg::Index),
        (0..3_u32).prop_map(Leg::Last),
    ];
    prop::collection::vec(leg, 0..4)
}

proptest! {
    #[test]
    fn any_document_is_printed(value in json(), large in any::<bool>()) {
        prop_assert_eq!(text(&value.document(large)).unwrap(), value.text());
    }

    #[test]
    fn any_path_finds_what_stands_there(value in json(), legs in legs(), large in any::<bool>(), unquote in any::<bool>()) {
        let expected = |last| value.find(&legs, last).filter(|v| **v != Json::Null).map(|found| match found {
            Json::Str(s) if unquote => s.clone(),
            other => other.text(),
        });
        let (expected, on_mariadb) = (expected(true), expected(false));
        let path = Path::new(legs);
        let mut out = Vec::new();
        let found = Document::new(&value.document(large)).extract(&path, unquote, &mut out).unwrap();
        prop_assert_eq!(found == Found::Text, expected.is_some());
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected.unwrap_or_default());
        // And in the text of the document, as MariaDB has it.
        let mut out = Vec::new();
        let found = extract_text(value.text().as_bytes(), &path, unquote, &mut out).unwrap();
        prop_assert_eq!(found == Found::Text, on_mariadb.is_some());
        prop_assert_eq!(String::from_utf8(out).unwrap(), on_mariadb.unwrap_or_default());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), diffs in prop::collection::vec(any::<u8>(), 0..40), legs in legs()) {
        let path = Path::new(legs);
        let mut out = Vec::new();
        for document in [Document::new(&bytes), Document::patched(&bytes, &diffs)] {
            let _ = document.write_text(&mut out);
            let _ = document.extract(&path, true, &mut out);
        }
        let _ = extract_text(&bytes, &path, true, &mut out);
        prop_assert!(out.len() <= 4 * 25 * (bytes.len() + diffs.len() + 10));
    }

    #[test]
    fn no_broken_document_makes_it_panic(value in json(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = value.document(false);
        let i = at.index(bytes.len());
        bytes[i] = byte;
        let _ = text(&bytes);
        let _ = text(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn differences_do_what_they_say(value in json(), new in json(), legs in legs(), large in any::<bool>()) {
        // REPLACE of what is there; no `last` in logged paths, and nothing but arrays has elements.
        let path: String = std::iter::once("$".to_owned()).chain(legs.iter().map(|leg| match leg {
            Leg::Key(key) => format!(".\"{key}\""),
            Leg::Index(i) | Leg::Last(i) => format!("[{i}]"),
        })).collect();
        let path_legs = Path::parse(&path).unwrap();
        let stored = value.document(large);
        let document = new.document(false);
        let diffs = diff(0, &path, Some(&document));
        let patched = Document::patched(&stored, &diffs);
        let mut out = Vec::new();
        let applied = patched.extract(&path_legs, false, &mut out);
        let wraps = legs.iter().enumerate().any(|(i, leg)| {
            !matches!(leg, Leg::Key(_)) && !matches!(value.at(&path_legs.legs()[..i]), Some(Json::Array(_)))
        });
        if value.at(path_legs.legs()).is_some() && !wraps {
            prop_assert_eq!(applied.unwrap() == Found::Text, new != Json::Null);
            if new != Json::Null {
                prop_assert_eq!(String::from_utf8(out).unwrap(), new.text());
            }
            // Twice is once.
            let twice = [diffs.clone(), diffs.clone()].concat();
            let (mut once, mut again) = (Vec::new(), Vec::new());
            patched.write_text(&mut once).unwrap();
            Document::patched(&stored, &twice).write_text(&mut again).unwrap();
            prop_assert_eq!(once, again);
        } else {
            prop_assert!(applied.is_err());
        }
    }
}

fn diff(operation: u8, path: &str, value: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![operation];
    for part in [Some(path.as_bytes()), value].into_iter().flatten() {
        match u8::try_from(part.len()) {
            Ok(len) if len <= 250 => bytes.push(len),
            _ => {
                bytes.push(252);
                bytes.extend(u16::try_from(part.len()).unwrap().to_le_bytes());
            }
        }
        bytes.extend(part);
    }
    bytes
}

#[test]
fn differences_insert_and_remove() {
    let member = |key: &str, value| (key.to_owned(), value);
    let value = Json::object(vec![
        member("a", Json::Array(vec![Json::Int(1), Json::Int(2)])),
        member("b", Json::Str("x".into())),
    ]);
    let stored = value.document(false);
    let (seven, null) = (Json::Int(7).document(false), Json::Null.document(false));
    for (diffs, expected) in [
        (diff(1, "$.c", Some(&seven)), Some(r#"{"a": [1, 2], "b": "x", "c": 7}"#)),
        (diff(1, "$.\"\"", Some(&null)), Some(r#"{"": null, "a": [1, 2], "b": "x"}"#)),
        (diff(2, "$.a", None), Some(r#"{"b": "x"}"#)),
        (diff(1, "$.a[0]", Some(&seven)), Some(r#"{"a": [7, 1, 2], "b": "x"}"#)),
        (diff(1, "$.a[9]", Some(&seven)), Some(r#"{"a": [1, 2, 7], "b": "x"}"#)),
        (diff(2, "$.a[1]", None), Some(r#"{"a": [1], "b": "x"}"#)),
        (
            [diff(2, "$.a[0]", None), diff(0, "$.a[0]", Some(&stored))].concat(),
            Some(r#"{"a": [{"a": [1, 2], "b": "x"}], "b": "x"}"#),
        ),
        (
            [diff(0, "$.b", Some(&stored)), diff(2, "$.b.a[0]", None)].concat(),
            Some(r#"{"a": [1, 2], "b": {"a": [2], "b": "x"}}"#),
        ),
        (diff(0, "$", Some(&seven)), Some("7")),
        (Vec::new(), Some(r#"{"a": [1, 2], "b": "x"}"#)),
        // What doesn't apply.
        (diff(1, "$.b", Some(&seven)), None),
        (diff(0, "$.c", Some(&seven)), None),
        (diff(2, "$.c", None), None),
        (diff(2, "$.a[2]", None), None),
        (diff(0, "$.b.c", Some(&seven)), None),
        (diff(3, "$.a", Some(&seven)), None),
        (diff(0, "$.*", Some(&seven)), None),
        (diff(0, "$.a", Some(&seven[..1])), None),
        (diff(0, "$.a", Some(&seven))[..4].to_vec(), None),
    ] {
        let mut out = Vec::new();
        let written = Document::patched(&stored, &diffs).write_text(&mut out);
        match expected {
            Some(expected) => assert_eq!(String::from_utf8(out).unwrap(), expected),
            None => assert_eq!((written, out), (Err(MALFORMED), Vec::new()), "{diffs:?}"),
        }
    }
    let diffs = diff(0, "$.a[1]", Some(&null));
    let patched = Document::patched(&stored, &diffs);
    assert_eq!(extract(patched, "$.a[1]", true), Ok(None));
    assert_eq!(extract(patched, "$.a[last]", true), Ok(None));
    assert_eq!(extract(patched, "$[0].a[0]", true).unwrap().as_deref(), Some("1"));
    assert_eq!(extract(patched, "$.b", true).unwrap().as_deref(), Some("x"));
    assert_eq!(extract(patched, "$.a", true).unwrap().as_deref(), Some("[1, null]"));
}

/// Each change moves what stands behind it in its container: all of them together would take minutes.
#[test]
fn differences_that_move_too_much_are_refused() {
    let array = |len: i32| Json::Array((0..len).map(|i| Json::Int(i.into())).collect()).document(true);
    let seven = Json::Int(7).document(false);
    let patched = |stored: &[u8], diffs: &[u8]| {
        let mut out = Vec::new();
        Document::patched(stored, diffs).write_text(&mut out).map(|()| String::from_utf8(out).unwrap())
    };
    let large = array(200_000);
    let hostile = |one: &[u8]| patched(&large, &one.repeat(100_000));
    assert!(hostile(&diff(2, "$[0]", None)).is_err());
    assert!(hostile(&diff(1, "$[0]", Some(&seven))).is_err());
    let keys = |from: i32, to: i32| (from..to).map(|i| format!("k{i:06}"));
    let object =
        Json::object(keys(0, 100_000).map(|key| (key, Json::Int(1))).collect::<Vec<_>>()).document(true);
    let first: Vec<u8> = keys(0, 50_000).flat_map(|key| diff(2, &format!("$.{key}"), None)).collect();
    assert!(patched(&object, &first).is_err());

    // What an application does: takes from the front, appends, replaces, sets new members.
    let taken = patched(&large, &diff(2, "$[0]", None).repeat(150)).unwrap();
    assert!(taken.starts_with("[150, 151, "), "{taken:.40}");
    let appended = patched(&large, &diff(1, "$[9999999]", Some(&seven)).repeat(20_000)).unwrap();
    assert!(appended.ends_with("7, 7]") && appended.contains("199999, 7"));
    let replaced: Vec<u8> = (0..100_000).flat_map(|i| diff(0, &format!("$[{i}]"), Some(&seven))).collect();
    assert!(patched(&large, &replaced).unwrap().starts_with("[7, 7, "));
    let new: Vec<u8> = (0..500).rev().flat_map(|i| diff(1, &format!("$.j{i:06}"), Some(&seven))).collect();
    let set = patched(&object, &new).unwrap();
    assert!(set.starts_with(r#"{"j000000": 7, "j000001": 7, "#), "{set:.40}");
    // Small ones may do as they like.
    let small = array(1000);
    assert_eq!(patched(&small, &diff(2, "$[0]", None).repeat(1000)).unwrap(), "[]");
}

#[test]
fn documents_that_refer_to_themselves_are_refused() {
    // An array whose 300 elements are the array itself, and one whose elements are all the same long string.
    let mut itself = vec![2];
    let count = 300_u16;
    itself.extend(count.to_le_bytes());
    itself.extend((4 + 3 * count).to_le_bytes());
    for _ in 0..count {
        itself.extend([2, 0, 0]);
    }
    assert_eq!(text(&itself), Err(MALFORMED));
    let mut long = vec![2];
    let size = 4 + 3 * count + 2 + 1000;
    long.extend(count.to_le_bytes());
    long.extend(size.to_le_bytes());
    for _ in 0..count {
        long.push(12);
        long.extend((4 + 3 * count).to_le_bytes());
    }
    long.extend([0xe8, 0x07]);
    long.extend([b'x'; 1000]);
    assert_eq!(text(&long), Err(MALFORMED));
    let diffs: Vec<u8> = (0..50).flat_map(|_| diff(1, "$[0][0][0][0]", Some(b"\x04\0"))).collect();
    assert!(Document::patched(&itself, &diffs).write_text(&mut Vec::new()).is_err());
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| (0..levels).fold(Json::Int(1), |inner, _| Json::Array(vec![inner]));
    let deep = nested(MAX_DEPTH);
    assert_eq!(text(&deep.document(false)).unwrap(), deep.text());
    assert_eq!(text(&nested(MAX_DEPTH + 1).document(false)), Err(MALFORMED));
    let too_deep = "[".repeat(MAX_DEPTH + 1) + &"]".repeat(MAX_DEPTH + 1);
    assert_eq!(extract_text(too_deep.as_bytes(), &Path::default(), true, &mut Vec::new()), Err(MALFORMED));
    // A difference that makes it too deep.
    let path = format!("${}", "[0]".repeat(MAX_DEPTH));
    let diffs = diff(0, &path, Some(&nested(1).document(false)));
    let stored = deep.document(false);
    assert_eq!(Document::patched(&stored, &diffs).write_text(&mut Vec::new()), Err(MALFORMED));
}

#[test]
fn paths_are_read_as_the_server_writes_them() {
    let key = |k: &str| Leg::Key(k.into());
    for (text, legs) in [
        ("$", vec![]),
        ("$.a.bc[12]", vec![key("a"), key("bc"), Leg::Index(12)]),
        ("$[last][last-2]", vec![Leg::Last(0), Leg::Last(2)]),
        (
            r#"$."a b"."q\"\\.[]"."\u00e9"."#.trim_end_matches('.'),
            vec![key("a b"), key("q\"\\.[]"), key("é")],
        ),
        (r#"$."""#, vec![key("")]),
    ] {
        assert_eq!(Path::parse(text).unwrap().legs(), legs, "{text}");
    }
    for text in [
        "",
        "a",
        "$a",
        "$.",
        "$..a",
        "$.*",
        "$[*]",
        "$**.a",
        "$[1 to 2]",
        "$[-1]",
        "$[last-]",
        "$.\"a",
        "$[1",
        "$.a\"b\"",
    ] {
        assert_eq!(Path::parse(text), None, "{text}");
    }
    assert_eq!(Path::parse(&format!("${}", "[0]".repeat(MAX_DEPTH + 1))), None);
}

/// What MariaDB 10.11 gives for `JSON_EXTRACT` and `JSON_UNQUOTE(JSON_EXTRACT(…))`.
#[test]
fn text_documents_as_mariadb_reads_them() {
    let document = r#" {"a":{"b":[1, 2,{"c":"q\"uo","c":"dup","e":"\u00e9\n"}],"":5,"x y":7,"null":null, "d":1.0, "t":true, "\u0061":8}, "n" : [ 2,{ },[], {"x":[],"y:,z" : "a , b"} ]} "#;
    for (path, plain, unquoted) in [
        ("$.a.b[2].c", r#""q\"uo""#, "q\"uo"),
        (
            "$.a[0].b",
            r#"[1, 2, {"c": "q\"uo", "c": "dup", "e": "\u00e9\n"}]"#,
            r#"[1, 2, {"c": "q\"uo", "c": "dup", "e": "\u00e9\n"}]"#,
        ),
        ("$.n", r#"[2, {}, [], {"x": [], "y:,z": "a , b"}]"#, r#"[2, {}, [], {"x": [], "y:,z": "a , b"}]"#),
        ("$.a.d", "1.0", "1.0"),
        ("$.a.\"x y\"", "7", "7"),
        ("$.a.\"\"", "5", "5"),
        ("$.a.b[1][0]", "2", "2"),
        ("$.a.b[2].e", r#""\u00e9\n""#, "é\n"),
        ("$.a.b[last-1]", "2", "2"),
        ("$.a.t", "true", "true"),
        ("$.a.a", "8", "8"),
    ] {
        for (unquote, expected) in [(false, plain), (true, unquoted)] {
            let mut out = Vec::new();
            let found = extract_text(document.as_bytes(), &Path::parse(path).unwrap(), unquote, &mut out);
            assert_eq!(
                (found, String::from_utf8(out).unwrap().as_str()),
                (Ok(Found::Text), expected),
                "{path}"
            );
        }
    }
    let find = |document: &str, path: &str| {
        let mut out = Vec::new();
        extract_text(document.as_bytes(), &Path::parse(path).unwrap(), true, &mut out)
    };
    assert_eq!(find(document, "$.a.null"), Ok(Found::Null));
    assert_eq!(find(document, "$.a.b[3]"), Ok(Found::Missing));
    assert_eq!(find(document, "$.a.b.c"), Ok(Found::Missing));
    assert_eq!(find("[]", "$[0]"), Ok(Found::Missing));
    assert_eq!(find("{}", "$.a"), Ok(Found::Missing));
    for broken in ["", "{", "{\"a\"", "{\"a\":", "{\"b\":[}],\"a\":1}", "{\"b\":x,\"a\":1}", "{a:1}"] {
        assert_eq!(find(broken, "$.a"), Err(MALFORMED), "{broken}");
    }
    assert_eq!(find("{} x", "$"), Err(MALFORMED));
    assert_eq!(find(r#"{"a":"\x"}"#, "$.a"), Err(MALFORMED));
    assert_eq!(find(r#"{"a":"\ud83d\ude00"}"#, "$.a"), Ok(Found::Text));
    assert_eq!(find(r#"{"a":"\ud83d"}"#, "$.a"), Err(MALFORMED));
}
