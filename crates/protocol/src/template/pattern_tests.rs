#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use proptest::prelude::*;

use crate::template::{Rendered, SlotValue, Template, escape_into};

/// What `stringmatchlen` of Redis does with the globs that are made here.
fn glob_matches(glob: &[u8], key: &[u8]) -> bool {
    match glob {
        [] => key.is_empty(),
        [b'*', rest @ ..] => (0..=key.len()).any(|at| glob_matches(rest, &key[at..])),
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
            key.first() == Some(byte) && glob_matches(rest, &key[1..])
        }
    }
}

fn could(template: &str, key: &[u8]) -> bool {
    Template::parse(template).unwrap().could_make(key)
}

#[test]
fn globs() {
    for (template, glob) in [
        ("product:{id}", "product:*"),
        ("{{user:{id}}}:cart", "{user:*}:cart"),
        ("{a}{b}x{c}", "*x*"),
        ("a*b?[c]\\^-{id}", "a\\*b\\?\\[c\\]\\\\^-*"),
        ("x*{a}", "x\\**"),
        ("all", "all"),
    ] {
        let template = Template::parse(template).unwrap();
        assert_eq!(String::from_utf8(template.glob()).unwrap(), glob);
    }
}

#[test]
fn prefixes() {
    for (template, prefix) in [("p:{id}:x", "p:"), ("{id}:x", ""), ("all", "all"), ("{{{id}}}", "{")] {
        assert_eq!(Template::parse(template).unwrap().literal_prefix(), prefix.as_bytes());
    }
}

/// Keys that look alike under the glob, and which of them the template can make.
#[test]
fn look_alikes() {
    let text = |s: &str| s.as_bytes().to_vec();
    for (template, key, expected) in [
        ("product:{id}", text("product:7"), true),
        ("product:{id}", text("product:"), true),
        ("product:{id}", text("product:sku:7"), false),
        ("product:{id}", text("product:7:lock"), false),
        ("product:{id}", text("product:{7}"), false),
        ("product:{id}", text("product:a b"), false),
        ("product:{id}", text("products:7"), false),
        ("product:{id}", text("product"), false),
        ("product:{id}", text("xproduct:7"), false),
        ("product:{id}", text("product:a%3Ab"), true),
        ("product:{id}", text("product:a%3ab"), false),
        ("product:{id}", text("product:a%41b"), false),
        ("product:{id}", text("product:a%"), false),
        ("product:{id}", text("product:a%3"), false),
        ("product:{id}", text("product:100%"), false),
        ("product:{id}", text("product:é€😀"), true),
        // Not UTF-8: such a byte is escaped.
        ("product:{id}", b"product:\xff".to_vec(), false),
        ("product:{id}", b"product:\xc3".to_vec(), false),
        ("product:{id}", b"product:\xed\xa0\x80".to_vec(), false),
        ("product:{id}", text("product:%FF%C3"), true),
        ("product:{id}", text("product:%C3%C3x"), true),
        // UTF-8: it isn't.
        ("product:{id}", text("product:%C3%A9"), false),
        ("product:{id}", text("product:%FF%C3%A9"), false),
        ("product:{id}", text("product:%E2%82%AC"), false),
        ("product:{id}", text("product:%E2%82%20"), true),
        ("product:{id}:stock", text("product:7:stock"), true),
        ("product:{id}:stock", text("product:7:stocks"), false),
        ("a:{x}-{y}", text("a:1-2-3"), true),
        ("a:{x}-{y}", text("a:123"), false),
        ("a:{x|raw}", text("a:1:2 {3}"), true),
        ("a:{x|raw}:b", text("a:1:b:b"), true),
        ("a:{x|raw}:b", text("a:1:bb"), false),
        ("a:{x|raw|lower}", text("a:B"), false),
        ("a:{x|hex}", text("a:0aff"), true),
        ("a:{x|hex}", text("a:0af"), false),
        ("a:{x|hex}", text("a:0AFF"), false),
        ("a:{x|hex|upper}", text("a:0AFF"), true),
        ("a:{x|hex|upper}", text("a:0aff"), false),
        ("a:{x|upper|hex}", text("a:61"), false),
        ("a:{x|upper|hex}", text("a:41"), true),
        ("u:{mail|lower}", text("u:bob@x"), true),
        ("u:{mail|lower}", text("u:Bob@x"), false),
        ("u:{mail|lower}", text("u:É"), false),
        ("u:{mail|lower}", text("u:a%3Ab"), true),
        ("u:{mail|upper}", text("u:ß"), false),
        ("k:{a|default:x:y z}:e", text("k:x:y z:e"), true),
        ("k:{a|default:x:y z}:e", text("k:x:y w:e"), false),
        ("k:{a|default:none}:e", text("k:7:e"), true),
        ("k:{a|default:}:e", text("k::e"), true),
        ("all", text("all"), true),
        ("all", text("allx"), false),
        ("[a]*{id}", text("[a]*7"), true),
        ("[a]*{id}", text("ax7"), false),
    ] {
        assert_eq!(could(template, &key), expected, "{template} of {}", key.escape_ascii());
    }
    assert!(!could("a:{x}", &[b"a:".to_vec(), vec![b'x'; super::MAX_KEY_BYTES]].concat()));
}

#[test]
fn beginnings() {
    let begins = |template: &str, key: &str| Template::parse(template).unwrap().could_begin(key.as_bytes());
    for (template, key, expected) in [
        ("feed:{c}:", "feed:7:", true),
        ("feed:{c}:", "feed:7:1:{2} 3", true),
        ("feed:{c}:", "feed::x", true),
        ("feed:{c}:", "feed:7", false),
        ("feed:{c}:", "feed:7 8:9", false),
        ("feed:{c}", "feed:7 8", true),
        ("feed:{c|raw}:x", "feed:a:b:xyz", true),
        ("feed:", "feed", false),
        ("feed:", "feed:*", true),
    ] {
        assert_eq!(begins(template, key), expected, "{template} of {key}");
    }
    let glob = |template: &str| String::from_utf8(Template::parse(template).unwrap().prefix_glob()).unwrap();
    assert_eq!([glob("feed:{c}:"), glob("feed:{c}"), glob("f*")], ["feed:*:*", "feed:*", "f\\**"]);
    // Longer than a key that a template makes.
    assert!(begins("feed:{c}:", &format!("feed:7:{}", "x".repeat(2 * super::MAX_KEY_BYTES))));
}

/// What `could_make` takes for granted of the two conversions.
#[test]
fn case_conversions_leave_alone_what_they_made() {
    for c in '\0'..=char::MAX {
        assert!(c.to_lowercase().all(|made| made.to_lowercase().eq([made])), "{c:?}");
        assert!(c.to_uppercase().all(|made| made.to_uppercase().eq([made])), "{c:?}");
    }
}

/// Long keys that fit many ways take no longer than others.
#[test]
fn ambiguous_templates_are_linear() {
    let template = Template::parse("a{a}{b}{c}{d}{e}{f}{g|raw}{h|raw}!").unwrap();
    let key = vec![b'a'; super::MAX_KEY_BYTES];
    let begun = std::time::Instant::now();
    assert!(!template.could_make(&key));
    assert!(begun.elapsed().as_secs() < 5);
}

const FILTERS: [&str; 12] = [
    "",
    "|lower",
    "|upper",
    "|hex",
    "|raw",
    "|default:n:o",
    "|lower|hex",
    "|hex|upper",
    "|upper|raw",
    "|default:Y|upper",
    "|hex|raw",
    "|default:|lower",
];

/// A template of literals and columns, and the columns' values.
fn made() -> impl Strategy<Value = (String, Vec<Option<Vec<u8>>>)> {
    let literal = prop_oneof!["[a-c:*?\\[\\]\\\\é-]{0,3}", Just(":".to_owned())];
    let value = prop_oneof![
        4 => "\\PC{0,6}".prop_map(|s| Some(s.into_bytes())),
        2 => "[a-cA-C:{}% *ΣσßİÉ]{0,5}".prop_map(|s| Some(s.into_bytes())),
        2 => prop::collection::vec(prop_oneof![any::<u8>(), 0x80_u8..=0xff], 0..6).prop_map(Some),
        1 => Just(None),
    ];
    let parts = prop::collection::vec((literal, prop::sample::select(&FILTERS[..]), value), 1..5);
    (parts, "[a-c:é]{0,2}").prop_map(|(parts, end)| {
        let mut source = String::new();
        let mut values = Vec::new();
        for (n, (literal, filters, value)) in parts.into_iter().enumerate() {
            source.push_str(&format!("{literal}{{c{n}{filters}}}"));
            values.push(value);
        }
        (source + &end, values)
    })
}

fn render(template: &Template, values: &[Option<Vec<u8>>]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let rendered = template.render::<Infallible>(&mut out, &mut Vec::new(), |slot, buffer| {
        Ok(match &values[slot] {
            Some(text) => {
                buffer.extend_from_slice(text);
                SlotValue::Text
            }
            None => SlotValue::Null,
        })
    });
    matches!(rendered.unwrap(), Rendered::Key { .. }).then_some(out)
}

/// The values of which `escape_into` makes this text.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    Some(out)
}

proptest! {
    #[test]
    fn every_key_that_is_made_matches((source, values) in made()) {
        let template = Template::parse(&source).unwrap();
        if let Some(key) = render(&template, &values) {
            prop_assert!(template.could_make(&key), "{source}: {}", key.escape_ascii());
            prop_assert!(glob_matches(&template.glob(), &key), "{source}: {}", key.escape_ascii());
        }
    }

    /// Whatever begins with what is made, and exactly if some beginning could be made.
    #[test]
    fn what_begins_so_begins_so((source, values) in made(), rest in prop::collection::vec(any::<u8>(), 0..6)) {
        let template = Template::parse(&source).unwrap();
        if let Some(mut key) = render(&template, &values) {
            key.extend(&rest);
            prop_assert!(template.could_begin(&key), "{source}: {}", key.escape_ascii());
            prop_assert!(glob_matches(&template.prefix_glob(), &key), "{source}: {}", key.escape_ascii());
        }
        let naive = (0..=rest.len()).any(|end| template.could_make(&rest[..end]));
        prop_assert_eq!(template.could_begin(&rest), naive, "{}: {}", source, rest.escape_ascii());
    }

    /// Of a plain column exactly the texts that escaping can make.
    #[test]
    fn a_plain_column_is_exact(
        text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            "(%[0-9A-Fa-f]{2}|[%a:é{}]|%[CE][0-9A-F]%[89AB][0-9]){0,5}".prop_map(String::into_bytes),
        ]
    ) {
        let possible = unescape(&text).is_some_and(|value| {
            let mut again = Vec::new();
            escape_into(&value, &mut again);
            again == text
        });
        prop_assert_eq!(could("k:{a}", &[b"k:", &text[..]].concat()), possible);
    }

    /// A key with another literal neighbour is none of the template's.
    #[test]
    fn neighbours_do_not_match(value in "[a-z0-9%:]{0,8}", other in "[a-zA-Z:]{1,4}") {
        let template = Template::parse("shop:{id}:end").unwrap();
        let key = render(&template, &[Some(value.into_bytes())]).unwrap();
        let with = |before: &str, after: &str| [before.as_bytes(), &key[..], after.as_bytes()].concat();
        prop_assert!(!template.could_make(&with(&other, "")));
        // "…:end" + ":end" would be a value with a separator in it, which is escaped.
        prop_assert!(!template.could_make(&with("", &other)));
        prop_assert!(!template.could_make(&with("", ":end")));
        prop_assert!(!template.could_make(&key[1..]));
        prop_assert!(!template.could_make(&key[..key.len() - 1]));
    }
}
