//! Second deletes that are owed in Redis, by `delayed-double-delete`.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use rowbust_client::{Client, Step, strategy::DelayedDoubleDelete};
use rowbust_protocol::scripts::Script;
use rowbust_servers::Need;
use support::{Cache, Db, Stops, options, settings, until};

const KEY: &str = "product:7";
const LIST: &str = "rowbust:owed";

#[tokio::test]
async fn the_second_delete_survives_the_process_that_owes_it() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    fn strategy() -> DelayedDoubleDelete {
        DelayedDoubleDelete::new(Duration::from_millis(20)).update_within(Duration::from_millis(200))
    }
    let (db, url) = (Db::with(KEY, 1), cache.server.url());
    for step in [Step::Update, Step::Delete] {
        let stops = Arc::new(Stops::default());
        let stop = stops.at(step);
        // A process: its runtime, and all tasks in it, end at once.
        let (hooks, process_db, url) = (stops.clone(), db.clone(), url.clone());
        let process = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let redis = rowbust_client::Redis::connect(&url, options()).await.unwrap();
                let client = Client::builder(redis)
                    .strategy(strategy())
                    .settings(settings())
                    .hooks(hooks)
                    .build()
                    .unwrap();
                let write = process_db.put(&client, KEY, 2);
                tokio::select! { _ = write => panic!("not held up"), () = stop.reached() => {} }
            });
        });
        process.join().unwrap();
        // What it owes is in Redis; then a reader puts the old value there, and another process pays.
        assert_eq!(cache.server.cli(&["ZCARD", LIST]).unwrap(), "1");
        cache.server.cli(&["SET", KEY, "1"]).unwrap();
        let other = cache.client(strategy()).await;
        until("the second delete", async || cache.get(KEY).is_none()).await;
        until("it is struck out", async || cache.server.cli(&["ZCARD", LIST]).unwrap() == "0").await;
        assert_eq!(other.stats().second_deletes, 1);
    }
}

#[tokio::test]
async fn what_one_process_took_and_did_not_do_another_one_takes_up() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    // Taken, by the same script, by somebody who died: due again when the claim ends.
    let script = Script::Owe.text();
    let member = format!("{}{KEY}", "0".repeat(32));
    cache.server.cli(&["EVAL", script, "1", LIST, "1", &member]).unwrap();
    let take = Script::Take.text();
    until("it is due", async || {
        cache.server.cli(&["EVAL", take, "1", LIST, "100", "10"]).unwrap().contains(KEY)
    })
    .await;
    cache.server.cli(&["SET", KEY, "1"]).unwrap();
    let _sweeps = cache.client(DelayedDoubleDelete::new(Duration::from_millis(10))).await;
    until("the delete", async || cache.get(KEY).is_none()).await;
}

/// Somebody took the delete; then its write, which took long, owed it once more, due in the very millisecond in which that claim ends.
#[tokio::test]
async fn a_delete_that_is_owed_anew_is_not_struck_out_by_who_took_it_before() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let run = |script: Script, args: &[&str]| {
        cache.server.cli(&[&["EVAL", script.text(), "1", LIST], args].concat()).unwrap()
    };
    let (member, other) = (format!("{}{KEY}", "0".repeat(32)), format!("{}{KEY}", "1".repeat(32)));
    run(Script::Owe, &["1", &member]);
    let mut taken = String::new();
    until("it is due", async || {
        taken = run(Script::Take, &["3600000", "10"]);
        taken.contains(KEY)
    })
    .await;
    let claimed = taken.lines().nth(1).unwrap().to_owned();
    let ends: f64 = claimed.parse().unwrap();
    let score =
        |member: &str| -> f64 { cache.server.cli(&["ZSCORE", LIST, member]).unwrap().parse().unwrap() };
    let mut late = 0.0;
    until("the same millisecond", async || {
        let time = cache.server.cli(&["TIME"]).unwrap();
        let parts: Vec<f64> = time.lines().map(|part| part.parse().unwrap()).collect();
        let left = ends.floor() - (parts[0] * 1000.0 + (parts[1] / 1000.0).floor()) - late;
        // The other one's debt falls into it too.
        run(Script::Owe, &[&left.to_string(), &member, &other]);
        // What the way takes is taken off the next time.
        late += score(&member) - ends.floor();
        score(&member) == ends.floor()
    })
    .await;
    assert_eq!(run(Script::Settle, &[&member, &claimed]), "0");
    assert_eq!((score(&member), score(&other)), (ends.floor(), ends.floor()), "still owed, each for itself");
    // Who took it last strikes it out, and only that one.
    run(Script::Owe, &["0", &member]);
    until("taken anew", async || {
        taken = run(Script::Take, &["100", "10"]);
        taken.contains(&member)
    })
    .await;
    assert_eq!(run(Script::Settle, &[&member, taken.lines().nth(1).unwrap()]), "1");
    assert_eq!(cache.server.cli(&["ZRANGE", LIST, "0", "-1"]).unwrap(), other);
}
