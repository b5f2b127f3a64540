//! The schema under test, its mappings, its keys by a function of the tests' own, and its cache.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;

use crate::db::run;
use crate::monitor::field;
use crate::oracle::Row;

/// How long a plain fill may take, from reading the row to its SET: the mappings' `fill_grace`.
pub const FILL_GRACE: Duration = Duration::from_millis(200);

/// Makes the tables of the schema, with `products` products (ids from 1) in 8 categories.
///
/// `txlog` is mapped by nothing: each transaction of the load writes its number there, so that the oracle can name it.
///
/// # Errors
/// When the server refuses.
pub async fn create(conn: &mut Conn, schema: &str, products: u64) -> Result<()> {
    let statements = [
        format!("CREATE DATABASE {schema}"),
        format!("USE {schema}"),
        "CREATE TABLE products (id INT PRIMARY KEY, sku VARCHAR(40) NOT NULL, category_id INT NOT NULL, \
         ver BIGINT NOT NULL, name VARCHAR(60)) ENGINE=InnoDB"
            .to_owned(),
        "CREATE TABLE orders (id INT PRIMARY KEY, product_id INT NOT NULL, ver BIGINT NOT NULL) ENGINE=InnoDB"
            .to_owned(),
        "CREATE TABLE txlog (n BIGINT PRIMARY KEY) ENGINE=InnoDB".to_owned(),
    ];
    run(conn, &statements.each_ref().map(String::as_str)).await?;
    let rows: Vec<String> = (1..=products).map(|id| format!("({id},'s{id}',{},{id},'p')", id % 8)).collect();
    for chunk in rows.chunks(500) {
        conn.query_drop(format!("INSERT INTO products VALUES {}", chunk.join(","))).await?;
    }
    Ok(())
}

/// The `mappings:` of the config, each key with `prefix`.
#[must_use]
pub fn mappings(schema: &str, prefix: &str) -> String {
    let grace = FILL_GRACE.as_millis();
    format!(
        r#"
  - table: {schema}.products
    fill_grace: {grace}ms
    keys:
      - "{prefix}product:{{id}}"
      - "{prefix}product:sku:{{sku}}"
      - {{ key: "{prefix}ver:{{new.ver}}", events: [insert, update] }}
      - {{ key: "{prefix}category:{{category_id}}:products", op: hdel, field: "{{id}}" }}
  - table: {schema}.orders
    fill_grace: {grace}ms
    keys: ["{prefix}order:{{id}}"]
"#
    )
}

/// The keys that a row change makes wrong, by the mappings above. Field removals as [`field`] names them.
#[must_use]
pub fn keys(row: &Row, prefix: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for image in row.images() {
        let column = |n: usize| image.get(n).map_or("", String::as_str);
        match row.table.as_str() {
            "products" => {
                keys.insert(format!("{prefix}product:{}", column(0)));
                keys.insert(format!("{prefix}product:sku:{}", column(1)));
                keys.insert(field(&format!("{prefix}category:{}:products", column(2)), column(0)));
            }
            "orders" => _ = keys.insert(format!("{prefix}order:{}", column(0))),
            _ => {}
        }
    }
    if let ("products", Some(after)) = (row.table.as_str(), &row.after) {
        keys.insert(format!("{prefix}ver:{}", after.get(3).map_or("", String::as_str)));
    }
    keys
}

/// One row of `products`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Primary key.
    pub id: u64,
    /// Changes now and then.
    pub sku: String,
    /// Changes now and then.
    pub category: u64,
    /// Grows with every write, over all rows.
    pub ver: u64,
}

/// One product as the database has it.
///
/// # Errors
/// When the server doesn't answer.
pub async fn product(conn: &mut Conn, schema: &str, id: u64) -> Result<Option<Product>> {
    let row: Option<(String, u64, u64)> = conn
        .query_first(format!("SELECT sku, category_id, ver FROM {schema}.products WHERE id={id}"))
        .await?;
    Ok(row.map(|(sku, category, ver)| Product { id, sku, category, ver }))
}

/// A connection to Redis that does what it is told, with no cache of its own.
///
/// # Errors
/// When it doesn't answer.
pub async fn redis(port: u16) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let connected = tokio::time::timeout(Duration::from_secs(5), client.get_multiplexed_async_connection());
    Ok(connected.await.context("redis doesn't answer")??)
}

/// All keys of this Redis, sorted, but those that the daemon keeps there itself.
///
/// # Errors
/// When it doesn't answer.
pub async fn cached(cache: &mut MultiplexedConnection) -> Result<Vec<String>> {
    let mut keys: Vec<String> = cache.keys("*").await?;
    keys.retain(|key| !key.starts_with(rowbust_protocol::OWN));
    keys.sort_unstable();
    Ok(keys)
}

/// Fills the three cached copies of a product as plain cache-aside does: reads the row, then writes the cache.
/// `false`: it took longer than the mappings allow, and the copies were removed again.
///
/// # Errors
/// When a server doesn't answer.
pub async fn fill(conn: &mut Conn, cache: &mut MultiplexedConnection, schema: &str, id: u64) -> Result<bool> {
    let start = Instant::now();
    let Some(p) = product(conn, schema, id).await? else { return Ok(true) };
    let (plain, by_sku) = (format!("product:{id}"), format!("product:sku:{}", p.sku));
    let list = format!("category:{}:products", p.category);
    if start.elapsed() < FILL_GRACE / 2 {
        let mut all = redis::pipe();
        all.set(&plain, p.ver).ignore();
        all.set(&by_sku, format!("{id}:{}", p.ver)).ignore();
        all.hset(&list, id, p.ver).ignore();
        all.query_async::<()>(cache).await?;
    }
    // The promise for plain keys holds under this assumption; a test machine may break it at any time.
    let in_time = start.elapsed() < FILL_GRACE * 8 / 10;
    if !in_time {
        // By a script: what a script removes isn't counted as the daemon's.
        let undo = "redis.call('UNLINK', KEYS[1], KEYS[2]); redis.call('HDEL', KEYS[3], ARGV[1])";
        let mut script = redis::cmd("EVAL");
        script.arg(undo).arg(3).arg(&plain).arg(&by_sku).arg(&list).arg(id);
        script.query_async::<()>(cache).await?;
    }
    Ok(in_time)
}

/// What the comparison of the whole cache with the whole database gave.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Cached values that are what the database says.
    pub equal: usize,
    /// Those that aren't: key, cached value, what it should be.
    pub stale: Vec<String>,
    /// Ids of products without a cached copy under `product:{id}`.
    pub absent: Vec<u64>,
}

/// Compares every cached copy with its row. Keys that are no copy of a row (`control:*`, `ver:*`, the daemon's own) are left out.
///
/// # Errors
/// When a server doesn't answer.
pub async fn compare(conn: &mut Conn, cache: &mut MultiplexedConnection, schema: &str) -> Result<Comparison> {
    let rows: Vec<(u64, String, u64, u64)> =
        conn.query(format!("SELECT id, sku, category_id, ver FROM {schema}.products")).await?;
    let mut truth: HashMap<String, String> = HashMap::new();
    for (id, sku, category, ver) in &rows {
        truth.insert(format!("product:{id}"), ver.to_string());
        truth.insert(format!("product:sku:{sku}"), format!("{id}:{ver}"));
        truth.insert(field(&format!("category:{category}:products"), &id.to_string()), ver.to_string());
    }
    let orders: Vec<(u64, u64)> = conn.query(format!("SELECT id, ver FROM {schema}.orders")).await?;
    truth.extend(orders.into_iter().map(|(id, ver)| (format!("order:{id}"), ver.to_string())));

    let mut copies: HashMap<String, String> = HashMap::new();
    for key in cached(cache).await? {
        if key.starts_with("category:") {
            let fields: HashMap<String, String> = cache.hgetall(&key).await?;
            copies.extend(fields.into_iter().map(|(f, v)| (field(&key, &f), v)));
        } else if !["control:", "ver:"].iter().any(|other| key.starts_with(other))
            && let Some(value) = cache.get::<_, Option<String>>(&key).await?
        {
            copies.insert(key, value);
        }
    }
    let absent =
        rows.iter().map(|r| r.0).filter(|id| !copies.contains_key(&format!("product:{id}"))).collect();
    let mut result = Comparison { absent, ..Comparison::default() };
    for (key, value) in copies {
        match truth.get(&key) {
            Some(right) if *right == value => result.equal += 1,
            right => result.stale.push(format!("{key:?} is {value:?}, should be {right:?}")),
        }
    }
    Ok(result)
}
