//! Every format that a binlog can hold, on every kind of server that writes it: followed end to end, and decoded by others.

use anyhow::Result;
use rowbust_integration_tests::db::Server;
use rowbust_integration_tests::matrix::{self, cases::CASES, columns::COLUMNS};

async fn everything(server: Server) -> Result<()> {
    let Some(stage) = matrix::stage(server, "matrix", &[], CASES, COLUMNS).await? else { return Ok(()) };
    let compared = matrix::run(&stage, server, CASES, COLUMNS).await?;
    eprintln!("{server:?} {}: {compared:#?}", stage.db.version());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_10_11() -> Result<()> {
    everything(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_11_8() -> Result<()> {
    everything(Server::MariaDb118).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_9_7() -> Result<()> {
    everything(Server::MySql).await
}
