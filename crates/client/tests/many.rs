//! Several keys at once: one load, and what is handed out when it fails; on a real Redis.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use rowbust_client::{
    Breaker, CallOptions, Client, EarlyRefresh, Error, Foreign, Loaded, OnOverload, Origin, Settings,
    strategy::{CacheAside, Guarded, LockSerialized, LogicalExpiry, Strategy},
};
use rowbust_servers::Need;
use support::{Cache, settings};

type Values = HashMap<String, u64>;

const HOUR: Duration = Duration::from_secs(3600);

fn values<const N: usize>(values: [(&str, u64); N]) -> Values {
    values.map(|(key, value)| (key.to_owned(), value)).into()
}

async fn load_of(client: &Client, keys: &[&str], rows: &Values) -> Result<Values, Error> {
    client.get_many(keys, async |_, _| Ok::<_, Infallible>(rows.clone())).await
}

async fn failing(client: &Client, keys: &[&str]) -> Result<Values, Error> {
    client.get_many(keys, async |_, _| Err::<Values, _>("the database said no")).await
}

async fn refused(client: &Client, keys: &[&str]) -> Result<Values, Error> {
    let load =
        async |_, missing| -> Result<Values, Infallible> { panic!("{missing:?} while the breaker is open") };
    client.get_many(keys, load).await
}

async fn client(cache: &Cache, strategy: Arc<dyn Strategy>, settings: Settings) -> Client {
    Client::builder(cache.redis().await).strategy_arc(strategy).settings(settings).build().unwrap()
}

#[tokio::test]
async fn many_keys_are_one_load() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    for strategy in
        [Arc::new(CacheAside) as Arc<dyn Strategy>, Arc::new(Guarded::new()), Arc::new(LockSerialized::new())]
    {
        let builder = Client::builder(cache.redis().await).strategy_arc(strategy);
        let client = builder.settings(settings()).build().unwrap();
        cache.server.cli(&["FLUSHALL"]).unwrap();
        cache.server.cli(&["SET", "k1", "1"]).unwrap();
        cache.server.cli(&["SET", "k5", "garbage"]).unwrap();
        let load = async |_, missing: Vec<String>| {
            assert_eq!(missing, ["k2", "k3", "k5"]);
            Ok::<_, Infallible>(HashMap::from([("k2".to_owned(), 2u64), ("k5".to_owned(), 5)]))
        };
        let values = client.get_many(&["k3", "k1", "k2", "k1", "k5"], load).await.unwrap();
        let expected: HashMap<String, u64> =
            [("k1", 1), ("k2", 2), ("k5", 5)].map(|(k, v)| (k.to_owned(), v)).into();
        assert_eq!(values, expected, "{}", client.strategy());
        let none = async |_, missing: Vec<String>| -> Result<HashMap<String, u64>, Infallible> {
            panic!("{missing:?}")
        };
        assert_eq!(
            client.get_many(&["k1", "k2", "k3", "k5"], none).await.unwrap(),
            expected,
            "absent k3 too"
        );
        assert!(client.get_many(&[], none).await.unwrap().is_empty());
        let stats = client.stats();
        assert_eq!((stats.loads, stats.fills, stats.foreign), (1, 3, 1));
        // JSON has no keys but texts.
        type Odd = HashMap<(u8, u8), u8>;
        let odd = async |_, _| {
            let values = [("k6", Odd::new()), ("k7", Odd::from([((1, 2), 3)])), ("k8", Odd::new())];
            Ok::<_, Infallible>(HashMap::from(values.map(|(key, value)| (key.to_owned(), value))))
        };
        let error = client.get_many(&["k6", "k7", "k8"], odd).await.unwrap_err();
        assert!(matches!(&error, Error::Encode { key, .. } if key == "k7"), "{error}");
        for key in ["k6", "k7", "k8"] {
            assert_eq!(
                cache.get(key),
                None,
                "{}: a lease was left behind, or half a batch",
                client.strategy()
            );
            let lock = format!("rowbust:lock:{{{key}}}");
            let fields = cache.server.cli(&["HKEYS", &lock]).unwrap();
            assert!(!fields.contains("r:"), "a lock was left behind: {fields}");
        }
        let fails = async |_, _| Err::<HashMap<String, u64>, _>("the database said no");
        assert!(matches!(client.get_many(&["k9"], fails).await, Err(Error::Load(_))));
        assert_eq!(cache.get("k9"), None, "a lease was left behind");
    }
}

#[tokio::test]
async fn what_only_had_to_be_refreshed_is_handed_out_when_it_cannot_be() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let breaker = Some(Breaker { failures: 2, cool_down: HOUR });
    // β this large: any entry is near its end once a load's time is known.
    let early_refresh = Some(EarlyRefresh { beta: 1e15 });
    let plain = Settings { breaker, early_refresh, ..settings() };
    let logical = Settings { breaker, ..settings() };
    let keep: Arc<dyn Strategy> = Arc::new(LogicalExpiry::new().keep(HOUR));
    for (strategy, settings) in [(Arc::new(CacheAside) as Arc<dyn Strategy>, plain), (keep, logical)] {
        cache.server.cli(&["FLUSHALL"]).unwrap();
        let client = client(&cache, strategy, settings).await;
        let name = client.strategy();
        let old = values([("k1", 1), ("k2", 2)]);
        let keys = ["absent", "k1", "k2"];
        assert_eq!(load_of(&client, &keys, &old).await.unwrap(), old);
        for key in keys {
            // Past its logical expiry, or near its end.
            cache.server.cli(&["PEXPIRE", key, &(HOUR.as_millis() - 1).to_string()]).unwrap();
        }
        assert_eq!(failing(&client, &keys).await.unwrap(), old, "{name}");
        // Where a key is missing, there is no answer; that is the second failure.
        assert!(matches!(failing(&client, &["k1", "k3"]).await, Err(Error::Load(_))), "{name}");
        assert_eq!(refused(&client, &keys).await.unwrap(), old, "{name}");
        let error = refused(&client, &["k1", "k3"]).await.unwrap_err();
        assert!(matches!(error, Error::Overloaded { .. }), "{name}: {error}");
        // No lock is left behind, and the entries stand.
        let left = cache.server.cli(&["DBSIZE"]).unwrap();
        assert_eq!(left, "3", "{name}");
        let stats = client.stats();
        assert_eq!((stats.load_failures, stats.overloaded, stats.early), (2, 2, 0), "{name}");
    }
}

#[tokio::test]
async fn what_was_seen_last_is_handed_out_while_the_breaker_is_open() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let breaker = Some(Breaker { failures: 1, cool_down: HOUR });
    let on_overload = OnOverload::ServeStale { entries: 10, max_age: HOUR };
    let settings = Settings { breaker, on_overload, ..settings() };
    let client = client(&cache, Arc::new(Guarded::new()), settings).await;
    let rows = values([("k1", 1), ("k2", 2)]);
    // Seen as loaded, and as a hit.
    cache.server.cli(&["SET", "k2", "2"]).unwrap();
    assert_eq!(load_of(&client, &["absent", "k1", "k2"], &rows).await.unwrap(), rows);
    cache.server.cli(&["FLUSHALL"]).unwrap();
    assert!(matches!(failing(&client, &["k1"]).await, Err(Error::Load(_))));
    assert_eq!(refused(&client, &["absent", "k1", "k2"]).await.unwrap(), rows);
    assert_eq!(client.stats().stale, 3);
    // All or nothing.
    assert!(matches!(refused(&client, &["k1", "k3"]).await, Err(Error::Overloaded { .. })));
    // Nothing that is stale went into the cache, and no lease stays behind.
    assert_eq!(cache.server.cli(&["DBSIZE"]).unwrap(), "0");
    let stats = client.stats();
    assert_eq!((stats.overloaded, stats.stale), (2, 3));
    // A read of one key gets them too.
    let load = async |_| -> Result<Option<u64>, Infallible> { panic!("loaded while the breaker is open") };
    assert_eq!(client.get_or_load("k2", load).await.unwrap(), Some(2));
}

#[tokio::test]
async fn options_of_a_call_count_for_each_of_its_keys() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let client = client(&cache, Arc::new(Guarded::new()), settings()).await;
    let keys = ["absent", "k1", "k2"];
    let get = async |options: CallOptions, rows: Values| {
        client.get_many_with(&keys, &options, async |_, _| Ok::<_, Infallible>(rows)).await
    };
    let is = |values: [Option<u64>; 3], origin| -> HashMap<String, Loaded<u64>> {
        let of = |(key, value): (&str, _)| (key.to_owned(), Loaded { value, origin });
        keys.into_iter().zip(values).map(of).collect()
    };
    let left = |key: &str| cache.server.cli(&["PTTL", key]).unwrap().parse::<i64>().unwrap();
    let rows = values([("k1", 1), ("k2", 2)]);
    let short = CallOptions::default().ttl(Duration::from_secs(5)).null_ttl(Some(Duration::from_secs(2)));
    let loaded = get(short.clone(), rows.clone()).await.unwrap();
    assert_eq!(loaded, is([None, Some(1), Some(2)], Origin::Database));
    let times = keys.map(left);
    assert!(
        (1..=2000).contains(&times[0]) && times[1..].iter().all(|ms| (1..=5000).contains(ms)),
        "{times:?}"
    );
    // Not loaded again, but when that is asked for; then without what isn't to be kept.
    let hour = CallOptions::default().ttl(HOUR);
    assert_eq!(get(hour.clone(), Values::new()).await.unwrap(), is([None, Some(1), Some(2)], Origin::Cache));
    let again = hour.null_ttl(None).refresh();
    let loaded = get(again, values([("k2", 3)])).await.unwrap();
    assert_eq!(loaded, is([None, None, Some(3)], Origin::Database));
    assert_eq!((cache.get("absent"), cache.get("k1")), (None, None));
    assert!(left("k2") > 3_000_000);
    cache.server.cli(&["SET", "k2", "garbage"]).unwrap();
    let error = get(CallOptions::default().foreign(Foreign::Fail), rows).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn what_is_old_says_so() {
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let breaker = Some(Breaker { failures: 1, cool_down: HOUR });
    let on_overload = OnOverload::ServeStale { entries: 10, max_age: HOUR };
    let client =
        client(&cache, Arc::new(Guarded::new()), Settings { breaker, on_overload, ..settings() }).await;
    let rows = values([("k1", 1), ("k2", 2)]);
    assert_eq!(load_of(&client, &["k1", "k2"], &rows).await.unwrap(), rows);
    cache.unlink("k1");
    assert!(matches!(failing(&client, &["k3"]).await, Err(Error::Load(_))));
    let load =
        async |_, missing| -> Result<Values, Infallible> { panic!("{missing:?} while the breaker is open") };
    let got = client.get_many_with(&["k1", "k2"], &CallOptions::default(), load).await.unwrap();
    let origins = ["k1", "k2"].map(|key| got[key].origin);
    assert_eq!(origins, [Origin::Stale, Origin::Cache]);
}
