//! Races each witness of visibility against readers, beside a plain read at the same event that must be stale at times.
//!
//! A follower that sees a row event reads the row at once (plain), and again when the watermark says that the commit is
//! visible (gated, on another connection, a later statement). Gated must never be stale.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::support::{Db, until};
use mysql_async::{Conn, prelude::Queryable};
use rowbust::{
    config::Config,
    source::{
        Refusal, Scope, Sink, Source, Transaction,
        position::{Anchor, CommitSpan, Coordinates, Position},
    },
    watermark::{Watermark, Witness},
};
use rowbust_binlog::{Projection, RowSlots, Rows, TableMap, Value};
use rowbust_servers::Need;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const TRIES: u64 = 10_000;
const SAMPLES: u64 = 1_000;
const WRITERS: i64 = 8;

/// A commit of one row, and what it must show.
#[derive(Debug)]
struct Change {
    span: CommitSpan,
    id: i64,
    value: i64,
}

#[derive(Debug, Default)]
struct Score {
    plain: AtomicU64,
    plain_stale: AtomicU64,
    gated: AtomicU64,
    gated_stale: AtomicU64,
}

async fn read(conn: &mut Conn) -> Vec<i64> {
    let mut values = vec![0; usize::try_from(WRITERS).unwrap()];
    let rows: Vec<(usize, i64)> = conn.query("SELECT id, v FROM shop.race").await.unwrap();
    for (id, value) in rows {
        values[id] = value;
    }
    values
}

struct Racer {
    projection: Option<Projection>,
    open: Option<CommitSpan>,
    batch: Vec<Change>,
    plain: Conn,
    score: Arc<Score>,
    watermark: Watermark,
    gate: mpsc::UnboundedSender<Vec<Change>>,
    started: Arc<AtomicBool>,
    racing: Arc<AtomicBool>,
}

impl Sink for Racer {
    type Error = Infallible;

    fn started(&mut self, _: &Position) {
        self.started.store(true, Relaxed);
    }

    fn begin(&mut self, t: Transaction<'_>) {
        self.open = Some(CommitSpan::new(t.gtid, t.at.clone()));
    }

    fn is_mapped(&self, schema: &str, table: &str) -> bool {
        schema == "shop" && table == "race"
    }

    fn is_schema_mapped(&self, schema: &str) -> bool {
        schema == "shop"
    }

    fn table(&mut self, _: usize, table: &TableMap) -> Result<(), Refusal> {
        self.projection = Some(Projection::new(table, &[0, 1]).unwrap());
        Ok(())
    }

    fn rows(&mut self, rows: &Rows<'_>, table: &TableMap, _: u64) -> Result<(), Refusal> {
        let mut slots = RowSlots::new();
        let mut cursor = rows.cursor(table, self.projection.as_ref().unwrap()).unwrap();
        while cursor.next(&mut slots).unwrap() {
            let int = |value: &Value<'_>| match value {
                Value::Int(v) => *v,
                other => panic!("{other:?}"),
            };
            let (id, value) = (int(&slots.after[0]), int(&slots.after[1]));
            self.batch.push(Change { span: self.open.clone().unwrap(), id, value });
        }
        Ok(())
    }

    fn widen(&mut self, scope: &Scope, cause: &str) -> Result<(), Refusal> {
        Err(Refusal::new("test.widen", format!("{cause}: {scope:?}"), "not expected in this test"))
    }

    fn moved(&mut self, _: &Position, _: &str) {}

    fn gap(&mut self, _: &Position, _: &str, cause: &str) -> Result<(), Refusal> {
        Err(Refusal::new("test.gap", cause, "not expected in this test"))
    }

    fn commit(&mut self, _: &Coordinates, _: Option<Anchor>) {
        self.open = None;
    }

    fn abandon(&mut self) {}

    fn wants_flush(&self) -> bool {
        self.batch.len() >= 8
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        if !self.racing.load(Relaxed) {
            return Ok(());
        }
        self.watermark.received(&batch.last().unwrap().span.last);
        // The gate runs beside the plain read, or it would only see what is long visible.
        let stale = |values: &[i64], c: &Change| values[usize::try_from(c.id).unwrap()] < c.value;
        let keep: Vec<(i64, i64)> = batch.iter().map(|c| (c.id, c.value)).collect();
        let span = batch.last().unwrap().span.clone();
        if self.gate.send(batch).is_err() {
            // The race is over: the gate has ended, and this stream is about to.
            return Ok(());
        }
        self.watermark.demand();
        let values = read(&mut self.plain).await;
        let n = keep
            .iter()
            .filter(|&&(id, value)| stale(&values, &Change { span: span.clone(), id, value }))
            .count();
        self.score.plain.fetch_add(keep.len() as u64, Relaxed);
        self.score.plain_stale.fetch_add(n as u64, Relaxed);
        Ok(())
    }
}

/// Reads at `reader` what the watermark says is visible.
async fn gate(
    mut changes: mpsc::UnboundedReceiver<Vec<Change>>,
    mut reader: Conn,
    mut watermark: Watermark,
    score: Arc<Score>,
    stop: CancellationToken,
) {
    let mut waiting: Vec<Change> = Vec::new();
    loop {
        while let Ok(more) = changes.try_recv() {
            waiting.extend(more);
        }
        let (visible, rest): (Vec<_>, Vec<_>) =
            waiting.drain(..).partition(|c| watermark.visible_since(&c.span).is_some());
        waiting = rest;
        if !visible.is_empty() {
            let values = read(&mut reader).await;
            for c in &visible {
                if values[usize::try_from(c.id).unwrap()] < c.value {
                    score.gated_stale.fetch_add(1, Relaxed);
                    eprintln!("stale: {c:?}, read {values:?}");
                }
            }
            score.gated.fetch_add(visible.len() as u64, Relaxed);
        }
        if !waiting.is_empty() {
            watermark.demand();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = watermark.changed() => {}
            more = changes.recv() => waiting.extend(more.unwrap_or_default()),
        }
    }
}

async fn write(mut conn: Conn, id: i64, stop: CancellationToken) {
    let mut value = 0;
    while !stop.is_cancelled() {
        value += 1;
        conn.query_drop(format!("UPDATE shop.race SET v={value} WHERE id={id}")).await.unwrap();
    }
}

async fn prepare(db: &Db) {
    db.run(&[
        "CREATE DATABASE shop",
        "CREATE TABLE shop.race (id BIGINT PRIMARY KEY, v BIGINT NOT NULL)",
        "INSERT INTO shop.race VALUES (0,0),(1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0)",
        "CREATE DATABASE rowbust",
        "CREATE TABLE rowbust.heartbeat (id INT UNSIGNED PRIMARY KEY, beat BIGINT UNSIGNED NOT NULL)",
    ])
    .await;
}

/// Races `witness`; gated reads go to `reader`.
async fn race(db: &Db, reader: &Db, config: Config, witness: Witness, rotate: bool) {
    let source = Source::new(Arc::new(config.clone()));
    let server = source.preflight().await.unwrap();
    let watermark = Watermark::with_witness(&config.source, &server, Some(witness), Duration::ZERO);
    let stop = CancellationToken::new();
    let (sender, receiver) = mpsc::unbounded_channel();
    let score = Arc::new(Score::default());
    let (started, racing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut racer = Racer {
        projection: None,
        open: None,
        batch: Vec::new(),
        plain: db.conn().await,
        score: score.clone(),
        watermark: watermark.clone(),
        gate: sender,
        started: started.clone(),
        racing: racing.clone(),
    };
    let mut tasks = vec![
        tokio::spawn(watermark.clone().run(stop.clone())),
        tokio::spawn(gate(receiver, reader.conn().await, watermark.clone(), score.clone(), stop.clone())),
    ];
    let token = stop.clone();
    tasks.push(tokio::spawn(async move { source.run(None, &mut racer, &token, |_| {}).await.unwrap() }));
    until("the stream is open", || started.load(Relaxed)).await;
    until("witness chosen", || {
        watermark.status().iter().all(|s| s.samples > 0) || witness == Witness::HeartbeatRow
    })
    .await;
    racing.store(true, Relaxed);
    let writers = CancellationToken::new();
    for id in 0..WRITERS {
        tasks.push(tokio::spawn(write(db.conn().await, id, writers.clone())));
    }
    if rotate {
        let (mut conn, stop) = (db.conn().await, writers.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                conn.query_drop("FLUSH BINARY LOGS").await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    let began = Instant::now();
    // Only what became visible just before a sample is a close race: there must be many samples too.
    let samples = || watermark.status().iter().map(|s| s.samples).min().unwrap_or(0);
    while score.gated.load(Relaxed) < TRIES || samples() < SAMPLES || score.plain_stale.load(Relaxed) == 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "{score:?} {:?}", watermark.status());
        assert_eq!(score.gated_stale.load(Relaxed), 0, "{score:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(watermark.witness(), witness, "{:?}", watermark.status());
    let took = began.elapsed();
    writers.cancel();
    until("all is seen", || score.gated.load(Relaxed) >= score.plain.load(Relaxed)).await;
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    let [gated, stale, plain, plain_stale] =
        [&score.gated, &score.gated_stale, &score.plain, &score.plain_stale].map(|n| n.load(Relaxed));
    let samples = samples();
    eprintln!(
        "{witness}: {stale} of {gated} stale, {samples} samples; plain {plain_stale} of {plain}; {took:.1?}"
    );
    assert_eq!(stale, 0);
    assert!(gated >= TRIES && plain_stale > 0);
}

const MYSQL: &[&str] =
    &["--sync-binlog=0", "--binlog-group-commit-sync-delay=3000", "--innodb-flush-log-at-trx-commit=0"];
const MARIADB: &[&str] = &["--sync-binlog=0", "--innodb-flush-log-at-trx-commit=0"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_gtid_executed() {
    let Some(db) = Db::start(Need::MySql, MYSQL) else { return };
    prepare(&db).await;
    race(&db, &db, db.config(), Witness::GtidExecuted, false).await;
    // Sound also where commits overtake each other.
    db.run(&["SET GLOBAL binlog_order_commits=OFF"]).await;
    race(&db, &db, db.config(), Witness::GtidExecuted, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_heartbeat_row() {
    let Some(db) = Db::start(Need::MySql, MYSQL) else { return };
    prepare(&db).await;
    let mut config = db.config();
    config.source.heartbeat = Some(("rowbust".into(), "heartbeat".into()));
    race(&db, &db, config, Witness::HeartbeatRow, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_binlog_snapshot() {
    let Some(db) = Db::start(Need::MariaDb, MARIADB) else { return };
    prepare(&db).await;
    race(&db, &db, db.config(), Witness::BinlogSnapshot, false).await;
    race(&db, &db, db.config(), Witness::BinlogSnapshot, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_heartbeat_row() {
    let Some(db) = Db::start(Need::MariaDb, MARIADB) else { return };
    prepare(&db).await;
    let mut config = db.config();
    config.source.heartbeat = Some(("rowbust".into(), "heartbeat".into()));
    race(&db, &db, config, Witness::HeartbeatRow, false).await;
}

/// A replica of `db`, which it follows by GTID.
async fn replica_of(db: &Db, need: Need, args: &[&str]) -> Db {
    let args: Vec<&str> = args.iter().copied().chain(["--server-id=2"]).collect();
    let replica = Db::start(need, &args).unwrap();
    let port = db.port();
    if db.is_mysql() {
        replica
            .run(&[
                &format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                     SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
                ),
                "START REPLICA",
            ])
            .await;
    } else {
        replica
            .run(&[
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
                     MASTER_USE_GTID=slave_pos"
                ),
                "START SLAVE",
            ])
            .await;
    }
    replica
}

async fn race_replica(need: Need, args: &[&str]) {
    let Some(db) = Db::start(need, args) else { return };
    let replica = replica_of(&db, need, args).await;
    prepare(&db).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while replica.conn().await.query_drop("SELECT 1 FROM shop.race").await.is_err() {
        assert!(Instant::now() < deadline, "the replica has no table");
    }
    let mut config = db.config();
    config.source.replicas = vec![("127.0.0.1".into(), replica.port())];
    let witness = if db.is_mysql() { Witness::GtidExecuted } else { Witness::GtidWait };
    race(&db, &replica, config, witness, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_replica() {
    race_replica(Need::MySql, MYSQL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_replica() {
    race_replica(Need::MariaDb, MARIADB).await;
}

/// After a rotation on a quiet server nothing tells whether the older file is visible: a heartbeat row does, at once.
#[tokio::test]
async fn a_rotation_on_a_quiet_mariadb() {
    let Some(db) = Db::start(Need::MariaDb, &[]) else { return };
    prepare(&db).await;
    let mut config = db.config();
    config.source.heartbeat = Some(("rowbust".into(), "heartbeat".into()));
    let server = Source::new(Arc::new(config.clone())).preflight().await.unwrap();
    let watermark = Watermark::new(&config, &server);
    let stop = CancellationToken::new();
    let (file, position) = db.newest().await;
    let span = CommitSpan::new(None, Coordinates { file: file.as_str().into(), position });
    db.run(&["FLUSH BINARY LOGS"]).await;
    watermark.demand();
    let task = tokio::spawn(watermark.clone().run(stop.clone()));
    until("visible by the row", || {
        watermark.demand();
        watermark.visible_since(&span).is_some()
    })
    .await;
    assert_eq!(watermark.witness(), Witness::BinlogSnapshot);
    assert_eq!(watermark.status()[0].delays, 0);
    assert_eq!(db.value("SELECT CAST(beat AS CHAR) FROM rowbust.heartbeat").await, "1");
    stop.cancel();
    task.await.unwrap();
}

/// Where no witness is sound the delay is used, and called one; also when that changes while running.
#[tokio::test]
async fn an_unsound_witness_is_not_used() {
    if let Some(db) = Db::start(Need::MariaDb, &["--binlog-optimize-thread-scheduling=OFF"]) {
        let mut config = db.config();
        config.source.heartbeat = Some(("rowbust".into(), "heartbeat".into()));
        let server = Source::new(Arc::new(config.clone())).preflight().await.unwrap();
        let watermark = Watermark::new(&config, &server);
        let stop = CancellationToken::new();
        let task = tokio::spawn(watermark.clone().run(stop.clone()));
        let span = CommitSpan::new(None, Coordinates { file: "binlog.000001".into(), position: 4 });
        let began = Instant::now();
        watermark.received(&span.last);
        until("the delay", || watermark.visible_since(&span).is_some()).await;
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert_eq!(watermark.witness(), Witness::Delay);
        stop.cancel();
        task.await.unwrap();
    }
    if let Some(db) = Db::start(Need::MySql, &[]) {
        prepare(&db).await;
        let mut config = db.config();
        config.source.heartbeat = Some(("rowbust".into(), "heartbeat".into()));
        let server = Source::new(Arc::new(config.clone())).preflight().await.unwrap();
        let watermark =
            Watermark::with_witness(&config.source, &server, Some(Witness::HeartbeatRow), Duration::ZERO);
        let stop = CancellationToken::new();
        let task = tokio::spawn(watermark.clone().run(stop.clone()));
        until("the row", || watermark.witness() == Witness::HeartbeatRow).await;
        db.run(&["SET GLOBAL binlog_order_commits=OFF"]).await;
        until("the set", || watermark.witness() == Witness::GtidExecuted).await;
        stop.cancel();
        task.await.unwrap();
    }
}
