//! Definitions that change under a running daemon, and behind a stopped one: what is flushed, what is kept, and under which names old
//! rows are read.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Db, Flavor, USER, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, require};

on_both!(
    wiped_tables_are_flushed,
    online_schema_changes_keep,
    policies_of_a_mapping,
    a_mapped_column_goes,
    old_rows_under_old_names,
    names_that_cannot_be_known,
);

const WITHIN: Duration = Duration::from_secs(30);

/// Puts keys into the cache.
async fn cache(stage: &Stage, keys: &[&str]) -> Result<()> {
    let mut redis = shop::redis(stage.redis.port()).await?;
    for key in keys {
        redis.set::<_, _, ()>(*key, "old").await?;
    }
    Ok(())
}

/// Those that are still there.
async fn cached(stage: &Stage, keys: &[&str]) -> Result<Vec<String>> {
    let mut redis = shop::redis(stage.redis.port()).await?;
    let mut left = Vec::new();
    for key in keys {
        if redis.exists::<_, bool>(*key).await? {
            left.push((*key).to_owned());
        }
    }
    Ok(left)
}

/// Caches the keys, runs the statements, and compares which keys are left when all is done.
async fn leaves(
    stage: &Stage,
    daemon: &Daemon,
    conn: &mut Conn,
    keys: &[&str],
    statements: &[&str],
    left: &[&str],
) -> Result<()> {
    cache(stage, keys).await?;
    run(conn, statements).await?;
    stage.quiet(daemon).await?;
    let found = cached(stage, keys).await?;
    ensure!(found == left, "after {statements:?}: left {found:?}, not {left:?}\n{}", daemon.log_tail());
    Ok(())
}

fn mappings(schema: &str, extra: &str) -> String {
    format!(
        "\n  - table: {schema}.a\n    fill_grace: 0ms\n    keys: [\"a:{{id}}\"]\n{extra}  - table: {schema}.b\n    fill_grace: 0ms\n    \
         keys: [\"b:{{id}}\"]\n  - table: \"{schema}.glob_*\"\n    fill_grace: 0ms\n    keys: [\"glob:{{id}}\"]\n"
    )
}

const TABLES: &[&str] = &[
    "CREATE TABLE a (id INT PRIMARY KEY, n INT)",
    "CREATE TABLE b (id INT PRIMARY KEY, n INT)",
    "CREATE TABLE glob_x (id INT PRIMARY KEY, n INT)",
    "INSERT INTO a VALUES (1,1),(2,2)",
];

/// A stage with the tables above and a daemon that has nothing to do yet.
async fn staged(flavor: Flavor, name: &str, extra: &str) -> Result<Option<(Stage, Conn)>> {
    let Some(mut stage) = Stage::new(flavor, name).await? else { return Ok(None) };
    stage.settings.mappings = Some(mappings(name, extra));
    let mut conn = stage.db.connect().await?;
    run(&mut conn, &[&format!("CREATE DATABASE {name}"), &format!("USE {name}")]).await?;
    run(&mut conn, TABLES).await?;
    Ok(Some((stage, conn)))
}

async fn wiped_tables_are_flushed(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = staged(flavor, "wiped", "").await? else { return Ok(()) };
    let daemon = stage.start().await?;
    let keys = ["a:1", "a:2", "a:77", "b:1", "glob:1", "control:1"];
    let others = ["b:1", "glob:1", "control:1"];
    leaves(&stage, &daemon, &mut conn, &keys, &["TRUNCATE TABLE a"], &others).await?;
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &["DROP TABLE b"],
        &["a:1", "a:2", "a:77", "glob:1", "control:1"],
    )
    .await?;
    // Rows move in and out of a mapped table.
    let exchange = [
        "DROP TABLE a",
        "CREATE TABLE a (id INT PRIMARY KEY) PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (1000))",
        "CREATE TABLE plain (id INT PRIMARY KEY)",
    ];
    run(&mut conn, &exchange).await?;
    stage.quiet(&daemon).await?;
    for statement in
        ["ALTER TABLE a EXCHANGE PARTITION p WITH TABLE plain", "ALTER TABLE a TRUNCATE PARTITION p"]
    {
        leaves(&stage, &daemon, &mut conn, &keys, &[statement], &others).await?;
    }
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &["DROP TABLE glob_x"],
        &["a:1", "a:2", "a:77", "b:1", "control:1"],
    )
    .await?;
    // Nothing that a mapping names.
    leaves(&stage, &daemon, &mut conn, &keys, &["TRUNCATE plain", "DROP TABLE plain"], &keys).await?;
    // The whole schema; the fence of the stage goes with it, and comes again.
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &["DROP DATABASE wiped", "CREATE DATABASE wiped", "USE wiped"],
        &["control:1"],
    )
    .await?;
    ensure!(daemon.metric("rowbust_widened_total").await? >= 7.0);
    Ok(())
}

/// gh-ost and pt-online-schema-change: the copied rows are changes like others, the swap flushes nothing, and the table that takes
/// the name is followed.
async fn online_schema_changes_keep(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = staged(flavor, "osc", "").await? else { return Ok(()) };
    run(&mut conn, &["INSERT INTO glob_x VALUES (1,1)"]).await?;
    let daemon = stage.start().await?;
    let keys = ["a:1", "a:2", "a:77", "b:1", "glob:77", "control:1"];
    for (new, old) in [("_a_gho", "_a_del"), ("_a_new", "_a_old")] {
        leaves(
            &stage,
            &daemon,
            &mut conn,
            &keys,
            &[
                &format!("CREATE TABLE {new} LIKE a"),
                &format!("ALTER TABLE {new} ADD COLUMN c{old} INT FIRST"),
                &format!("INSERT INTO {new} (id, n) SELECT id, n FROM a"),
                &format!("RENAME TABLE a TO {old}, {new} TO a"),
                &format!("DROP TABLE {old}"),
            ],
            &keys,
        )
        .await?;
        // The new table counts, with its own columns.
        leaves(
            &stage,
            &daemon,
            &mut conn,
            &keys,
            &["UPDATE a SET n=n+1 WHERE id=2"],
            &["a:1", "a:77", "b:1", "glob:77", "control:1"],
        )
        .await?;
    }
    // A helper that a glob names: its rows are copies, its end is nothing.
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &[
            "CREATE TABLE _glob_x_gho LIKE glob_x",
            "INSERT INTO _glob_x_gho SELECT * FROM glob_x",
            "RENAME TABLE glob_x TO _glob_x_del, _glob_x_gho TO glob_x",
            "DROP TABLE _glob_x_del",
        ],
        &keys,
    )
    .await?;
    ensure!(daemon.metric("rowbust_widened_total").await? == 0.0, "{}", daemon.log_tail());
    Ok(())
}

async fn policies_of_a_mapping(flavor: Flavor) -> Result<()> {
    let extra = "    on_ddl: { truncate: keep, drop: halt, rename: flush }\n";
    let Some((stage, mut conn)) = staged(flavor, "policies", extra).await? else { return Ok(()) };
    let mut daemon = stage.start().await?;
    let keys = ["a:1", "b:1"];
    leaves(&stage, &daemon, &mut conn, &keys, &["TRUNCATE a"], &keys).await?;
    leaves(&stage, &daemon, &mut conn, &keys, &["RENAME TABLE a TO z"], &["b:1"]).await?;
    leaves(&stage, &daemon, &mut conn, &keys, &["RENAME TABLE z TO a"], &["b:1"]).await?;
    // Statements that are nobody's business, and one in another character set.
    let harmless = [
        "CREATE TABLE t (x INT COMMENT 'caf\\'e')",
        "ALTER TABLE t ADD INDEX (x)",
        "DROP TABLE t",
        "ANALYZE TABLE b",
    ];
    leaves(&stage, &daemon, &mut conn, &keys, &harmless, &keys).await?;
    let (file, before) = stage.db.newest(&mut conn).await?;
    run(&mut conn, &["DROP TABLE a"]).await?;
    let status = daemon.exited(WITHIN).await?;
    let log = daemon.log_text();
    ensure!(status.code() == Some(1) && log.contains("source.ddl"), "{status}\n{}", daemon.log_tail());
    ensure!(log.contains(&format!("{file}:")), "no coordinates behind {before}\n{}", daemon.log_tail());
    Ok(())
}

async fn a_mapped_column_goes(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = staged(flavor, "columns", "").await? else { return Ok(()) };
    let mut daemon = stage.start().await?;
    let keys = ["a:1", "a:2", "a:77", "b:1", "control:1"];
    run(&mut conn, &["ALTER TABLE a CHANGE id ident INT", "INSERT INTO a VALUES (3,3)"]).await?;
    let status = daemon.exited(WITHIN).await?;
    ensure!(
        status.code() == Some(1) && daemon.log_text().contains("no column `id`"),
        "{status}\n{}",
        daemon.log_tail()
    );
    stage.settings.mappings = Some(mappings("columns", "    on_schema: flush\n"));
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    // At each transaction that changes it, and no other.
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &["INSERT INTO b VALUES (5,5)"],
        &["a:1", "a:2", "a:77", "b:1", "control:1"],
    )
    .await?;
    leaves(&stage, &daemon, &mut conn, &keys, &["UPDATE a SET n=9 WHERE ident=1"], &["b:1", "control:1"])
        .await?;
    // Until it is there again.
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &["ALTER TABLE a CHANGE ident id INT", "UPDATE a SET n=10 WHERE id=1"],
        &["a:2", "a:77", "b:1", "control:1"],
    )
    .await?;
    ensure!(daemon.metric("rowbust_schema_mismatches_total").await? >= 1.0);
    ensure!(
        daemon.log_text().matches("doesn't fit its mappings: every key").count() <= 2,
        "{}",
        daemon.log_tail()
    );
    Ok(())
}

/// A server whose binlog has no column names; the daemon's account may look them up.
async fn nameless(flavor: Flavor, name: &str, extra: &str) -> Result<Option<(Stage, Conn)>> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(None);
    }
    let metadata = match flavor {
        Flavor::MariaDb => "--binlog-row-metadata=NO_LOG",
        Flavor::MySql => "--binlog-row-metadata=MINIMAL",
    };
    let db = Arc::new(Db::start(flavor, &[metadata]).await?);
    let mut stage = Stage::on(db, name).await?;
    stage.settings.mappings = Some(format!(
        "\n  - table: {name}.pair\n    fill_grace: 0ms\n    keys: [\"pair:{{a}}\"]\n{extra}  - table: {name}.other\n    fill_grace: 0ms\n    \
         keys: [\"other:{{id}}\"]\n"
    ));
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &[
            &format!("GRANT SELECT ON *.* TO '{USER}'@'127.0.0.1'"),
            &format!("CREATE DATABASE {name}"),
            &format!("USE {name}"),
            "CREATE TABLE pair (id INT PRIMARY KEY AUTO_INCREMENT, a INT, b INT)",
            "CREATE TABLE other (id INT PRIMARY KEY)",
        ],
    )
    .await?;
    Ok(Some((stage, conn)))
}

/// The names of two columns of one type are exchanged: nothing in a row event tells.
const SWAP: &str = "ALTER TABLE pair CHANGE a b INT, CHANGE b a INT";

/// Rows from before an ALTER that are read after it have the names of then: the daemon remembers.
async fn old_rows_under_old_names(flavor: Flavor) -> Result<()> {
    let Some((stage, mut conn)) = nameless(flavor, "names", "").await? else { return Ok(()) };
    let mut daemon = stage.start().await?;
    let keys = ["pair:1", "pair:2", "pair:10", "pair:20", "pair:100", "pair:200", "pair:300"];
    leaves(&stage, &daemon, &mut conn, &keys, &["INSERT INTO pair (a, b) VALUES (1,2)"], &keys[1..]).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    ensure!(stage.dir().join("checkpoint.schema").exists());
    // Same shape, then another.
    cache(&stage, &keys).await?;
    run(
        &mut conn,
        &[
            "INSERT INTO pair (a, b) VALUES (10,20)",
            SWAP,
            "INSERT INTO pair (a, b) VALUES (100,200)",
            "ALTER TABLE pair ADD INDEX (b)",
            "INSERT INTO pair (a, b) VALUES (300,400)",
        ],
    )
    .await?;
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let left = cached(&stage, &keys).await?;
    ensure!(left == ["pair:1", "pair:2", "pair:20", "pair:200"], "{left:?}\n{}", daemon.log_tail());
    ensure!(daemon.metric("rowbust_widened_total").await? == 0.0, "{}", daemon.log_tail());
    ensure!(daemon.kill9()?);
    // Another shape, behind a crash.
    cache(&stage, &keys).await?;
    run(
        &mut conn,
        &[
            "UPDATE pair SET id=id+1000 WHERE a=100",
            "ALTER TABLE pair ADD COLUMN first_one INT FIRST",
            "UPDATE pair SET id=id+1000 WHERE a=300",
        ],
    )
    .await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let left = cached(&stage, &keys).await?;
    ensure!(
        left == ["pair:1", "pair:2", "pair:10", "pair:20", "pair:200"],
        "{left:?}\n{}",
        daemon.log_tail()
    );
    Ok(())
}

/// The daemon begins before a change of names of which it knows nothing. It can't have the right names, and says so.
async fn names_that_cannot_be_known(flavor: Flavor) -> Result<()> {
    let Some((mut stage, mut conn)) = nameless(flavor, "unknown", "").await? else { return Ok(()) };
    let mut daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success());
    let keys = ["pair:1", "pair:2", "pair:77", "other:1", "control:1"];
    cache(&stage, &keys).await?;
    run(
        &mut conn,
        &[
            "INSERT INTO pair (a, b) VALUES (1,2)",
            "INSERT INTO other VALUES (5)",
            SWAP,
            "INSERT INTO other VALUES (6)",
        ],
    )
    .await?;
    let mut daemon = stage.launch("")?;
    let status = daemon.exited(WITHIN).await?;
    ensure!(
        status.code() == Some(1) && daemon.log_text().contains("source.schema_behind"),
        "{status}\n{}",
        daemon.log_tail()
    );
    // It stays so, and by config everything that may be concerned is removed.
    let mappings = stage.settings.mappings.take().context("no mappings")?;
    stage.settings.mappings = Some(
        mappings.replace("    keys: [\"pair:{a}\"]\n", "    keys: [\"pair:{a}\"]\n    on_schema: flush\n"),
    );
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let left = cached(&stage, &keys).await?;
    ensure!(left == ["other:1", "control:1"], "{left:?}\n{}", daemon.log_tail());
    ensure!(daemon.metric("rowbust_widened_total").await? == 1.0, "{}", daemon.log_tail());
    // From here on the names are known.
    leaves(
        &stage,
        &daemon,
        &mut conn,
        &keys,
        &["INSERT INTO pair (a, b) VALUES (1,2)"],
        &["pair:2", "pair:77", "other:1", "control:1"],
    )
    .await?;
    let widened = until("widened", WITHIN, async || {
        let now = daemon.metric("rowbust_widened_total").await?;
        Ok(Seen::check(now == 1.0, || now.to_string()))
    });
    widened.await?;
    conn.query_drop("SELECT 1").await?;
    Ok(())
}
