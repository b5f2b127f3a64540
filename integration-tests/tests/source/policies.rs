//! What row images don't tell, on real servers: halts and wider removals, by the policies.
#![allow(clippy::unwrap_used, missing_docs)]

use crate::support::{Db, Follow, TABLES, rows, until};
use mysql_async::prelude::Queryable;
use rowbust::{
    config::{Policies, Policy, Start},
    source::{Scope, SourceError, policy::Cause},
};
use rowbust_binlog::RowKind::Write;
use rowbust_servers::Need;

both! {
    halts: [];
    widened: ["--lower-case-table-names=0"];
    an_incident: [];
    a_halt_flushes: [];
}

/// Statements that must stop the follower, each in a stream of its own.
async fn halts(db: Db) {
    db.run(TABLES).await;
    db.run(&[
        "XA START 'before'",
        "INSERT INTO shop.customers VALUES (7,'a')",
        "XA END 'before'",
        "XA PREPARE 'before'",
    ])
    .await;
    let cases: Vec<(&[&str], &str)> = vec![
        (
            &["SET SESSION binlog_format=STATEMENT", "INSERT INTO shop.products VALUES (1,'a')"],
            "source.statement_format",
        ),
        (
            &[
                "SET SESSION binlog_format=STATEMENT",
                "SET @a=5",
                "BEGIN",
                "INSERT INTO shop.customers VALUES (@a,'a')",
                "COMMIT",
            ],
            "source.statement_format",
        ),
        (&["XA COMMIT 'before'"], "source.xa_unprepared"),
    ];
    for (statements, code) in cases {
        let follow = Follow::ready(db.config()).await;
        let (file, position) = db.newest().await;
        db.run(statements).await;
        let ended = follow.ended().await;
        let SourceError::Halt(halt) = &ended else { panic!("{statements:?}: {ended}") };
        assert_eq!(halt.code, code, "{ended}");
        assert_eq!(&*halt.at.file, file);
        assert!(halt.at.position >= position, "{ended}");
        // The start of an event, as the server shows it.
        let events: Vec<mysql_async::Row> =
            db.conn().await.query(format!("SHOW BINLOG EVENTS IN '{file}'")).await.unwrap();
        assert!(events.iter().any(|e| e.get::<u64, _>(1) == Some(halt.at.position)), "{ended}");
        assert!(halt.gtid.is_some(), "{ended}");
    }
}

/// Statements that no row image stands for: what they may have touched is widened, and following goes on.
async fn widened(db: Db) {
    db.run(TABLES).await;
    db.run(&[
        "CREATE TABLE shop.part (id INT PRIMARY KEY) PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (9))",
        "CREATE TABLE shop.swap (id INT PRIMARY KEY)",
        "XA START 'before'",
        "INSERT INTO shop.customers VALUES (7,'a')",
        "XA END 'before'",
        "XA PREPARE 'before'",
    ])
    .await;
    let mut config = db.config();
    config.source.policies = Policies {
        on_gap: Policy::Halt,
        on_undecodable: Policy::Flush,
        on_statement: Policy::Flush,
        ..Policies::default()
    };
    let follow = Follow::ready(config).await;
    let table = |name: &str| Scope::Table { schema: "shop".into(), table: name.into() };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "91\ta\n92\tb\n").unwrap();
    // Server and test run as one user.
    let load = format!("LOAD DATA INFILE '{}' INTO TABLE shop.customers", file.path().display());
    let cases: Vec<(Vec<&str>, Vec<Scope>)> = vec![
        (
            vec!["SET SESSION binlog_format=STATEMENT", "INSERT INTO shop.products VALUES (1,'a')"],
            vec![Scope::All],
        ),
        // Once for a transaction.
        (
            vec![
                "SET SESSION binlog_format=STATEMENT",
                "BEGIN",
                "UPDATE shop.products SET name='b'",
                "UPDATE shop.products SET name='c'",
                "COMMIT",
            ],
            vec![Scope::All],
        ),
        (vec!["SET SESSION binlog_format=STATEMENT", &load], vec![Scope::All]),
        (vec!["XA COMMIT 'before'"], vec![Scope::All]),
        (vec!["TRUNCATE TABLE shop.products"], vec![table("products")]),
        (vec!["USE shop", "ALTER TABLE part TRUNCATE PARTITION p"], vec![table("part")]),
        (vec!["USE shop", "TRUNCATE swap"], vec![table("swap")]),
        (
            vec!["ALTER TABLE shop.part EXCHANGE PARTITION p WITH TABLE shop.swap"],
            vec![table("part"), table("swap")],
        ),
        (vec!["DROP TABLE shop.swap, other.t"], vec![table("swap")]),
        (
            vec!["CREATE TABLE shop.swap (id INT PRIMARY KEY)", "DROP TABLE IF EXISTS shop.swap"],
            vec![table("swap")],
        ),
        // Kept.
        (vec!["RENAME TABLE shop.part TO shop.part2"], vec![]),
        (
            vec!["CREATE TABLE shop.again LIKE shop.products", "CREATE INDEX i ON shop.products (name)"],
            vec![],
        ),
        (
            vec![
                "CREATE DATABASE gone",
                "CREATE TABLE gone.t (id INT)",
                "TRUNCATE gone.t",
                "DROP DATABASE gone",
            ],
            vec![],
        ),
        (vec!["DROP DATABASE shop"], vec![Scope::Schema("shop".into())]),
    ];
    for (statements, expected) in cases {
        follow.log.lock().unwrap().widened.clear();
        db.run(&statements).await;
        follow.caught_up(&db).await;
        let log = follow.log.lock().unwrap();
        let scopes: Vec<Scope> = log.widened.iter().map(|(scope, _)| scope.clone()).collect();
        assert_eq!(scopes, expected, "{statements:?}");
    }
    assert!(follow.stats.widened(Cause::Truncate) >= 5 && follow.stats.widened(Cause::Xa) == 1);
    follow.stop().await.unwrap();
}

/// A non-transactional statement that outgrows its cache isn't logged: the server writes an incident instead.
async fn an_incident(db: Db) {
    db.run(TABLES).await;
    db.run(&[
        "CREATE TABLE shop.files (id INT PRIMARY KEY, body LONGTEXT) ENGINE=MyISAM",
        "SET GLOBAL binlog_stmt_cache_size=4096",
        "SET GLOBAL max_binlog_stmt_cache_size=4096",
    ])
    .await;
    let mut config = db.config();
    config.source.policies.on_undecodable = Policy::Flush;
    let halting = Follow::ready(db.config()).await;
    let mut other = config.clone();
    other.source.server_id = Some(7002);
    let flushing = Follow::ready(other).await;
    let mut conn = db.conn().await;
    let refused = conn.query_drop("INSERT INTO shop.files SELECT 1, REPEAT('x', 100000)").await;
    assert!(refused.is_err(), "the statement should not fit");
    drop(conn);
    db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
    let ended = halting.ended().await;
    assert!(matches!(&ended, SourceError::Halt(halt) if halt.code == "source.incident"), "{ended}");
    until("the row behind it", || flushing.rows() == rows(&[("products", Write)])).await;
    assert_eq!(flushing.log.lock().unwrap().widened[0].0, Scope::All);
    assert_eq!(flushing.stats.widened(Cause::Incident), 1);
    flushing.stop().await.unwrap();
}

/// What was committed in front of a halt is handed on, also if all of it came in one burst.
async fn a_halt_flushes(db: Db) {
    db.run(TABLES).await;
    let gtid = db.gtids().await;
    db.run(&[
        "INSERT INTO shop.products VALUES (1,'a')",
        "SET SESSION binlog_format=STATEMENT",
        "DELETE FROM shop.products",
    ])
    .await;
    let mut config = db.config();
    config.source.start = Start::Gtid(gtid);
    let follow = Follow::start(config, None);
    let log = follow.log.clone();
    let ended = follow.ended().await;
    assert!(matches!(&ended, SourceError::Halt(halt) if halt.code == "source.statement_format"), "{ended}");
    let log = log.lock().unwrap();
    assert_eq!(log.flushed, 1, "transactions flushed");
    assert_eq!(log.seen.len(), 1);
}
