//! Keys from JSON documents that real servers logged (`fixtures/json.sql`), also as differences only, and in `explain`.

#![allow(clippy::unwrap_used)]

use rowbust_binlog::TextError;
use serde_json::{Value, json};

use super::{
    rows_tests::run,
    tests::{config, explain_one, keys_of, mapping, unlink},
    *,
};

const MARIADB: &[u8] = include_bytes!("fixtures/json.mariadb-10.11.binlog");
const MYSQL: &[u8] = include_bytes!("fixtures/json.mysql-9.7.binlog");

/// The events that both servers have. The last one has a NOBLOB image: MariaDB leaves the document out of it.
const BOTH: usize = 5;

/// Keys of each event; on MySQL the last one, of a MINIMAL image, is an error.
fn keys(template: &str) -> [Vec<Vec<String>>; 2] {
    let mappings = || vec![mapping("docs.d", vec![unlink(template)])];
    let (events, error, _) = run(MYSQL, mappings());
    let error = error.unwrap();
    assert!(error.is_undecodable(), "{error}");
    let (maria, error, _) = run(MARIADB, mappings());
    if maria.len() < BOTH {
        assert_eq!(maria.len(), BOTH - 1);
        assert!(error.unwrap().is_undecodable());
    }
    [events, maria]
}

#[test]
fn paths_into_documents() {
    let none: &[&str] = &[];
    for (template, expected) in [
        (
            "p:{doc->>$.sku}",
            [&["p:A%3A1"][..], none, &["p:A%3A1", "p:A%3A2"], &["p:A%3A2"], &["p:A%3A2", "p:A%3A3"]],
        ),
        ("{doc->>$.sku|lower|raw}", [&["a:1"], none, &["a:1", "a:2"], &["a:2"], &["a:2", "a:3"]]),
        (
            "{doc->$.sku|raw}",
            [&["\"A:1\""], none, &["\"A:1\"", "\"A:2\""], &["\"A:2\""], &["\"A:2\"", "\"A:3\""]],
        ),
        ("{old.doc->>$.sku|raw}", [none, none, &["A:1"], &["A:2"], &["A:2"]]),
        ("{new.doc->>$.sku|raw}", [&["A:1"], none, &["A:2"], &["A:2"], &["A:3"]]),
        ("{doc->>$.tags[last]}", [&["y"], none, &["y"], &["y"], &["y"]]),
        ("{doc->>$.price}", [&["9.5"], none, &["9.5"], &["9.5"], &["9.5"]]),
        ("{doc->>$.in.größe|lower}", [&["é"], none, &["é"], &["é"], &["é"]]),
        ("{doc->>$.off|default:-}", [&["-"], &["-", "-", "-"], &["-", "1"], &["1"], &["1", "-"]]),
        ("{doc->>$[1].sku}", [none, &["B"], none, none, none]),
        ("{doc->>$[0]|raw}", [&[], &["a", "plain"], &[], &[], &[]]),
    ] {
        for (server, events) in ["mysql", "mariadb"].into_iter().zip(keys(template)) {
            if template.contains("$[0]") {
                // The document itself, in the spelling of the server.
                let scalar = |key: &String| !key.starts_with('{');
                let found: Vec<&String> = events[1].iter().filter(|k| scalar(k)).collect();
                assert_eq!(found, expected[1], "{server}");
                continue;
            }
            let told = if server == "mariadb" { BOTH - 1 } else { BOTH };
            assert_eq!(events[..told], expected[..told], "{server} {template}");
        }
    }
}

/// MariaDB gives what is written there, from any character set; MySQL reads the text into a document first.
#[test]
fn paths_into_text_are_mariadbs() {
    let mappings = || vec![mapping("docs.d", vec![unlink("{note->>$.k}")])];
    let (events, _, _) = run(MARIADB, mappings());
    assert_eq!(events[..BOTH - 1], [&["é"][..], &["7"], &["é"], &["é", "z"]]);
    let (events, error, _) = run(MYSQL, mappings());
    let error = error.unwrap();
    assert_eq!(error.kind, RouteErrorKind::TextPath { column: "note".into() });
    assert!(events.is_empty() && !error.is_undecodable());
    assert!(error.help().contains("generated column"), "{}", error.help());
}

#[test]
fn whole_documents_as_text() {
    let (events, _, _) = run(MYSQL, vec![mapping("docs.d", vec![unlink("{new.doc|raw}")])]);
    assert_eq!(
        events[0],
        [r#"{"in": {"größe": "É"}, "off": null, "sku": "A:1", "tags": ["x", "y"], "price": 9.5}"#]
    );
    assert_eq!(events[1], [r#"["a", {"sku": "B"}]"#, r#""plain""#]);
    // Differences are applied to the document before.
    assert_eq!(events[BOTH], [r#"{"sku": "A:4", "tags": ["n"]}"#]);
    assert_eq!(events[BOTH + 1], [r#"{"tags": ["m"]}"#]);
    assert_eq!(events[BOTH + 2], [r#"{"tags": ["m"]}"#]);
    let (events, _, _) = run(MARIADB, vec![mapping("docs.d", vec![unlink("{new.doc|raw}")])]);
    assert_eq!(events[4], [r#"{"sku":"A:3"}"#]);
}

#[test]
fn partial_updates_give_the_keys_of_both_documents() {
    let none: &[&str] = &[];
    for (template, expected) in [
        ("{doc->>$.sku|raw}", [&["A:3", "A:4"][..], &["A:4"], none, &["C"], none, &["C", "D"]]),
        ("{doc->>$.tags[0]}", [&["n"], &["n", "m"], &["m"], &["m"], none, none]),
        (
            "{doc->$.tags|raw}",
            [&[r#"["n"]"#], &[r#"["n"]"#, r#"["m"]"#], &[r#"["m"]"#], &[r#"["m"]"#], none, none],
        ),
        ("{id}:{doc->>$.tags[0]}", [&["1:n"], &["1:n", "1:m"], &["1:m", "5:m"], &["5:m"], none, none]),
        ("{doc->>$[1].sku}", [none, none, none, none, &["B", "B2"], none]),
    ] {
        let [events, _] = keys(template);
        assert_eq!(events[BOTH..], expected, "{template}");
    }
    // A filter sees whether the document changed.
    let changed =
        Mapping { when_changed: Some(vec!["doc".into()]), ..mapping("docs.d", vec![unlink("{id}")]) };
    let (events, error, _) = run(MYSQL, vec![changed]);
    assert_eq!(error, None);
    let expected = [&["1"][..], &["1"], none, &["5"], &["2"], &["5"], &["5"]];
    assert_eq!(events[BOTH..], expected);
}

#[test]
fn a_difference_without_its_document_is_undecodable() {
    for (template, image, why) in [
        ("{doc->>$.sku}", RowImage::Before, Undecodable::Absent),
        ("{new.doc->>$.sku}", RowImage::After, Undecodable::Text(TextError::NoDocument)),
        ("{new.doc}", RowImage::After, Undecodable::Text(TextError::NoDocument)),
    ] {
        let (events, error, _) = run(MYSQL, vec![mapping("docs.d", vec![unlink(template)])]);
        assert_eq!(events.len(), BOTH + 6, "{template}");
        let error = error.unwrap();
        let column = template.trim_matches(['{', '}']).trim_start_matches("new.").to_owned();
        assert_eq!(error.kind, RouteErrorKind::Undecodable { column, image, why }, "{template}");
        assert!(error.help().contains("binlog_row_image=FULL"));
    }
}

#[test]
fn explain_takes_documents() {
    let template = "p:{doc->>$.a.b|lower}";
    let none = Value::Null;
    let (text, plain) = (json!({"doc": r#"{"a":{"b":"X"}}"#}), json!({"doc": {"a": {"b": "Y"}}}));
    assert_eq!(keys_of(unlink(template), &text, &plain), ["p:x", "p:y"]);
    assert_eq!(keys_of(unlink("{doc->$.a|raw}"), &none, &plain), [r#"{"b": "Y"}"#]);
    for missing in [json!({"doc": {"a": {"b": null}}}), json!({"doc": {"a": 1}}), json!({"doc": null})] {
        let explained = explain_one(mapping("t.t", vec![unlink(template)]), &none, &missing);
        assert_eq!(
            explained.rules[0].skipped,
            ["`doc->>$.a.b` is missing or NULL after the change, and the template has no default for it"]
        );
        assert_eq!(keys_of(unlink("{doc->>$.a.b|default:-}"), &none, &missing), ["-"]);
    }
    let config = config(vec![mapping("t.t", vec![unlink(template)])]);
    let broken = json!({"doc": "{\"a\":"});
    let error = explain(&config, "t.t", None, broken.as_object()).unwrap_err();
    assert!(
        error.to_string().contains("column `doc->>$.a.b` after the change: the value is not valid JSON"),
        "{error}"
    );
}
