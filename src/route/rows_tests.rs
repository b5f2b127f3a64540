//! Rows that real servers logged (`fixtures/images.sql`), through the same plan as in the daemon.

#![allow(clippy::unwrap_used)]

use rowbust_binlog::{Decoder, Event, FileEvents, Flavor, RowSlots, SchemaColumn, TableMap};

use super::{
    tests::{config, mapping, unlink},
    *,
};
use crate::config::{Image, KeyOp, KeyRule, When};

const SERVERS: [(&str, &[u8]); 2] = [
    ("mariadb", include_bytes!("fixtures/images.mariadb-10.11.binlog")),
    ("mysql", include_bytes!("fixtures/images.mysql-9.7.binlog")),
];

fn schema() -> Vec<SchemaColumn> {
    [
        ("id", "int", "int unsigned", None),
        ("sku", "varchar", "varchar(20)", Some("utf8mb4")),
        ("cat", "int", "int", None),
        ("name", "varchar", "varchar(20)", Some("utf8mb4")),
        ("price", "decimal", "decimal(10,2)", None),
        ("status", "enum", "enum('on','off')", Some("utf8mb4")),
        ("hash", "binary", "binary(4)", None),
        ("note", "text", "text", Some("utf8mb4")),
        ("twice", "int", "int", None),
    ]
    .map(|(name, data_type, column_type, charset)| SchemaColumn::new(name, data_type, column_type, charset))
    .to_vec()
}

/// Keys of each row event of a mapped table; the error ends the list.
pub(super) fn run(binlog: &[u8], mappings: Vec<Mapping>) -> (Vec<Vec<String>>, Option<RouteError>, Counts) {
    let router = Router::new(&config(mappings));
    let (mut decoder, mut slots, mut scratch) = (Decoder::new(), RowSlots::new(), Scratch::new());
    let mut plans: Vec<Option<Plan>> = Vec::new();
    let mut events = Vec::new();
    for raw in FileEvents::new(binlog).unwrap() {
        let raw = raw.unwrap();
        match decoder.decode(&raw).unwrap() {
            Event::TableMap { slot, fresh: true } => {
                let map = decoder.table_mut(slot);
                if map.table == "p" {
                    map.complete(&schema()).unwrap();
                }
                plans.resize(plans.len().max(slot + 1), None);
                match router.plan(map) {
                    Ok(plan) => plans[slot] = plan,
                    Err(error) => return (events, Some(error), scratch.take_counts()),
                }
            }
            Event::Rows(rows) => {
                let Some(plan) = &plans[rows.slot] else { continue };
                let mut cursor = rows.cursor(decoder.table(rows.slot), plan.projection()).unwrap();
                let mut keys = Vec::new();
                while cursor.next(&mut slots).unwrap() {
                    let mut sink = |key: RoutedKey<'_>| {
                        let mut text = String::from_utf8(key.key.to_vec()).unwrap();
                        if let Some(field) = key.field {
                            text = format!("{text} {}", str::from_utf8(field).unwrap());
                        }
                        keys.push(text);
                    };
                    if let Err(error) = plan.route(rows.kind, &slots, &mut scratch, &mut sink) {
                        return (events, Some(error), scratch.take_counts());
                    }
                }
                events.push(keys);
            }
            Event::Xid(_) => decoder.end_transaction(),
            _ => {}
        }
    }
    (events, None, scratch.take_counts())
}

fn check(mapping: &Mapping, expected: &[&[&str]]) {
    for (server, binlog) in SERVERS {
        let (events, error, _) = run(binlog, vec![mapping.clone()]);
        assert_eq!(error, None, "{server}");
        assert_eq!(events, expected, "{server}");
    }
}

/// The statements of `fixtures/images.sql` on table `p`, but for those with MINIMAL images.
const FULL: usize = 6;

#[test]
fn the_primary_key_is_known_with_every_row_image() {
    check(
        &mapping("shop.p", vec![unlink("p:{id}")]),
        &[
            &["p:1"],
            &["p:1"],
            &["p:1"],
            &["p:4294967295", "p:3"],
            &["p:1"],
            &["p:3"],
            &["p:3"],
            &["p:3"],
            &["p:3"],
        ],
    );
}

#[test]
fn values_of_every_kind_move_between_keys() {
    for (template, expected) in [
        ("{sku}", &[&["A%3A1"][..], &["A%3A1"], &["A%3A1", "B"], &["m", "n"], &["B"], &["n"]]),
        ("{sku|raw|lower}", &[&["a:1"], &["a:1"], &["a:1", "b"], &["m", "n"], &["b"], &["n"]]),
        ("{cat}", &[&["10"], &["10"], &["10", "11"], &["-5"], &["11"], &["7"]]),
        ("{cat|default:-}", &[&["10"], &["10"], &["10", "11"], &["-5", "-"], &["11"], &["-", "7"]]),
        ("{twice|default:-}", &[&["20"], &["20"], &["20", "22"], &["-10", "-"], &["22"], &["-", "14"]]),
        ("{NAME|lower}", &[&["é"], &["é", "n2"], &["n2"], &["n"], &["n2"], &[]]),
        ("{price}", &[&["9.50"], &["9.50"], &["9.50"], &["0.00"], &["9.50"], &[]]),
        ("{status}", &[&["on"], &["on"], &["on"], &["off", "on"], &["on"], &["on"]]),
        ("{hash|hex}", &[&["ab00cd00"], &["ab00cd00"], &["ab00cd00"], &["00000000"], &["ab00cd00"], &[]]),
        (
            "{hash|default:-}",
            &[
                &["%AB%00%CD%00"],
                &["%AB%00%CD%00"],
                &["%AB%00%CD%00"],
                &["%00%00%00%00", "-"],
                &["%AB%00%CD%00"],
                &["-"],
            ],
        ),
    ] {
        for (server, binlog) in SERVERS {
            let (events, error, _) = run(binlog, vec![mapping("shop.p", vec![unlink(template)])]);
            assert_eq!(events, expected, "{server} {template}");
            // The first statement with a MINIMAL image doesn't tell any of these columns.
            let error = error.unwrap();
            assert!(error.is_undecodable(), "{server} {template}: {error}");
            assert!(
                error.to_string().starts_with("shop.p: the row image does not tell the value of `"),
                "{error}"
            );
        }
    }
}

#[test]
fn an_unchanged_blob_that_the_image_leaves_out_is_an_error() {
    for (server, binlog) in SERVERS {
        let (events, error, counts) = run(binlog, vec![mapping("shop.p", vec![unlink("{note}")])]);
        assert_eq!(events, [&["t"][..], &["t"], &["t"], &[], &["t"]], "{server}");
        assert!(error.unwrap().is_undecodable());
        assert_eq!(counts, Counts { keys: 4, escaped: 0, null: 2, filtered: 0 });
    }
}

#[test]
fn conditions_on_real_rows() {
    let base = || mapping("shop.p", vec![unlink("{id}")]);
    for (mapping, full) in [
        (
            Mapping { when_changed: Some(vec!["sku".into()]), ..base() },
            &[&["1"][..], &[], &["1"], &["4294967295", "3"], &["1"], &[]],
        ),
        (
            Mapping { when_changed: Some(vec!["price".into(), "name".into()]), ..base() },
            &[&["1"], &["1"], &[], &["4294967295", "3"], &["1"], &[]],
        ),
        (
            Mapping {
                when: Some(When { column: "status".into(), any_of: vec!["off".into()], image: Image::Any }),
                ..base()
            },
            &[&[], &[], &[], &["4294967295"], &[], &[]],
        ),
        (
            Mapping {
                when: Some(When { column: "cat".into(), any_of: vec!["10".into()], image: Image::After }),
                ..base()
            },
            &[&["1"], &["1"], &[], &[], &[], &[]],
        ),
    ] {
        for (server, binlog) in SERVERS {
            let (events, error, _) = run(binlog, vec![mapping.clone()]);
            assert_eq!(error, None);
            assert_eq!(events[..FULL], full[..], "{server} {:?} {:?}", mapping.when, mapping.when_changed);
            // MINIMAL: what the images leave out may have changed, and may match.
            assert_eq!(events[FULL], ["3"], "{server} {:?} {:?}", mapping.when, mapping.when_changed);
        }
    }
}

#[test]
fn several_mappings_share_one_projection() {
    let hdel = |key: &str, field: &str| KeyRule {
        op: KeyOp::Hdel { field: rowbust_protocol::template::Template::parse(field).unwrap() },
        ..unlink(key)
    };
    let mappings = vec![
        mapping("shop.*", vec![unlink("x:{id}")]),
        mapping("shop.p", vec![hdel("c:{cat}", "{id}"), unlink("all")]),
        mapping("blog.p", vec![unlink("{nothing}")]),
    ];
    for (server, binlog) in SERVERS {
        let (events, _, _) = run(binlog, mappings.clone());
        assert_eq!(events[2], ["x:1", "c:10 1", "c:11 1", "all"], "{server}");
        // Table `other` has no mapping but the glob.
        assert_eq!(events[3], ["x:1"], "{server}");
    }
}

/// The first table map of `p`, as the binlog gives it.
fn table_map(binlog: &[u8]) -> TableMap {
    let mut decoder = Decoder::new();
    for raw in FileEvents::new(binlog).unwrap() {
        if let Event::TableMap { slot, .. } = decoder.decode(&raw.unwrap()).unwrap() {
            return decoder.table(slot).clone();
        }
    }
    panic!("no table map");
}

#[test]
fn plans_project_the_columns_used_and_no_others() {
    for (_, binlog) in SERVERS {
        let mut map = table_map(binlog);
        let rules = vec![unlink("{status}:{id}"), unlink("{old.ID}")];
        let mapping = Mapping { when_changed: Some(vec!["note".into()]), ..mapping("shop.p", rules) };
        let router = Router::new(&config(vec![mapping]));
        map.complete(&schema()).unwrap();
        assert_eq!(router.plan(&map).unwrap().unwrap().columns(), [0, 5, 7]);
        map.schema = "shop2".into();
        assert!(router.plan(&map).unwrap().is_none());
    }
}

#[test]
fn mistakes_are_found_before_the_first_row() {
    for (_, binlog) in SERVERS {
        let plan = |map: &TableMap, template: &str| {
            Router::new(&config(vec![mapping("shop.p", vec![unlink(template)])])).plan(map).map(|_| ())
        };
        let mut map = table_map(binlog);
        // BINARY or UUID: the binlog doesn't tell.
        assert_eq!(plan(&map, "{hash}").unwrap_err().kind, RouteErrorKind::NeedsSchema);
        map.complete(&schema()).unwrap();
        assert_eq!(plan(&map, "{hash}"), Ok(()));

        let error = plan(&map, "k:{statsu}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "shop.p: the table has no column `statsu` (mappings[0], line 8: k:{statsu})"
        );
        assert_eq!(error.help(), "write `status`, or narrow the mapping's `table`");
        let error = plan(&map, "k:{nothing_like_it}").unwrap_err();
        assert!(matches!(error.kind, RouteErrorKind::UnknownColumn { similar: None, .. }));

        for (template, is_json) in
            [("{sku->>$.a}", true), ("{note->$}", true), ("{hash->>$.a}", false), ("{id->$}", false)]
        {
            let planned = plan(&map, template).map_err(|error| error.kind);
            let as_expected = match (is_json, map.flavor) {
                (true, Flavor::MariaDb) => planned.is_ok(),
                (true, Flavor::MySql) => matches!(planned, Err(RouteErrorKind::TextPath { .. })),
                (false, _) => matches!(planned, Err(RouteErrorKind::NotJson { .. })),
            };
            assert!(as_expected, "{template}: {planned:?}");
        }
        map.columns[0].name = None;
        assert_eq!(plan(&map, "{id}").unwrap_err().kind, RouteErrorKind::NeedsSchema);
    }
}
