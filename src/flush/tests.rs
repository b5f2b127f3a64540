#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::config;

fn mappings(keys: &str) -> Vec<Mapping> {
    let text = format!(
        "source: {{ url: \"mysql://u@h\" }}\nredis: {{ main: {{ url: \"redis://h\" }} }}\nmappings:\n  - table: s.t\n    keys: {keys}\n"
    );
    config::parse(&text, Path::new("test.yaml"), &|_| None).unwrap().mappings
}

fn plan(keys: &str) -> Plan {
    Plan::new(&mappings(keys))
}

fn globs(plan: &Plan) -> Vec<String> {
    plan.scans.iter().map(|scan| String::from_utf8(scan.glob.clone()).unwrap()).collect()
}

#[test]
fn rules_with_a_prefix_in_common_share_an_iteration() {
    let plan = plan(
        r#"["product:{id}", "product:sku:{sku}", "user:{id}:cart", "product:{id}", "prod*uct:{id}", "p:{id}:a", "p:{id}:b"]"#,
    );
    assert_eq!(globs(&plan), ["p:*", "prod\\*uct:*", "product:*", "user:*:cart"]);
    assert_eq!(plan.scans[2].rules.len(), 2);
    assert_eq!(plan.scans[2].owed(b"product:7"), Owed::Key);
    assert_eq!(plan.scans[2].owed(b"product:sku:7"), Owed::Key);
    assert_eq!(plan.scans[2].owed(b"product:lock:7"), Owed::Nothing);
    assert_eq!(plan.scans[3].owed(b"user:1:cart:2"), Owed::Nothing);
}

#[test]
fn of_hashes_only_fields_go() {
    let plan = plan(
        r#"[{ key: "c:{cat}:p", op: hdel, field: "p{id}" }, { key: "c:{cat}:p", op: hdel, field: "n:{name}" },
           { key: "all", op: hdel, field: "{id}" }, { key: "all", op: hdel, field: "count" }, { key: "one", op: hdel, field: "f" }, "list"]"#,
    );
    assert_eq!(globs(&plan), ["c:*:p"]);
    let Owed::Fields(fields) = plan.scans[0].owed(b"c:1:p") else { panic!() };
    assert_eq!(fields.glob(), b"*");
    assert!(fields.takes(b"p7") && fields.takes(b"n:x") && !fields.takes(b"q7") && !fields.takes(b"n:x:y"));
    assert_eq!(plan.keys, [b"list".to_vec()]);
    let hashes: Vec<_> =
        plan.hashes.iter().map(|(key, fields)| (&key[..], fields.only(), fields.glob())).collect();
    assert_eq!(hashes, [(&b"all"[..], None, b"*".to_vec()), (&b"one"[..], Some(&b"f"[..]), b"f".to_vec()),]);
    assert!(
        plan.hashes[0].1.takes(b"count") && plan.hashes[0].1.takes(b"7") && !plan.hashes[0].1.takes(b"a:b")
    );
}

#[test]
fn prefixes_and_sets() {
    let plan = plan(
        r#"[{ prefix: "feed:{cat}:" }, { prefix: "all:" }, { members_of: "tag:{cat}" }, { members_of: "tags" },
            "feed:{cat}", "tag:x:{id}"]"#,
    );
    assert_eq!(globs(&plan), ["all:*", "feed:*", "tag:*"]);
    assert_eq!(plan.sets, [b"tags".to_vec()]);
    assert!(plan.keys.is_empty());
    assert_eq!(plan.scans[0].owed(b"all:1:{x}"), Owed::Key);
    assert_eq!(plan.scans[1].owed(b"feed:1:2 3"), Owed::Key);
    assert_eq!(plan.scans[1].owed(b"feed:1"), Owed::Key);
    assert_eq!(plan.scans[1].owed(b"feed:1 2:3"), Owed::Nothing);
    assert_eq!(plan.scans[2].owed(b"tag:1"), Owed::Members { whole: false });
    assert_eq!(plan.scans[2].owed(b"tag:x:1"), Owed::Key);
    assert_eq!(plan.scans[2].owed(b"tag:y:1"), Owed::Nothing);
}

#[test]
fn without_a_prefix_nothing_is_flushed() {
    let mappings = mappings(r#"["a:{id}", "{id}:b"]"#);
    assert_eq!(unflushable(&mappings[0]).unwrap().key.source(), "{id}:b");
    assert_eq!(globs(&Plan::new(&mappings)), ["a:*"]);
}
