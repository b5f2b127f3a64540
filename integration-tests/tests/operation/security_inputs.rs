//! docs/security.md: what users and files may hold. Column values that would mean something if anybody took them for more than bytes,
//! config files made to use up the machine, and TLS modes that don't exist.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon;
use rowbust_integration_tests::db::{Flavor, USER, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;

on_both!(values_touch_no_other_key);

/// Values, each meant to hit a key of another row, of another template, or everything.
fn hostile() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        "1:reviews",
        "x}:y",
        "{tag}",
        "}{",
        "%3A",
        "*",
        "?",
        "[a-z]",
        "\\",
        "\\*",
        "a*b?c[d]e\\",
        "^\\[*\\]$",
        "line\nbreak",
        "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        "tab\tspace ",
        " ",
        "",
        "'; DROP TABLE t; --",
        "\"quoted\"",
        "return redis.call('FLUSHALL')",
        "naïve 日本 😀",
        "..",
        "app:t:1",
        "${HOME}",
        "{id}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    values.push(b"nul\0in\0it".to_vec());
    values.push(b"\x01\x1b[31m\x7f".to_vec());
    values.push(vec![b'*'; 60_000]);
    values
}

fn literal(value: &[u8]) -> String {
    let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
    if hex.is_empty() { "''".into() } else { format!("CONVERT(x'{hex}' USING utf8mb4)") }
}

/// As docs/mappings.md says, and not as the daemon does it.
fn escaped(value: &[u8]) -> Vec<u8> {
    let special = |byte: u8| byte <= 0x20 || byte == 0x7f || b"%:{}".contains(&byte);
    value
        .iter()
        .flat_map(|&byte| if special(byte) { format!("%{byte:02X}").into_bytes() } else { vec![byte] })
        .collect()
}

async fn values_touch_no_other_key(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "hostile").await? else { return Ok(()) };
    // Two templates that are each other's neighbours, and a hash whose fields come from values.
    stage.settings.mappings = Some(
        "\n  - table: hostile.t\n    fill_grace: 0ms\n    keys:\n      - \"app:t:{v}\"\n      - \"app:{{user:{v}}}:{id}\"\n      - { key: \
         \"app:h:{id}\", op: hdel, field: \"f:{v}\" }\n"
            .into(),
    );
    stage.settings.limits = Some("{ memory: 48MiB, flush_keys_per_second: 0 }".into());
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &[
            "CREATE DATABASE hostile CHARACTER SET utf8mb4",
            "USE hostile",
            "SET NAMES utf8mb4",
            "CREATE TABLE t (id INT PRIMARY KEY, v MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)",
            &format!("GRANT SELECT ON hostile.* TO '{USER}'@'127.0.0.1'"),
        ],
    )
    .await?;
    let values = hostile();
    let mut cache = shop::redis(stage.redis.port()).await?;
    // What rows own, and what they'd hit if a value were more than bytes.
    let mut own: Vec<Vec<u8>> = Vec::new();
    let mut others: BTreeSet<Vec<u8>> = BTreeSet::new();
    for (id, value) in values.iter().enumerate() {
        own.push([b"app:t:".as_slice(), &escaped(value)].concat());
        own.push([b"app:{user:".as_slice(), &escaped(value), format!("}}:{id}").as_bytes()].concat());
        // The same without escaping.
        others.insert([b"app:t:".as_slice(), value].concat());
        others.insert([b"app:{user:".as_slice(), value, format!("}}:{id}").as_bytes()].concat());
        others.insert(value.clone());
    }
    for text in ["app:t", "app:t:1:reviews", "app:tt", "app:user:1", "other", "app:x", "APP:t:x", "aapp:t:x"]
    {
        others.insert(text.as_bytes().to_vec());
    }
    for key in &own {
        others.remove(key);
    }
    others.remove(b"".as_slice());
    let fill = async |cache: &mut redis::aio::MultiplexedConnection| -> Result<()> {
        for key in own.iter().chain(&others) {
            cache.set::<_, _, ()>(key, "old").await?;
        }
        for (id, value) in values.iter().enumerate() {
            for field in [[b"f:".as_slice(), &escaped(value)].concat(), b"f".to_vec(), b"g:*".to_vec()] {
                cache.hset::<_, _, _, ()>(format!("app:h:{id}"), field, "old").await?;
            }
        }
        Ok(())
    };
    let left =
        async |cache: &mut redis::aio::MultiplexedConnection, keys: &[Vec<u8>]| -> Result<Vec<String>> {
            let mut left = Vec::new();
            for key in keys {
                if cache.exists::<_, bool>(key).await? {
                    left.push(String::from_utf8_lossy(key).chars().take(60).collect());
                }
            }
            Ok(left)
        };
    let kept: Vec<Vec<u8>> = others.iter().cloned().collect();
    let untouched = async |cache: &mut redis::aio::MultiplexedConnection, when: &str| -> Result<()> {
        let found = left(cache, &kept).await?;
        ensure!(
            found.len() == kept.len(),
            "{when}: {} of {} keys of others are left",
            found.len(),
            kept.len()
        );
        for id in 0..values.len() {
            let fields: BTreeSet<Vec<u8>> = cache.hkeys(format!("app:h:{id}")).await?;
            let two = BTreeSet::from([b"f".to_vec(), b"g:*".to_vec()]);
            ensure!(fields == two, "{when}: of app:h:{id} {fields:?} are left");
        }
        Ok(())
    };

    let daemon = stage.start().await?;
    fill(&mut cache).await?;
    for (id, value) in values.iter().enumerate() {
        conn.query_drop(format!("INSERT INTO t VALUES ({id}, {})", literal(value))).await?;
    }
    stage.quiet(&daemon).await?;
    ensure!(
        left(&mut cache, &own).await?.is_empty(),
        "{:?}\n{}",
        left(&mut cache, &own).await?,
        daemon.log_tail()
    );
    untouched(&mut cache, "inserts").await?;

    fill(&mut cache).await?;
    conn.query_drop("UPDATE t SET v = 'plain'").await?;
    conn.query_drop("DELETE FROM t").await?;
    stage.quiet(&daemon).await?;
    ensure!(
        left(&mut cache, &own).await?.is_empty(),
        "{:?}\n{}",
        left(&mut cache, &own).await?,
        daemon.log_tail()
    );
    untouched(&mut cache, "updates and deletes").await?;

    // A flush looks for the templates' text, and takes what they can make: an unescaped value isn't among that, unless it needs no
    // escaping.
    fill(&mut cache).await?;
    conn.query_drop("TRUNCATE t").await?;
    stage.quiet(&daemon).await?;
    ensure!(
        left(&mut cache, &own).await?.is_empty(),
        "{:?}\n{}",
        left(&mut cache, &own).await?,
        daemon.log_tail()
    );
    // Other rows could have made these: of the values `1` and `:`.
    let makeable: [&[u8]; 3] = [b"app:t:1", b"app:t:%3A", b"app:{user:%3A}:4"];
    for key in makeable {
        ensure!(others.contains(key) && !cache.exists::<_, bool>(key).await?, "the template can make it");
        cache.set::<_, _, ()>(key, "old").await?;
    }
    untouched(&mut cache, "a flush").await?;

    // Longer than a key may be: nothing is cut off, the daemon stops at the row and names it.
    drop(daemon);
    let mut daemon = stage.start().await?;
    fill(&mut cache).await?;
    conn.query_drop("INSERT INTO t VALUES (100, REPEAT('*', 1048576))").await?;
    let status = daemon.exited(Duration::from_secs(30)).await?;
    ensure!(status.code() == Some(1), "{status}\n{}", daemon.log_tail());
    ensure!(daemon.log_text().contains("longer than 65536 bytes"), "{}", daemon.log_tail());
    ensure!(left(&mut cache, &own).await?.len() == own.len(), "nothing was removed");
    Ok(())
}

/// Runs `rowbust check` on a file with this text, under 256 MiB of address space and five seconds of processor time: exit code and
/// output. Whoever needs more is ended by a signal, and has no exit code of its own.
fn check(text: &str) -> Result<(Option<i32>, String)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bomb.yaml");
    fs::write(&path, text)?;
    let out = Command::new("/bin/sh")
        .args(["-c", "ulimit -v 262144; ulimit -t 5; exec \"$0\" -c \"$1\" check"])
        .arg(daemon::binary()?)
        .arg(&path)
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        .output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Ok((out.status.code(), text))
}

const HEAD: &str = "source: { url: \"mysql://u@db\", tls: disabled }\nredis: { main: \"redis://cache\" }\n";

#[test]
fn yaml_bombs() -> Result<()> {
    let laughs = |width: usize, levels: usize| {
        let mut text = format!("a0: &a0 [{}]\n", vec!["x"; width].join(","));
        for n in 1..levels {
            let row = vec![format!("*a{}", n - 1); width].join(",");
            text += &format!("a{n}: &a{n} [{row}]\n");
        }
        text
    };
    let merges: String = (1..500).map(|n| format!("m{n}: &m{n} {{ <<: *m{}, k{n}: 1 }}\n", n - 1)).collect();
    let fill = |line: &str| line.repeat((1 << 20) / line.len() - 50);
    let bombs: Vec<(&str, String)> = vec![
        ("a billion laughs", laughs(10, 9)),
        (
            "quadratic anchors",
            format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 5000].join(","), vec!["*a"; 5000].join(",")),
        ),
        (
            "a long text repeated",
            format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 900].join(",")),
        ),
        ("merges of merges", format!("m0: &m0 {{ k0: 1 }}\n{merges}")),
        ("itself", "a: &a [*a]\n".into()),
        ("deep in brackets", "[".repeat(500_000)),
        ("deep in braces", "{a: ".repeat(200_000)),
        ("deep by indentation", (0..700).map(|n| format!("{}a:\n", " ".repeat(n))).collect()),
        ("many dashes", "- ".repeat(400_000)),
        ("1 MiB of keys", fill("k: v\n")),
        ("1 MiB of items", format!("{HEAD}mappings:\n{}", fill("  - x\n"))),
        ("1 MiB of anchors", (0..60_000).map(|n| format!("- &a{n} x\n")).collect()),
        ("1 MiB of documents", fill("---\n")),
        ("1 MiB of one text", format!("a: \"{}\"\n", "x".repeat(1_000_000))),
        ("1 MiB of quotes", "'".repeat(1_000_000)),
        ("1 MiB of comments", fill("# x\n")),
        ("1 MiB of tags", fill("- !!str x\n")),
        ("more than 1 MiB", "# x\n".repeat(300_000)),
        ("20 MiB", "a: b\n".repeat(4 << 20)),
        ("a key of brackets", format!("? {}\n: x\n", "[".repeat(100_000))),
        ("NUL", "\0".repeat(1000)),
    ];
    for (name, text) in &bombs {
        let (code, output) = check(text)?;
        ensure!(code == Some(78), "{name}: {code:?} {output:.500}");
        ensure!(output.len() < 64 << 10, "{name}: {} bytes of output", output.len());
    }
    // It isn't that everything is refused.
    let anchors = "mappings:\n  - { table: &t shop.products, keys: &k [\"product:{id}\"] }\n  - { table: shop.b, keys: *k }\n";
    let (code, output) = check(&format!("{HEAD}{anchors}"))?;
    ensure!(code == Some(0), "{output}");
    Ok(())
}

#[test]
fn no_mode_falls_back() -> Result<()> {
    for (source, redis) in [
        ("tls: preferred", "\"redis://cache\""),
        ("tls: { mode: preferred }", "\"redis://cache\""),
        ("tls: prefer", "\"redis://cache\""),
        ("tls: true", "\"redis://cache\""),
        ("tls: disabled", "{ url: \"rediss://cache\", tls: preferred }"),
        ("tls: disabled", "{ url: \"rediss://cache\", tls: disabled }"),
        ("tls: disabled", "{ url: \"redis://cache\", tls: required }"),
    ] {
        let text = format!(
            "source: {{ url: \"mysql://u@db\", {source} }}\nredis: {{ main: {redis} }}\nmappings: [ {{ table: s.t, keys: [\"k:{{id}}\"] }} ]\n"
        );
        let (code, output) = check(&text)?;
        ensure!(code == Some(78) && output.contains("tls"), "{source}, {redis}: {code:?} {output}");
    }
    let default = format!(
        "{}mappings: [ {{ table: s.t, keys: [\"k:{{id}}\"] }} ]\n",
        HEAD.replace(", tls: disabled", "")
    );
    let (code, output) = check(&default)?;
    ensure!(code == Some(0), "{output}");
    ensure!(output.contains("verify_identity"), "the default is the strictest: {output}");
    _ = output.lines().next().context("no output")?;
    Ok(())
}
