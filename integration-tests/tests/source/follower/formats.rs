//! What a server, or a session, can turn on in the binlog: compression, differences, tags, and no names.

use super::*;

/// Whole transactions in one event, differences of JSON, tagged GTIDs; also where they lie before the place to begin
/// at, which is looked for in the file.
#[tokio::test]
async fn what_any_session_of_mysql_can_turn_on() {
    let Some(db) = Db::start(Need::MySql, &[]) else { return };
    db.run(TABLES).await;
    db.run(&["CREATE TABLE shop.docs (id INT PRIMARY KEY, doc JSON)"]).await;
    let start = db.gtids().await;
    db.run(&[
        "SET SESSION binlog_transaction_compression=ON, binlog_row_value_options=PARTIAL_JSON",
        "BEGIN",
        "INSERT INTO shop.products VALUES (1,'a'),(2,'b')",
        "INSERT INTO shop.docs VALUES (1, '{\"a\": 1, \"b\": \"a long string that makes a difference shorter\"}')",
        "COMMIT",
        "UPDATE shop.docs SET doc=JSON_SET(doc, '$.a', 2)",
        "SET SESSION binlog_transaction_compression=OFF",
        "UPDATE shop.docs SET doc=JSON_SET(doc, '$.a', 3)",
        "SET gtid_next='AUTOMATIC:a_tag'",
        "DELETE FROM shop.products WHERE id=1",
        "SET SESSION binlog_transaction_compression=ON",
        "DELETE FROM shop.products WHERE id=2",
        "SET gtid_next='AUTOMATIC'",
    ])
    .await;
    let middle = db.newest().await;
    db.run(&["FLUSH BINARY LOGS", "INSERT INTO shop.products VALUES (3,'c')"]).await;
    let expected = [
        ("products", Write),
        ("docs", Write),
        ("docs", Update),
        ("docs", Update),
        ("products", Delete),
        ("products", Delete),
        ("products", Write),
    ];
    let all = rows(&expected);
    let (file, position) = middle;
    for (start, expected) in
        [(Start::Gtid(start), &all[..]), (Start::Position { file: file.clone(), position }, &all[6..])]
    {
        let mut config = db.config();
        config.source.start = start;
        let follow = Follow::ready(config).await;
        follow.caught_up(&db).await;
        assert_eq!(follow.rows(), expected);
        // Each ends where the server says that one does.
        let events: Vec<mysql_async::Row> =
            db.conn().await.query(format!("SHOW BINLOG EVENTS IN '{file}'")).await.unwrap();
        let ends: Vec<u64> = events.iter().map(|e| e.get(4).unwrap()).collect();
        for seen in &follow.log.lock().unwrap().seen {
            assert!(*seen.end.file != *file || ends.contains(&seen.end.position), "{seen:?}");
        }
        follow.stop().await.unwrap();
    }
    // A resume sends the tagged set to the server.
    let follow = Follow::ready(db.config()).await;
    assert!(follow.gtids().contains(":a_tag:1-2"), "{}", follow.gtids());
    db.run(&["SET gtid_next='AUTOMATIC:a_tag'", "INSERT INTO shop.products VALUES (4,'d')"]).await;
    follow.caught_up(&db).await;
    assert_eq!(follow.rows(), rows(&[("products", Write)]));
    assert!(follow.gtids().contains(":a_tag:1-3"), "{}", follow.gtids());
    follow.stop().await.unwrap();
}

/// Statements, rows and maps of a server that compresses its events.
#[tokio::test]
async fn mariadb_compresses() {
    let Some(db) = Db::start(Need::MariaDb, &["--log-bin-compress=ON", "--log-bin-compress-min-len=10"])
    else {
        return;
    };
    db.run(TABLES).await;
    let start = db.gtids().await;
    let long = "x".repeat(45);
    db.run(&[
        &format!("INSERT INTO shop.products VALUES (1,'{long}'),(2,'{long}')"),
        &format!("UPDATE shop.products SET name='{}'", "y".repeat(45)),
        "DELETE FROM shop.products",
    ])
    .await;
    let mut config = db.config();
    config.source.start = Start::Gtid(start);
    let follow = Follow::ready(config).await;
    follow.caught_up(&db).await;
    let kinds = [Write, Update, Delete].map(|kind| ("products", kind));
    assert_eq!(follow.rows(), rows(&kinds));
    follow.stop().await.unwrap();
}

/// The defaults of both servers log no column names: they come from `information_schema`.
#[tokio::test]
async fn names_that_the_binlog_lacks() {
    for (need, arg) in
        [(Need::MariaDb, "--binlog-row-metadata=NO_LOG"), (Need::MySql, "--binlog-row-metadata=MINIMAL")]
    {
        let Some(db) = Db::start(need, &[arg]) else { continue };
        db.run(TABLES).await;
        let follow = Follow::ready(db.config()).await;
        db.run(&["INSERT INTO shop.products VALUES (1,'a')"]).await;
        follow.caught_up(&db).await;
        assert_eq!(follow.log.lock().unwrap().columns["products"], ["id", "name"]);
        db.run(&[
            "ALTER TABLE shop.products CHANGE name label VARCHAR(50)",
            "INSERT INTO shop.products VALUES (2,'a')",
        ])
        .await;
        follow.caught_up(&db).await;
        assert_eq!(follow.log.lock().unwrap().columns["products"], ["id", "label"]);
        // Altered behind the follower's back: the columns of then aren't known any more.
        let at = follow.started_at_last_end();
        follow.stop().await.unwrap();
        db.run(&["ALTER TABLE shop.products ADD COLUMN price INT"]).await;
        let identity = Source::new(db.config().into()).preflight().await.unwrap().identity;
        let ended = Follow::start(db.config(), Some(Resume::new(at, identity))).ended().await;
        assert!(matches!(&ended, SourceError::Halt(h) if h.code == "source.schema"), "{ended}");
    }
}
