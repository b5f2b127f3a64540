//! Real binlog files of both servers, with full and with the least metadata: the rows are applied to a model of the
//! tables, and in the end every value's text must be the server's own, byte by byte.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use rowbust_binlog::{Decoder, Event, FileEvents, Projection, RowSlots, SchemaColumn, TableMap, Value};

struct Fixture {
    binlog: &'static [u8],
    texts: &'static str,
    schema: &'static str,
    has_metadata: bool,
}

macro_rules! fixture {
    ($name:literal, $kind:literal) => {
        Fixture {
            binlog: include_bytes!(concat!("fixtures/", $name, ".", $kind, ".binlog")),
            texts: include_str!(concat!("fixtures/", $name, ".tsv")),
            schema: include_str!(concat!("fixtures/", $name, ".schema.tsv")),
            has_metadata: $kind == "full",
        }
    };
}

/// Text of a value; `None` is NULL.
type Text = Option<Vec<u8>>;
type Row = BTreeMap<String, Text>;

#[test]
fn mariadb_full_metadata() {
    check(&fixture!("mariadb-10.11", "full"));
}

#[test]
fn mariadb_no_metadata() {
    check(&fixture!("mariadb-10.11", "bare"));
}

#[test]
fn mysql_full_metadata() {
    check(&fixture!("mysql-9.7", "full"));
}

#[test]
fn mysql_minimal_metadata() {
    check(&fixture!("mysql-9.7", "bare"));
}

fn check(fixture: &Fixture) {
    let tables = apply(fixture);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for line in fixture.texts.lines() {
        let (table, id, column, expected) = match line.split('\t').collect::<Vec<_>>()[..] {
            [table, id, column, "NULL", ..] => (table, id, column, None),
            [table, id, column, hex] => (table, id, column, Some(unhex(hex))),
            [table, id, column, raw, "raw"] => (table, id, column, Some(raw.as_bytes().to_vec())),
            _ => panic!("{line}"),
        };
        let row = tables.get(table).and_then(|t| t.get(id));
        let got = match row.and_then(|r| r.get(column)) {
            Some(text) => text.clone(),
            // Rows from before ALTER TABLE … ADD COLUMN c12 INT DEFAULT 12.
            None if row.is_some() && column == "c12" => Some(b"12".to_vec()),
            None => Some(b"<no such value>".to_vec()),
        };
        checked += 1;
        if got != expected {
            wrong.push(format!("{table} {id} {column}: got {} expected {}", show(&got), show(&expected)));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 800, "{checked}");
    let rows: usize = tables.values().map(BTreeMap::len).sum();
    let expected: usize = fixture.texts.lines().filter(|l| l.split('\t').nth(2) == Some("id")).count();
    assert_eq!(rows, expected, "rows left over in the model");
}

fn apply(fixture: &Fixture) -> BTreeMap<String, BTreeMap<String, Row>> {
    let mut tables: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
    let mut decoder = Decoder::new();
    let mut projections: Vec<Option<Projection>> = Vec::new();
    let mut slots = RowSlots::new();
    for raw in FileEvents::new(fixture.binlog).unwrap() {
        let raw = raw.unwrap();
        match decoder.decode(&raw).unwrap() {
            Event::TableMap { slot, fresh: true } => {
                let map = decoder.table_mut(slot);
                if !fixture.has_metadata {
                    assert!(map.columns.iter().all(|c| !c.is_complete()));
                }
                map.complete(&schema_of(fixture, map)).unwrap();
                assert!(map.columns.iter().all(|c| c.is_complete()), "{map:?}");
                projections.resize(projections.len().max(slot + 1), None);
                projections[slot] = Some(project(map));
            }
            Event::Rows(rows) => {
                let map = decoder.table(rows.slot);
                let projection = projections[rows.slot].as_ref().unwrap();
                let table = tables.entry(map.table.clone()).or_default();
                let mut cursor = rows.cursor(map, projection).unwrap();
                while cursor.next(&mut slots).unwrap() {
                    apply_row(map, projection, &slots, table);
                }
            }
            Event::Xid(_) => decoder.end_transaction(),
            Event::Unsupported { event_type, .. } => panic!("event type {event_type}"),
            _ => {}
        }
    }
    tables
}

/// The columns as they were: the schema is of the end, when `c12` was there.
fn schema_of(fixture: &Fixture, map: &TableMap) -> Vec<SchemaColumn> {
    let mut columns: Vec<SchemaColumn> = fixture
        .schema
        .lines()
        .filter_map(|line| {
            let [table, name, data_type, column_type, charset] = line.split('\t').collect::<Vec<_>>()[..]
            else {
                panic!("{line}")
            };
            let charset = (charset != "NULL").then_some(charset);
            (table == map.table).then(|| SchemaColumn::new(name, data_type, column_type, charset))
        })
        .collect();
    if map.table == "t_wide" && map.columns.len() + 1 == columns.len() {
        columns.retain(|c| c.name != "c12");
    }
    columns
}

fn project(map: &TableMap) -> Projection {
    Projection::new(map, &(0..map.columns.len()).collect::<Vec<_>>()).unwrap()
}

fn apply_row(
    map: &TableMap,
    projection: &Projection,
    slots: &RowSlots<'_>,
    table: &mut BTreeMap<String, Row>,
) {
    let image = |values: &[Value<'_>]| -> Row {
        let mut row = Row::new();
        for (value, &index) in values.iter().zip(projection.columns()) {
            let column = &map.columns[index];
            let text = match value {
                Value::Absent => continue,
                Value::Null => None,
                value => {
                    let mut text = Vec::new();
                    value
                        .write_text(column, &mut text)
                        .unwrap_or_else(|e| panic!("{} {column:?}: {e}", map.table));
                    Some(text)
                }
            };
            row.insert(column.name.clone().unwrap(), text);
        }
        row
    };
    let id = |row: &Row| String::from_utf8(row["id"].clone().unwrap()).unwrap();
    let (before, after) = (image(&slots.before), image(&slots.after));
    assert_eq!(slots.has_before, !slots.before.is_empty());
    assert_eq!(slots.has_after, !slots.after.is_empty());
    let mut row = Row::new();
    if slots.has_before {
        row = table.remove(&id(&before)).unwrap();
        for (column, text) in &before {
            assert_eq!(row.get(column), Some(text), "before image of {} {column}", map.table);
        }
        assert!(before.len() <= row.len());
    } else {
        // What a MINIMAL image of an insert leaves out has its default: NULL here.
        for &index in projection.columns() {
            row.insert(map.columns[index].name.clone().unwrap(), None);
        }
    }
    if slots.has_after {
        row.extend(after);
        table.insert(id(&row), row);
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
        .collect()
}

fn show(text: &Text) -> String {
    match text {
        None => "NULL".into(),
        Some(text) => format!("{:?}", String::from_utf8_lossy(text)),
    }
}
