//! A cached read and a write with `mysql_async`.
//!
//! ```sh
//! cargo run -p rowbust-client --features mysql_async --example mysql_async -- redis://127.0.0.1:6379 mysql://root@127.0.0.1:3306
//! ```
//! Without a daemon nobody removes the key after a write, so the example does so itself.

use anyhow::Context as _;
use mysql_async::{Pool, prelude::Queryable as _};
use rowbust_client::{CallOptions, Change, Client, ConnectOptions, Loaded, Redis, adapter::Sources};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Product {
    id: u64,
    name: String,
}

async fn product(
    client: &Client,
    sources: &Sources<Pool>,
    id: u64,
) -> Result<Loaded<Product>, rowbust_client::Error> {
    let load = async |source| {
        // A fresh connection to the member that the strategy chose, and a read that begins now.
        let mut connection = sources.read(&source).await?;
        let row = connection
            .exec_first("SELECT id, name FROM rowbust_example.products WHERE id = ?", (id,))
            .await?;
        Ok::<_, mysql_async::Error>(row.map(|(id, name)| Product { id, name }))
    };
    client.get_or_load_with(&format!("product:{id}"), &CallOptions::default(), load).await
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let redis = args.next().context("first argument: URL of Redis")?;
    let mysql = args.next().context("second argument: URL of MySQL or MariaDB")?;
    let client = Client::builder(Redis::connect(&redis, ConnectOptions::default()).await?).build()?;
    let sources = Sources::new(Pool::from_url(mysql)?);

    let mut connection = sources.primary().get_conn().await?;
    connection.query_drop("CREATE DATABASE IF NOT EXISTS rowbust_example").await?;
    connection
        .query_drop(
            "CREATE TABLE IF NOT EXISTS rowbust_example.products (id BIGINT PRIMARY KEY, name VARCHAR(50))",
        )
        .await?;
    connection.query_drop("REPLACE INTO rowbust_example.products VALUES (7, 'a name')").await?;

    client.invalidate(&["product:7"]).await?;
    println!("{:?}", product(&client, &sources, 7).await?);
    println!("{:?}", product(&client, &sources, 7).await?);

    let rename = async || {
        connection.query_drop("UPDATE rowbust_example.products SET name = 'a new name' WHERE id = 7").await
    };
    client.write(&Change::of("product:7"), rename).await?.into_result()?;
    client.invalidate(&["product:7"]).await?;
    println!("{:?}", product(&client, &sources, 7).await?);
    println!("{:?}", client.stats());
    Ok(())
}
