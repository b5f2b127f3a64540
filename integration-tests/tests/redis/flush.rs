//! Flushing a keyspace, and pacing. First part by part on a real Redis: the assembler, the workers and the flush task as the daemon
//! has them; then TRUNCATE with the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use redis::AsyncCommands as _;
use rowbust::telemetry;
use rowbust_integration_tests::db;
use rowbust_integration_tests::monitor::{Monitor, Removals};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::rig::{Rig, WITHIN};
use rowbust_integration_tests::shop;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{Seen, until};
const SHOP: &str = r#"
  - table: shop.products
    second_removal: { after: 2s }
    keys:
      - "product:{id}"
      - "product:sku:{sku|upper}"
      - "user:{id}:[cart]"
      - "list*all"
      - { key: "category:{id}:products", op: hdel, field: "p{id}" }
      - { key: "names", op: hdel, field: "{name}" }
  - table: shop.orders
    keys: ["order:{id}"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_mapped_keyspace() -> Result<()> {
    let Some(mut rig) = Rig::new("flush_keys_per_second: 0", SHOP).await? else { return Ok(()) };
    let mapped = |n: u32| {
        [
            format!("product:{n}"),
            format!("product:a%3Ab{n}"),
            format!("product:sku:S{n}"),
            format!("user:{n}:[cart]"),
        ]
    };
    rig.fill((0..2000).flat_map(mapped).chain(["list*all".into(), "product:".into()])).await?;
    let foreign = [
        "product:1:lock",
        "product:sku:s1",
        "product:sku:A:1",
        "product:%C3%A9",
        "product:a b",
        "product:%3a",
        "user:1:c",
        "user:1:[cart]:2",
        "user:a:b:[cart]",
        "listXall",
        "list*all2",
        "products:1",
        "order:1",
        "xproduct:1",
        "category:x:y:products",
        "unrelated",
    ];
    rig.fill(foreign.map(String::from)).await?;
    for n in 0..300 {
        let _: () = rig.cache.hset("category:7:products", format!("p{n}"), "old").await?;
        let _: () = rig.cache.hset("names", format!("name{n}"), "old").await?;
    }
    for (key, field) in [("category:7:products", "total"), ("category:7:products", "p1:x"), ("names", "a:b")]
    {
        let _: () = rig.cache.hset(key, field, "foreign").await?;
    }
    // A key of another type than the mapping says: there are no fields.
    rig.fill(["category:8:products".to_owned()]).await?;

    rig.widen("test of all kinds").await?;
    // All of it by the first pass.
    rig.removed(2000 * 4 + 2 + 600).await?;
    rig.between_passes().await?;
    ensure!(rig.frontier.stats().open == 1 && rig.frontier.drain_done().is_none(), "done after one pass");
    // What a reader puts back with an old value, after the first pass.
    rig.fill(["product:1".to_owned(), "user:5:[cart]".to_owned()]).await?;
    let done = rig.settled().await?;
    let at = done.commits.context("no commit")?.span.last;
    ensure!(at.position == rig.position, "{at:?}");

    let mut left: Vec<String> = rig.cache.keys("*").await?;
    left.sort_unstable();
    let mut expected: Vec<String> = foreign
        .iter()
        .chain(&["category:7:products", "category:8:products", "names"])
        .map(|k| (*k).to_owned())
        .collect();
    expected.sort_unstable();
    ensure!(left == expected, "left: {left:?}");
    let mut fields: Vec<String> = rig.cache.hkeys("category:7:products").await?;
    fields.sort_unstable();
    ensure!(fields == ["p1:x", "total"], "{fields:?}");
    let fields: Vec<String> = rig.cache.hkeys("names").await?;
    ensure!(fields == ["a:b"], "{fields:?}");
    let totals = rig.stats.snapshot().totals;
    ensure!(totals.get("test") == Some(&(1, 1)), "{totals:?}");
    Ok(())
}

const PRODUCTS: &str = r#"
  - table: shop.products
    second_removal: { after: 200ms }
    keys: ["product:{id}"]
"#;

fn products(n: u32) -> impl Iterator<Item = String> {
    (0..n).map(|id| format!("product:{id}"))
}

/// Exact keys pass while a flush is paced, and the checkpoint waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn paced_and_exact_keys_pass() -> Result<()> {
    let (keys, rate) = (4000_u32, 1000_u32);
    let Some(mut rig) = Rig::new(&format!("flush_keys_per_second: {rate}"), PRODUCTS).await? else {
        return Ok(());
    };
    rig.fill(products(keys)).await?;
    let begun = Instant::now();
    rig.widen("pace").await?;
    rig.removed(1).await?;
    let mut exact = 0;
    while rig.stats.counts().0 < u64::from(keys) * 3 / 4 {
        rig.fill(["exact".to_owned()]).await?;
        rig.change("exact").await?;
        rig.gone("exact").await?;
        exact += 1;
    }
    ensure!(exact >= 5, "exact keys waited for the flush: {exact} passed");
    ensure!(rig.frontier.drain_done().is_none(), "the checkpoint passed a flush that runs");
    // Settled behind it: not one slot each.
    until("exact keys are settled", WITHIN, async || {
        let open = rig.frontier.stats().open;
        Ok(Seen::check(open <= 2, || open.to_string()))
    })
    .await?;
    rig.removed(u64::from(keys)).await?;
    // Keys that are only looked at count too; the burst is a tenth of a second, and the last batch isn't waited for.
    let least = Duration::from_secs_f64(f64::from(keys) / f64::from(rate) * 0.7);
    ensure!(begun.elapsed() >= least, "{keys} keys in {:?}", begun.elapsed());
    rig.settled().await?;
    ensure!(begun.elapsed() < least * 6, "{:?}", begun.elapsed());
    Ok(())
}

/// What is owed before a pass begins is served by it; what comes while it runs by one more.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_served_together() -> Result<()> {
    let mappings = PRODUCTS.replace("{ after: 200ms }", "never");
    let Some(mut rig) = Rig::new("flush_keys_per_second: 1000", &mappings).await? else { return Ok(()) };
    rig.fill(products(5000)).await?;
    rig.widen("first").await?;
    rig.removed(1).await?;
    for _ in 0..50 {
        rig.widen("storm").await?;
    }
    ensure!(rig.stats.snapshot().running.is_some(), "void: the first pass is over already");
    rig.settled().await?;
    let totals = rig.stats.snapshot().totals;
    ensure!(totals["first"] == (1, 1) && totals["storm"] == (50, 50), "{totals:?}");
    // One pass of some pages, for the table shrinks meanwhile, and one over nothing; not 51.
    let scans = rig.calls("scan").await?;
    ensure!((3..=30).contains(&scans), "{scans} SCANs");
    Ok(())
}

/// Redis goes in the middle of a pass: it is held, begun anew, and nothing is passed over. A daemon that dies meanwhile has its
/// checkpoint before the flush.
#[tokio::test(flavor = "multi_thread")]
async fn redis_stopped_in_the_middle() -> Result<()> {
    let Some(mut rig) = Rig::new("flush_keys_per_second: 2000", PRODUCTS).await? else { return Ok(()) };
    rig.fill(products(4000).chain(["foreign:1".to_owned()])).await?;
    rig.widen("outage").await?;
    rig.removed(500).await?;
    tokio::task::block_in_place(|| rig.redis.shutdown_save())?;
    until("it is held", WITHIN, async || {
        let running = rig.stats.snapshot().running.context("no pass runs")?;
        Ok(Seen::check(running.held_by.is_some(), || format!("{running:?}")))
    })
    .await?;
    ensure!(rig.frontier.stats().open == 1 && rig.frontier.drain_done().is_none());
    tokio::task::block_in_place(|| rig.redis.start_again())?;
    rig.cache = shop::redis(rig.redis.port()).await?;
    rig.settled().await?;
    let left: Vec<String> = rig.cache.keys("*").await?;
    ensure!(left == ["foreign:1"], "{left:?}");

    // Cut off in the middle of a pass: the ticket is lost, never settled.
    rig.fill(products(4000)).await?;
    rig.widen("crash").await?;
    let before = rig.stats.counts().0;
    rig.removed(before + 100).await?;
    rig.tasks.shutdown().await;
    let stats = rig.frontier.stats();
    ensure!(stats.open == 1 && stats.lost == 1 && rig.frontier.drain_done().is_none(), "{stats:?}");
    Ok(())
}

/// Keys of small transactions pass a bulk one, which keeps to its pace and to its half of the memory.
#[tokio::test(flavor = "multi_thread")]
async fn small_transactions_pass_bulk() -> Result<()> {
    let mappings = PRODUCTS.replace("{ after: 200ms }", "never");
    let (keys, rate) = (16_000_u32, 2_000_u32);
    let Some(mut rig) = Rig::new(&format!("keys_per_second: {rate}, memory: 4MiB"), &mappings).await? else {
        return Ok(());
    };
    rig.fill(products(keys)).await?;
    let begun = Instant::now();
    rig.begin();
    for key in products(keys) {
        rig.push(&key);
        if rig.assembler.wants_flush() {
            rig.assembler.flush().await?;
        }
    }
    rig.commit().await?;
    ensure!(rig.exists(&format!("product:{}", keys - 1)).await?, "reading waited for bulk");
    ensure!(rig.budget.used() <= rig.budget.total() / 2 + (64 << 10), "bulk took more than its half");
    let mut small = 0;
    while rig.exists(&format!("product:{}", keys - 1)).await? {
        rig.fill(["small".to_owned()]).await?;
        rig.change("small").await?;
        rig.gone("small").await?;
        small += 1;
    }
    ensure!(small >= 5, "small transactions waited for bulk: {small} passed");
    rig.settled().await?;
    // The first 10,000 keys are not bulk.
    let least = Duration::from_secs_f64(f64::from(keys - 10_000) / f64::from(rate) * 0.6);
    ensure!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    let left: u64 = redis::cmd("DBSIZE").query_async(&mut rig.cache).await?;
    ensure!(left == 0, "{left} keys are left");
    Ok(())
}

/// One list key in every row of a large transaction costs a few removals, whatever else its rows name.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_every_row_is_removed_a_few_times() -> Result<()> {
    const ROWS: u32 = 300_000;
    let mappings = PRODUCTS.replace("200ms", "50ms");
    let Some(mut rig) = Rig::new("memory: 8MiB", &mappings).await? else { return Ok(()) };
    let removals = Arc::new(Removals::default());
    let monitor = Monitor::start(rig.redis.port(), Arc::clone(&removals))?;
    // Only the list: whenever the reader pauses, what has gathered is handed on.
    rig.begin();
    for row in 0..ROWS {
        rig.push("list:only");
        if row % 1000 == 0 {
            rig.assembler.flush().await?;
        }
    }
    rig.commit().await?;
    rig.settled().await?;
    // Beside a key of its own for each row.
    rig.begin();
    for key in products(ROWS) {
        rig.push("list:all");
        rig.push(&key);
        if rig.assembler.wants_flush() {
            rig.assembler.flush().await?;
        }
    }
    rig.commit().await?;
    rig.settled().await?;
    // The next transaction owes it again: nothing is remembered over a commit.
    rig.change("list:all").await?;
    rig.settled().await?;
    tokio::task::block_in_place(|| monitor.fence())?;
    let count = |key: &str| removals.of(key).len();
    ensure!(count("list:only") == 2, "list:only: {}", count("list:only"));
    ensure!((4..=8).contains(&count("list:all")), "list:all: {}", count("list:all"));
    ensure!(count("product:299999") == 2, "product:299999: {}", count("product:299999"));
    Ok(())
}

/// A segment that ends before a transaction has keys in it says nothing about that transaction's.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_transaction_before_are_owed_again() -> Result<()> {
    let mappings = PRODUCTS.replace("200ms", "50ms");
    let Some(mut rig) = Rig::new("memory: 8MiB", &mappings).await? else { return Ok(()) };
    let removals = Arc::new(Removals::default());
    let monitor = Monitor::start(rig.redis.port(), Arc::clone(&removals))?;
    rig.begin();
    rig.push("list:all");
    rig.position += 100;
    let at = rig.at();
    rig.assembler.commit(&at, None);
    // The reader pauses when the next has just begun.
    rig.begin();
    rig.assembler.flush().await?;
    rig.settled().await?;
    rig.push("list:all");
    rig.commit().await?;
    rig.settled().await?;
    tokio::task::block_in_place(|| monitor.fence())?;
    ensure!(removals.of("list:all").len() == 4, "{}", removals.of("list:all").len());
    Ok(())
}

on_both!(truncate_and_die);

/// TRUNCATE of a mapped table; the daemon dies in the middle of the flush, twice, and the next one does it all.
async fn truncate_and_die(flavor: db::Flavor) -> Result<()> {
    const COUNT: u64 = 1500;
    let Some(mut stage) = Stage::new(flavor, "flush").await? else { return Ok(()) };
    stage.settings.limits = Some("{ flush_keys_per_second: 1000 }".into());
    stage.open_shop(COUNT).await?;
    let mut cache = shop::redis(stage.redis.port()).await?;
    let foreign = ["product:1:lock", "product:sku:a b", "products:sku", "category:1:products:x", "order:1"];
    for key in foreign {
        let _: () = cache.set(key, "foreign").await?;
    }
    let _: () = cache.hset("category:1:products", "not:a:field", "foreign").await?;
    let mut daemon = stage.start().await?;
    let mut conn = stage.db.connect().await?;
    conn.query_drop(format!("TRUNCATE TABLE {}.products", stage.schema)).await?;
    let truncated = stage.db.newest(&mut conn).await?;
    for death in 1..=2 {
        daemon.metric_at_least(telemetry::FLUSH_REMOVED, 300.0, WITHIN).await?;
        ensure!(daemon.metric(telemetry::FLUSH_RUNNING).await? > 0.0, "void: no flush runs at death {death}");
        ensure!(daemon.metric(telemetry::FLUSH_STARTED).await? > 0.0, "no cause is counted");
        let status = daemon.status().await?;
        let causes = &status["flush"][0]["running"]["causes"];
        ensure!(causes[0].as_str().is_some_and(|cause| cause.starts_with("truncate: ")), "{status}");
        ensure!(daemon.kill9()?);
        let saved = stage.checkpoint()?;
        ensure!(
            (saved.file.clone(), saved.position) < truncated,
            "the checkpoint passed the flush: {saved:?}"
        );
        daemon = stage.start().await?;
    }
    // Put back by a reader that saw the rows before the TRUNCATE: within the grace of the second pass.
    daemon.metric_at_least(telemetry::FLUSH_REMOVED, 1.0, WITHIN).await?;
    let _: () = cache.set("product:1", "stale").await?;
    let _: () = cache.set("product:sku:s1", "stale").await?;
    stage.quiet(&daemon).await?;
    let mut left = shop::cached(&mut cache).await?;
    left.retain(|key| !key.starts_with("control:"));
    let mut expected: Vec<&str> = foreign.into_iter().chain(["category:1:products"]).collect();
    expected.sort_unstable();
    ensure!(left == expected, "left: {left:?}\n{}", daemon.log_tail());
    let controls: Vec<String> = cache.keys("control:*").await?;
    ensure!(controls.len() as u64 == COUNT, "control keys are gone: {}", controls.len());
    let fields: Vec<String> = cache.hkeys("category:1:products").await?;
    ensure!(fields == ["not:a:field"], "{fields:?}");
    ensure!(daemon.metric(telemetry::FLUSH_FINISHED).await? > 0.0);
    let saved = stage.checkpoint()?;
    ensure!((saved.file.clone(), saved.position) >= truncated, "{saved:?}");
    Ok(())
}
