//! What reading through the client costs against doing the same by hand, on a private Redis and MariaDB.
//!
//! `hit/guarded` against `hit/bare` (GET), `miss/guarded` against `miss/bare` (GET, SELECT, SET). Bars: 1.1 and 1.6 times. They are
//! judged by the medians of calls that take turns, so that what else the machine does falls on both; it fails above them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use mysql_async::{Pool, prelude::Queryable as _};
use redis::aio::MultiplexedConnection;
use rowbust_client::{Client, ConnectOptions, Redis, Settings, adapter::Sources};
use rowbust_servers::{MariaDb, Need, Redis as Server, StartOptions, require};

const SELECT: &str = "SELECT name FROM shop.products WHERE id = 7";

async fn guarded(client: &Client, sources: &Sources<Pool>) -> Option<String> {
    client
        .get_or_load("product:7", async |source| sources.read(&source).await?.query_first(SELECT).await)
        .await
        .unwrap()
}

async fn bare_hit(connection: &mut MultiplexedConnection) -> Option<String> {
    let text: Option<Vec<u8>> = redis::cmd("GET").arg("product:7").query_async(connection).await.unwrap();
    text.map(|text| serde_json::from_slice(&text).unwrap())
}

async fn bare_miss(connection: &mut MultiplexedConnection, pool: &Pool) {
    assert!(bare_hit(connection).await.is_none());
    let name: Option<String> = pool.get_conn().await.unwrap().query_first(SELECT).await.unwrap();
    let text = serde_json::to_vec(&name).unwrap();
    redis::cmd("SET")
        .arg("product:7")
        .arg(text)
        .arg("PX")
        .arg(600_000)
        .query_async::<()>(connection)
        .await
        .unwrap();
}

/// The time of `n` runs, each after the key was removed if `cold`.
async fn timed(
    n: u64,
    cold: bool,
    connection: &MultiplexedConnection,
    mut run: impl AsyncFnMut(),
) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..n {
        if cold {
            redis::cmd("DEL").arg("product:7").query_async::<()>(&mut connection.clone()).await.unwrap();
        }
        let begun = Instant::now();
        run().await;
        took += begun.elapsed();
    }
    took
}

/// A hit may cost so many times a bare one, and a miss.
const BARS: [(&str, bool, f64); 2] = [("hit", false, 1.1), ("miss", true, 1.6)];
/// Calls of each kind that take turns.
const TURNS: usize = 20_000;

/// Both kinds, one after the other: median times.
async fn in_turns(world: &World, cold: bool) -> (Duration, Duration) {
    let mut took = [const { Vec::new() }; 2];
    for _ in 0..TURNS {
        took[0].push(timed(1, cold, &world.connection, async || world.bare(cold).await).await);
        took[1].push(timed(1, cold, &world.connection, async || world.guarded().await).await);
    }
    let [bare, guarded] = took.map(|mut all| *all.select_nth_unstable(TURNS / 2).1);
    (bare, guarded)
}

/// Servers with a row, and both ways to read it.
struct World {
    client: Client,
    sources: Sources<Pool>,
    connection: MultiplexedConnection,
}

impl World {
    async fn new(redis: &Server, mariadb: &MariaDb) -> Self {
        let settings = Settings { on_cache_error: rowbust_client::OnCacheError::Fail, ..Settings::default() };
        let sources = Sources::new(Pool::from_url(mariadb.url()).unwrap());
        let mut sql = sources.primary().get_conn().await.unwrap();
        for statement in [
            "CREATE DATABASE shop",
            "CREATE TABLE shop.products (id INT PRIMARY KEY, name VARCHAR(50))",
            "INSERT INTO shop.products VALUES (7, 'a name')",
        ] {
            sql.query_drop(statement).await.unwrap();
        }
        let url = redis.url();
        let client = Redis::connect(&url, ConnectOptions::default()).await.unwrap();
        let connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
        Self { client: Client::builder(client).settings(settings).build().unwrap(), sources, connection }
    }

    async fn bare(&self, cold: bool) {
        match cold {
            true => bare_miss(&mut self.connection.clone(), self.sources.primary()).await,
            false => assert!(bare_hit(&mut self.connection.clone()).await.is_some()),
        }
    }

    async fn guarded(&self) {
        assert_eq!(guarded(&self.client, &self.sources).await.as_deref(), Some("a name"));
    }
}

fn paths(criterion: &mut Criterion) {
    let Some(_) = require(&[Need::Redis, Need::MariaDb]) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let server = Server::start(StartOptions::new(dir.path().join("redis"))).unwrap();
    let mariadb = MariaDb::start(StartOptions::new(dir.path().join("mariadb"))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let world = &runtime.block_on(World::new(&server, &mariadb));
    let mut over = Vec::new();
    for (name, cold, bar) in BARS {
        let mut group = criterion.benchmark_group(name);
        runtime.block_on(world.guarded());
        group.bench_function("bare", |bencher| {
            bencher.iter_custom(|n| {
                runtime.block_on(timed(n, cold, &world.connection, async || world.bare(cold).await))
            });
        });
        group.bench_function("guarded", |bencher| {
            bencher.iter_custom(|n| {
                runtime.block_on(timed(n, cold, &world.connection, async || world.guarded().await))
            });
        });
        group.finish();
        let (bare, guarded) = runtime.block_on(in_turns(world, cold));
        let ratio = guarded.as_secs_f64() / bare.as_secs_f64();
        eprintln!("{name}, in turns: bare {bare:?}, guarded {guarded:?}: {ratio:.2} times; the bar is {bar}");
        if ratio > bar {
            over.push(name);
        }
    }
    assert!(over.is_empty(), "over the bar: {over:?}");
}

criterion_group!(benches, paths);
criterion_main!(benches);
