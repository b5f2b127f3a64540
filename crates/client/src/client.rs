//! The one interface over all strategies.
//!
//! Guarantees: bytes that are no such value are never handed out; a shared load's read began after the call; a loader runs only after the
//! strategy has said where it may read. May depend on everything in this crate.

use std::{future::Future, sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::AbortHandle;

use crate::{
    BoxError, CallOptions, Change, Error, Redis, Stats, Step, Written, codec,
    commands::Cached,
    context::Context,
    protect::{flight::Flights, gate::Gate, remembered::Remembered},
    source::ReadSource,
    stats::count,
    strategy::{Found, Guarded, Lookup, Strategy},
};

mod builder;
mod many;
mod steps;

pub use builder::Builder;

/// A cache in Redis before a database. Cheap to clone.
///
/// ```no_run
/// use rowbust_client::{Change, Client, ConnectOptions, Redis};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Product { id: u64, name: String }
///
/// # async fn load(_: &str, _: u64) -> Result<Option<Product>, std::io::Error> { Ok(None) }
/// # async fn rename(_: u64, _: &str) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example() -> Result<(), rowbust_client::Error> {
/// let redis = Redis::connect("redis://cache:6379", ConnectOptions::default()).await?;
/// let client = Client::builder(redis).build()?;
///
/// let product: Option<Product> = client
///     .get_or_load("product:7", async |source| load(source.member().unwrap_or("db1:3306"), 7).await)
///     .await?;
///
/// client.write(&Change::of("product:7"), async || rename(7, "a new name").await).await?.into_result()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cx: Arc<Context>,
    strategy: Arc<dyn Strategy>,
    flights: Flights<Result<Answer, Error>>,
    gate: Gate,
    remembered: Option<Remembered>,
    background: Option<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = &self.background {
            task.abort();
        }
    }
}

/// Where a value came from.
///
/// ```
/// use rowbust_client::{Loaded, Origin};
/// let stock = Loaded { value: Some(5), origin: Origin::Stale };
/// let text = match stock.origin {
///     Origin::Stale => format!("about {:?}", stock.value),
///     _ => format!("{:?}", stock.value),
/// };
/// assert_eq!(text, "about Some(5)");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The cache.
    Cache,
    /// This call's loader.
    Database,
    /// Another caller's loader, whose read began after this call.
    Shared,
    /// What this process saw last: it may be stale ([`OnOverload::ServeStale`](crate::OnOverload::ServeStale)).
    Stale,
}

/// A value and where it came from: what [`Client::get_or_load_with`] gives.
///
/// ```
/// use rowbust_client::{Loaded, Origin};
/// let loaded = Loaded { value: None::<u32>, origin: Origin::Cache };
/// assert_eq!(loaded.value, None, "the cache knows that there is no such row");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// `None`: the database has no such row.
    pub value: Option<T>,
    /// Where it came from.
    pub origin: Origin,
}

/// What a turn gives.
#[derive(Debug, Clone)]
struct Answer {
    cached: Arc<Cached>,
    origin: Origin,
}

/// A caller's loader, its value encoded; taken when it runs.
type Loader<'a> = Box<dyn FnOnce(ReadSource) -> BoxFuture<'a, Result<Cached, Error>> + Send + 'a>;

impl Client {
    /// A client over this Redis: the strategy [`Guarded`], and [`Settings::default`](crate::Settings), unless the builder is told otherwise.
    ///
    /// ```no_run
    /// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::Client;
    /// let client = Client::builder(redis).build()?;
    /// assert_eq!(client.strategy(), "guarded");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn builder(redis: Redis) -> Builder {
        Builder::new(redis, Arc::new(Guarded::new()))
    }

    /// The value of a key: from the cache, else by `load`, which fills it. `None`: the database has no such row.
    ///
    /// The loader is told where to read and when it may begin: see [`ReadSource`]. It runs at most once, and not at all on a hit.
    ///
    /// # Errors
    /// The loader's, as [`Error::Load`]; and those that [`Settings`](crate::Settings) lets through.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let stock: Option<u32> = client.get_or_load("stock:7", async |_| Ok::<_, std::io::Error>(Some(5))).await?;
    /// # Ok(()) }
    /// ```
    pub async fn get_or_load<T, E, F, Fut>(&self, key: &str, load: F) -> Result<Option<T>, Error>
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError>,
        F: FnOnce(ReadSource) -> Fut + Send,
        Fut: Future<Output = Result<Option<T>, E>> + Send,
    {
        Ok(self.get_or_load_with(key, &CallOptions::default(), load).await?.value)
    }

    /// [`Client::get_or_load`] with options of its own; tells where the value came from.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{CallOptions, Loaded, Origin};
    /// let options = CallOptions::default().ttl(std::time::Duration::from_secs(5));
    /// let stock: Loaded<u32> =
    ///     client.get_or_load_with("stock:7", &options, async |_| Ok::<_, std::io::Error>(Some(5))).await?;
    /// assert_ne!(stock.origin, Origin::Stale);
    /// # Ok(()) }
    /// ```
    pub async fn get_or_load_with<T, E, F, Fut>(
        &self,
        key: &str,
        options: &CallOptions,
        load: F,
    ) -> Result<Loaded<T>, Error>
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError>,
        F: FnOnce(ReadSource) -> Fut + Send,
        Fut: Future<Output = Result<Option<T>, E>> + Send,
    {
        let loader: Loader<'_> = Box::new(move |source| {
            Box::pin(async move {
                match load(source).await.map_err(Error::load)? {
                    Some(value) => Ok(Cached::Value(codec::encode(key, &value)?)),
                    None => Ok(Cached::Null),
                }
            })
        });
        let mut loader = Some(loader);
        let called = Instant::now();
        if options.refresh {
            Box::pin(self.0.remove(key, options)).await?;
        } else {
            match self.0.lookup(key, options).await? {
                Lookup::Hit(Found(cached)) => match decode(key, &cached) {
                    Ok(value) => {
                        count(&self.0.cx.counters.hits);
                        self.0.remember(key, cached);
                        return Ok(Loaded { value, origin: Origin::Cache });
                    }
                    Err(error) => Box::pin(self.0.foreign(key, options, error)).await?,
                },
                Lookup::Early(Found(cached)) => match decode(key, &cached) {
                    Ok(value) => {
                        count(&self.0.cx.counters.hits);
                        self.0.remember(key, cached);
                        if let Some(answer) = Box::pin(self.0.early(key, options, &mut loader)).await {
                            return Ok(Loaded { value: decode(key, &answer.cached)?, origin: answer.origin });
                        }
                        return Ok(Loaded { value, origin: Origin::Cache });
                    }
                    Err(error) => Box::pin(self.0.foreign(key, options, error)).await?,
                },
                Lookup::Miss => {}
            }
        }
        count(&self.0.cx.counters.misses);
        let answer = Box::pin(self.0.miss(key, options, called, &mut loader)).await?;
        match decode(key, &answer.cached) {
            Ok(value) => Ok(Loaded { value, origin: answer.origin }),
            // Found at the second look; the loader is still unused then.
            Err(error) if loader.is_some() => {
                Box::pin(self.0.foreign(key, options, error)).await?;
                let answer = Box::pin(self.0.miss(key, options, Instant::now(), &mut loader)).await?;
                Ok(Loaded { value: decode(key, &answer.cached)?, origin: answer.origin })
            }
            Err(error) => Err(error),
        }
    }

    /// Runs `update`, which changes the database, with what the strategy does in the cache before and after it. The update must have
    /// committed when it returns.
    ///
    /// # Errors
    /// The update's, as [`Error::Update`]; and errors from *before* the update, which then wasn't run. One from after it is in
    /// [`Written::cache`].
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::Change;
    /// let change = Change::of("stock:7").value(&4)?;
    /// let written = client.write(&change, async || Ok::<_, std::io::Error>(())).await?;
    /// if let Err(error) = written.cache {
    ///     eprintln!("the row is written, the cache is not: {error}");
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn write<R, E, F, Fut>(&self, change: &Change, update: F) -> Result<Written<R>, Error>
    where
        E: Into<BoxError>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<R, E>> + Send,
    {
        let Inner { cx, strategy, .. } = &*self.0;
        let prepared = strategy.before_write(cx, change).await?;
        for key in change.keys().take(1) {
            cx.before(Step::Update, key).await;
        }
        let updated = update().await;
        let cache = strategy.after_write(cx, change, prepared, updated.is_ok()).await;
        match updated {
            Ok(value) => Ok(Written { value, cache }),
            Err(error) => {
                if let Err(error) = cache {
                    tracing::warn!(%error, "after an update that failed, the cache could not be changed either");
                }
                Err(Error::update(error))
            }
        }
    }

    /// Removes these keys at once, whatever they hold. Never wrong: it costs a miss each.
    ///
    /// # Errors
    /// [`Error::NotRemoved`], with the keys that are still there.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// client.invalidate(&["product:7", "product:sku:A-1"]).await?;
    /// # Ok(()) }
    /// ```
    pub async fn invalidate(&self, keys: &[&str]) -> Result<(), Error> {
        self.0.cx.remove_all(Step::Delete, keys.iter().copied()).await
    }

    /// What was done so far, by this client and its clones.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let before = client.stats();
    /// client.get_or_load("stock:7", async |_| Ok::<_, std::io::Error>(Some(5))).await?;
    /// println!("loads: {}", client.stats().loads - before.loads);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.cx.counters.read()
    }

    /// The connection that it was built with.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// client.get_or_load("stock:7", async |_| Ok::<_, std::io::Error>(Some(5))).await?;
    /// println!("round trips so far: {}", client.redis().round_trips());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn redis(&self) -> &Redis {
        &self.0.cx.redis
    }

    /// The strategy's name, as [`Strategy::name`] says it.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// println!("strategy: {}", client.strategy());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn strategy(&self) -> &'static str {
        self.0.strategy.name()
    }
}

fn decode<T: DeserializeOwned>(key: &str, cached: &Cached) -> Result<Option<T>, Error> {
    match cached {
        Cached::Value(bytes) => codec::decode(key, bytes).map(Some),
        Cached::Null => Ok(None),
    }
}
