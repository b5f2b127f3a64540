//! Every kind of change, end to end: exactly the keys that it makes wrong are removed, twice each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use rowbust_integration_tests::daemon::Daemon;
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::monitor::field;
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};

on_both!(
    kinds_of_changes,
    columns_added_in_mid_stream,
    rotation,
    restart_and_resume,
    the_first_position_is_kept,
    start_modes,
);

/// From a commit to its second removal, grace included, on a loaded machine.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);

/// `category:1:products/5` is field 5 of the hash.
fn named(keys: &[&str]) -> BTreeSet<String> {
    keys.iter()
        .map(|key| key.split_once('/').map_or_else(|| (*key).to_owned(), |(k, f)| field(k, f)))
        .collect()
}

/// Runs the statements, waits for both removals of each expected key, and compares what was removed.
async fn removes(
    stage: &Stage,
    daemon: &Daemon,
    conn: &mut Conn,
    statements: &[&str],
    keys: &[&str],
) -> Result<()> {
    let expected = named(keys);
    stage.fence()?;
    let from = stage.removals.total();
    run(conn, statements).await?;
    let what = format!("both removals after {statements:?}");
    let waited = until(&what, REMOVED_WITHIN, async || {
        let now = stage.removals.since(from);
        let missing: Vec<&String> =
            expected.iter().filter(|k| now.get(*k).copied().unwrap_or(0) < 2).collect();
        Ok(Seen::check(missing.is_empty(), || format!("missing {missing:?} in {now:?}")))
    });
    waited.await.map_err(|e| daemon.explain(&e))?;
    stage.quiet(daemon).await?;
    let removed: BTreeMap<_, _> = stage.removals.since(from).into_iter().collect();
    let keys: BTreeSet<String> = removed.keys().cloned().collect();
    ensure!(keys == expected, "after {statements:?}: {removed:?}, not {expected:?}");
    ensure!(removed.values().all(|n| *n == 2), "after {statements:?}: not twice each: {removed:?}");
    Ok(())
}

async fn kinds_of_changes(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "kinds").await? else { return Ok(()) };
    stage.open_shop(20).await?;
    let daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "insert",
            &["INSERT INTO products VALUES (100,'s100',4,1000,'x')"],
            &["product:100", "product:sku:s100", "ver:1000", "category:4:products/100"],
        ),
        (
            "update",
            &["UPDATE products SET ver=1001 WHERE id=1"],
            &["product:1", "product:sku:s1", "ver:1001", "category:1:products/1"],
        ),
        (
            "delete",
            &["DELETE FROM products WHERE id=2"],
            &["product:2", "product:sku:s2", "category:2:products/2"],
        ),
        (
            "key move",
            &["UPDATE products SET sku='moved', category_id=7, ver=1002 WHERE id=3"],
            &[
                "product:3",
                "product:sku:s3",
                "product:sku:moved",
                "ver:1002",
                "category:3:products/3",
                "category:7:products/3",
            ],
        ),
        (
            "primary key move",
            &["UPDATE products SET id=104, ver=1003 WHERE id=4"],
            &[
                "product:4",
                "product:104",
                "product:sku:s4",
                "ver:1003",
                "category:4:products/4",
                "category:4:products/104",
            ],
        ),
        (
            "many rows",
            &["UPDATE products SET ver=ver+2000 WHERE id IN (5,6,7)"],
            &[
                "product:5",
                "product:sku:s5",
                "ver:2005",
                "category:5:products/5",
                "product:6",
                "product:sku:s6",
                "ver:2006",
                "category:6:products/6",
                "product:7",
                "product:sku:s7",
                "ver:2007",
                "category:7:products/7",
            ],
        ),
        (
            "several tables in a transaction",
            &[
                "BEGIN",
                "INSERT INTO orders VALUES (1,8,1)",
                "UPDATE products SET ver=1004 WHERE id=8",
                "INSERT INTO txlog VALUES (1)",
                "DELETE FROM products WHERE id=9",
                "UPDATE orders SET ver=2",
                "COMMIT",
            ],
            &[
                "order:1",
                "product:8",
                "product:sku:s8",
                "ver:1004",
                "category:0:products/8",
                "product:9",
                "product:sku:s9",
                "category:1:products/9",
            ],
        ),
        (
            "several tables in a statement",
            &["UPDATE products p JOIN orders o ON o.product_id=p.id SET p.ver=1005, o.ver=3 WHERE o.id=1"],
            &["order:1", "product:8", "product:sku:s8", "ver:1005", "category:0:products/8"],
        ),
        ("rollback", &["BEGIN", "UPDATE products SET ver=1", "DELETE FROM orders", "ROLLBACK"], &[]),
        (
            "savepoint",
            &[
                "BEGIN",
                "UPDATE products SET ver=1006 WHERE id=10",
                "SAVEPOINT here",
                "UPDATE products SET ver=1007 WHERE id=11",
                "ROLLBACK TO SAVEPOINT here",
                "UPDATE products SET ver=1008 WHERE id=12",
                "RELEASE SAVEPOINT here",
                "COMMIT",
            ],
            &[
                "product:10",
                "product:sku:s10",
                "ver:1006",
                "category:2:products/10",
                "product:12",
                "product:sku:s12",
                "ver:1008",
                "category:4:products/12",
            ],
        ),
        ("nothing changed", &["UPDATE products SET ver=ver WHERE id=13"], &[]),
        (
            "replace",
            &["REPLACE INTO products VALUES (13,'again',6,1009,'x')"],
            &[
                "product:13",
                "product:sku:s13",
                "product:sku:again",
                "ver:1009",
                "category:5:products/13",
                "category:6:products/13",
            ],
        ),
        (
            "insert or update",
            &["INSERT INTO products VALUES (14,'x',1,1,'x') ON DUPLICATE KEY UPDATE ver=1010"],
            &["product:14", "product:sku:s14", "ver:1010", "category:6:products/14"],
        ),
        ("a table that no mapping names", &["INSERT INTO txlog VALUES (2),(3)", "DELETE FROM txlog"], &[]),
        (
            "null in a column that no key names",
            &["UPDATE products SET name=NULL, ver=1011 WHERE id=15"],
            &["product:15", "product:sku:s15", "ver:1011", "category:7:products/15"],
        ),
        (
            "autocommit off",
            &["SET autocommit=0", "UPDATE products SET ver=1012 WHERE id=16", "COMMIT", "SET autocommit=1"],
            &["product:16", "product:sku:s16", "ver:1012", "category:0:products/16"],
        ),
    ];
    for (case, statements, keys) in cases {
        removes(&stage, &daemon, &mut conn, statements, keys).await.with_context(|| (*case).to_owned())?;
    }
    let mut cache = shop::redis(stage.redis.port()).await?;
    let compared = shop::compare(&mut conn, &mut cache, &stage.schema).await?;
    ensure!(compared.stale.is_empty(), "{compared:?}");
    // The products that no case touched are all still there, in their three copies.
    ensure!(compared.equal >= 3 * 3, "{compared:?}");
    Ok(())
}

async fn columns_added_in_mid_stream(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "columns").await? else { return Ok(()) };
    stage.open_shop(5).await?;
    let daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    let keys = |id: u8, ver: u16| {
        [
            format!("product:{id}"),
            format!("product:sku:s{id}"),
            format!("ver:{ver}"),
            format!("category:{id}:products/{id}"),
        ]
    };
    let ddl = [
        "ALTER TABLE products ADD COLUMN last INT NOT NULL DEFAULT 7",
        "ALTER TABLE products ADD COLUMN first VARCHAR(9) NOT NULL DEFAULT 'f' FIRST",
        "ALTER TABLE products ADD COLUMN middle JSON AFTER sku",
        "ALTER TABLE products DROP COLUMN first",
        "ALTER TABLE products MODIFY COLUMN ver BIGINT UNSIGNED NOT NULL AFTER last",
    ];
    for (n, ddl) in ddl.iter().enumerate() {
        let (before, after) = (u16::try_from(1000 + 2 * n)?, u16::try_from(1001 + 2 * n)?);
        let statements = [
            format!("UPDATE products SET ver={before} WHERE id=1"),
            (*ddl).to_owned(),
            format!("UPDATE products SET ver={after} WHERE id=2"),
        ];
        let keys = [keys(1, before), keys(2, after)].concat();
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        removes(&stage, &daemon, &mut conn, &statements, &keys).await?;
    }
    Ok(())
}

async fn rotation(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "rotation").await? else { return Ok(()) };
    stage.open_shop(5).await?;
    let daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    for n in 0..3 {
        let before = stage.db.newest(&mut conn).await?.0;
        let first = format!("UPDATE products SET ver={} WHERE id=1", 1000 + n);
        let second = format!("UPDATE products SET ver={} WHERE id=2", 2000 + n);
        let keys = [
            "product:1",
            "product:sku:s1",
            &format!("ver:{}", 1000 + n),
            "category:1:products/1",
            "product:2",
            "product:sku:s2",
            &format!("ver:{}", 2000 + n),
            "category:2:products/2",
        ];
        removes(&stage, &daemon, &mut conn, &[&first, "FLUSH BINARY LOGS", &second], &keys).await?;
        let (now, status) = (stage.db.newest(&mut conn).await?.0, daemon.status().await?);
        ensure!(now > before, "the log was rotated");
        ensure!(status["checkpoint"]["file"] == now, "the checkpoint's file advances: {status}");
    }
    Ok(())
}

async fn restart_and_resume(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "restart").await? else { return Ok(()) };
    stage.open_shop(5).await?;
    let mut daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    let first = ["product:1", "product:sku:s1", "ver:1001", "category:1:products/1"];
    removes(&stage, &daemon, &mut conn, &["UPDATE products SET ver=1001 WHERE id=1"], &first).await?;
    let status = daemon.sigterm(Duration::from_secs(30)).await?;
    ensure!(status.code() == Some(0), "{status}\n{}", daemon.log_tail());
    let before = stage.checkpoint()?;

    // Changed, and the log rotated, while nobody follows.
    let from = stage.removals.total();
    run(
        &mut conn,
        &["UPDATE products SET ver=1002 WHERE id=2", "FLUSH BINARY LOGS", "DELETE FROM products WHERE id=3"],
    )
    .await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let removed: BTreeSet<String> = stage.removals.since(from).into_keys().collect();
    let expected = named(&[
        "product:2",
        "product:sku:s2",
        "ver:1002",
        "category:2:products/2",
        "product:3",
        "product:sku:s3",
        "category:3:products/3",
    ]);
    ensure!(removed == expected, "neither less nor the change before again: {removed:?}");
    let after = stage.checkpoint()?;
    ensure!((&before.file, before.position) < (&after.file, after.position), "{before:?} {after:?}");
    Ok(())
}

/// `start: latest` counts once: a daemon that dies before its first change resumes from there, not from a newer "latest".
async fn the_first_position_is_kept(flavor: Flavor) -> Result<()> {
    let Some(stage) = Stage::new(flavor, "firstpos").await? else { return Ok(()) };
    stage.open_shop(3).await?;
    let mut daemon = stage.start().await?;
    ensure!(daemon.kill9()?);
    let mut conn = stage.sql().await?;
    run(&mut conn, &["UPDATE products SET ver=1001 WHERE id=1"]).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    let removed: BTreeSet<String> = stage.removals.since(0).into_keys().collect();
    ensure!(
        removed == named(&["product:1", "product:sku:s1", "ver:1001", "category:1:products/1"]),
        "{removed:?}"
    );
    Ok(())
}

async fn start_modes(flavor: Flavor) -> Result<()> {
    let Some(mut stage) = Stage::new(flavor, "modes").await? else { return Ok(()) };
    stage.open_shop(2).await?;
    let mut conn = stage.sql().await?;
    let gtids = stage.db.gtids(&mut conn).await?;
    run(&mut conn, &["UPDATE products SET ver=1001 WHERE id=1"]).await?;
    let (file, position) = stage.db.newest(&mut conn).await?;
    run(&mut conn, &["UPDATE products SET ver=1002 WHERE id=2"]).await?;

    let created = [
        "product:1",
        "product:sku:s1",
        "ver:1",
        "category:1:products/1",
        "product:2",
        "product:sku:s2",
        "ver:2",
        "category:2:products/2",
    ];
    let one = ["product:1", "product:sku:s1", "ver:1001", "category:1:products/1"];
    let two = ["product:2", "product:sku:s2", "ver:1002", "category:2:products/2"];
    let modes = [
        ("earliest".to_owned(), [&created[..], &one, &two].concat()),
        (format!("{{ gtid: \"{gtids}\" }}"), [one, two].concat()),
        (format!("{{ file: \"{file}\", position: {position} }}"), two.to_vec()),
        ("latest".to_owned(), vec![]),
    ];
    for (start, expected) in modes {
        stage.fence()?;
        let from = stage.removals.total();
        stage.settings.start.clone_from(&start);
        for suffix in ["", ".prev"] {
            _ = std::fs::remove_file(format!("{}{suffix}", stage.checkpoint_path().display()));
        }
        let mut daemon = stage.start().await.with_context(|| format!("start: {start}"))?;
        stage.quiet(&daemon).await?;
        let removed: BTreeSet<String> = stage.removals.since(from).into_keys().collect();
        ensure!(removed == named(&expected), "start: {start}: {removed:?}, not {expected:?}");
        let status = daemon.sigterm(Duration::from_secs(30)).await?;
        ensure!(status.code() == Some(0), "{status}\n{}", daemon.log_tail());
    }
    Ok(())
}
