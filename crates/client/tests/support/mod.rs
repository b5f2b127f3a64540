//! A Redis of one's own, a database in memory whose commits become visible when the test says so, and hooks that hold a step up.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use rowbust_client::{
    Change, Client, ConnectOptions, Error, Hooks, Redis, Settings, Step, Written, strategy::Strategy,
};
use rowbust_servers::{Need, Redis as Server, StartOptions, require};
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// Longer than anything takes on a loaded machine.
pub const WITHIN: Duration = Duration::from_secs(30);

/// A server and its folder.
pub struct Cache {
    pub server: Server,
    _dir: TempDir,
}

impl Cache {
    pub fn start(need: Need) -> Option<Self> {
        require(&[need])?;
        let dir = TempDir::new().unwrap();
        let server = Server::start_as(need, StartOptions::new(dir.path())).unwrap();
        Some(Self { server, _dir: dir })
    }

    pub async fn redis(&self) -> Redis {
        Redis::connect(&self.server.url(), options()).await.unwrap()
    }

    /// A client as another process would have it: with a connection of its own.
    pub async fn client(&self, strategy: impl Strategy) -> Client {
        Client::builder(self.redis().await).strategy(strategy).settings(settings()).build().unwrap()
    }

    pub async fn held(&self, strategy: impl Strategy, hooks: &Arc<Stops>) -> Client {
        let builder = Client::builder(self.redis().await).strategy(strategy).settings(settings());
        builder.hooks(hooks.clone()).build().unwrap()
    }

    /// What the key holds, as another program sees it; `None`: nothing.
    pub fn get(&self, key: &str) -> Option<String> {
        let exists = self.server.cli(&["EXISTS", key]).unwrap() == "1";
        exists.then(|| self.server.cli(&["GET", key]).unwrap())
    }

    /// What the daemon does: removes a key, whatever it holds.
    pub fn unlink(&self, key: &str) {
        self.server.cli(&["UNLINK", key]).unwrap();
    }
}

/// A loaded machine may be slow to answer.
pub fn options() -> ConnectOptions {
    ConnectOptions::default()
        .response_timeout(Duration::from_secs(10))
        .connect_timeout(Duration::from_secs(10))
}

/// Errors are errors, TTLs exact.
pub fn settings() -> Settings {
    Settings { on_cache_error: rowbust_client::OnCacheError::Fail, jitter: 0.0, ..Settings::default() }
}

/// Polls until true.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A table of numbers.
#[derive(Debug, Default)]
pub struct Db {
    committed: Mutex<HashMap<String, u64>>,
    visible: Mutex<HashMap<String, u64>>,
    pub loads: AtomicU64,
}

impl Db {
    pub fn with(key: &str, value: u64) -> Arc<Self> {
        let db = Arc::new(Self::default());
        db.commit(key, value);
        db.show();
        db
    }

    /// In the binlog, and not visible to readers before [`Db::show`].
    pub fn commit(&self, key: &str, value: u64) {
        self.committed.lock().unwrap().insert(key.to_owned(), value);
    }

    pub fn show(&self) {
        *self.visible.lock().unwrap() = self.committed.lock().unwrap().clone();
    }

    pub fn read(&self, key: &str) -> Option<u64> {
        self.visible.lock().unwrap().get(key).copied()
    }

    /// A read through the cache.
    pub async fn get(self: &Arc<Self>, client: &Client, key: &str) -> Result<Option<u64>, Error> {
        client
            .get_or_load(key, async |_| {
                self.loads.fetch_add(1, Relaxed);
                Ok::<_, Infallible>(self.read(key))
            })
            .await
    }

    /// A write through the cache.
    pub async fn put(self: &Arc<Self>, client: &Client, key: &str, value: u64) -> Result<Written<()>, Error> {
        let change = Change::of(key).value(&value).unwrap();
        client
            .write(&change, async || {
                self.commit(key, value);
                self.show();
                Ok::<_, Infallible>(())
            })
            .await
    }

    pub fn loads(&self) -> u64 {
        self.loads.load(Relaxed)
    }
}

/// Holds steps up.
#[derive(Debug, Default)]
pub struct Stops(Mutex<Vec<Arc<Stop>>>);

#[derive(Debug)]
pub struct Stop {
    step: Step,
    reached: Semaphore,
    go: Semaphore,
    used: Mutex<bool>,
    /// Stands still with its whole thread, as a process does that is stopped.
    blocks: Option<Mutex<std::sync::mpsc::Receiver<()>>>,
    blocker: Mutex<Option<std::sync::mpsc::Sender<()>>>,
}

impl Stops {
    /// The next time that this step is reached it is held up.
    pub fn at(&self, step: Step) -> Arc<Stop> {
        self.add(step, false)
    }

    /// The same, with the thread that runs it.
    pub fn block_at(&self, step: Step) -> Arc<Stop> {
        self.add(step, true)
    }

    fn add(&self, step: Step, blocks: bool) -> Arc<Stop> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let stop = Arc::new(Stop {
            step,
            reached: Semaphore::new(0),
            go: Semaphore::new(0),
            used: Mutex::new(false),
            blocks: blocks.then(|| Mutex::new(receiver)),
            blocker: Mutex::new(Some(sender)),
        });
        self.0.lock().unwrap().push(stop.clone());
        stop
    }
}

impl Stop {
    /// Returns when the step is held up.
    pub async fn reached(&self) {
        tokio::time::timeout(WITHIN, self.reached.acquire())
            .await
            .expect("the step is not reached")
            .unwrap()
            .forget();
    }

    /// Lets it go on.
    pub fn go(&self) {
        self.go.add_permits(1);
        self.blocker.lock().unwrap().take();
    }
}

impl Hooks for Stops {
    fn before<'a>(&'a self, step: Step, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let stop = {
                let stops = self.0.lock().unwrap();
                let free = |stop: &&Arc<Stop>| {
                    stop.step == step && !std::mem::replace(&mut *stop.used.lock().unwrap(), true)
                };
                stops.iter().find(free).cloned()
            };
            let Some(stop) = stop else { return };
            stop.reached.add_permits(1);
            match &stop.blocks {
                // Ends when the sender is dropped.
                Some(receiver) => drop(receiver.lock().unwrap().recv()),
                None => stop.go.acquire().await.unwrap().forget(),
            }
        })
    }
}
