//! The lease where the server, or what stands before it, is in its way.

use std::fs;

use rowbust_integration_tests::shop;

use super::*;

on_both!(a_source_without_locks, waits_under_a_time_limit, a_reload_while_it_stands_by);

/// A way to the source that knows no locks, as some proxies between a client and its server: the daemon says so and runs, and that there are two
/// is found at the shared checkpoint. Whoever came last goes on, and nothing is lost.
async fn a_source_without_locks(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "lockless").await? else { return Ok(()) };
    stage.open_shop(PRODUCTS).await?;
    let common = Common::named("lockless");
    let mut hosts = two(&stage, &common).await?;
    hosts[0].first_position()?;
    for host in &mut hosts {
        host.source.cut().await;
        host.source.replace("GET_LOCK", "GOT_LOCK");
        host.source.open().await?;
    }
    let load = stage.load(plan(seed("a_source_without_locks")));
    hosts[0].launch()?;
    hosts[0].active(WITHIN).await?;
    ensure!(hosts[0].logs().contains("gives no lease"), "{}", hosts[0].logs());
    let status = hosts[0].status().await.context("no status")?;
    let taken = status["checkpoint"]["position"].as_u64();
    until("its checkpoint moves", WITHIN, async || {
        let now = hosts[0].status().await.unwrap_or_default()["checkpoint"]["position"].as_u64();
        Ok(Seen::check(now > taken, || format!("{now:?}")))
    })
    .await?;

    // Nothing keeps the second one from starting; the first is refused at its next save.
    hosts[1].launch()?;
    hosts[1].active(WITHIN).await?;
    hosts[0].metric_at_least(telemetry::CHECKPOINT_FENCED, 1.0, WITHIN).await?;
    let before = hosts[0].snapshot(&stage, "two").await?;
    ensure!(hosts[0].daemon()?.kill9()?, "it had ended");
    // It may have been fenced itself meanwhile, and takes the record back.
    hosts[1].active(WITHIN).await?;
    let history = load.stop().await?;
    hosts[1].quiet(&stage).await?;
    let end = hosts[1].snapshot(&stage, "end").await?;
    ensure!(end.checkpoint.fence >= before.checkpoint.fence, "{end:?}");
    stage.judge(&history, &[before, end], PRODUCTS, HOT).await?;
    Ok(())
}

/// A limit of time for statements that is shorter than a daemon waits for the lease: the lease is taken all the same, and the other one
/// goes on waiting.
async fn waits_under_a_time_limit(flavor: Flavor) -> Result<()> {
    let Some(stage) = stage_of_its_own(flavor, "limited").await? else { return Ok(()) };
    stage.open_shop(10).await?;
    let mut conn = stage.sql().await?;
    let (limit, counted) = match flavor {
        Flavor::MySql => ("max_execution_time=300", "Max_execution_time_exceeded"),
        Flavor::MariaDb => ("max_statement_time=0.3", "Max_statement_time_exceeded"),
    };
    run(&mut conn, &[&format!("SET GLOBAL {limit}")]).await?;
    let common = Common::in_redis();
    let mut hosts = two(&stage, &common).await?;
    hosts[0].first_position()?;
    start(hosts.each_mut()).await?;
    until("the limit has cut waiting off", WITHIN, async || {
        let mut conn = stage.db.connect().await?;
        let seen: Option<(String, String)> =
            conn.query_first(format!("SHOW GLOBAL STATUS LIKE '{counted}'")).await?;
        let count: u64 = seen.context(counted)?.1.parse()?;
        Ok(Seen::check(count >= 5, || count.to_string()))
    })
    .await?;
    let status = hosts[1].status().await.unwrap_or_default();
    ensure!(status["state"] == "standby" && status["lease"]["holder"].as_u64().is_some(), "{status}");
    ensure!(dump_threads(&stage).await? == 1, "both read the binlog");
    ensure!(hosts[0].daemon()?.kill9()?, "it had ended");
    hosts[1].active(TAKES_OVER_WITHIN).await?;
    ensure!(!hosts[1].logs().contains("gives no lease"), "{}", hosts[1].logs());
    Ok(())
}

/// A standby takes a new config at once, answers and refuses as an active daemon does, and takes over with it.
async fn a_reload_while_it_stands_by(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "waiting").await? else { return Ok(()) };
    stage.open_shop(10).await?;
    let common = Common::named("waiting");
    let mut hosts = two(&stage, &common).await?;
    hosts[0].first_position()?;
    start(hosts.each_mut()).await?;
    let good = fs::read_to_string(hosts[1].config_path())?;
    fs::write(hosts[1].config_path(), good.replace("mappings:", "mapings:"))?;
    hosts[1].daemon()?.signal(Signal::SIGHUP)?;
    wait_for_log(&hosts[1], "reload.config", WITHIN).await?;
    ensure!(!hosts[1].logs().contains("still standing by"), "{}", hosts[1].logs());

    let more = format!("  - {{ table: {}.orders, to: main, keys: [\"late:{{id}}\"] }}\n", stage.schema);
    let token = "\nadmin: { token: 0123456789abcdef, listen:";
    let mappings = format!("{}{more}", shop::mappings(&stage.schema, ""));
    hosts[1].configure(&stage, &Common { mappings: Some(mappings), ..common.clone() })?;
    let text = fs::read_to_string(hosts[1].config_path())?.replace("\nadmin: { listen:", token);
    fs::write(hosts[1].config_path(), text)?;
    hosts[1].daemon()?.signal(Signal::SIGHUP)?;
    wait_for_log(&hosts[1], "new config, still standing by", WITHIN).await?;
    wait_for_log(&hosts[1], "config reloaded", WITHIN).await?;
    ensure!(hosts[1].stands_by(WITHIN).await.is_ok(), "{}", hosts[1].logs());

    ensure!(hosts[0].daemon()?.kill9()?, "it had ended");
    hosts[1].active(TAKES_OVER_WITHIN).await?;
    let status = hosts[1].status().await.context("no status")?;
    let uncovered = &status["config"]["uncovered"];
    ensure!(uncovered[0] == format!("{}.orders", stage.schema), "{status}");
    Ok(())
}
