//! `source.replicas`.

use std::time::Duration;

use rowbust_integration_tests::on_both;
use rowbust_integration_tests::wait::{Seen, until};

use super::*;

on_both!(read_sources);

async fn read_sources(flavor: Flavor) -> Result<()> {
    let name = format!("replicas_{}", flavor.name());
    let tables = ["CREATE TABLE t (id INT PRIMARY KEY)"];
    let Some((servers, _)) = Servers::schema(flavor, &name, &tables).await? else { return Ok(()) };
    let replica = Db::start(flavor, &["--server-id=2", "--read-only=ON"]).await?;
    let mut conn = replica.connect().await?;
    let mut site = servers.site(&format!("  - {{ table: {name}.t, keys: [\"t:{{id}}\"] }}\n"))?;
    site.source = format!("  replicas: [\"127.0.0.1:{}\"]\n", replica.port());

    if flavor == Flavor::MariaDb {
        let line = site.check()?.has("replicas.source", "not_tested", "may not ask")?;
        let grant = line.help.find("GRANT").map(|at| &line.help[at..]).context("no GRANT")?;
        run(&mut conn, &[grant]).await?;
    }
    let checked = site.check()?;
    checked.has("replicas.source", "error", "no replica")?;
    ensure!(checked.exit == 78, "{:#}", checked.value);

    let port = servers.db.port();
    match flavor {
        Flavor::MySql => {
            let source = format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='root', \
                 SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1"
            );
            run(&mut conn, &["RESET BINARY LOGS AND GTIDS", &source, "START REPLICA"]).await?;
        }
        Flavor::MariaDb => {
            let source = format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', MASTER_USE_GTID=slave_pos"
            );
            run(&mut conn, &[&source, "START SLAVE"]).await?;
        }
    }
    let well = until("a replica that runs", Duration::from_secs(60), async || {
        let checked = site.check()?;
        Ok(Seen::check(!checked.of("replicas.running", "ok").is_empty(), || format!("{:#}", checked.value)))
    });
    well.await?;
    let checked = site.check()?;
    checked.has("replicas.source", "ok", "replicates the primary")?;
    checked.has("replicas.read_only", "ok", "")?;
    checked.has("replicas.commit_order", "ok", "")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);

    run(&mut conn, &["SET GLOBAL read_only=OFF"]).await?;
    site.check()?.has("replicas.read_only", "warning", "OFF")?;
    match flavor {
        Flavor::MySql => {
            run(
                &mut conn,
                &[
                    "STOP REPLICA SQL_THREAD",
                    "SET GLOBAL replica_preserve_commit_order=OFF",
                    "SET GLOBAL replica_parallel_workers=4",
                ],
            )
            .await?;
            site.check()?.has("replicas.commit_order", "warning", "another order")?;
        }
        Flavor::MariaDb => run(&mut conn, &["STOP SLAVE SQL_THREAD"]).await?,
    }
    let checked = site.check()?;
    checked.has("replicas.running", "error", "stands still")?;
    ensure!(checked.exit == 78);

    // Away, and of another kind.
    site.source = format!("  replicas: [\"127.0.0.1:{}\"]\n", free_port()?);
    let checked = site.check()?;
    checked.has("replicas.connect", "error", "refused")?;
    checked.has("source.grants", "ok", "")?;
    ensure!(checked.exit == 69, "{:#}", checked.value);
    Ok(())
}
