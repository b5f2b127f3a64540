//! `prefix` and `members_of`, on a real Redis: what they take and what not, twice; one iteration for all that wait; exact keys beside
//! them; pace by mapping. With the daemon and faults: `ops_faults.rs`.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redis::AsyncCommands as _;
use rowbust::pipeline::BULK_KEYS;
use rowbust::route::Kind;
use rowbust_integration_tests::rig::{Rig, WITHIN};
use rowbust_integration_tests::rng::seed;
use rowbust_integration_tests::shop;
use rowbust_integration_tests::wait::{Seen, until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The second removal comes after a fixed time: here is no server whose visibility could be asked for.
const LISTS: &str = r#"
  - table: shop.products
    second_removal: { after: 300ms }
    keys:
      - "product:{id}"
      - { prefix: "feed:{name}:", alarm_above: 100 }
      - { prefix: "list:{name}:" }
      - { members_of: "tag:{name}", members_prefix: ["product:", "page:"] }
      - { members_of: "any:{name}" }
"#;

async fn keys(rig: &mut Rig) -> Result<BTreeSet<String>> {
    let all: Vec<String> = rig.cache.keys("*").await?;
    Ok(all.into_iter().collect())
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|key| (*key).to_owned()).collect()
}

/// Sweeps have removed so many since the start.
async fn swept(rig: &Rig, least: u64) -> Result<()> {
    until("sweeps remove", WITHIN, async || {
        let removed = rig.sweeps.removed.load(Relaxed);
        Ok(Seen::check(removed >= least, || removed.to_string()))
    })
    .await
}

/// A column's value is never a glob, whatever it holds; and nothing else begins so.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_takes_what_begins_so_and_nothing_else() -> Result<()> {
    let Some(mut rig) = Rig::new("memory: 8MiB", LISTS).await? else { return Ok(()) };
    let hostile = ["7", "a*b", "[ab]?", "x\\", "*", "?", "[^a]", "ü", ""];
    let mut ours = Vec::new();
    for value in hostile {
        ours.extend((0..30).map(|n| format!("feed:{value}:{n}")));
        ours.push(format!("feed:{value}:"));
    }
    let foreign = [
        "feed:77:1",
        "feed:aXb:1",
        "feed:a:1",
        "feed:x:1",
        "feed:7",
        "xfeed:7:1",
        "Feed:7:1",
        "list:7:1",
        "feed",
    ];
    rig.fill(ours.iter().cloned().chain(foreign.map(String::from))).await?;
    for value in hostile {
        rig.sweep(0, Kind::Prefix, &format!("feed:{value}:")).await?;
    }
    swept(&rig, ours.len() as u64).await?;
    ensure!(keys(&mut rig).await? == set(&foreign), "left: {:?}", keys(&mut rig).await?);
    // Between the removals a reader puts an old value back.
    ensure!(rig.frontier.drain_done().is_none(), "done after one removal");
    rig.fill(["feed:a*b:again".to_owned()]).await?;
    let done = rig.settled().await?;
    ensure!(done.commits.context("no commit")?.span.last.position == rig.position);
    ensure!(keys(&mut rig).await? == set(&foreign), "left: {:?}", keys(&mut rig).await?);
    ensure!(rig.sweeps.waiting.load(Relaxed) == 0 && rig.sweeps.running.load(Relaxed) == 0);
    Ok(())
}

/// More keys than expected are told about, and all of them go.
#[tokio::test(flavor = "multi_thread")]
async fn above_the_alarm_all_are_removed() -> Result<()> {
    let Some(mut rig) = Rig::new("memory: 8MiB", LISTS).await? else { return Ok(()) };
    rig.fill((0..100).map(|n| format!("feed:few:{n}"))).await?;
    rig.sweep(0, Kind::Prefix, "feed:few:").await?;
    rig.settled().await?;
    ensure!(rig.sweeps.alarms.load(Relaxed) == 0, "an alarm for as many as are expected");
    rig.fill((0..3000).map(|n| format!("feed:many:{n}"))).await?;
    rig.sweep(0, Kind::Prefix, "feed:many:").await?;
    rig.settled().await?;
    ensure!(rig.sweeps.alarms.load(Relaxed) == 1, "{:?}", rig.sweeps);
    ensure!(keys(&mut rig).await?.is_empty());
    Ok(())
}

/// Prefixes that come while a sweep runs are answered together by the next one, in how many transactions ever.
#[tokio::test(flavor = "multi_thread")]
async fn many_prefixes_share_an_iteration() -> Result<()> {
    // 5000 keys to look at take 1 s.
    let Some(mut rig) = Rig::new("sweep_keys_per_second: 500", LISTS).await? else { return Ok(()) };
    rig.fill((0..5000).map(|n| format!("other:{n}"))).await?;
    rig.fill((0..200).map(|n| format!("feed:{n}:1"))).await?;
    rig.sweep(0, Kind::Prefix, "feed:0:").await?;
    until("a sweep runs", WITHIN, async || {
        Ok(Seen::check(rig.sweeps.running.load(Relaxed) > 0, || format!("{:?}", rig.sweeps)))
    })
    .await?;
    for n in 1..200 {
        rig.sweep(0, Kind::Prefix, &format!("feed:{n}:")).await?;
        // The same again costs nothing more.
        rig.sweep(0, Kind::Prefix, &format!("feed:{n}:")).await?;
    }
    ensure!(rig.sweeps.running.load(Relaxed) > 0, "void: the first sweep is over already");
    rig.settled().await?;
    let passes = rig.sweeps.passes.load(Relaxed);
    ensure!(passes <= 8, "{passes} iterations for 399 requests");
    ensure!(keys(&mut rig).await?.iter().all(|key| key.starts_with("other:")));
    Ok(())
}

/// Exact keys are removed while a sweep is at work, long before it ends; so are the members of sets.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_yields() -> Result<()> {
    let Some(mut rig) = Rig::new("sweep_keys_per_second: 2000", LISTS).await? else { return Ok(()) };
    let all = 4000_u64;
    rig.fill((0..all).map(|n| format!("feed:huge:{n}"))).await?;
    rig.sweep(0, Kind::Prefix, "feed:huge:").await?;
    swept(&rig, 100).await?;
    let begun = Instant::now();
    for n in 0..20 {
        let key = format!("product:{n}");
        rig.fill([key.clone()]).await?;
        rig.change(&key).await?;
        rig.gone(&key).await?;
    }
    rig.fill(["product:member".to_owned()]).await?;
    let _: () = rig.cache.sadd("tag:1", "product:member").await?;
    rig.sweep(0, Kind::MembersOf, "tag:1").await?;
    rig.gone("product:member").await?;
    let removed = rig.sweeps.removed.load(Relaxed);
    ensure!(removed < all, "the sweep was over before them: {removed} in {:?}", begun.elapsed());
    rig.settled().await?;
    ensure!(keys(&mut rig).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_emptied_and_its_members_are_gone() -> Result<()> {
    let Some(mut rig) = Rig::new("memory: 8MiB", LISTS).await? else { return Ok(()) };
    let members: Vec<String> = (0..3000).map(|n| format!("product:{n}")).collect();
    rig.fill(members.iter().cloned()).await?;
    let others = ["session:1", "tag:2", "product", "*"];
    rig.fill(others.map(String::from)).await?;
    for chunk in members.chunks(500) {
        let _: () = rig.cache.sadd("tag:1", chunk).await?;
    }
    let _: () = rig.cache.sadd("tag:1", &others[..]).await?;
    let _: () = rig.cache.sadd("tag:1", "page:not-cached").await?;
    rig.sweep(0, Kind::MembersOf, "tag:1").await?;
    swept(&rig, 3001).await?;
    // What begins with none of `members_prefix` stays, in the set too.
    let left: BTreeSet<String> = rig.cache.smembers("tag:1").await?;
    ensure!(left == set(&others), "{left:?}");
    ensure!(keys(&mut rig).await? == set(&["session:1", "tag:2", "product", "*", "tag:1"]));
    ensure!(rig.sweeps.left.load(Relaxed) >= 4);
    // Between the removals a reader fills with an old value, in the order that is asked for.
    rig.fill(["product:5".to_owned()]).await?;
    let _: () = rig.cache.sadd("tag:1", "product:5").await?;
    rig.settled().await?;
    ensure!(!rig.exists("product:5").await?, "the second removal left a late fill");
    let left: BTreeSet<String> = rig.cache.smembers("tag:1").await?;
    ensure!(left == set(&others), "{left:?}");

    // Without `members_prefix` every member goes, and the set with the last one. One that isn't there is no mistake.
    rig.fill(["a".to_owned(), "b c".to_owned(), "rowbust:own".to_owned()]).await?;
    let _: () = rig.cache.sadd("any:1", &["a", "b c", "none"][..]).await?;
    let _: () = rig.cache.sadd("any:3", &["a", "rowbust:own"][..]).await?;
    rig.sweep(0, Kind::MembersOf, "any:3").await?;
    rig.begin();
    rig.push_sweep(0, Kind::MembersOf, "any:1");
    rig.push_sweep(0, Kind::MembersOf, "any:none");
    rig.commit().await?;
    rig.settled().await?;
    let there = keys(&mut rig).await?;
    ensure!(!there.contains("a") && !there.contains("b c") && !there.contains("any:1"), "{there:?}");
    ensure!(there.contains("rowbust:own"), "a set took what is rowbust's own");

    // A plain value under the set's key.
    rig.fill(["any:2".to_owned()]).await?;
    rig.sweep(0, Kind::MembersOf, "any:2").await?;
    rig.settled().await?;
    ensure!(!rig.exists("any:2").await? && rig.sweeps.no_sets.load(Relaxed) >= 1);
    Ok(())
}

/// However fills (value first, then the entry) and removals interleave: in the end no value is cached that its set has forgotten, for the
/// next change wouldn't find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_member_is_forgotten() -> Result<()> {
    const MEMBERS: u64 = 400;
    let Some(mut rig) = Rig::new("sweep_keys_per_second: 0", LISTS).await? else { return Ok(()) };
    let (stop, seed) = (CancellationToken::new(), seed("no_member_is_forgotten"));
    let mut fills = JoinSet::new();
    for filler in 0..4 {
        let (stop, mut cache) = (stop.clone(), shop::redis(rig.redis.port()).await?);
        fills.spawn(async move {
            let (mut rng, mut count) = (StdRng::seed_from_u64(seed ^ filler), 0_u64);
            while !stop.is_cancelled() {
                let key = format!("product:{}", rng.random_range(0..MEMBERS));
                let _: () = cache.set(&key, count).await?;
                let _: () = cache.sadd("tag:1", &key).await?;
                count += 1;
            }
            Ok::<_, redis::RedisError>(count)
        });
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let before = rig.sweeps.sets.load(Relaxed);
        rig.sweep(0, Kind::MembersOf, "tag:1").await?;
        until("a set is gone through", WITHIN, async || {
            Ok(Seen::check(rig.sweeps.sets.load(Relaxed) > before, || format!("{:?}", rig.sweeps)))
        })
        .await?;
    }
    stop.cancel();
    let mut filled = 0;
    while let Some(count) = fills.join_next().await {
        filled += count??;
    }
    rig.settled().await?;
    // One more fill of everything, and no change since: all are cached, and none is forgotten.
    let removed = rig.sweeps.removed.load(Relaxed);
    ensure!(filled > 500 && removed > 500, "void: {filled} fills, {removed} removals");
    let mut forgotten = Vec::new();
    for key in keys(&mut rig).await?.into_iter().filter(|key| key.starts_with("product:")) {
        if !rig.cache.sismember("tag:1", &key).await? {
            forgotten.push(key);
        }
    }
    ensure!(forgotten.is_empty(), "cached, and in no set (seed {seed}): {forgotten:?}");
    Ok(())
}

const RATED: &str = r#"
  - table: shop.slow
    second_removal: never
    keys_per_second: 1000
    keys: ["slow:{id}", { prefix: "slowfeed:{id}:" }]
  - table: shop.fast
    second_removal: never
    keys: ["fast:{id}", { prefix: "fastfeed:{id}:" }]
"#;

/// A mapping's own rate holds for its bulk and its sweeps, and holds nobody else up.
#[tokio::test(flavor = "multi_thread")]
async fn paced_by_mapping() -> Result<()> {
    let Some(mut rig) = Rig::new("memory: 16MiB", RATED).await? else { return Ok(()) };
    let extra = 2000;
    let slow = |n: usize| format!("slow:{n}");
    rig.fill([slow(BULK_KEYS + extra - 1), "small".into()]).await?;
    let begun = Instant::now();
    rig.begin();
    for n in 0..BULK_KEYS + extra {
        rig.push(&slow(n));
        if rig.assembler.wants_flush() {
            rig.assembler.flush().await?;
        }
    }
    rig.commit().await?;
    // Small transactions of the same mapping pass, and another mapping's sweep does.
    rig.change("small").await?;
    rig.gone("small").await?;
    rig.fill((0..2000).map(|n| format!("fastfeed:1:{n}"))).await?;
    rig.sweep(1, Kind::Prefix, "fastfeed:1:").await?;
    rig.gone("fastfeed:1:1999").await?;
    ensure!(rig.exists(&slow(BULK_KEYS + extra - 1)).await?, "void: bulk is over in {:?}", begun.elapsed());
    rig.settled().await?;
    let took = begun.elapsed();
    // The last of its batches of up to 512 keys have gone when the rate is paid for those before.
    ensure!(took >= Duration::from_millis(1000), "bulk: {extra} keys at 1000 a second took {took:?}");

    rig.fill((0..2000).map(|n| format!("slowfeed:1:{n}"))).await?;
    let begun = Instant::now();
    rig.sweep(0, Kind::Prefix, "slowfeed:1:").await?;
    rig.settled().await?;
    let took = begun.elapsed();
    ensure!(took >= Duration::from_millis(1500), "sweep: 2000 keys at 1000 a second took {took:?}");
    Ok(())
}

/// A flush knows these too: whatever begins as a prefix can, the members of every set that the template can make.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_takes_prefixes_and_sets() -> Result<()> {
    let mappings = LISTS.replace("300ms", "10ms");
    let Some(mut rig) = Rig::new("flush_keys_per_second: 0", &mappings).await? else { return Ok(()) };
    rig.fill(["feed:1:a:b", "feed:x y", "list:1:", "product:1", "page:7", "free"].map(String::from)).await?;
    let _: () = rig.cache.sadd("tag:1", &["page:7", "session:1"][..]).await?;
    let _: () = rig.cache.sadd("any:2", &["free", "gone"][..]).await?;
    let _: () = rig.cache.sadd("any:a:b", "free").await?;
    rig.fill(["session:1".to_owned()]).await?;
    rig.widen("test").await?;
    rig.settled().await?;
    let left = keys(&mut rig).await?;
    ensure!(left == set(&["feed:x y", "tag:1", "session:1", "any:a:b"]), "{left:?}");
    Ok(())
}

/// Prints what a sweep over a large database costs, and what it costs others: `cargo test -p rowbust-integration-tests --test redis measure --
/// --ignored --nocapture`, best with `--release`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of a minute"]
async fn measure_a_huge_prefix() -> Result<()> {
    const KEYS: u64 = 1_000_000;
    let mappings = LISTS.replace("second_removal: { after: 300ms }", "second_removal: never");
    for rate in [0, 50_000] {
        let limits = format!("sweep_keys_per_second: {rate}");
        let Some(mut rig) = Rig::new(&limits, &mappings).await? else { return Ok(()) };
        let fill = async |rig: &mut Rig, prefix: &str| -> Result<()> {
            rig.fill((0..KEYS).map(|n| format!("{prefix}{n}"))).await
        };
        fill(&mut rig, "other:").await?;
        let begun = Instant::now();
        rig.sweep(0, Kind::Prefix, "feed:none:").await?;
        rig.settled().await?;
        let pass = begun.elapsed();
        let quiet = latencies(&mut rig, |_| false).await?;
        fill(&mut rig, "feed:huge:").await?;
        let begun = Instant::now();
        rig.sweep(0, Kind::Prefix, "feed:huge:").await?;
        let busy = latencies(&mut rig, |rig| rig.sweeps.running.load(Relaxed) > 0).await?;
        rig.settled().await?;
        let removal = begun.elapsed();
        let share = |all: &[Duration], percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
        let ratio = |percent| share(&busy, percent).as_secs_f64() / share(&quiet, percent).as_secs_f64();
        eprintln!(
            "rate {rate}: a pass over {KEYS} keys without a hit {pass:?}; one over {} that removes {KEYS} {removal:?}; an exact key's \
             removal p50 {:?}, p99 {:?} alone, p50 {:?}, p99 {:?} beside it: {:.2} and {:.2} times",
            2 * KEYS,
            share(&quiet, 50),
            share(&quiet, 99),
            share(&busy, 50),
            share(&busy, 99),
            ratio(50),
            ratio(99),
        );
    }
    Ok(())
}

/// From the commit's hand-over to the key's absence, sorted: 1000 times, or while `goes_on`.
async fn latencies(rig: &mut Rig, goes_on: impl Fn(&Rig) -> bool) -> Result<Vec<Duration>> {
    let mut all = Vec::new();
    while all.len() < 1000 || (goes_on(rig) && all.len() < 20_000) {
        rig.fill(["product:x".to_owned()]).await?;
        let begun = Instant::now();
        rig.change("product:x").await?;
        while rig.exists("product:x").await? {}
        all.push(begun.elapsed());
    }
    all.sort_unstable();
    Ok(all)
}
