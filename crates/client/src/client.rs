//! The one interface over all strategies.
//!
//! Guarantees: bytes that are no such value are never handed out; a shared load's read began after the call; a loader runs only after the
//! strategy has said where it may read. May depend on everything in this crate.

use std::{collections::HashMap, future::Future, sync::Arc, time::Instant};

use futures_util::future::{BoxFuture, join_all};
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::AbortHandle;

use crate::{
    BoxError, CallOptions, Change, Error, Foreign, Hooks, OnCacheError, OnOverload, Redis, Settings, Stats,
    Step, Written, codec,
    commands::Cached,
    context::Context,
    protect::{
        flight::{Flights, Outcome, Turn},
        gate::Gate,
        rebuild,
        remembered::Remembered,
    },
    source::ReadSource,
    stats::{Counters, count},
    strategy::{Acquired, Found, Guarded, Lookup, Strategy, Ticket},
};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The cache.
    Cache,
    /// This call's loader.
    Database,
    /// Another caller's loader, whose read began after this call.
    Shared,
    /// What this process saw last: it may be stale ([`OnOverload::ServeStale`]).
    Stale,
}

/// A value and where it came from.
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

/// Makes a [`Client`].
#[derive(Debug)]
pub struct Builder {
    redis: Redis,
    strategy: Arc<dyn Strategy>,
    settings: Settings,
    hooks: Option<Arc<dyn Hooks>>,
}

impl Builder {
    /// Which strategy. Default: [`Guarded`].
    #[must_use]
    pub fn strategy(self, strategy: impl Strategy) -> Self {
        self.strategy_arc(Arc::new(strategy))
    }

    /// The same, for a strategy that is chosen while the program runs.
    #[must_use]
    pub fn strategy_arc(mut self, strategy: Arc<dyn Strategy>) -> Self {
        self.strategy = strategy;
        self
    }

    /// Default: [`Settings::default`].
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Called before each step: for tests. Default: none.
    #[must_use]
    pub fn hooks(mut self, hooks: Arc<dyn Hooks>) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// The client. Strategies with a background task (`delayed-double-delete`) start it here, on the current tokio runtime.
    ///
    /// # Errors
    /// When settings contradict each other.
    pub fn build(self) -> Result<Client, Error> {
        let Self { redis, strategy, settings, hooks } = self;
        settings.check(strategy.takes_turns(), strategy.name())?;
        let gate = Gate::new(settings.load_limit, settings.breaker);
        let remembered = match settings.on_overload {
            OnOverload::Fail => None,
            OnOverload::ServeStale { entries, max_age } => Some(Remembered::new(entries, max_age)),
        };
        let cx = Arc::new(Context {
            redis,
            settings,
            hooks,
            counters: Counters::default(),
            load_times: Default::default(),
        });
        let background = match strategy.background(cx.clone()) {
            None => None,
            Some(task) => {
                let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
                    Error::Settings(format!(
                        "{} has a background task: build it within a tokio runtime",
                        strategy.name()
                    ))
                })?;
                Some(runtime.spawn(task).abort_handle())
            }
        };
        let flights = Flights::default();
        Ok(Client(Arc::new(Inner { cx, strategy, flights, gate, remembered, background })))
    }
}

impl Client {
    /// A client over this Redis.
    #[must_use]
    pub fn builder(redis: Redis) -> Builder {
        Builder { redis, strategy: Arc::new(Guarded::new()), settings: Settings::default(), hooks: None }
    }

    /// The value of a key: from the cache, else by `load`, which fills it. `None`: the database has no such row.
    ///
    /// The loader is told where to read and when it may begin: see [`ReadSource`]. It runs at most once, and not at all on a hit.
    ///
    /// # Errors
    /// The loader's, as [`Error::Load`]; and those that [`Settings`] lets through.
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

    /// The values of several keys; what is missing is loaded by *one* call of `load`, which gets the missing keys and returns those rows
    /// that there are. Keys without a row are left out of the answer.
    ///
    /// The keys are looked at independently of each other: the values together are no snapshot. Loads are not shared with other callers,
    /// and nobody is waited for: what another one is filling is loaded without filling.
    ///
    /// # Errors
    /// As [`Client::get_or_load`].
    ///
    /// ```no_run
    /// # use std::collections::HashMap;
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let stock: HashMap<String, u32> = client
    ///     .get_many(&["stock:7", "stock:8"], async |_source, missing| {
    ///         // SELECT … WHERE id IN (…)
    ///         Ok::<_, std::io::Error>(missing.into_iter().map(|key| (key, 5)).collect())
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn get_many<T, E, F, Fut>(&self, keys: &[&str], load: F) -> Result<HashMap<String, T>, Error>
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError>,
        F: FnOnce(ReadSource, Vec<String>) -> Fut + Send,
        Fut: Future<Output = Result<HashMap<String, T>, E>> + Send,
    {
        let (inner, options) = (&*self.0, &CallOptions::default());
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut values = HashMap::new();
        let (mut missing, mut early) = (Vec::new(), HashMap::new());
        // Commands of one connection that wait at the same time go out together.
        let looked = join_all(keys.iter().map(async |key| (*key, inner.lookup(key, options).await))).await;
        for (key, lookup) in looked {
            let (cached, is_early) = match lookup? {
                Lookup::Hit(Found(cached)) => (cached, false),
                Lookup::Early(Found(cached)) => (cached, true),
                Lookup::Miss => {
                    count(&inner.cx.counters.misses);
                    missing.push(key);
                    continue;
                }
            };
            match decode::<T>(key, &cached) {
                Ok(value) => {
                    count(&inner.cx.counters.hits);
                    if is_early {
                        missing.push(key);
                        early.insert(key, value);
                    } else {
                        values.extend(value.map(|value| (key.to_owned(), value)));
                    }
                }
                Err(error) => {
                    inner.foreign(key, options, error).await?;
                    missing.push(key);
                }
            }
        }
        // Without waiting for anybody: two callers that each hold what the other waits for would stand still.
        let mut turns: Vec<(&str, Option<Ticket>)> = Vec::new();
        let acquired =
            join_all(missing.iter().map(async |key| (*key, inner.acquire(key, options, false).await))).await;
        let mut failed = None;
        for (key, acquired) in acquired {
            match acquired {
                Ok(Acquired::Turn(ticket)) => turns.push((key, Some(ticket))),
                Ok(Acquired::Busy) => match early.remove(key) {
                    // Somebody else refreshes it.
                    Some(value) => values.extend(value.map(|value| (key.to_owned(), value))),
                    None => {
                        count(&inner.cx.counters.busy);
                        turns.push((key, None));
                    }
                },
                Ok(Acquired::Hit(Found(cached))) => match decode(key, &cached) {
                    Ok(value) => values.extend(value.map(|value| (key.to_owned(), value))),
                    Err(error) => match inner.foreign(key, options, error).await {
                        Ok(()) => turns.push((key, None)),
                        Err(error) => failed = Some(error),
                    },
                },
                Err(error) => failed = Some(error),
            }
        }
        let loaded = match failed {
            None if turns.is_empty() => return Ok(values),
            None => {
                let missing: Vec<String> = turns.iter().map(|(key, _)| (*key).to_owned()).collect();
                inner.load_many(options, missing, load).await
            }
            Some(error) => Err(error),
        };
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let tickets = turns.into_iter().filter_map(|(key, ticket)| Some((key, ticket?)));
                join_all(tickets.map(|(key, ticket)| inner.strategy.abandon(&inner.cx, key, ticket))).await;
                return Err(error);
            }
        };
        let mut fills = Vec::new();
        for (key, ticket) in turns {
            let value = loaded.remove(key);
            let cached = match &value {
                Some(value) => Cached::Value(codec::encode(key, value)?),
                None => Cached::Null,
            };
            values.extend(value.map(|value| (key.to_owned(), value)));
            fills.push(async move { inner.fill(key, options, ticket, &cached).await });
        }
        join_all(fills).await.into_iter().collect::<Result<(), Error>>()?;
        Ok(values)
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

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.cx.counters.read()
    }

    /// The connection.
    #[must_use]
    pub fn redis(&self) -> &Redis {
        &self.0.cx.redis
    }

    /// The strategy's name.
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

impl Inner {
    /// What a read makes of an error of Redis: goes on with this, or fails.
    fn despite<T>(&self, options: &CallOptions, answer: Result<T, Error>, instead: T) -> Result<T, Error> {
        match answer {
            Err(error) if error.is_cache() => {
                count(&self.cx.counters.cache_errors);
                match options.on_cache_error.unwrap_or(self.cx.settings.on_cache_error) {
                    OnCacheError::Load => {
                        tracing::debug!(%error, "reading without the cache");
                        Ok(instead)
                    }
                    OnCacheError::Fail => Err(error),
                }
            }
            other => other,
        }
    }

    async fn lookup(&self, key: &str, options: &CallOptions) -> Result<Lookup, Error> {
        let looked = self.strategy.lookup(&self.cx, key).await;
        self.despite(options, looked, Lookup::Miss)
    }

    async fn remove(&self, key: &str, options: &CallOptions) -> Result<(), Error> {
        let removed = self.cx.remove(Step::Delete, key).await;
        self.despite(options, removed, ())
    }

    /// Removes bytes that are no such value, or fails.
    async fn foreign(&self, key: &str, options: &CallOptions, error: Error) -> Result<(), Error> {
        count(&self.cx.counters.foreign);
        match options.foreign.unwrap_or(self.cx.settings.foreign) {
            Foreign::Fail => Err(error),
            Foreign::Reload => {
                tracing::debug!(key, %error, "removed, and loaded anew");
                self.remove(key, options).await
            }
        }
    }

    async fn acquire(&self, key: &str, options: &CallOptions, wait: bool) -> Result<Acquired, Error> {
        let acquired = match self.cx.settings.rebuild_lock {
            Some(lock) => rebuild::acquire(&self.cx, lock, key, wait).await,
            None => self.strategy.acquire(&self.cx, key, wait).await,
        };
        self.despite(options, acquired, Acquired::Busy)
    }

    /// A miss: shares a load, or loads.
    async fn miss(
        &self,
        key: &str,
        options: &CallOptions,
        called: Instant,
        loader: &mut Option<Loader<'_>>,
    ) -> Result<Answer, Error> {
        if !self.cx.settings.single_flight {
            return self.turn(key, options, true, loader).await.value;
        }
        match self.flights.turn(key, called).await {
            Turn::Shared(answer) => {
                count(&self.cx.counters.shared);
                answer.map(|answer| match answer.origin {
                    Origin::Database => Answer { origin: Origin::Shared, ..answer },
                    _ => answer,
                })
            }
            Turn::Lead(lead) => {
                let outcome = self.turn(key, options, true, loader).await;
                lead.finish(outcome.clone());
                outcome.value
            }
        }
    }

    /// An entry that may be refreshed: by this caller, if it gets the turn and the load works.
    async fn early(
        &self,
        key: &str,
        options: &CallOptions,
        loader: &mut Option<Loader<'_>>,
    ) -> Option<Answer> {
        let lead = self.flights.try_lead(key)?;
        let outcome = self.turn(key, options, false, loader).await;
        lead.finish(outcome.clone());
        let answer = outcome.value.ok()?;
        if answer.origin == Origin::Database {
            count(&self.cx.counters.early);
        }
        Some(answer)
    }

    /// One turn: the strategy's steps after a miss. `must`: a value is needed; else there is one, and it is only to be refreshed.
    async fn turn(
        &self,
        key: &str,
        options: &CallOptions,
        must: bool,
        loader: &mut Option<Loader<'_>>,
    ) -> Outcome<Result<Answer, Error>> {
        let mut began = Instant::now();
        let value = self.steps(key, options, must, loader, &mut began).await;
        Outcome { began, value }
    }

    async fn steps(
        &self,
        key: &str,
        options: &CallOptions,
        must: bool,
        loader: &mut Option<Loader<'_>>,
        began: &mut Instant,
    ) -> Result<Answer, Error> {
        let ticket = match self.acquire(key, options, must).await? {
            Acquired::Hit(Found(cached)) => {
                return Ok(Answer { cached: Arc::new(cached), origin: Origin::Cache });
            }
            Acquired::Turn(ticket) => Some(ticket),
            Acquired::Busy => {
                count(&self.cx.counters.busy);
                None
            }
        };
        let spare = || Error::Overloaded { reason: "another caller is refreshing it" };
        if !must && ticket.is_none() {
            return Err(spare());
        }
        let loaded = async {
            let source = self.source(options).await?;
            let load = self.gate.enter().await?;
            self.cx.before(Step::Load, key).await;
            let run = loader.take().ok_or_else(spare)?;
            *began = Instant::now();
            count(&self.cx.counters.loads);
            let loaded = run(source).await;
            self.cx.load_times.add(began.elapsed());
            load.finish(!matches!(loaded, Err(Error::Load(_))));
            loaded
        }
        .await;
        let cached = match loaded {
            Ok(cached) => cached,
            Err(error) => {
                if let Some(ticket) = ticket {
                    self.strategy.abandon(&self.cx, key, ticket).await;
                }
                return self.instead(key, error);
            }
        };
        self.fill(key, options, ticket, &cached).await?;
        let cached = Arc::new(cached);
        if let Some(remembered) = &self.remembered {
            remembered.put(key, cached.clone());
        }
        Ok(Answer { cached, origin: Origin::Database })
    }

    /// What can't be asked for means the primary.
    async fn source(&self, options: &CallOptions) -> Result<ReadSource, Error> {
        let source = self.strategy.source(&self.cx).await;
        self.despite(options, source, ReadSource::primary())
    }

    async fn load_many<T, E, F, Fut>(
        &self,
        options: &CallOptions,
        missing: Vec<String>,
        load: F,
    ) -> Result<HashMap<String, T>, Error>
    where
        E: Into<BoxError>,
        F: FnOnce(ReadSource, Vec<String>) -> Fut + Send,
        Fut: Future<Output = Result<HashMap<String, T>, E>> + Send,
    {
        let source = self.source(options).await?;
        let entered = self.gate.enter().await.inspect_err(|_| count(&self.cx.counters.overloaded))?;
        for key in missing.iter().take(1) {
            self.cx.before(Step::Load, key).await;
        }
        count(&self.cx.counters.loads);
        let began = Instant::now();
        let loaded = load(source, missing).await.map_err(Error::load);
        self.cx.load_times.add(began.elapsed());
        entered.finish(loaded.is_ok());
        loaded.inspect_err(|_| count(&self.cx.counters.load_failures))
    }

    /// A remembered value instead of a load that was refused.
    fn instead(&self, key: &str, error: Error) -> Result<Answer, Error> {
        match &error {
            Error::Load(_) => count(&self.cx.counters.load_failures),
            Error::Overloaded { .. } => {
                count(&self.cx.counters.overloaded);
                if let Some(cached) = self.remembered.as_ref().and_then(|remembered| remembered.get(key)) {
                    count(&self.cx.counters.stale);
                    return Ok(Answer { cached, origin: Origin::Stale });
                }
            }
            _ => {}
        }
        Err(error)
    }

    fn remember(&self, key: &str, cached: Cached) {
        if let Some(remembered) = &self.remembered {
            remembered.put(key, Arc::new(cached));
        }
    }

    /// Fills, if there is a right to, and the value is one that is kept.
    async fn fill(
        &self,
        key: &str,
        options: &CallOptions,
        ticket: Option<Ticket>,
        cached: &Cached,
    ) -> Result<(), Error> {
        let Some(ticket) = ticket else { return Ok(()) };
        let settings = &self.cx.settings;
        let ttl = match cached {
            Cached::Value(_) => Some(options.ttl.unwrap_or(settings.ttl)),
            Cached::Null => options.null_ttl.unwrap_or(settings.null_ttl),
        };
        let Some(ttl) = ttl else {
            self.strategy.abandon(&self.cx, key, ticket).await;
            return Ok(());
        };
        let filled = self.strategy.fill(&self.cx, key, ticket, cached.bytes(), settings.jittered(ttl)).await;
        match filled {
            Ok(true) => count(&self.cx.counters.fills),
            Ok(false) => count(&self.cx.counters.refused),
            Err(error) => self.despite(options, Err(error), ())?,
        }
        Ok(())
    }
}
