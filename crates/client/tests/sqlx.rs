//! The adapter for sqlx, on a real MariaDB.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rowbust_client::{Client, adapter::Sources, strategy::Guarded};
use rowbust_servers::{MariaDb, Need, StartOptions, require};
use sqlx::{MySqlPool, mysql::MySqlPoolOptions};
use support::Cache;

const KEY: &str = "product:7";

async fn name(client: &Client, sources: &Sources<MySqlPool>) -> Option<String> {
    let load = async |source| {
        let mut connection = sources.read(&source).await?;
        sqlx::query_scalar("SELECT name FROM products WHERE id = 7").fetch_optional(&mut *connection).await
    };
    client.get_or_load(KEY, load).await.unwrap()
}

/// One connection, so that the next one who reads gets the one that came back.
async fn pool(url: &str, schema: &str) -> MySqlPool {
    let url = format!("{}/{schema}", url.trim_end_matches('/'));
    MySqlPoolOptions::new().max_connections(1).connect(&url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_read_from_the_member_that_was_chosen_and_see_the_newest_commit() {
    let Some(_) = require(&[Need::MariaDb]) else { return };
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let mariadb = MariaDb::start(StartOptions::new(dir.path())).unwrap();
    let writer = MySqlPool::connect(&mariadb.url()).await.unwrap();
    // Two schemas stand for two servers: what is read tells which.
    for schema in ["one", "two"] {
        for statement in [
            format!("CREATE DATABASE {schema}"),
            format!("CREATE TABLE {schema}.products (id INT PRIMARY KEY, name VARCHAR(50))"),
            format!("INSERT INTO {schema}.products VALUES (7, '{schema}')"),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&writer).await.unwrap();
        }
    }
    let url = mariadb.url();
    let sources = Sources::new(pool(&url, "one").await).member("db2:3306", pool(&url, "two").await);
    let client = cache.client(Guarded::new()).await;
    assert_eq!(name(&client, &sources).await.as_deref(), Some("one"), "no pool is published: the primary");
    cache.server.cli(&["SET", "rowbust:pool:main", r#"{"v":1,"members":["db1:3306","db2:3306"]}"#]).unwrap();
    let mut seen = std::collections::HashSet::new();
    // Each is chosen at random: not both within 100 is less likely than 2^-99.
    for _ in 0..100 {
        cache.unlink(KEY);
        seen.extend(name(&client, &sources).await);
    }
    assert_eq!(seen, ["one", "two"].map(str::to_owned).into());
    cache.server.cli(&["DEL", "rowbust:pool:main"]).unwrap();

    // A snapshot that was left open on the connection is gone when a load gets it.
    let mut open = sources.primary().begin().await.unwrap();
    let old: String = sqlx::query_scalar("SELECT name FROM products").fetch_one(&mut *open).await.unwrap();
    sqlx::raw_sql("UPDATE one.products SET name = 'new'").execute(&writer).await.unwrap();
    let kept: String = sqlx::query_scalar("SELECT name FROM products").fetch_one(&mut *open).await.unwrap();
    assert_eq!((old.as_str(), kept.as_str()), ("one", "one"), "void: the snapshot isn't one");
    drop(open);
    cache.unlink(KEY);
    assert_eq!(name(&client, &sources).await.as_deref(), Some("new"));
}
