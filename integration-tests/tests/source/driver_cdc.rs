//! `source.driver: mysql_cdc`: it follows what it can, and what it can't it refuses or stops at.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::{Daemon, cli};
use rowbust_integration_tests::db::{Db, Flavor, Server, run};
use rowbust_integration_tests::matrix;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

on_both!(
    follows,
    settings_are_refused,
    columns_are_refused,
    stops_where_it_cannot_read,
    removes_more_widely_without_checksums,
);

const TABLES: &[&str] = &[
    "CREATE TABLE typed (id INT PRIMARY KEY, big BIGINT UNSIGNED, tiny TINYINT, dec1 DECIMAL(20,5), name VARCHAR(300), \
     fixed CHAR(20) CHARACTER SET utf8mb4, day DATE, at DATETIME(3), stamp TIMESTAMP NULL, e ENUM('x','ž'), s SET('a','b'), \
     bits BIT(10), f DOUBLE, y YEAR, late DATETIME(6), t TEXT CHARACTER SET latin1, doc JSON, blob1 BLOB, clock TIME(2))",
    "CREATE TABLE late (id INT PRIMARY KEY, at DATETIME(6))",
    "CREATE TABLE clocks (id INT PRIMARY KEY, t TIME)",
    "CREATE TABLE sized (id INT PRIMARY KEY, v LONGTEXT, doc JSON)",
    "CREATE TABLE unmapped (id INT PRIMARY KEY, b BINARY(16), l VARCHAR(20) CHARACTER SET latin1, t TIME)",
];

const MAPPINGS: &str = r#"
  - table: SCHEMA.typed
    fill_grace: 100ms
    keys: ["typed:{id}", "big:{big}", "dec:{dec1}", "name:{name}:{fixed}", "day:{day}", "at:{at}", "stamp:{stamp}", "es:{e}:{s}", "bits:{bits|hex}", "f:{f}", "y:{y}"]
  - table: SCHEMA.late
    fill_grace: 100ms
    keys: ["late:{at}"]
  - { table: SCHEMA.clocks, fill_grace: 100ms, keys: ["clock:{id}"] }
  - { table: SCHEMA.sized, fill_grace: 100ms, keys: ["sized:{id}"] }
"#;

async fn stage(flavor: Flavor, name: &str, args: &[&str]) -> Result<Option<(Stage, Conn)>> {
    let server = Server::from(flavor);
    if rowbust_servers::require(&[server.need(), rowbust_servers::Need::Redis]).is_none() {
        return Ok(None);
    }
    let mut stage = Stage::on(std::sync::Arc::new(Db::start(server, args).await?), name).await?;
    stage.settings.mappings = Some(MAPPINGS.replace("SCHEMA", name));
    stage.settings.source = "driver: mysql_cdc\n  lossless: true".into();
    let mut conn = matrix::prepare(&stage).await?;
    run(&mut conn, TABLES).await?;
    Ok(Some((stage, conn)))
}

fn removed(stage: &Stage, from: usize) -> BTreeSet<String> {
    stage.removals.since(from).into_keys().collect()
}

fn keys(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn follows(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = stage(flavor, "cdc", &[]).await? else { return Ok(()) };
    let mut daemon = stage.start().await?;
    // Every value is one that the crate gives in full, but for `late`, which no key names.
    run(
        &mut conn,
        &[
            "INSERT INTO typed VALUES (1,18446744073709551615,-1,-123.45,'naïve 日本','fixed','2024-02-29', \
             '2024-02-29 12:34:56.789','2024-02-29 12:34:56','ž','a,b',513,-1.5,2024,'2024-02-29 12:34:56.789012','é','{\"a\":1}',x'ff00', \
             '12:34:56.78')",
        ],
    )
    .await?;
    stage.quiet(&daemon).await?;
    let first = keys(&[
        "typed:1",
        "big:18446744073709551615",
        "dec:-123.45000",
        "name:naïve%20日本:fixed",
        "day:2024-02-29",
        "at:2024-02-29%2012%3A34%3A56.789",
        "stamp:2024-02-29%2012%3A34%3A56",
        "es:ž:a,b",
        "bits:0201",
        "f:-1.5",
        "y:2024",
    ]);
    ensure!(removed(&stage, 0) == first, "{:?}\n{}", removed(&stage, 0), daemon.log_tail());

    let from = stage.removals.total();
    run(
        &mut conn,
        &[
            "BEGIN",
            "UPDATE typed SET id=2, big=NULL, dec1=0.5, name='', fixed='', day=NULL, at=NULL, stamp=NULL, e=NULL, s='', bits=1, f=0, \
             y=NULL, late=NULL",
            "INSERT INTO sized VALUES (1,'a','[]'),(2,repeat('b',100000),NULL)",
            "DELETE FROM sized WHERE id=1",
            "COMMIT",
            "BEGIN",
            "INSERT INTO sized VALUES (99,'a',NULL)",
            "ROLLBACK",
            // What it can't read in tables that no mapping names is nothing to stop at.
            "INSERT INTO unmapped VALUES (1,x'ff00ff',x'e9','-01:00:00')",
            "FLUSH BINARY LOGS",
            "SET SESSION binlog_row_image=MINIMAL",
            "UPDATE sized SET v='x' WHERE id=2",
            "SET SESSION binlog_row_image=FULL",
            "TRUNCATE TABLE unmapped",
        ],
    )
    .await?;
    stage.quiet(&daemon).await?;
    let mut second = first;
    second.extend(keys(&["typed:2", "dec:0.50000", "name::", "bits:0001", "f:0", "sized:1", "sized:2"]));
    ensure!(removed(&stage, from) == second, "{:?}\n{}", removed(&stage, from), daemon.log_tail());

    // A quiet server is no lost one.
    daemon.metric_at_least("rowbust_source_heartbeats_total", 2.0, Duration::from_secs(20)).await?;
    ensure!(!daemon.log_text().contains("reconnecting"), "{}", daemon.log_tail());

    // It goes on behind its checkpoint, and behind a lost connection.
    daemon.sigterm(Duration::from_secs(30)).await?;
    let from = stage.removals.total();
    run(&mut conn, &["INSERT INTO sized VALUES (3,'a',NULL)"]).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    stage.db.kill9()?;
    stage.db.start_again()?;
    let mut conn = stage.sql().await?;
    run(&mut conn, &["INSERT INTO sized VALUES (4,'a',NULL)"]).await?;
    stage.quiet(&daemon).await?;
    ensure!(removed(&stage, from) == keys(&["sized:3", "sized:4"]), "{:?}", removed(&stage, from));
    Ok(())
}

/// Ends it before it begins: exit code 78, and the reason.
async fn refused(daemon: &mut Daemon, words: &[&str]) -> Result<()> {
    let status = daemon.exited(Duration::from_secs(30)).await?;
    ensure!(status.code() == Some(78), "{status}\n{}", daemon.log_tail());
    let log = daemon.log_text();
    for word in words {
        ensure!(log.contains(word), "{word} isn't named\n{}", daemon.log_tail());
    }
    Ok(())
}

async fn settings_are_refused(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stage(flavor, "settings", &[]).await? else { return Ok(()) };
    let settings: &[(&str, &str, &str)] = match flavor {
        Flavor::MySql => &[
            ("binlog_transaction_compression", "ON", "OFF"),
            ("binlog_row_value_options", "'PARTIAL_JSON'", "''"),
        ],
        Flavor::MariaDb => &[("log_bin_compress", "ON", "OFF")],
    };
    for (name, on, off) in settings {
        conn.query_drop(format!("SET GLOBAL {name}={on}")).await?;
        refused(&mut stage.launch("")?, &[name, "mysql_cdc"]).await?;
        conn.query_drop(format!("SET GLOBAL {name}={off}")).await?;
    }
    // `check` lists what it can't do, and refuses TLS by the file alone.
    let config = stage.config()?;
    let out = cli(["-c", config.to_str().context("odd path")?, "check"])?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for word in
        ["mysql_cdc", "16 MiB", "TLS", "BINARY", "negative TIME", "compressed", "password", "millisecond"]
    {
        ensure!(text.contains(word), "{word} isn't in:\n{text}");
    }
    stage.settings.tls = "required".into();
    let config = stage.config()?;
    let out = cli(["-c", config.to_str().context("odd path")?, "check"])?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(78) && text.contains("mysql_cdc"), "{}: {text}", out.status);
    Ok(())
}

async fn columns_are_refused(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = stage(flavor, "columns", &[]).await? else { return Ok(()) };
    conn.query_drop(
        "ALTER TABLE sized ADD COLUMN token BINARY(16), ADD COLUMN title VARCHAR(20) CHARACTER SET latin1",
    )
    .await?;
    refused(&mut stage.launch("")?, &["sized.token (binary)", "sized.title (varchar in latin1)"]).await
}

/// What a session can bring on that the crate can't read, by name.
fn unreadable(flavor: Flavor) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut cases: Vec<(&str, Vec<&str>)> = vec![
        ("a negative time", vec!["INSERT INTO clocks VALUES (1,'-01:00:00')"]),
        ("microseconds in a key", vec!["INSERT INTO late VALUES (1,'2024-01-01 00:00:00.000001')"]),
        ("16 MiB", vec!["INSERT INTO sized VALUES (7,repeat('x',17000000),NULL)"]),
        ("exactly a full packet", vec!["INSERT INTO sized VALUES (8,repeat('x',FULL),NULL)"]),
    ];
    match flavor {
        Flavor::MySql => cases.extend([
            (
                "compression by a session",
                vec![
                    "SET SESSION binlog_transaction_compression=ON",
                    "INSERT INTO sized VALUES (9,'a',NULL)",
                ],
            ),
            (
                "partial JSON by a session",
                vec![
                    "SET SESSION binlog_row_value_options='PARTIAL_JSON'",
                    "UPDATE sized SET doc=JSON_SET(doc,'$.a',2) WHERE id=1",
                ],
            ),
        ]),
        Flavor::MariaDb => cases.push((
            "compression turned on",
            vec![
                "SET GLOBAL log_bin_compress=ON",
                "SET GLOBAL log_bin_compress_min_len=10",
                "INSERT INTO sized VALUES (9,repeat('a',500),NULL)",
                "SET GLOBAL log_bin_compress=OFF",
            ],
        )),
    }
    cases
}

async fn make(stage: &Stage, conn: &mut Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        if statement.contains("FULL") {
            let insert = full_packet(stage, conn).await?;
            conn.query_drop(insert).await?;
        } else {
            conn.query_drop(*statement).await.with_context(|| format!("{statement:.200}"))?;
        }
    }
    Ok(())
}

/// Types of events with rows, by the place at which each begins, as the servers name places.
fn row_events(stage: &Stage) -> Result<HashMap<String, u8>> {
    let mut begins = HashMap::new();
    for file in stage.db.binlogs()? {
        let name = file.file_name().context("no name")?.to_string_lossy().into_owned();
        let mut position = 4_u64;
        for event in rowbust_binlog::FileEvents::new(&std::fs::read(&file)?)? {
            let header = event?.header;
            if matches!(header.event_type, 20..=25 | 30..=32 | 39 | 40 | 166..=171) {
                begins.insert(format!("{name}:{position}"), header.event_type);
            }
            position += u64::from(header.event_size);
        }
    }
    Ok(begins)
}

/// Each on a daemon of its own, which must stop there, and not behind.
async fn stops_where_it_cannot_read(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = stage(flavor, "stops", &[]).await? else { return Ok(()) };
    conn.query_drop("SET GLOBAL max_allowed_packet=1073741824").await?;
    conn.query_drop(r#"INSERT INTO sized VALUES (1,'a','{"a":1}')"#).await?;
    for (case, statements) in unreadable(flavor) {
        for suffix in ["", ".prev", ".schema"] {
            _ = std::fs::remove_file(format!("{}{suffix}", stage.checkpoint_path().display()));
        }
        let mut daemon = stage.start().await.context(case)?;
        let from = stage.removals.total();
        let mut conn = stage.sql().await?;
        conn.query_drop("INSERT INTO clocks VALUES (77,'00:00:01')").await?;
        stage.quiet(&daemon).await.context(case)?;
        make(&stage, &mut conn, &statements).await.context(case)?;
        conn.query_drop("DELETE FROM clocks WHERE id=77").await?;
        let status = daemon.exited(Duration::from_secs(60)).await.context(case)?;
        ensure!(status.code() == Some(1), "{case}: {status}\n{}", daemon.log_tail());
        // At the beginning of the event, though the crate's bytes of it are more or fewer.
        let log = daemon.log_text();
        let places = row_events(&stage)?;
        let last = log.lines().last().unwrap_or_default();
        let at = last.split_whitespace().find(|word| word.starts_with("binlog.0")).unwrap_or_default();
        let named = places.contains_key(at.trim_end_matches([':', ',', ';']));
        ensure!(named, "{case}: no row event begins at {at:?}: {places:?}\n{}", daemon.log_tail());
        stage.fence()?;
        let gone = stage.removals.since(from);
        ensure!(
            gone.len() == 1 && gone.get("clock:77") == Some(&2),
            "{case}: {gone:?}\n{}",
            daemon.log_tail()
        );
    }
    Ok(())
}

/// Without checksums too, where an event of the native driver that can't be read could have been damaged on the way: here it is known
/// why.
async fn removes_more_widely_without_checksums(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = stage(flavor, "wider", &["--binlog-checksum=NONE"]).await? else {
        return Ok(());
    };
    stage.settings.source.push_str("\n  on_undecodable: flush");
    run(&mut conn, &["SET GLOBAL max_allowed_packet=1073741824"]).await?;
    conn.query_drop(r#"INSERT INTO sized VALUES (1,'a','{"a":1}')"#).await?;
    let mut daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    for (case, statements) in unreadable(flavor) {
        let mut cache = shop::redis(stage.redis.port()).await?;
        let keys = ["sized:1", "sized:555", "clock:1", "clock:555", "late:x"];
        for key in keys {
            redis::cmd("SET").arg(key).arg("old").exec_async(&mut cache).await?;
        }
        let widened = daemon.metric("rowbust_widened_total").await?;
        make(&stage, &mut conn, &statements).await.context(case)?;
        stage.quiet(&daemon).await.context(case)?;
        let now = daemon.metric("rowbust_widened_total").await?;
        ensure!(now > widened, "{case}: {widened}, {now}\n{}", daemon.log_tail());
        let left = shop::cached(&mut cache).await?;
        let mine = match () {
            () if statements[0].contains("clocks") => "clock:",
            () if statements[0].contains("late") => "late:",
            () => "sized:",
        };
        ensure!(!left.iter().any(|key| key.starts_with(mine)), "{case}: {left:?}\n{}", daemon.log_tail());
        conn = stage.sql().await?;
    }
    ensure!(daemon.sigterm(Duration::from_secs(30)).await?.success(), "{}", daemon.log_tail());
    Ok(())
}

/// A server that looks for the place in a long log sends nothing meanwhile, not even heartbeats. The crate alone would wait twelve
/// seconds, each time again; the deadline must grow, as with the native driver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_looks_for_its_place_for_long() -> Result<()> {
    let Some((mut stage, mut conn)) = stage(Flavor::MySql, "slow", &[]).await? else { return Ok(()) };
    stage.settings.port = Some(silent_after_the_request(stage.db.port(), Duration::from_secs(13)).await?);
    let daemon = stage.start().await?;
    conn.query_drop("INSERT INTO clocks VALUES (1,'00:00:01')").await?;
    stage.quiet(&daemon).await?;
    ensure!(removed(&stage, 0) == keys(&["clock:1"]), "{:?}", removed(&stage, 0));
    // Ten seconds, and then twice as many.
    let log = daemon.log_text();
    ensure!(log.matches("source lost, reconnecting").count() == 1, "{}", daemon.log_tail());
    ensure!(log.contains("no event and no heartbeat for 10 s"), "{}", daemon.log_tail());
    Ok(())
}

/// A port that forwards to a server's, but holds back for so long what it answers to the request for its binlog.
async fn silent_after_the_request(to: u16, silence: Duration) -> Result<u16> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await?;
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let (asked, was_asked) = tokio::sync::watch::channel(false);
                tokio::spawn(async move {
                    // The end of this closes the server's side too.
                    let mut buffer = vec![0; 1 << 24];
                    loop {
                        // Packet by packet: the crate writes each in pieces.
                        from_client.read_exact(&mut buffer[..4]).await?;
                        let len = 4 + u32::from_le_bytes([buffer[0], buffer[1], buffer[2], 0]) as usize;
                        from_client.read_exact(&mut buffer[4..len]).await?;
                        // COM_BINLOG_DUMP and COM_BINLOG_DUMP_GTID: the first packet of a command.
                        if matches!(buffer[..len], [_, _, _, 0, 0x12 | 0x1e, ..]) {
                            asked.send_replace(true);
                        }
                        to_server.write_all(&buffer[..len]).await?;
                    }
                    #[allow(unreachable_code, reason = "tells the type")]
                    std::io::Result::Ok(())
                });
                let mut buffer = vec![0; 1 << 16];
                let mut held = false;
                loop {
                    let n = from_server.read(&mut buffer).await?;
                    if n == 0 {
                        return to_client.shutdown().await;
                    }
                    if *was_asked.borrow() && !std::mem::replace(&mut held, true) {
                        tokio::time::sleep(silence).await;
                    }
                    to_client.write_all(&buffer[..n]).await?;
                }
                #[allow(unreachable_code, reason = "tells the type")]
                std::io::Result::Ok(())
            });
        }
    });
    Ok(port)
}

/// An INSERT whose row event fills a packet to its last byte.
async fn full_packet(stage: &Stage, conn: &mut Conn) -> Result<String> {
    conn.query_drop("CREATE TABLE IF NOT EXISTS sized_unmapped LIKE sized").await?;
    conn.query_drop("INSERT INTO sized_unmapped VALUES (8,repeat('x',1000000),NULL)").await?;
    let file = stage.db.binlogs()?.pop().context("no binlog")?;
    let mut last = 0;
    for event in rowbust_binlog::FileEvents::new(&std::fs::read(file)?)? {
        let header = event?.header;
        if matches!(header.event_type, 23 | 30) {
            last = header.event_size;
        }
    }
    let more = last - 1_000_000;
    // A packet holds one byte of status and the event.
    Ok(format!("INSERT INTO sized VALUES (8,repeat('x',{}),NULL)", (1 << 24) - 2 - more))
}
