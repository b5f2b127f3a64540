#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// Renders with the same values for every image; `None` is NULL.
fn render(template: &str, values: &[(&str, Option<&[u8]>)]) -> Option<String> {
    let template = Template::parse(template).unwrap();
    render_bytes(&template, values).map(|key| String::from_utf8(key).unwrap())
}

fn render_bytes(template: &Template, values: &[(&str, Option<&[u8]>)]) -> Option<Vec<u8>> {
    let (mut out, mut scratch) = (b"before".to_vec(), b"junk".to_vec());
    let result = template.render::<Infallible>(&mut out, &mut scratch, |slot, buffer| {
        let name = &*template.columns()[slot].name;
        match values.iter().find(|(n, _)| *n == name).unwrap().1 {
            None => Ok(SlotValue::Null),
            Some(text) => {
                buffer.extend_from_slice(text);
                Ok(SlotValue::Text)
            }
        }
    });
    assert!(out.starts_with(b"before"));
    match result.unwrap() {
        Rendered::Key { .. } => Some(out.split_off(6)),
        Rendered::Null { .. } => {
            assert_eq!(out, b"before");
            None
        }
    }
}

fn render_one(template: &str, value: &str) -> String {
    render(template, &[("a", Some(value.as_bytes()))]).unwrap()
}

#[test]
fn literals_columns_and_braces() {
    let id: &[(&str, Option<&[u8]>)] =
        &[("id", Some(b"7")), ("odd name`", Some(b"x")), ("größe", Some(b"9"))];
    for (template, key) in [
        ("product:{id}", "product:7"),
        ("{id}", "7"),
        ("a:{old.id}:{new.id}:{id}", "a:7:7:7"),
        ("{{user:{id}}}:cart", "{user:7}:cart"),
        ("{{{id}}}", "{7}"),
        ("x{{}}y", "x{}y"),
        ("{`odd name```}", "x"),
        ("{old.`odd name```|upper}", "X"),
        ("größe:{größe}", "größe:9"),
        ("all", "all"),
    ] {
        assert_eq!(render(template, id).as_deref(), Some(key), "{template}");
    }
}

#[test]
fn columns_are_listed_once_per_image() {
    let template = Template::parse("{a}:{old.a}:{a|lower}:{b}").unwrap();
    let columns: Vec<_> = template.columns().iter().map(|c| (&*c.name, c.image)).collect();
    assert_eq!(columns, [("a", ImageRef::Both), ("a", ImageRef::Old), ("b", ImageRef::Both)]);
    assert!(template.uses(ImageRef::Old) && !template.uses(ImageRef::New));
    assert!(!template.is_constant());
    assert!(Template::parse("x{{}}").unwrap().is_constant());
    assert_eq!(template.source(), "{a}:{old.a}:{a|lower}:{b}");
}

#[test]
fn filters() {
    for (template, value, key) in [
        ("{a|lower}", "ÀbC", "àbc"),
        ("{a|lower}", "ΌΔΟΣ", "όδος"),
        ("{a|lower}", "İ", "i\u{307}"),
        ("{a|upper}", "straße", "STRASSE"),
        ("{a|upper}", "abc-1", "ABC-1"),
        ("{a|hex}", "A:ÿ", "413ac3bf"),
        ("{a|hex|upper}", "JK", "4A4B"),
        ("{a|lower|hex}", "J", "6a"),
        ("{a|default:none}", "x", "x"),
        ("{a|raw}", "a:b {c}", "a:b {c}"),
        ("{a|lower|raw}", "A:B", "a:b"),
        ("{a}", "", ""),
    ] {
        assert_eq!(render_one(template, value), key, "{template} of {value}");
    }
}

#[test]
fn filters_leave_what_is_not_utf8() {
    let template = Template::parse("{a|upper|raw}").unwrap();
    assert_eq!(render_bytes(&template, &[("a", Some(b"a\xffb\xc3\xa9"))]).unwrap(), b"A\xffB\xc3\x89");
}

#[test]
fn null_gives_no_key_but_for_default() {
    let null: &[(&str, Option<&[u8]>)] = &[("a", None)];
    for (template, key) in [
        ("k:{a}", None),
        ("k:{a|lower|hex|raw}", None),
        ("k:{a|default:None}", Some("k:None")),
        ("k:{a|default:}", Some("k:")),
        ("k:{a|default:x:y z}", Some("k:x:y z")),
        ("k:{a|lower|default:None}", Some("k:None")),
        ("k:{a|default:None|lower}", Some("k:none")),
        ("k:{a|default:J|hex}", Some("k:4a")),
    ] {
        assert_eq!(render(template, null).as_deref(), key, "{template}");
    }
}

#[test]
fn escaping_is_exactly_as_documented() {
    for byte in 0..=0x7f_u8 {
        let text = char::from(byte).to_string();
        let escaped = byte <= 0x20 || byte == 0x7f || b"%:{}".contains(&byte);
        let expected = if escaped { format!("%{byte:02X}") } else { text.clone() };
        assert_eq!(render_one("{a}", &text), expected, "byte {byte:#x}");
    }
    assert_eq!(render_one("{a}", "né\u{a0}*?[x]\\\"'"), "né\u{a0}*?[x]\\\"'");
    assert_eq!(render_one("t:{a}", "2026-01-02 03:04:05"), "t:2026-01-02%2003%3A04%3A05");
    let template = Template::parse("{a}").unwrap();
    assert_eq!(render_bytes(&template, &[("a", Some(b"\xff\xc3\xa9\xc3"))]).unwrap(), b"%FF\xc3\xa9%C3");
}

#[test]
fn says_whether_something_was_escaped() {
    let template = Template::parse("{{x}} {a}").unwrap();
    for (value, expected) in [("é", false), ("a:b", true)] {
        let rendered = template.render::<Infallible>(&mut Vec::new(), &mut Vec::new(), |_, buffer| {
            buffer.extend_from_slice(value.as_bytes());
            Ok(SlotValue::Text)
        });
        assert_eq!(rendered, Ok(Rendered::Key { escaped: expected }));
    }
}

#[test]
fn keys_are_bounded() {
    let long = vec![b':'; MAX_KEY_BYTES];
    for (template, length, fits) in [
        ("{a|raw}", MAX_KEY_BYTES, true),
        ("x{a|raw}", MAX_KEY_BYTES, false),
        ("{a}", MAX_KEY_BYTES / 3, true),
        ("{a}", MAX_KEY_BYTES / 3 + 1, false),
        ("{a}{a}", MAX_KEY_BYTES / 6 + 1, false),
    ] {
        let template = Template::parse(template).unwrap();
        let mut out = b"kept".to_vec();
        let rendered = template.render::<Infallible>(&mut out, &mut Vec::new(), |_, buffer| {
            buffer.extend_from_slice(&long[..length]);
            Ok(SlotValue::Text)
        });
        if fits {
            assert!(matches!(rendered, Ok(Rendered::Key { .. })));
        } else {
            assert_eq!((rendered, &*out), (Err(RenderError::TooLong), &b"kept"[..]));
        }
    }
}

#[test]
fn errors_leave_the_buffer_as_it_was() {
    let template = Template::parse("x{a}y{b}").unwrap();
    let mut out = b"kept".to_vec();
    let rendered = template.render(&mut out, &mut Vec::new(), |slot, buffer| {
        buffer.extend_from_slice(b"junk");
        if slot == 0 { Ok(SlotValue::Text) } else { Err("missing") }
    });
    assert_eq!((rendered, &*out), (Err(RenderError::Value("missing")), &b"kept"[..]));
}

#[test]
fn mistakes_have_a_place_and_a_code() {
    for (template, offset, code) in [
        ("", 0, "template_empty"),
        ("é{id", 2, "template_unclosed_brace"),
        ("{", 0, "template_unclosed_brace"),
        ("{old.", 0, "template_unclosed_brace"),
        ("{id|", 0, "template_unclosed_brace"),
        ("{id|lower", 0, "template_unclosed_brace"),
        ("{id|default:{x}}", 12, "template_unclosed_brace"),
        ("id}", 2, "template_stray_brace"),
        ("{{id}", 4, "template_stray_brace"),
        ("{}", 1, "template_no_column"),
        ("{old.}", 5, "template_no_column"),
        ("{|lower}", 1, "template_no_column"),
        ("{ id}", 1, "template_column_name"),
        ("{id }", 3, "template_column_name"),
        ("{a-b}", 2, "template_column_name"),
        ("{``}", 1, "template_column_name"),
        ("{`a}", 1, "template_column_name"),
        ("{`a`b}", 4, "template_column_name"),
        ("{a{b}}", 2, "template_column_name"),
        ("{before.id}", 1, "template_unknown_image"),
        ("{.id}", 1, "template_unknown_image"),
        ("{id|Lower}", 4, "template_unknown_filter"),
        ("{id|}", 4, "template_unknown_filter"),
        ("{id|lower|upper}", 10, "template_conflicting_filters"),
        ("{id|hex|hex}", 8, "template_conflicting_filters"),
        ("{id|default}", 4, "template_missing_argument"),
        ("{id|raw:1}", 4, "template_unexpected_argument"),
        ("{id}\n", 4, "template_control_character"),
        ("{doc->", 0, "template_unclosed_brace"),
        ("{doc->>$.a", 0, "template_unclosed_brace"),
        ("{doc->>$.a[", 0, "template_unclosed_brace"),
        ("{doc->>$.\"a}", 0, "template_unclosed_brace"),
        ("{doc->>a}", 7, "template_json_path"),
        ("{doc->>'$.a'}", 7, "template_json_path"),
        ("{doc->$.}", 8, "template_json_path"),
        ("{doc->$.1a}", 8, "template_json_path"),
        ("{doc->$.a b}", 9, "template_json_path"),
        ("{doc->>$.a-b}", 10, "template_json_path"),
        ("{doc->>$ }", 8, "template_json_path"),
        ("{doc->>$.*}", 9, "template_json_path"),
        ("{doc->>$**.a}", 9, "template_json_path"),
        ("{doc->>$[*]}", 9, "template_json_path"),
        ("{doc->>$[0 to 2]}", 9, "template_json_path"),
        ("{doc->>$[-1]}", 9, "template_json_path"),
        ("{doc->>$[last+1]}", 9, "template_json_path"),
        ("{doc->>$[4294967296]}", 9, "template_json_path"),
        ("{doc->>$[]}", 9, "template_json_path"),
        ("{doc->>$[0}", 9, "template_json_path"),
        ("{doc->>$.\"\\q\"}", 10, "template_json_path"),
        ("{doc->>$.a|nope}", 11, "template_unknown_filter"),
        ("{old.->$}", 5, "template_column_name"),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert_eq!((error.offset, error.code()), (offset, code), "{template}");
        assert!(!error.help.is_empty() && !error.to_string().is_empty());
    }
}

#[test]
fn paths_into_json() {
    use PathLeg::{Index, Key, Last};
    let key = |k: &str| Key(k.into());
    for (template, name, image, source, unquote, legs) in [
        ("{doc->>$.a.b}", "doc", ImageRef::Both, "->>$.a.b", true, vec![key("a"), key("b")]),
        ("{new.doc->$}", "doc", ImageRef::New, "->$", false, vec![]),
        (
            "{old.`a->b`->>$[0][last][last-2]|lower}",
            "a->b",
            ImageRef::Old,
            "->>$[0][last][last-2]",
            true,
            vec![Index(0), Last(0), Last(2)],
        ),
        (
            r#"{d->>$."a}|\"\u00e9\ud83d\ude00"[1]}"#,
            "d",
            ImageRef::Both,
            r#"->>$."a}|\"\u00e9\ud83d\ude00"[1]"#,
            true,
            vec![key("a}|\"é😀"), Index(1)],
        ),
        (
            "{d->>$.größe._x.$y}",
            "d",
            ImageRef::Both,
            "->>$.größe._x.$y",
            true,
            vec![key("größe"), key("_x"), key("$y")],
        ),
        (r#"{d->$.""}"#, "d", ImageRef::Both, r#"->$."""#, false, vec![key("")]),
    ] {
        let parsed = Template::parse(template).unwrap();
        let [column] = parsed.columns() else { panic!("{template}") };
        assert_eq!((&*column.name, column.image), (name, image), "{template}");
        let path = column.path.clone().unwrap();
        assert_eq!(path, JsonPath { source: source.into(), unquote, legs: legs.into() }, "{template}");
    }
    // One slot per path.
    let template = Template::parse("{d->>$.a}:{d->$.a}:{d}:{d->>$.a|lower}:{old.d->>$.a}").unwrap();
    assert_eq!(template.columns().len(), 4);
    let deep = format!("{{d->>${}}}", "[0]".repeat(path::MAX_LEGS + 1));
    let error = Template::parse(&deep).unwrap_err();
    assert_eq!((error.code(), error.offset), ("template_json_path", 6 + 3 * path::MAX_LEGS));
}

#[test]
fn mistakes_in_paths_say_what_to_write() {
    let mut text = String::new();
    for template in [
        "{doc->>a.b}",
        "{doc->>'$.a'}",
        "{doc->>$.a-b}",
        "{doc->$.\"\\q\"}",
        "{doc->>$[-1]}",
        "{doc->>$.*}",
        "{doc->>$.a",
    ] {
        let error = Template::parse(template).unwrap_err();
        text += &format!("{template}\n{:>width$} {error}\n  {}\n", "^", error.help, width = error.offset + 1);
    }
    insta::assert_snapshot!(text);
}

#[test]
fn ambiguity_is_found() {
    for (template, pair) in [
        ("{a}:{b}", None),
        ("{a}{b}", Some(("a", "b"))),
        ("{a}-{b}", Some(("a", "b"))),
        ("{a}/x:{b}", None),
        ("{a}:{b}-{c}", Some(("b", "c"))),
        ("{a|hex}-{b}", None),
        ("{a|hex}x{b}", None),
        ("{a|hex}f{b}", Some(("a", "b"))),
        ("{a|hex|upper}A{b}", Some(("a", "b"))),
        ("{a|raw}:{b}", Some(("a", "b"))),
        ("{a}:{b|raw}", None),
        ("{a}%{b}", Some(("a", "b"))),
        ("x-{a}-y", None),
        ("x", None),
    ] {
        let template = Template::parse(template).unwrap();
        assert_eq!(template.ambiguity().map(|a| (a.first, a.second)), pair, "{template:?}");
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

/// Bytes in which escapes, UTF-8 and broken UTF-8 are frequent.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[a-c0-1%:{} ]{0,3}".prop_map(String::into_bytes),
        "\\PC{0,2}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn parsing_never_panics(source in "[a-z{}|.:`>$\\[\\]\"\\\\\\-\\PC]{0,40}|[{]a->>[$][a-b{}|.$\\[\\]\"\\\\0-1*u]{0,12}") {
        if let Err(error) = Template::parse(&source) {
            prop_assert!(source.is_char_boundary(error.offset));
        }
    }

    #[test]
    fn literals_are_written_as_they_are(text in "[^\\pC]{1,20}") {
        let template = Template::parse(&text.replace('{', "{{").replace('}', "}}")).unwrap();
        prop_assert!(template.is_constant());
        prop_assert_eq!(render_bytes(&template, &[]).unwrap(), text.into_bytes());
    }

    #[test]
    fn quoted_names_are_kept(name in "[^\\pC]{1,20}") {
        let template = Template::parse(&format!("{{`{}`}}", name.replace('`', "``"))).unwrap();
        prop_assert_eq!(&*template.columns()[0].name, name.as_str());
    }

    #[test]
    fn escaping_can_be_undone_and_is_valid_text(value in value()) {
        let mut escaped = Vec::new();
        let changed = escape_into(&value, &mut escaped);
        prop_assert_eq!(changed, escaped != value);
        prop_assert!(std::str::from_utf8(&escaped).is_ok());
        prop_assert_eq!(unescape(&escaped), value);
    }

    #[test]
    fn different_rows_give_different_keys(a in [value(), value()], b in [value(), value()]) {
        for source in ["k:{x}:{y}", "{x} {y}", "{{{x}}}{y}", "{x|hex}-{y}", "{x}:{y|raw}"] {
            let template = Template::parse(source).unwrap();
            prop_assert_eq!(template.ambiguity(), None);
            let key = |row: &[Vec<u8>; 2]| render_bytes(&template, &[("x", Some(&row[0])), ("y", Some(&row[1]))]);
            prop_assert_eq!(key(&a) == key(&b), a == b, "{}", source);
        }
    }

    #[test]
    fn case_filters_are_those_of_the_language(text in "\\PC{0,20}") {
        prop_assert_eq!(render_one("{a|lower|raw}", &text), text.to_lowercase());
        prop_assert_eq!(render_one("{a|upper|raw}", &text), text.to_uppercase());
    }
}

/// The test vectors of `docs/mappings.md`.
#[test]
fn vectors_of_the_documentation() {
    let text = include_str!("../../../../docs/mappings.md");
    let table = text.split("| `{col\\|hex}` |\n").nth(1).unwrap();
    let mut checked = 0;
    for line in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.split(" | ").map(|cell| cell.trim_matches([' ', '|', '`'])).collect();
        let value = match cells[0] {
            "bytes `FF 00 41" => b"\xff\0A".to_vec(),
            "the empty string" => continue,
            text => text.as_bytes().to_vec(),
        };
        for (template, expected) in ["{col}", "{col|lower}", "{col|hex}"].into_iter().zip(&cells[1..]) {
            let key = render_bytes(&Template::parse(template).unwrap(), &[("col", Some(&value))]).unwrap();
            assert_eq!(str::from_utf8(&key).unwrap(), *expected, "{template}: {line}");
            checked += 1;
        }
    }
    assert_eq!(checked, 15);
}
