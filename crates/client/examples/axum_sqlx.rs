//! A small service with `axum` and `sqlx`: `GET /products/{id}` reads through the cache, `PUT /products/{id}` writes.
//!
//! ```sh
//! cargo run -p rowbust-client --features sqlx --example axum_sqlx -- \
//!     redis://127.0.0.1:6379 mysql://root@127.0.0.1:3306/shop 127.0.0.1:8080
//! curl -X PUT -d 'a name' 127.0.0.1:8080/products/7
//! curl 127.0.0.1:8080/products/7
//! ```
//! The daemon removes `product:{id}` when the row changes; the handler removes it too, so that a client reads its own write at once. That
//! holds as all loads here read the primary: a replica might not have the write yet.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use rowbust_client::{
    Breaker, Change, Client, ConnectOptions, Error, LoadLimit, Redis, Settings, adapter::Sources,
};
use serde::{Deserialize, Serialize};
use sqlx::MySqlPool;

#[derive(Serialize, Deserialize)]
struct Product {
    id: u64,
    name: String,
}

struct Shop {
    cache: Client,
    sources: Sources<MySqlPool>,
}

fn status(error: &Error) -> StatusCode {
    tracing::warn!(%error, "request failed");
    match error {
        Error::Overloaded { .. } | Error::LockBusy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn show(State(shop): State<Arc<Shop>>, Path(id): Path<u64>) -> Result<Json<Product>, StatusCode> {
    let load = async |source| {
        let mut connection = shop.sources.read(&source).await?;
        let row: Option<(u64, String)> =
            sqlx::query_as("SELECT CAST(id AS UNSIGNED), name FROM products WHERE id = ?")
                .bind(id)
                .fetch_optional(&mut *connection)
                .await?;
        Ok::<_, sqlx::Error>(row.map(|(id, name)| Product { id, name }))
    };
    let product =
        shop.cache.get_or_load(&format!("product:{id}"), load).await.map_err(|error| status(&error))?;
    product.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn rename(
    State(shop): State<Arc<Shop>>,
    Path(id): Path<u64>,
    name: String,
) -> Result<StatusCode, StatusCode> {
    let key = format!("product:{id}");
    let update = async || {
        let change = sqlx::query("REPLACE INTO products (id, name) VALUES (?, ?)").bind(id).bind(&name);
        change.execute(shop.sources.primary()).await
    };
    let written = shop.cache.write(&Change::of(&key), update).await;
    written.and_then(rowbust_client::Written::into_result).map_err(|error| status(&error))?;
    // The row is written; if this fails, the daemon's removal comes a moment later.
    if let Err(error) = shop.cache.invalidate(&[&key]).await {
        tracing::warn!(%error, "a client may not see its own write at once");
    }
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let redis = args.next().context("first argument: URL of Redis")?;
    let mysql = args.next().context("second argument: URL of MySQL or MariaDB, with a database")?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let pool = MySqlPool::connect(&mysql).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS products (id BIGINT PRIMARY KEY, name VARCHAR(50))")
        .execute(&pool)
        .await?;
    let settings = Settings {
        load_limit: Some(LoadLimit { concurrent: 16, wait: Duration::from_millis(500) }),
        breaker: Some(Breaker { failures: 5, cool_down: Duration::from_secs(2) }),
        ..Settings::default()
    };
    let redis = Redis::connect(&redis, ConnectOptions::default()).await?;
    let cache = Client::builder(redis).settings(settings).build()?;
    let shop = Arc::new(Shop { cache, sources: Sources::new(pool) });
    let app = Router::new().route("/products/{id}", get(show).put(rename)).with_state(shop);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
