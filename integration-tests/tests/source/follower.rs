//! The follower on real servers: transactions, start modes, refusals, lost connections, gaps; and [`formats`].
#![allow(clippy::unwrap_used, missing_docs)]

mod formats;

use std::time::{Duration, Instant};

use crate::support::{Db, Follow, TABLES, rows, until};
use mysql_async::prelude::Queryable;
use rowbust::{
    config::{Password, Start},
    source::{Resume, Source, SourceError, position::Position},
};
use rowbust_binlog::RowKind::{Delete, Update, Write};
use rowbust_servers::Need;

both! {
    transactions: [];
    start_modes: [];
    a_restart: [];
    a_frozen_server: [];
    a_clash: [];
    a_gap: [];
    purged_before_it_is_looked_at: [];
    refusals: [];
}

async fn transactions(db: Db) {
    db.run(TABLES).await;
    let follow = Follow::ready(db.config()).await;
    db.run(&[
        "INSERT INTO shop.products VALUES (1,'a'),(2,'b'),(3,'c')",
        "UPDATE shop.products SET name='z' WHERE id=1",
        "BEGIN",
        "INSERT INTO shop.customers VALUES (1,'x')",
        "UPDATE shop.products SET id=9 WHERE id=2",
        "INSERT INTO other.t VALUES (1)",
        "COMMIT",
        "BEGIN",
        "INSERT INTO shop.customers VALUES (2,'x')",
        "ROLLBACK",
        "BEGIN",
        "INSERT INTO shop.customers VALUES (3,'x')",
        "SAVEPOINT a",
        "INSERT INTO shop.customers VALUES (4,'x')",
        "ROLLBACK TO a",
        "SAVEPOINT `b`",
        "DELETE FROM shop.products WHERE id=3",
        "COMMIT",
        "ALTER TABLE shop.products ADD COLUMN price INT",
        "INSERT INTO shop.products VALUES (4,'d',100)",
        "FLUSH BINARY LOGS",
        "DELETE FROM shop.customers WHERE id=1",
        "CREATE TABLE shop.copy AS SELECT * FROM shop.products",
        "TRUNCATE TABLE other.t",
        "DROP TABLE other.t",
    ])
    .await;
    follow.caught_up(&db).await;
    let expected = [
        ("products", Write),
        ("products", Update),
        ("customers", Write),
        ("products", Update),
        ("customers", Write),
        ("products", Delete),
        ("products", Write),
        ("customers", Delete),
        ("copy", Write),
    ];
    // A rolled back savepoint may stay in the log between SAVEPOINT and ROLLBACK TO (one removal too many).
    let mut seen = follow.rows();
    if seen.len() > expected.len() {
        seen.remove(5);
    }
    assert_eq!(seen, rows(&expected));
    {
        let log = follow.log.lock().unwrap();
        assert_eq!(log.columns["products"], ["id", "name", "price"]);
        assert_eq!(log.abandoned, 0);
    }
    let (file, position) = db.newest().await;
    assert_eq!(
        follow.last_end(),
        rowbust::source::position::Coordinates { file: file.as_str().into(), position }
    );
    assert!(follow.stats.transactions() >= 8);
    follow.stop().await.unwrap();
}

async fn start_modes(db: Db) {
    let earliest_gtids =
        if db.is_mysql() { db.value("SELECT @@global.gtid_purged").await } else { String::new() };
    db.run(TABLES).await;
    db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
    let gtid = db.gtids().await;
    let (file, position) = db.newest().await;
    db.run(&[
        "FLUSH BINARY LOGS",
        "INSERT INTO shop.products VALUES (2,'a')",
        "UPDATE shop.products SET name='q' WHERE id=2",
    ])
    .await;
    let all = [("products", Write), ("products", Write), ("products", Update)];

    let with = |start: Start| {
        let mut config = db.config();
        config.source.start = start;
        config
    };
    for (start, expected) in [
        (Start::Earliest, &all[..]),
        (Start::Gtid(gtid.clone()), &all[1..]),
        (Start::Position { file: file.clone(), position }, &all[1..]),
        (Start::Latest, &[]),
    ] {
        let follow = Follow::start(with(start.clone()), None);
        until("started", || !follow.log.lock().unwrap().started.is_empty()).await;
        follow.caught_up(&db).await;
        assert_eq!(follow.rows(), rows(expected), "{start:?}");
        let started = follow.log.lock().unwrap().started[0].clone();
        match start {
            Start::Earliest => assert_eq!(started.gtids.to_string(), earliest_gtids),
            Start::Gtid(_) | Start::Position { .. } => {
                assert_eq!(started.gtids.to_string(), gtid, "{started}")
            }
            Start::Latest => {}
        }
        follow.stop().await.unwrap();
    }

    // The end of the newest file: nothing follows that would tell.
    let (file, position) = db.newest().await;
    let follow = Follow::ready(with(Start::Position { file: file.clone(), position })).await;
    db.run(&["DELETE FROM shop.products WHERE id=2"]).await;
    follow.caught_up(&db).await;
    assert_eq!(follow.rows(), rows(&[("products", Delete)]));
    let resume = follow.started_at_last_end();
    follow.stop().await.unwrap();

    // From a checkpoint; and a position that has nothing but a file, as MariaDB's before any GTID.
    let identity = Source::new(db.config().into()).preflight().await.unwrap().identity;
    let follow = Follow::start(db.config(), Some(Resume::new(resume.clone(), identity.clone())));
    until("resumed", || follow.rows() == rows(&[("products", Delete)])).await;
    follow.stop().await.unwrap();
    // Another server that has everything.
    let mut lossless = db.config();
    lossless.source.policies.lossless = true;
    let follow = Follow::start(lossless, Some(Resume::new(resume.clone(), "another".into())));
    until("resumed elsewhere", || follow.rows() == rows(&[("products", Delete)])).await;
    assert_eq!(follow.log.lock().unwrap().moved.len(), 1);
    assert_eq!(follow.stats.server_changes(), 1);
    follow.stop().await.unwrap();
    if !db.is_mysql() {
        let position = Position {
            gtids: rowbust_binlog::GtidState::empty(rowbust_binlog::Flavor::MariaDb),
            at: resume.at,
        };
        let follow = Follow::start(db.config(), Some(Resume::new(position, identity)));
        until("resumed by file", || !follow.log.lock().unwrap().started.is_empty()).await;
        db.run(&["INSERT INTO shop.products VALUES (7,'a')"]).await;
        until("goes on", || follow.rows() == rows(&[("products", Write)])).await;
        follow.stop().await.unwrap();
    }

    // Not a transaction's end, not in the file, no such file, not a GTID.
    for (start, code) in [
        (Start::Position { file: file.clone(), position: position - 1 }, "source.start_position"),
        (Start::Position { file: file.clone(), position: position + 10_000_000 }, "source.start_position"),
        (Start::Position { file: "nothing.000001".into(), position: 4 }, "source.start_file"),
        (Start::Gtid("?".into()), "source.start_gtid"),
    ] {
        assert_refused(Follow::start(with(start), None).ended().await, code);
    }
}

async fn a_restart(db: Db) {
    db.run(TABLES).await;
    let follow = Follow::ready(db.config()).await;
    db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
    db.restart();
    db.run(&["INSERT INTO shop.customers VALUES (1,'a')"]).await;
    follow.caught_up(&db).await;
    assert_eq!(follow.rows(), rows(&[("products", Write), ("customers", Write)]));
    assert!(follow.stats.reconnects() >= 1);
    assert_eq!(follow.log.lock().unwrap().started.len(), 1);
    follow.stop().await.unwrap();
}

async fn a_frozen_server(db: Db) {
    db.run(TABLES).await;
    let follow = Follow::ready(db.config()).await;
    until("heartbeats of a quiet server", || follow.stats.heartbeats() > 0).await;
    let began = Instant::now();
    db.freeze();
    until("the deadline", || follow.stats.reconnects() > 0).await;
    let waited = began.elapsed();
    db.thaw();
    assert!(waited > Duration::from_secs(7) && waited < Duration::from_secs(30), "{waited:?}");
    db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
    follow.caught_up(&db).await;
    assert_eq!(follow.rows(), rows(&[("products", Write)]));
    follow.stop().await.unwrap();
}

async fn a_clash(db: Db) {
    db.run(TABLES).await;
    let a = Follow::ready(db.config()).await;
    let b = Follow::ready(db.config()).await;
    let ended = tokio::select! {
        e = a.ended() => e,
        e = b.ended() => e,
    };
    assert!(matches!(&ended, SourceError::Clash(r) if r.code == "source.server_id_clash"), "{ended}");
    assert_eq!(ended.exit_code(), 78);
}

/// Purges all files but the newest.
async fn purge(db: &Db) {
    let (newest, _) = db.newest().await;
    let purge = format!("PURGE BINARY LOGS TO '{newest}'");
    // MariaDB keeps files that a replica's connection still uses, and that a checkpoint needs.
    let mut conn = db.conn().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        conn.query_drop(&purge).await.unwrap();
        let logs: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
        if logs.len() == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "not purged");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The file of the checkpoint is purged between the list of files and the look at its last event. Everything in it was read.
async fn purged_before_it_is_looked_at(db: Db) {
    db.run(TABLES).await;
    let follow = Follow::ready(db.config()).await;
    db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
    follow.caught_up(&db).await;
    let gtids = rowbust_binlog::GtidState::parse(
        if db.is_mysql() { rowbust_binlog::Flavor::MySql } else { rowbust_binlog::Flavor::MariaDb },
        &follow.gtids(),
    );
    let position = Position { gtids: gtids.unwrap(), at: follow.last_end() };
    let anchor = follow.log.lock().unwrap().anchor;
    assert!(anchor.is_some());
    follow.stop().await.unwrap();
    let identity = Source::new(db.config().into()).preflight().await.unwrap().identity;
    db.run(&["FLUSH BINARY LOGS"]).await;

    // The second connection is the one that looks.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = db.config();
    config.source.port = listener.local_addr().unwrap().port();
    let port = db.port();
    let purged = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let resume = Resume { anchor, ..Resume::new(position, identity) };
    let follow = Follow::start(config, Some(resume));
    let forward = async {
        let mut carried = tokio::task::JoinSet::new();
        for number in 1.. {
            let (mut client, _) = listener.accept().await.unwrap();
            if number == 2 {
                purge(&db).await;
                purged.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            carried.spawn(async move {
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    };
    let followed = async {
        until("a stream behind it", || {
            !follow.log.lock().unwrap().started.is_empty() || follow.is_finished()
        })
        .await;
        assert!(purged.load(std::sync::atomic::Ordering::Relaxed), "void: nothing was purged");
        db.run(&["INSERT INTO shop.products VALUES (2,'a')"]).await;
        until("the row behind it", || !follow.rows().is_empty() || follow.is_finished()).await;
    };
    tokio::select! {
        () = forward => {}
        () = followed => {}
    }
    assert_eq!(follow.rows(), rows(&[("products", Write)]));
    follow.stop().await.unwrap();
}

async fn a_gap(db: Db) {
    db.run(TABLES).await;
    let follow = Follow::ready(db.config()).await;
    db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
    follow.caught_up(&db).await;
    let position = {
        let log = follow.log.lock().unwrap();
        Position { gtids: log.started[0].gtids.clone(), at: log.started[0].at.clone() }
    };
    follow.stop().await.unwrap();
    let identity = Source::new(db.config().into()).preflight().await.unwrap().identity;
    db.run(&["FLUSH BINARY LOGS", "INSERT INTO shop.products VALUES (2,'a')", "FLUSH BINARY LOGS"]).await;
    purge(&db).await;
    let ended = Follow::start(db.config(), Some(Resume::new(position, identity))).ended().await;
    assert!(matches!(ended, SourceError::Gap { .. }), "{ended}");
}

async fn refusals(db: Db) {
    async fn refused(db: &Db, change: impl FnOnce(&mut rowbust::config::Config)) -> SourceError {
        let mut config = db.config();
        change(&mut config);
        Source::new(config.into()).preflight().await.unwrap_err()
    }
    let found = Source::new(db.config().into()).preflight().await.unwrap();
    assert_eq!(found.flavor == rowbust_binlog::Flavor::MySql, db.is_mysql());
    // MariaDB's default isn't durable, MySQL's is.
    let warned = found.warnings.iter().all(|warning| warning.starts_with("sync_binlog=0"));
    assert!(warned && found.warnings.len() == usize::from(!found.durable), "{:?}", found.warnings);

    assert_refused(refused(&db, |c| c.source.server_id = Some(1)).await, "source.server_id");
    db.run(&["SET GLOBAL binlog_format=MIXED"]).await;
    assert_refused(refused(&db, |_| {}).await, "source.binlog_format");
    db.run(&["SET GLOBAL binlog_format=ROW"]).await;
    if db.is_mysql() {
        db.run(&["SET GLOBAL gtid_mode=ON_PERMISSIVE"]).await;
        assert_refused(refused(&db, |_| {}).await, "source.gtid_off");
        db.run(&["SET GLOBAL gtid_mode=ON"]).await;
    }

    // An account without the privileges, then with those that the refusal names.
    db.run(&["CREATE USER 'plain'@'%' IDENTIFIED BY 'p4ss'"]).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "p4ss\n").unwrap();
    let path = secret.path().to_owned();
    let plain = |c: &mut rowbust::config::Config| {
        c.source.user = "plain".into();
        c.source.password = Password::File(path.clone());
    };
    let refusal = assert_refused(refused(&db, plain).await, "source.grants");
    let grant = refusal.help.strip_suffix(';').unwrap();
    assert!(
        grant.starts_with("GRANT REPLICATION SLAVE, ") && grant.ends_with("ON *.* TO 'plain'@'%'"),
        "{grant}"
    );
    db.run(&[grant]).await;
    let mut config = db.config();
    plain(&mut config);
    let follow = Follow::ready(config.clone()).await;
    db.run(&["CREATE DATABASE shop"]).await;
    follow.caught_up(&db).await;
    follow.stop().await.unwrap();

    std::fs::write(&path, "wrong").unwrap();
    let error = Source::new(config.into()).preflight().await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Connect(rowbust::source::connect::ConnectError::Auth { .. })),
        "{error}"
    );
    assert_eq!(error.exit_code(), 78);
    let error = refused(&db, |c| c.source.port = 1).await;
    assert_eq!(error.exit_code(), 69, "{error}");
}

fn assert_refused(error: SourceError, code: &str) -> rowbust::source::Refusal {
    match error {
        SourceError::Refused(refusal) => {
            assert_eq!(refusal.code, code, "{refusal}");
            refusal
        }
        other => panic!("{code} expected: {other}"),
    }
}

#[tokio::test]
async fn without_a_binlog() {
    for (need, args) in [
        (Need::MariaDb, &["--skip-log-bin"][..]),
        (Need::MySql, &["--skip-log-bin", "--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"][..]),
    ] {
        let Some(db) = Db::start(need, args) else { continue };
        let error = Source::new(db.config().into()).preflight().await.unwrap_err();
        assert_refused(error, "source.binlog_off");
    }
}
