//! The guarded strategy over a real MariaDB: what a loader reads is what was committed before it began.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;

use mysql_async::{Pool, prelude::Queryable as _};
use rowbust_client::{Client, Step, adapter::Sources, strategy::Guarded};
use rowbust_servers::{MariaDb, Need, StartOptions, require};
use support::{Cache, Stops};

const KEY: &str = "product:7";

async fn name(client: &Client, sources: &Sources<Pool>) -> Option<String> {
    let load = async |source| {
        let mut connection = sources.read(&source).await?;
        connection.query_first("SELECT name FROM shop.products WHERE id = 7").await
    };
    client.get_or_load(KEY, load).await.unwrap()
}

#[tokio::test]
async fn a_slow_readers_fill_is_refused_and_the_next_one_reads_the_new_row() {
    let Some(_) = require(&[Need::MariaDb]) else { return };
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let mariadb = MariaDb::start(StartOptions::new(dir.path())).unwrap();
    let sources = Sources::new(Pool::from_url(mariadb.url()).unwrap())
        .member("db2:3306", Pool::from_url(mariadb.url()).unwrap());
    let mut writer = sources.primary().get_conn().await.unwrap();
    writer.query_drop("CREATE DATABASE shop").await.unwrap();
    writer.query_drop("CREATE TABLE shop.products (id INT PRIMARY KEY, name VARCHAR(50))").await.unwrap();
    cache.server.cli(&["SET", "rowbust:pool:main", r#"{"v":1,"members":["db1:3306","db2:3306"]}"#]).unwrap();

    let client = cache.client(Guarded::new()).await;
    assert_eq!(name(&client, &sources).await, None);
    writer.query_drop("INSERT INTO shop.products VALUES (7, 'old')").await.unwrap();
    assert_eq!(name(&client, &sources).await, None, "absent is cached until the removal");
    cache.unlink(KEY);

    let stops = Arc::new(Stops::default());
    let slow = cache.held(Guarded::new(), &stops).await;
    let fill = stops.at(Step::Fill);
    let reader = {
        let (slow, sources) = (slow.clone(), sources.clone());
        tokio::spawn(async move { name(&slow, &sources).await })
    };
    fill.reached().await;
    writer.query_drop("UPDATE shop.products SET name = 'new'").await.unwrap();
    cache.unlink(KEY);
    fill.go();
    assert_eq!(reader.await.unwrap().as_deref(), Some("old"));
    assert_eq!((cache.get(KEY), slow.stats().refused), (None, 1));
    for _ in 0..10 {
        assert_eq!(name(&client, &sources).await.as_deref(), Some("new"));
        cache.unlink(KEY);
    }
}
