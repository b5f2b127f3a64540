//! Values as the servers print them: every code of every character set, and JSON documents, paths and partial updates at random.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

use std::{collections::BTreeSet, fs};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rowbust::route::{RoutedKey, Router, Scratch};
use rowbust_binlog::{
    Column, Decoder, Event, FileEvents, Projection, RowSlots, SchemaColumn, Value,
    charset::Charset,
    json::{Document, Found, Path},
};
use rowbust_servers::{MariaDb, MySql, Need, StartOptions, require};
use tempfile::TempDir;

async fn connect(port: u16) -> Conn {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("root"))
        .prefer_socket(false)
        .init(vec!["SET NAMES utf8mb4"]);
    Conn::new(opts).await.unwrap()
}

/// Compares every code of these expressions, whose `n` counts from 0 to below `count`. Ours may refuse only what the server
/// has no character for: it gives NULL, or a question mark that isn't in the code. Returns how many are characters.
async fn compare(conn: &mut Conn, charset: &str, code: &str, count: u32) -> usize {
    let limit = if count > 1 { count - 1 } else { 1 };
    let query = format!(
        "WITH RECURSIVE s AS (SELECT 0 n UNION ALL SELECT n + 1 FROM s WHERE n < {limit}) \
         SELECT HEX(b), CONVERT(CONVERT(b USING {charset}) USING utf8mb4) FROM (SELECT UNHEX({code}) b FROM s) t"
    );
    let rows: Vec<(String, Option<Vec<u8>>)> = conn.query(query).await.unwrap();
    let ours = Charset::from_name(charset).unwrap_or_else(|| panic!("{charset} is unknown"));
    let questions = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'?').count();
    let mut characters = 0;
    for (hex, server) in &rows {
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap())
            .collect();
        let bytes = bytes.as_slice();
        match (ours.decode(bytes), server) {
            (Ok(text), Some(server)) if *text == **server => characters += 1,
            (Ok(text), _) => panic!("{charset} {bytes:x?}: {text:x?}, the server has {server:x?}"),
            (Err(_), None) => {}
            (Err(_), Some(server)) if questions(server) > questions(bytes) => {}
            // Lone surrogates of ucs2, as no UTF-8; a character that is cut off, which MySQL's eucjpms drops.
            (Err(_), Some(server)) if str::from_utf8(server).is_err() || server.len() < bytes.len() => {}
            (Err(error), Some(server)) => panic!("{charset} {bytes:x?}: {error}, the server has {server:x?}"),
        }
    }
    characters
}

async fn every_code(mut conn: Conn) {
    let is_mysql =
        !conn.query_first::<String, _>("SELECT VERSION()").await.unwrap().unwrap().contains("MariaDB");
    let deep = if is_mysql { "cte_max_recursion_depth" } else { "max_recursive_iterations" };
    conn.query_drop(format!("SET SESSION {deep} = 1000000")).await.unwrap();
    let charsets: Vec<(String, u8)> = conn
        .query("SELECT CHARACTER_SET_NAME, MAXLEN FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME <> 'binary'")
        .await
        .unwrap();
    assert!(charsets.len() >= 39, "{charsets:?}");
    for (charset, longest) in charsets {
        // CONVERT fills up what is too short for a character; a column can't hold it.
        let shortest = match &*charset {
            "ucs2" | "utf16" | "utf16le" => 2,
            "utf32" => 4,
            _ => 1,
        };
        let one = match shortest {
            1 => compare(&mut conn, &charset, "LPAD(HEX(n), 2, '0')", 256).await,
            _ => 0,
        };
        let two = match longest {
            2.. if shortest <= 2 => compare(&mut conn, &charset, "LPAD(HEX(n), 4, '0')", 65_536).await,
            _ => 0,
        };
        let more = match &*charset {
            "ujis" | "eucjpms" => {
                compare(&mut conn, &charset, "CONCAT('8F', LPAD(HEX(n + 32768), 4, '0'))", 32_768).await
            }
            // The four-byte codes up to U+FFFF.
            "gb18030" => {
                let code = "CONCAT(HEX(129 + n DIV 12600), HEX(48 + n DIV 1260 % 10), HEX(129 + n DIV 10 % 126), HEX(48 + n % 10))";
                compare(&mut conn, &charset, code, 50_400).await
            }
            "utf32" => compare(&mut conn, &charset, "CONCAT('00', LPAD(HEX(n * 17), 6, '0'))", 65_536).await,
            _ => 0,
        };
        match (longest, &*charset) {
            (_, "ucs2" | "utf16" | "utf16le") => assert!(two > 63_000, "{charset}: {two}"),
            (_, "utf32") => assert!(more > 60_000, "{more}"),
            (1, _) => assert!(one >= 127, "{charset}: {one}"),
            _ => assert!(two > 16_000, "{charset}: {two}"),
        }
    }
    conn.disconnect().await.unwrap();
}

#[tokio::test]
async fn values_are_those_of_mariadb() {
    let Some(()) = require(&[Need::MariaDb]).map(|_| ()) else { return };
    let dir = TempDir::new().unwrap();
    let server = MariaDb::start(StartOptions::new(dir.path())).unwrap();
    every_code(connect(server.port()).await).await;
    json_keys_are_those_of_mariadb(server.port(), &server.data_dir()).await;
}

#[tokio::test]
async fn json_keys_are_those_of_newer_mariadb() {
    let Some(()) = require(&[Need::MariaDb118]).map(|_| ()) else { return };
    let dir = TempDir::new().unwrap();
    let server = MariaDb::start_11_8(StartOptions::new(dir.path())).unwrap();
    json_keys_are_those_of_mariadb(server.port(), &server.data_dir()).await;
}

/// Paths that are asked of each document.
const PATHS: [&str; 8] = ["$", "$.a", "$.b.a", "$.\"é x\"", "$.a[0]", "$.b[last]", "$[0].a", "$.a[last-1].b"];

/// A document's text, and what stands at each path: with `->` and with `->>`.
type Printed = (String, Vec<(Option<String>, Option<String>)>);

async fn printed(conn: &mut Conn, id: u64) -> Printed {
    // A JSON null is SQL NULL to us, and a text to the server.
    let path = |p: &&str| {
        format!(
            "NULLIF(doc->'{p}', CAST('null' AS JSON)), IF(JSON_TYPE(doc->'{p}') = 'NULL', NULL, doc->>'{p}')"
        )
    };
    let paths: Vec<_> = PATHS.iter().map(path).collect();
    let query = format!("SELECT CAST(doc AS CHAR), {} FROM t.d WHERE id = {id}", paths.join(", "));
    let row: mysql_async::Row = conn.query_first(query).await.unwrap().unwrap();
    let found = (0..PATHS.len()).map(|i| (row.get(1 + 2 * i).unwrap(), row.get(2 + 2 * i).unwrap()));
    (row.get(0).unwrap(), found.collect())
}

fn json(rng: &mut StdRng, depth: u32) -> String {
    let members = |rng: &mut StdRng| 0..rng.random_range(0..5);
    match rng.random_range(0..if depth == 0 { 9 } else { 13 }) {
        0 => "null".into(),
        1 => "true".into(),
        2 => rng.random_range(-(1 << 19)..1 << 19).to_string(),
        3 => rng.random::<u64>().to_string(),
        4 => format!("-{}", rng.random_range(0..1_u64 << 40)),
        5 => format!("{}e{}", rng.random_range(0..1_u64 << 53), rng.random_range(-30..10)),
        6 => format!("{}.{}", rng.random_range(0..100_000), rng.random_range(0..1_000_000)),
        7 => format!("\"{}\"", "ab\\\\\\\"é\\n\\u0001😀".repeat(rng.random_range(0..3))),
        8 => format!("\"{}\"", "x".repeat(rng.random_range(0..200))),
        9 | 10 => {
            let all: Vec<_> = members(rng).map(|_| json(rng, depth - 1)).collect();
            format!("[{}]", all.join(","))
        }
        _ => {
            let member = |rng: &mut StdRng, i: usize| {
                format!("\"{}\":{}", ["a", "b", "é x", "", "abc"][i], json(rng, depth - 1))
            };
            let all: Vec<_> = members(rng).map(|i| member(rng, i)).collect();
            format!("{{{}}}", all.join(","))
        }
    }
}

/// A statement that changes a part of row `id`.
fn change(rng: &mut StdRng, id: u64) -> String {
    let path = PATHS[rng.random_range(0..PATHS.len())];
    // JSON_SET takes a scalar or a document.
    let value = format!("CAST('{}' AS JSON)", json(rng, 2).replace('\\', "\\\\"));
    let (a, b) = (
        ["$.a", "$.b", "$.new", "$[1]"][rng.random_range(0..4)],
        ["$.b[0]", "$.a[1]", "$[0]"][rng.random_range(0..3)],
    );
    let doc = match rng.random_range(0..5) {
        0 => format!("JSON_SET(doc, '{path}', {value})"),
        1 => format!("JSON_REPLACE(JSON_SET(doc, '{a}', {value}), '{path}', 1.5)"),
        2 => format!("JSON_REMOVE(doc, '{a}')"),
        3 => format!("JSON_REMOVE(JSON_SET(doc, '{a}', {value}), '{b}')"),
        _ => format!("JSON_SET(doc, '{a}', JSON_ARRAY(1, 2, {value}), '{b}', 'x')"),
    };
    format!("UPDATE t.d SET n = n + 1, doc = {doc} WHERE id = {id}")
}

#[tokio::test]
async fn values_are_those_of_mysql() {
    let Some(()) = require(&[Need::MySql]).map(|_| ()) else { return };
    let dir = TempDir::new().unwrap();
    let server = MySql::start(StartOptions::new(dir.path())).unwrap();
    every_code(connect(server.port()).await).await;

    let mut conn = connect(server.port()).await;
    for statement in [
        "CREATE DATABASE t",
        "CREATE TABLE t.d (id INT PRIMARY KEY, n INT, doc JSON)",
        "SET binlog_row_value_options = PARTIAL_JSON",
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let mut rng = StdRng::seed_from_u64(7);
    let mut expected = Vec::new();
    for id in 0..60_u64 {
        let document = json(&mut rng, 4).replace('\\', "\\\\");
        conn.query_drop(format!("INSERT INTO t.d VALUES ({id}, 0, '{document}')")).await.unwrap();
        expected.push(printed(&mut conn, id).await);
        for _ in 0..8 {
            // Paths that no document of this kind has ("$" can't be removed) fail: the row stays as it was.
            if conn.query_drop(change(&mut rng, id)).await.is_ok() {
                expected.push(printed(&mut conn, id).await);
            }
        }
    }
    let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let (mut seen, mut partial) = (0, 0);
    for log in logs {
        let name: String = log.get(0).unwrap();
        let file = fs::read(server.data_dir().join(name)).unwrap();
        let (mut decoder, mut slots, mut projection) = (Decoder::new(), RowSlots::new(), None);
        for raw in FileEvents::new(&file).unwrap() {
            match decoder.decode(&raw.unwrap()).unwrap() {
                Event::TableMap { slot, fresh: true } if decoder.table(slot).table == "d" => {
                    projection = Some(Projection::new(decoder.table(slot), &[2]).unwrap());
                }
                Event::Rows(rows) if decoder.table(rows.slot).table == "d" => {
                    let map = decoder.table(rows.slot);
                    let mut cursor = rows.cursor(map, projection.as_ref().unwrap()).unwrap();
                    while cursor.next(&mut slots).unwrap() {
                        let document = match (slots.before.first(), slots.after[0]) {
                            (_, Value::Json(after)) => Document::new(after),
                            (Some(Value::Json(before)), Value::JsonDiff(diffs)) => {
                                partial += 1;
                                Document::patched(before, diffs)
                            }
                            other => panic!("{other:?}"),
                        };
                        check(&document, &expected[seen], &map.columns[2]);
                        seen += 1;
                    }
                }
                Event::Xid(_) => decoder.end_transaction(),
                _ => {}
            }
        }
    }
    assert_eq!(seen, expected.len());
    assert!(partial > 100, "{partial} partial updates among {seen}");
}

/// White space as a careless writer leaves it, outside of strings.
fn spaced_at_random(rng: &mut StdRng, document: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::new(), false, false);
    for c in document.chars() {
        let structural = !quoted && matches!(c, '{' | '}' | '[' | ']' | ',' | ':');
        if structural && rng.random_range(0..3) == 0 {
            out.push_str([" ", "  ", "\n", "\t "][rng.random_range(0..4)]);
        }
        out.push(c);
        if structural && rng.random_range(0..3) == 0 {
            out.push(' ');
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

/// The keys that an application makes of what MariaDB's own functions give it are those that rowbust removes: white space, escapes,
/// numbers and containers as they are printed there.
async fn json_keys_are_those_of_mariadb(port: u16, data: &std::path::Path) {
    let mut conn = connect(port).await;
    for statement in ["CREATE DATABASE t", "CREATE TABLE t.d (id INT PRIMARY KEY, doc JSON)"] {
        conn.query_drop(statement).await.unwrap();
    }
    let mut rng = StdRng::seed_from_u64(11);
    let mut wanted = BTreeSet::new();
    let (mut containers, mut values) = (0, 0);
    for id in 0..300_u64 {
        let document = json(&mut rng, 4);
        let document = spaced_at_random(&mut rng, &document).replace('\\', "\\\\");
        conn.query_drop(format!("INSERT INTO t.d VALUES ({id}, '{document}')")).await.unwrap();
        for (n, path) in PATHS.iter().enumerate() {
            // What the application does: a value that is JSON's null is none.
            let extract = format!("JSON_EXTRACT(doc, '{path}')");
            let query = format!(
                "SELECT JSON_TYPE({extract}), {extract}, JSON_UNQUOTE({extract}), JSON_VALUE(doc, '{path}') FROM t.d WHERE id = {id}"
            );
            type Row = (Option<String>, Option<String>, Option<String>, Option<String>);
            let (kind, extracted, unquoted, value): Row = conn.query_first(query).await.unwrap().unwrap();
            let (Some(kind), Some(extracted), Some(unquoted)) = (kind, extracted, unquoted) else { continue };
            if kind == "NULL" {
                continue;
            }
            containers += usize::from(kind == "OBJECT" || kind == "ARRAY");
            wanted.insert(format!("{n}:{id}:{extracted}"));
            wanted.insert(format!("{n}u:{id}:{unquoted}"));
            // The same by JSON_VALUE, where that isn't 1 or 0 for true and false.
            if matches!(&*kind, "STRING" | "INTEGER" | "DOUBLE") {
                values += 1;
                assert_eq!(value.as_ref(), Some(&unquoted), "{path} of {document}");
            }
        }
    }
    assert!(containers > 100 && values > 100, "{containers} containers, {values} values");

    let keys: Vec<String> = PATHS
        .iter()
        .enumerate()
        .map(|(n, path)| {
            format!("      - '{n}:{{id}}:{{doc->{path}|raw}}'\n      - '{n}u:{{id}}:{{doc->>{path}|raw}}'\n")
        })
        .collect();
    let text = format!(
        "source: {{ url: \"mysql://u@db\", tls: disabled }}\nredis: {{ main: \"redis://cache\" }}\nmappings:\n  - table: t.d\n    keys:\n{}",
        keys.concat()
    );
    let config = rowbust::config::parse(&text, std::path::Path::new("/test.yaml"), &|_| None).unwrap();
    let (router, mut scratch) = (Router::new(&config), Scratch::new());
    let (mut decoder, mut plan, mut made) = (Decoder::new(), None, BTreeSet::new());
    let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let columns: Vec<(String, String, String, Option<String>)> = conn
        .query(
            "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = 't' AND TABLE_NAME = 'd' ORDER BY ORDINAL_POSITION",
        )
        .await
        .unwrap();
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, kind, column, charset)| SchemaColumn::new(name, kind, column, charset.as_deref()))
        .collect();
    for log in logs {
        let file = fs::read(data.join(log.get::<String, _>(0).unwrap())).unwrap();
        for raw in FileEvents::new(&file).unwrap() {
            match decoder.decode(&raw.unwrap()).unwrap() {
                Event::TableMap { slot, fresh: true } => {
                    if decoder.table(slot).table == "d" {
                        decoder.table_mut(slot).complete(&columns).unwrap();
                    }
                    plan = router.plan(decoder.table(slot)).unwrap();
                }
                Event::Rows(rows) => {
                    let Some(plan) = &plan else { continue };
                    let mut slots = RowSlots::new();
                    let mut cursor = rows.cursor(decoder.table(rows.slot), plan.projection()).unwrap();
                    while cursor.next(&mut slots).unwrap() {
                        let mut sink = |key: RoutedKey<'_>| {
                            made.insert(String::from_utf8(key.key.to_vec()).unwrap());
                        };
                        plan.route(rows.kind, &slots, &mut scratch, &mut sink).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
    let missing: Vec<_> = wanted.difference(&made).take(5).collect();
    let odd: Vec<_> = made.difference(&wanted).take(5).collect();
    assert!(missing.is_empty() && odd.is_empty(), "not made: {missing:#?}, made by nothing: {odd:#?}");
}

fn check(document: &Document<'_>, (text, paths): &Printed, column: &Column) {
    let mut out = Vec::new();
    document.write_text(&mut out).unwrap_or_else(|e| panic!("{column:?} {text}: {e}"));
    assert_eq!(str::from_utf8(&out).unwrap(), text);
    for (path, (plain, unquoted)) in PATHS.iter().zip(paths) {
        for (unquote, expected) in [(false, plain), (true, unquoted)] {
            let mut out = Vec::new();
            let found = document.extract(&Path::parse(path).unwrap(), unquote, &mut out).unwrap();
            let ours = (found == Found::Text).then(|| String::from_utf8(out).unwrap());
            assert_eq!(ours, *expected, "{path} of {text}");
        }
    }
}
