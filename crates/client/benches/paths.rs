//! What reading through the client costs against doing the same by hand, on a private Redis and MariaDB.
//!
//! `hit/guarded` against `hit/bare` (GET), `miss/guarded` against `miss/bare` (GET, SELECT, SET). Bars: 1.1 and 1.6 times.
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

fn paths(criterion: &mut Criterion) {
    let Some(_) = require(&[Need::Redis, Need::MariaDb]) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let server = Server::start(StartOptions::new(dir.path().join("redis"))).unwrap();
    let mariadb = MariaDb::start(StartOptions::new(dir.path().join("mariadb"))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (client, sources, connection) = runtime.block_on(async {
        let redis = Redis::connect(&server.url(), ConnectOptions::default()).await.unwrap();
        let settings = Settings { on_cache_error: rowbust_client::OnCacheError::Fail, ..Settings::default() };
        let client = Client::builder(redis).settings(settings).build().unwrap();
        let sources = Sources::new(Pool::from_url(mariadb.url()).unwrap());
        let mut connection = sources.primary().get_conn().await.unwrap();
        connection.query_drop("CREATE DATABASE shop").await.unwrap();
        connection
            .query_drop("CREATE TABLE shop.products (id INT PRIMARY KEY, name VARCHAR(50))")
            .await
            .unwrap();
        connection.query_drop("INSERT INTO shop.products VALUES (7, 'a name')").await.unwrap();
        let bare =
            redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        (client, sources, bare)
    });
    for (name, cold) in [("hit", false), ("miss", true)] {
        let mut group = criterion.benchmark_group(name);
        runtime.block_on(async { assert_eq!(guarded(&client, &sources).await.as_deref(), Some("a name")) });
        group.bench_function("bare", |bencher| {
            bencher.iter_custom(|n| {
                runtime.block_on(timed(n, cold, &connection, async || match cold {
                    true => bare_miss(&mut connection.clone(), sources.primary()).await,
                    false => assert!(bare_hit(&mut connection.clone()).await.is_some()),
                }))
            });
        });
        group.bench_function("guarded", |bencher| {
            bencher.iter_custom(|n| {
                runtime.block_on(timed(n, cold, &connection, async || {
                    assert!(guarded(&client, &sources).await.is_some());
                }))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, paths);
criterion_main!(benches);
