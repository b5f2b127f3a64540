//! Redis in its other forms: readers that fill a cluster, or a master that changes, and what is to be said of it at the end.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, FromRedisValue, RedisResult, cmd};
use rowbust_servers::{Redis, RedisCluster, RedisTls, Sentinels};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::invariants::{Checked, Evidence};
use crate::load::History;
use crate::monitor::{Monitor, Removals};
use crate::oracle;
use crate::shop::{self, FILL_GRACE, Product};
use crate::stage::Stage;
use crate::wait::{POLL, Seen, until};

/// A cluster, or a master with its sentinels.
#[derive(Debug, Clone)]
pub enum Caches {
    /// By slot.
    Cluster(Arc<RedisCluster>),
    /// Whoever is the master.
    Sentinels(Arc<Sentinels>),
}

/// A reader's way to them.
pub enum Connection {
    /// Follows redirects by itself.
    Cluster(ClusterConnection),
    /// To the one that was the master when it was made.
    Single(MultiplexedConnection),
}

impl Connection {
    /// One command with its reply.
    ///
    /// # Errors
    /// When Redis doesn't answer, or refuses.
    pub async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Cluster(connection) => command.query_async(connection).await,
            Self::Single(connection) => command.query_async(connection).await,
        }
    }
}

impl Caches {
    /// Every server, replicas too.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        match self {
            Self::Cluster(cluster) => &cluster.nodes,
            Self::Sentinels(group) => &group.servers,
        }
    }

    /// Those that are masters now.
    ///
    /// # Errors
    /// When one that runs doesn't answer.
    pub fn masters(&self) -> Result<Vec<&Redis>> {
        let mut masters = Vec::new();
        for server in self.servers().iter().filter(|server| server.is_running()) {
            if server.cli(&["ROLE"])?.starts_with("master") {
                masters.push(server);
            }
        }
        Ok(masters)
    }

    /// `redis.main` of the daemon's config; `more`: further fields.
    #[must_use]
    pub fn config(&self, more: &str) -> String {
        let list = |ports: Vec<u16>| {
            ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Cluster(cluster) => {
                format!("{{ mode: cluster, nodes: [{}]{more} }}", list(cluster.ports()))
            }
            Self::Sentinels(group) => {
                format!("{{ mode: sentinel, master: shop, nodes: [{}]{more} }}", list(group.ports()))
            }
        }
    }

    /// A connection for a reader.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(&self) -> Result<Connection> {
        match self {
            Self::Cluster(cluster) => {
                let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
                let client = ClusterClient::builder(urls)
                    .connection_timeout(Duration::from_secs(1))
                    .response_timeout(Duration::from_secs(1))
                    .retries(1)
                    .build()?;
                Ok(Connection::Cluster(client.get_async_connection().await?))
            }
            Self::Sentinels(group) => {
                let master = tokio::task::block_in_place(|| group.master()).context("no master")?;
                let server = group.servers.get(master).context("no such server")?;
                Ok(Connection::Single(shop::redis(server.port()).await?))
            }
        }
    }

    /// Fills the copies of these products, and a control key of each that nothing names.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn fill_all(&self, conn: &mut Conn, schema: &str) -> Result<()> {
        let mut cache = self.connect().await?;
        let rows: Vec<(u64, String, u64, u64)> =
            conn.query(format!("SELECT id, sku, category_id, ver FROM {schema}.products")).await?;
        for (id, sku, category, ver) in rows {
            for command in copies(&Product { id, sku, category, ver }) {
                cache.query::<()>(&command).await?;
            }
            let mut control = cmd("SET");
            cache.query::<()>(control.arg(format!("control:{id}")).arg(id)).await?;
        }
        Ok(())
    }

    /// Watches the removals of all servers, over restarts and promotions.
    ///
    /// # Errors
    /// When one that runs doesn't answer.
    pub fn watch(&self, removals: &Arc<Removals>) -> Result<Watch> {
        let mut monitors = HashMap::new();
        for server in self.servers().iter().filter(|server| server.is_running()) {
            monitors.insert(server.port(), Monitor::start(server.port(), Arc::clone(removals))?);
        }
        let monitors = Arc::new(Mutex::new(monitors));
        let (kept, caches, removals) = (Arc::downgrade(&monitors), self.clone(), Arc::clone(removals));
        // A server that is made a master or a replica closes the connections of its clients. It takes no removals of the daemon
        // for a good while after that: `durability` waits for a replica that is up to date.
        std::thread::spawn(move || {
            while let Some(monitors) = kept.upgrade() {
                for server in caches.servers() {
                    let mut monitors = monitors.lock().unwrap_or_else(PoisonError::into_inner);
                    if monitors.get(&server.port()).is_none_or(Monitor::is_over)
                        && let Ok(monitor) = Monitor::start(server.port(), Arc::clone(&removals))
                    {
                        monitors.insert(server.port(), monitor);
                    }
                }
                drop(monitors);
                // How often it looks; what is to be noted is waited for by `Watch::fence`.
                std::thread::sleep(POLL);
            }
        });
        Ok(Watch(monitors))
    }

    /// Cached copies that are what the database says, and those that aren't, over all masters.
    ///
    /// # Errors
    /// When a server doesn't answer.
    pub async fn compare(&self, conn: &mut Conn, schema: &str) -> Result<(usize, Vec<String>)> {
        let (mut equal, mut stale) = (0, Vec::new());
        for master in tokio::task::block_in_place(|| self.masters())? {
            let mut cache = shop::redis(master.port()).await?;
            let compared = shop::compare(conn, &mut cache, schema).await?;
            equal += compared.equal;
            stale.extend(compared.stale);
        }
        Ok((equal, stale))
    }

    /// The end of a run with faults: I1, I3, I7, and that history and binlog agree.
    ///
    /// # Errors
    /// Names what is violated.
    pub async fn judge(
        &self,
        stage: &Stage,
        history: &History,
        removals: &Removals,
        products: u64,
        hot: u64,
    ) -> Result<Checked> {
        let mut conn = stage.db.connect().await?;
        let (equal, stale) = self.compare(&mut conn, &stage.schema).await?;
        ensure!(stale.is_empty(), "I1: {} stale: {:#?}", stale.len(), &stale[..stale.len().min(10)]);
        let untouched = usize::try_from(3 * (products - hot))?;
        ensure!(equal >= untouched, "I7: {equal} equal, with {untouched} copies that nothing touched");
        let binlog = tokio::task::block_in_place(|| oracle::read(&stage.db, &stage.schema))?;
        let checked = Evidence { binlog: &binlog, history, removals, snapshots: &[] }.check()?;
        ensure!(checked.transactions > 0 && checked.pairs > 0, "void: no transaction of the load");
        let mut cache = self.connect().await?;
        for id in 1..=products {
            let value: Option<u64> = cache.query(cmd("GET").arg(format!("control:{id}"))).await?;
            ensure!(value == Some(id), "I7: control:{id} is {value:?}");
        }
        eprintln!("{}: {checked:?}; {equal} equal", stage.schema);
        Ok(checked)
    }
}

/// See [`Caches::watch`].
#[derive(Debug)]
pub struct Watch(Arc<Mutex<HashMap<u16, Monitor>>>);

impl Watch {
    /// Returns when everything that the servers ran until now is noted. All of them must run.
    ///
    /// # Errors
    /// When one doesn't answer.
    pub fn fence(&self) -> Result<()> {
        let monitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        monitors.values().try_for_each(Monitor::fence)
    }
}

/// The commands that fill the three copies of a product.
fn copies(p: &Product) -> [Cmd; 3] {
    let mut plain = cmd("SET");
    plain.arg(format!("product:{}", p.id)).arg(p.ver);
    let mut by_sku = cmd("SET");
    by_sku.arg(format!("product:sku:{}", p.sku)).arg(format!("{}:{}", p.id, p.ver));
    let mut list = cmd("HSET");
    list.arg(format!("category:{}:products", p.category)).arg(p.id).arg(p.ver);
    [plain, by_sku, list]
}

/// Removes what may have been filled too late, so that it doesn't count as the daemon's: by `DEL`, and the field by a script.
fn undo(p: &Product) -> [Cmd; 3] {
    let mut plain = cmd("DEL");
    plain.arg(format!("product:{}", p.id));
    let mut by_sku = cmd("DEL");
    by_sku.arg(format!("product:sku:{}", p.sku));
    let mut list = cmd("EVAL");
    let key = format!("category:{}:products", p.category);
    list.arg("redis.call('HDEL', KEYS[1], ARGV[1])").arg(1).arg(key).arg(p.id);
    [plain, by_sku, list]
}

/// Readers that fill as plain cache-aside does.
#[derive(Debug)]
pub struct Readers {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    fills: Arc<AtomicU64>,
    /// Fills of unknown or late outcome that aren't undone yet.
    unsure: Arc<Mutex<HashMap<u64, Vec<Product>>>>,
    caches: Caches,
}

impl Readers {
    /// Starts them on the products up to `hot`.
    #[must_use]
    pub fn start(stage: &Stage, caches: &Caches, count: u64, hot: u64, seed: u64) -> Self {
        let readers = Self {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            fills: Arc::default(),
            unsure: Arc::default(),
            caches: caches.clone(),
        };
        let mut tasks = JoinSet::new();
        for reader in 0..count {
            let (stop, fills, unsure) =
                (readers.stop.clone(), Arc::clone(&readers.fills), Arc::clone(&readers.unsure));
            let (db, schema, caches) = (Arc::clone(&stage.db), stage.schema.clone(), caches.clone());
            tasks.spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed ^ (7000 + reader));
                let mut connections = None;
                while !stop.is_cancelled() {
                    // The pace of the load.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let Some((conn, cache)) = connections.as_mut() else {
                        if let (Ok(conn), Ok(cache)) = (db.connect().await, caches.connect().await) {
                            connections = Some((conn, cache));
                        }
                        continue;
                    };
                    let id = rng.random_range(1..=hot);
                    match fill(conn, cache, &schema, id).await {
                        Ok(true) => _ = fills.fetch_add(1, Ordering::Relaxed),
                        Ok(false) => {}
                        Err(product) => {
                            if let Some(product) = product {
                                let mut unsure = unsure.lock().unwrap_or_else(PoisonError::into_inner);
                                unsure.entry(product.id).or_default().push(product);
                            }
                            connections = None;
                        }
                    }
                }
            });
        }
        Self { tasks, ..readers }
    }

    /// Ends them, and undoes what is unsure. Says how many fills there were.
    ///
    /// # Errors
    /// When the cache doesn't answer within 30 s.
    pub async fn stop(mut self) -> Result<u64> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let unsure = std::mem::take(&mut *self.unsure.lock().unwrap_or_else(PoisonError::into_inner));
        for product in unsure.into_values().flatten() {
            until("a fill is undone", Duration::from_secs(30), async || {
                Ok(match self.undo(&product).await {
                    Ok(()) => Seen::Done(()),
                    Err(error) => Seen::NotYet(format!("{error:#}")),
                })
            })
            .await?;
        }
        Ok(self.fills.load(Ordering::Relaxed))
    }

    async fn undo(&self, product: &Product) -> Result<()> {
        let mut cache = self.caches.connect().await?;
        for command in undo(product) {
            cache.query::<()>(&command).await?;
        }
        Ok(())
    }
}

/// Fills the copies of a product. `Ok(false)`: it took too long and was undone, or there is no such row. An error holds what may be filled
/// with an outcome that nobody knows.
async fn fill(
    conn: &mut Conn,
    cache: &mut Connection,
    schema: &str,
    id: u64,
) -> std::result::Result<bool, Option<Product>> {
    let start = Instant::now();
    let Some(product) = shop::product(conn, schema, id).await.map_err(|_| None)? else { return Ok(false) };
    for command in copies(&product) {
        if start.elapsed() > FILL_GRACE / 2 {
            break;
        }
        if cache.query::<()>(&command).await.is_err() {
            return Err(Some(product));
        }
    }
    if start.elapsed() < FILL_GRACE * 8 / 10 {
        return Ok(true);
    }
    for command in undo(&product) {
        if cache.query::<()>(&command).await.is_err() {
            return Err(Some(product));
        }
    }
    Ok(false)
}

/// An authority, `ca.pem`, and a certificate of it for `127.0.0.1` and `localhost`.
///
/// # Errors
/// When a file can't be written.
pub fn certificates(dir: &Path) -> Result<RedisTls> {
    let mut params = CertificateParams::new(Vec::new())?;
    // Not that of the certificate: it would look as if it had signed itself.
    params.distinguished_name.push(DnType::CommonName, "authority of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let (ca, cert, own_key) = (dir.join("ca.pem"), dir.join("cert.pem"), dir.join("key.pem"));
    fs::write(&ca, params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate()?;
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let signed = CertificateParams::new(names)?.signed_by(&own, &issuer)?;
    fs::write(&cert, signed.pem())?;
    fs::write(&own_key, own.serialize_pem())?;
    Ok(RedisTls { cert, key: own_key, client_ca: None, ca: Some(ca) })
}
