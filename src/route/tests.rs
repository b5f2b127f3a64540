#![allow(clippy::unwrap_used)]

use std::{path::PathBuf, time::Duration};

use globset::Glob;
use proptest::prelude::*;
use rowbust_protocol::template::Template;
use serde_json::{Map, Value, json};

use super::*;
use crate::config::{
    Admin, Checkpoint, Config, Events, Image, KeyOp, KeyRule, Limits, Mapping, Password, RedisTarget, Retry,
    RetryPolicy, SecondRemoval, Source, Start, Tls, TlsMode, When,
};

const ALL: Events = Events { insert: true, update: true, delete: true };

pub(super) fn unlink(key: &str) -> KeyRule {
    KeyRule { key: Template::parse(key).unwrap(), op: KeyOp::Unlink, events: ALL, line: 8 }
}

fn hdel(key: &str, field: &str) -> KeyRule {
    KeyRule { op: KeyOp::Hdel { field: Template::parse(field).unwrap() }, ..unlink(key) }
}

pub(super) fn mapping(table: &str, keys: Vec<KeyRule>) -> Mapping {
    let (schema, name) = table.split_once('.').unwrap();
    let glob = |text: &str| Glob::new(text).unwrap().compile_matcher();
    Mapping {
        table: table.to_owned(),
        schema_glob: glob(schema),
        table_glob: glob(name),
        when_changed: None,
        when: None,
        keys,
        second_removal: SecondRemoval::WhenVisible,
        fill_grace: Duration::from_secs(1),
        guarded: false,
        keys_per_second: 0,
        on_ddl: crate::config::OnDdl::default(),
        on_schema: crate::config::Policy::Halt,
        target: 0,
        line: 7,
    }
}

pub(super) fn config(mappings: Vec<Mapping>) -> Config {
    Config {
        source: Source {
            host: "localhost".into(),
            port: 3306,
            user: "rowbust".into(),
            password: Password::Empty,
            replicas: Vec::new(),
            replica_timeout: None,
            name: "main".into(),
            tls: Tls::new(TlsMode::Disabled),
            server_id: None,
            start: Start::Latest,
            heartbeat: None,
            policies: crate::config::Policies::default(),
            driver: crate::config::Driver::Native,
        },
        redis: vec![RedisTarget {
            name: "main".into(),
            mode: crate::config::RedisMode::Standalone { host: "localhost".into(), port: 6379 },
            db: 0,
            username: None,
            password: Password::Empty,
            tls: None,
            durability: None,
        }],
        retry: Retry::Disk { path: PathBuf::from("retry"), policy: RetryPolicy::default() },
        checkpoint: Checkpoint::file(PathBuf::from("checkpoint")),
        admin: Admin { listen: ([127, 0, 0, 1], 0).into(), token: Password::Empty },
        limits: Limits {
            memory: 1 << 20,
            keys_per_second: 0,
            flush_keys_per_second: 0,
            sweep_keys_per_second: 0,
        },
        mappings,
        fingerprint: 0,
    }
}

fn row(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

/// Explains one mapping of `t.t`; a row that is null is absent.
pub(super) fn explain_one(mapping: Mapping, before: &Value, after: &Value) -> Explained {
    explain(&config(vec![mapping]), "t.t", row(before), row(after)).unwrap().remove(0)
}

/// The keys of all rules, an HDEL as `key field`.
fn keys(explained: &Explained) -> Vec<String> {
    let keys = explained.rules.iter().flat_map(|rule| &rule.keys);
    keys.map(|key| match &key.field {
        Some(field) => format!("{} {field}", key.key),
        None => key.key.clone(),
    })
    .collect()
}

pub(super) fn keys_of(rule: KeyRule, before: &Value, after: &Value) -> Vec<String> {
    keys(&explain_one(mapping("t.t", vec![rule]), before, after))
}

#[test]
fn images_give_keys() {
    let (a, b, none) = (json!({"id": 1, "sku": "a"}), json!({"id": 1, "sku": "b"}), Value::Null);
    for (template, insert, update, delete) in [
        ("p:{id}", &["p:1"][..], &["p:1"][..], &["p:1"][..]),
        ("s:{sku}", &["s:b"], &["s:a", "s:b"], &["s:a"]),
        ("s:{id}:{sku}", &["s:1:b"], &["s:1:a", "s:1:b"], &["s:1:a"]),
        ("s:{old.sku}", &[], &["s:a"], &["s:a"]),
        ("s:{new.sku}", &["s:b"], &["s:b"], &[]),
        ("s:{old.sku}:{new.sku}", &[], &["s:a:b"], &[]),
        ("s:{old.sku}:{sku}", &[], &["s:a:a", "s:a:b"], &["s:a:a"]),
        ("s:{new.sku}:{sku}", &["s:b:b"], &["s:b:a", "s:b:b"], &[]),
        ("s:{old.sku}:{new.sku}:{sku}", &[], &["s:a:b:a", "s:a:b:b"], &[]),
        ("all", &["all"], &["all"], &["all"]),
        ("s:{SKU|upper}", &["s:B"], &["s:A", "s:B"], &["s:A"]),
        ("s:{sku|default:x}", &["s:b"], &["s:a", "s:b"], &["s:a"]),
        ("s:{old.sku|default:x}", &[], &["s:a"], &["s:a"]),
    ] {
        assert_eq!(keys_of(unlink(template), &none, &b), insert, "insert, {template}");
        assert_eq!(keys_of(unlink(template), &a, &b), update, "update, {template}");
        assert_eq!(keys_of(unlink(template), &a, &none), delete, "delete, {template}");
    }
}

#[test]
fn a_key_says_its_image() {
    let (a, b) = (json!({"sku": "a"}), json!({"sku": "b"}));
    let rules = vec![unlink("{sku}"), unlink("{old.sku}"), unlink("{new.sku}"), unlink("{old.sku}{new.sku}")];
    let explained = explain_one(mapping("t.t", rules), &a, &b);
    let images: Vec<_> =
        explained.rules.iter().flat_map(|r| &r.keys).map(|k| k.image.clone().unwrap_or_default()).collect();
    assert_eq!(images, ["before", "after", "before", "after", ""]);
}

#[test]
fn hdel_pairs_key_and_field_of_one_image() {
    let rule = || hdel("c:{category}", "{id}");
    let (a, b) = (json!({"id": 1, "category": 5}), json!({"id": 1, "category": 6}));
    assert_eq!(keys_of(rule(), &a, &b), ["c:5 1", "c:6 1"]);
    assert_eq!(keys_of(rule(), &a, &a), ["c:5 1"]);
    assert_eq!(keys_of(hdel("all", "{category}"), &a, &b), ["all 5", "all 6"]);
    assert_eq!(keys_of(hdel("c:{old.category}", "{id}"), &a, &b), ["c:5 1"]);
    assert_eq!(keys_of(hdel("all", "f"), &a, &b), ["all f"]);
}

#[test]
fn same_key_from_other_values_is_given_once() {
    let (a, b) = (json!({"email": "A@x"}), json!({"email": "a@x"}));
    assert_eq!(keys_of(unlink("u:{email|lower}"), &a, &b), ["u:a@x"]);
    assert_eq!(keys_of(hdel("u", "{email|lower}"), &a, &b), ["u a@x"]);
}

#[test]
fn null_gives_no_key_from_its_image_and_is_counted() {
    let (null, set, none) = (json!({"id": 1, "a": null}), json!({"id": 1, "a": "x"}), Value::Null);
    assert_eq!(keys_of(unlink("k:{a}"), &null, &set), ["k:x"]);
    assert_eq!(keys_of(unlink("k:{a}"), &set, &null), ["k:x"]);
    assert_eq!(keys_of(unlink("k:{a|default:-}"), &null, &set), ["k:-", "k:x"]);
    // The key was rendered already when the field turns out to be NULL.
    assert_eq!(keys_of(hdel("k:{id}", "{a}"), &null, &set), ["k:1 x"]);
    assert_eq!(keys_of(hdel("k:{id}", "{a}"), &set, &null), ["k:1 x"]);

    let explained = explain_one(mapping("t.t", vec![unlink("k:{id}:{a}")]), &none, &null);
    assert!(keys(&explained).is_empty());
    assert_eq!(
        explained.rules[0].skipped,
        ["`a` is NULL after the change, and the template has no default for it"]
    );
}

#[test]
fn events_choose_kinds_of_change() {
    let (a, b, none) = (json!({"id": 1}), json!({"id": 2}), Value::Null);
    for (insert, update, delete) in [(true, false, false), (false, true, false), (false, false, true)] {
        let rule = || KeyRule { events: Events { insert, update, delete }, ..unlink("{id}") };
        assert_eq!(!keys_of(rule(), &none, &b).is_empty(), insert);
        assert_eq!(!keys_of(rule(), &a, &b).is_empty(), update);
        assert_eq!(!keys_of(rule(), &a, &none).is_empty(), delete);
    }
}

#[test]
fn when_looks_at_the_images_named() {
    let when = |image| Mapping {
        when: Some(When { column: "status".into(), any_of: vec!["1".into(), "on".into()], image }),
        ..mapping("t.t", vec![unlink("{id}")])
    };
    let row = |status: Value| json!({"id": 7, "status": status});
    let none = Value::Null;
    for (before, after, held) in [
        // before, after, then: holds for Before, After, Any
        (row(json!("on")), row(json!("off")), [true, false, true]),
        (row(json!("off")), row(json!(1)), [false, true, true]),
        (row(json!("off")), row(json!("ON")), [false, false, false]),
        (row(json!("on")), none.clone(), [true, false, true]),
        (none.clone(), row(json!("on")), [false, true, true]),
        (row(none.clone()), row(none.clone()), [false, false, false]),
        // Not in the images: unknown, and so wider.
        (json!({"id": 7}), json!({}), [true, true, true]),
        (row(json!("off")), json!({}), [false, true, true]),
        // MINIMAL: what it was before isn't known.
        (json!({"id": 7}), json!({"status": "off"}), [true, false, true]),
    ] {
        for (image, held) in [Image::Before, Image::After, Image::Any].into_iter().zip(held) {
            let explained = explain_one(when(image), &before, &after);
            assert_eq!(!keys(&explained).is_empty(), held, "{image:?}: {before} {after}");
            assert_eq!(explained.skipped.is_none(), held);
        }
    }
}

#[test]
fn when_changed_filters_updates_only() {
    let mapping = || Mapping {
        when_changed: Some(vec!["a".into(), "B".into()]),
        ..mapping("t.t", vec![unlink("{id}")])
    };
    let none = Value::Null;
    for (before, after, passes) in [
        (json!({"id": 1, "a": 1, "b": 1}), json!({"id": 1, "a": 1, "b": 2}), true),
        (json!({"id": 1, "a": 1, "b": 1}), json!({"id": 2, "a": 1, "b": 1}), false),
        (json!({"id": 1, "a": null, "b": 1}), json!({"id": 1, "a": null, "b": 1}), false),
        (json!({"id": 1, "a": null, "b": 1}), json!({"id": 1, "a": "", "b": 1}), true),
        (none.clone(), json!({"id": 1, "a": 1, "b": 1}), true),
        (json!({"id": 1, "a": 1, "b": 1}), none.clone(), true),
        // MINIMAL: the after image holds what the statement set, the before image the primary key.
        (json!({"id": 1}), json!({"b": 1}), true),
        // Left out doesn't mean unchanged: see `is_unchanged`.
        (json!({"id": 1}), json!({"c": 1}), true),
        (json!({"id": 1, "a": 1, "b": 1}), json!({"b": 1}), true),
    ] {
        let explained = explain_one(mapping(), &before, &after);
        assert_eq!(!keys(&explained).is_empty(), passes, "{before} {after}");
        if !passes {
            assert_eq!(explained.skipped.as_deref(), Some("the update changes none of when_changed"));
        }
    }
}

#[test]
fn columns_left_out_of_an_image() {
    // Left out of the after image: as before.
    assert_eq!(
        keys_of(unlink("{id}:{sku}"), &json!({"id": 1, "sku": "a"}), &json!({"sku": "b"})),
        ["1:a", "1:b"]
    );
    assert_eq!(keys_of(unlink("{new.id}"), &json!({"id": 1}), &json!({"sku": "b"})), ["1"]);
    // Left out of the before image: unknown.
    for (template, before, after, image) in [
        ("{sku}", json!({"id": 1}), json!({"sku": "b"}), RowImage::Before),
        ("{sku}", json!({"id": 1}), json!({}), RowImage::Before),
        ("{new.sku}", json!({"id": 1}), json!({}), RowImage::After),
        ("{sku}", Value::Null, json!({"id": 1}), RowImage::After),
        ("{sku}", json!({"id": 1}), Value::Null, RowImage::Before),
    ] {
        let config = config(vec![mapping("t.t", vec![unlink(template)])]);
        let error = explain(&config, "t.t", row(&before), row(&after)).unwrap_err();
        let ExplainError::Route(error) = error else { panic!("{error}") };
        let why = Undecodable::Absent;
        assert_eq!(
            error.kind,
            RouteErrorKind::Undecodable { column: "sku".into(), image, why },
            "{template}"
        );
        assert!(error.is_undecodable());
        assert!(error.to_string().contains("t.t: ") && error.to_string().contains("line 8"), "{error}");
    }
    // But not where the rule doesn't apply.
    let rule = KeyRule { events: Events { update: false, ..ALL }, ..unlink("{sku}") };
    assert!(keys_of(rule, &json!({"id": 1}), &json!({"sku": "b"})).is_empty());
}

#[test]
fn every_matching_mapping_applies() {
    let patterns = ["t.t", "t.*", "?.t", "{s,t}.t", "t.x", "T.t", "t.T"];
    let mappings =
        patterns.map(|table| mapping(table, vec![unlink(&format!("{table}:{{id}}").replace("{s,t}", "st"))]));
    let config = config(mappings.to_vec());
    let explained = explain(&config, "t.t", None, row(&json!({"id": 1}))).unwrap();
    let keys: Vec<_> = explained.iter().flat_map(keys).collect();
    assert_eq!(keys, ["t.t:1", "t.*:1", "?.t:1", "st.t:1"]);
    for entry in &explained[4..] {
        assert_eq!(entry.skipped.as_deref(), Some("its table does not match"));
    }
    let router = Router::new(&config);
    assert!(router.is_mapped("t", "t") && router.is_mapped("t", "y") && !router.is_mapped("u", "x"));
}

#[test]
fn several_rules_apply_in_order_and_all_are_explained() {
    let rules = vec![unlink("a:{id}"), unlink("b:{old.id}"), hdel("c", "{id}"), unlink("e:{email}")];
    let explained =
        explain_one(mapping("t.t", rules), &Value::Null, &json!({"id": 1, "email": "a:b", "other": [1]}));
    assert_eq!(keys(&explained), ["a:1", "c 1", "e:a%3Ab"]);
    let templates: Vec<_> = explained.rules.iter().map(|rule| &*rule.template).collect();
    assert_eq!(templates, ["a:{id}", "b:{old.id}", "c field {id}", "e:{email}"]);
    assert_eq!(explained.rules[1].skipped, ["an insert has no row before the change"]);
    assert_eq!((explained.line, &*explained.table, &*explained.target), (7, "t.t", "main"));
    assert!(explained.rules[3].keys[0].escaped && !explained.rules[0].keys[0].escaped);
    assert_eq!(
        serde_json::to_value(&explained.rules[2].keys[0]).unwrap(),
        json!({"op": "hdel", "key": "c", "field": "1", "image": "after", "escaped": false})
    );
}

#[test]
fn explain_refuses_what_the_server_would_not_print() {
    let config = config(vec![mapping("t.t", vec![unlink("{a}")])]);
    for value in [json!(1.5), json!(true), json!([1]), json!({"x": 1})] {
        let error = explain(&config, "t.t", None, row(&json!({"a": value}))).unwrap_err();
        assert!(matches!(error, ExplainError::Value { .. }), "{error}");
    }
    assert_eq!(explain(&config, "t.t", None, None), Err(ExplainError::NoImage));
    assert!(matches!(explain(&config, "t", None, row(&json!({}))), Err(ExplainError::Table(_))));
}

#[test]
fn prefixes_and_sets_are_routed_as_such() {
    let rule = |key: &str, op| KeyRule { op, ..unlink(key) };
    let rules = vec![
        rule("feed:{sku}:", KeyOp::Prefix { alarm_above: 1 }),
        rule("tag:{sku}", KeyOp::MembersOf { members_prefix: Vec::new() }),
        unlink("p:{sku}"),
    ];
    let explained = explain_one(mapping("t.t", rules), &json!({"sku": "a*"}), &json!({"sku": "b:c"}));
    let all: Vec<_> = explained.rules.iter().flat_map(|r| &r.keys).map(|k| (k.op, k.key.as_str())).collect();
    let expected = [
        ("prefix", "feed:a*:"),
        ("prefix", "feed:b%3Ac:"),
        ("members_of", "tag:a*"),
        ("members_of", "tag:b%3Ac"),
        ("unlink", "p:a*"),
        ("unlink", "p:b%3Ac"),
    ];
    assert_eq!(all, expected);
    assert_eq!(explained.rules[0].template, "prefix feed:{sku}:");
}

#[test]
fn too_long_is_an_error() {
    let config = config(vec![mapping("t.t", vec![unlink("{a}")])]);
    let error = explain(&config, "t.t", None, row(&json!({"a": "x".repeat(70_000)}))).unwrap_err();
    assert!(
        matches!(error, ExplainError::Route(RouteError { kind: RouteErrorKind::TooLong, .. })),
        "{error}"
    );
}

proptest! {
    /// With full images a plain template gives exactly the keys of the two rows.
    #[test]
    fn both_images_are_covered(a in "\\PC{0,4}", b in "\\PC{0,4}", c in "[ab]", d in "[ab]") {
        let (before, after) = (json!({"x": a, "y": c}), json!({"x": b, "y": d}));
        let keys = keys_of(unlink("k:{x}:{y|upper}"), &before, &after);
        let mut expected = keys_of(unlink("k:{old.x}:{old.y|upper}"), &before, &after);
        expected.extend(keys_of(unlink("k:{new.x}:{new.y|upper}"), &before, &after));
        expected.dedup();
        prop_assert_eq!(keys, expected);
    }

    /// Leaving out of the after image what did not change gives the same keys, or more where a filter can't tell.
    #[test]
    fn shorter_after_images_give_no_fewer_keys(a in "[ab]", b in "[ab]", c in "[ab]", d in "[ab]") {
        let (before, after) = (json!({"x": a, "y": c}), json!({"x": b, "y": d}));
        let mut shorter = after.clone();
        shorter.as_object_mut().unwrap().retain(|name, value| before[name] != *value);
        let rules = || vec![unlink("{x}:{y}"), unlink("{new.x}"), hdel("{y}", "{x}")];
        let plain = || mapping("t.t", rules());
        let full = keys(&explain_one(plain(), &before, &after));
        prop_assert_eq!(keys(&explain_one(plain(), &before, &shorter)), full);

        let filtered = || Mapping {
            when_changed: Some(vec!["x".into()]),
            when: Some(When { column: "y".into(), any_of: vec!["a".into()], image: Image::After }),
            ..mapping("t.t", rules())
        };
        let full = keys(&explain_one(filtered(), &before, &after));
        let short = keys(&explain_one(filtered(), &before, &shorter));
        prop_assert!(full.iter().all(|key| short.contains(key)));
    }
}
