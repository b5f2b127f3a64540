//! Values that are loaded anew while the old ones are served: early refresh, and logical expiry.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use rowbust_client::{
    Client, EarlyRefresh, Settings, Step,
    strategy::{BinlogLease, Guarded, LogicalExpiry, Strategy, TtlOnly},
};
use rowbust_servers::Need;
use support::{Cache, Db, Stops, settings};

const KEY: &str = "product:7";

/// β this large: any entry is near its end once a load's time is known.
async fn eager(cache: &Cache, strategy: Arc<dyn Strategy>, stops: &Arc<Stops>) -> Client {
    let settings = Settings { early_refresh: Some(EarlyRefresh { beta: 1e15 }), ..settings() };
    let builder = Client::builder(cache.redis().await).strategy_arc(strategy);
    builder.settings(settings).hooks(stops.clone()).build().unwrap()
}

#[tokio::test]
async fn an_entry_near_its_end_is_refreshed_early_and_a_failing_refresh_harms_nobody() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let strategies: [Arc<dyn Strategy>; 3] =
        [Arc::new(TtlOnly), Arc::new(Guarded::new()), Arc::new(BinlogLease::new())];
    for strategy in strategies {
        cache.unlink(KEY);
        let db = Db::with(KEY, 1);
        let client = eager(&cache, strategy, &Arc::new(Stops::default())).await;
        assert_eq!(db.get(&client, KEY).await.unwrap(), Some(1));
        db.commit(KEY, 2);
        db.show();
        let left = || -> u64 { cache.server.cli(&["PTTL", KEY]).unwrap().parse().unwrap() };
        let before = left();
        let fails = async |_| Err::<Option<u64>, _>("the database is down");
        assert_eq!(client.get_or_load(KEY, fails).await.unwrap(), Some(1));
        assert_eq!(cache.get(KEY).as_deref(), Some("1"), "nothing is left behind");
        assert!((1..=before).contains(&left()), "it keeps its time");
        assert_eq!(db.get(&client, KEY).await.unwrap(), Some(2));
        assert_eq!(cache.get(KEY).as_deref(), Some("2"));
        assert_eq!(client.stats().early, 1);
        // Several at once, too.
        db.commit(KEY, 3);
        db.show();
        let load = async |_, keys: Vec<String>| {
            Ok::<_, Infallible>(
                keys.into_iter().filter_map(|key| Some((key.clone(), db.read(&key)?))).collect(),
            )
        };
        let many = client.get_many::<u64, _, _, _>(&[KEY], load).await.unwrap();
        assert_eq!(many, HashMap::from([(KEY.to_owned(), 3)]));
        assert_eq!((cache.get(KEY).as_deref(), client.stats().early), (Some("3"), 2));
    }
}

#[tokio::test]
async fn while_one_reader_of_guarded_refreshes_all_others_are_served() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let none = Arc::new(Stops::default());
    let (refresher, other) = (
        eager(&cache, Arc::new(Guarded::new()), &stops).await,
        eager(&cache, Arc::new(Guarded::new()), &none).await,
    );
    let plain = cache.client(Guarded::new()).await;
    assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1));
    // The refresher knows how long loads take.
    db.commit("another", 1);
    db.show();
    db.get(&refresher, "another").await.unwrap();
    let loads = db.loads();
    db.commit(KEY, 2);
    db.show();
    let load = stops.at(Step::Load);
    let refreshing = {
        let (client, db) = (refresher.clone(), db.clone());
        tokio::spawn(async move { db.get(&client, KEY).await.unwrap() })
    };
    load.reached().await;
    for client in [&other, &plain] {
        let trips = client.redis().round_trips();
        assert_eq!(db.get(client, KEY).await.unwrap(), Some(1), "served meanwhile");
        assert_eq!(client.redis().round_trips() - trips, 1, "as any hit");
    }
    assert_eq!(db.loads(), loads, "a second refresh");
    load.go();
    assert_eq!(refreshing.await.unwrap(), Some(2));
    assert_eq!((cache.get(KEY).as_deref(), db.loads()), (Some("2"), loads + 1));
}

/// The value that comes back between is the very one that was there: nothing but the lease tells that it was removed.
#[tokio::test]
async fn behind_a_removal_the_fill_of_a_refresh_is_refused() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let (refresher, other) =
        (eager(&cache, Arc::new(Guarded::new()), &stops).await, cache.client(Guarded::new()).await);
    for refilled in [false, true] {
        db.commit(KEY, 1);
        db.show();
        cache.unlink(KEY);
        assert_eq!(db.get(&refresher, KEY).await.unwrap(), Some(1));
        let refused = refresher.stats().refused;
        db.commit(KEY, 2);
        db.show();
        let fill = stops.at(Step::Fill);
        let refreshing = {
            let (client, db) = (refresher.clone(), db.clone());
            tokio::spawn(async move { db.get(&client, KEY).await.unwrap() })
        };
        fill.reached().await;
        db.commit(KEY, 1);
        db.show();
        cache.unlink(KEY);
        if refilled {
            assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1));
        }
        fill.go();
        // What was read is handed out, and not kept.
        assert_eq!(refreshing.await.unwrap(), Some(2));
        assert_eq!(cache.get(KEY).as_deref(), refilled.then_some("1"));
        assert_eq!(refresher.stats().refused, refused + 1);
    }
}

#[tokio::test]
async fn behind_its_logical_expiry_one_reader_rebuilds_and_the_others_get_the_old_value() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let (db, stops) = (Db::with(KEY, 1), Arc::new(Stops::default()));
    let keep = Duration::from_secs(3600);
    let strategy = || LogicalExpiry::new().keep(keep);
    let (rebuilder, other) = (cache.held(strategy(), &stops).await, cache.client(strategy()).await);
    assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1));
    db.put(&other, KEY, 2).await.unwrap().into_result().unwrap();
    assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1));
    assert_eq!(db.loads(), 1);
    // Past its TTL.
    cache.server.cli(&["PEXPIRE", KEY, &(keep.as_millis() - 1).to_string()]).unwrap();
    let load = stops.at(Step::Load);
    let rebuilding = {
        let (client, db) = (rebuilder.clone(), db.clone());
        tokio::spawn(async move { db.get(&client, KEY).await.unwrap() })
    };
    load.reached().await;
    assert_eq!(db.get(&other, KEY).await.unwrap(), Some(1), "waited for the rebuild");
    let many = other
        .get_many(&[KEY], async |_, _| Ok::<_, Infallible>(HashMap::<String, u64>::new()))
        .await
        .unwrap();
    assert_eq!(many, HashMap::from([(KEY.to_owned(), 1)]));
    assert_eq!(db.loads(), 1);
    load.go();
    assert_eq!(rebuilding.await.unwrap(), Some(2));
    assert_eq!(db.get(&other, KEY).await.unwrap(), Some(2));
    assert_eq!((db.loads(), rebuilder.stats().early), (2, 1));
    // Its lock was given back.
    assert_eq!(cache.get(&format!("rowbust:rebuild:{{{KEY}}}")), None);
}
