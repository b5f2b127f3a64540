//! How a client is made.

use std::sync::Arc;

use super::{Client, Inner};
use crate::{
    Error, Hooks, OnOverload, Redis, Settings,
    context::Context,
    protect::{flight::Flights, gate::Gate, load_times::LoadTimes, remembered::Remembered},
    stats::Counters,
    strategy::Strategy,
};

/// Makes a [`Client`].
///
/// ```no_run
/// use std::time::Duration;
/// use rowbust_client::{Builder, Client, Redis, Settings, strategy::CacheAside};
///
/// /// What all services of the shop begin with.
/// fn shop(redis: Redis) -> Builder {
///     let settings = Settings { ttl: Duration::from_secs(60), ..Settings::default() };
///     Client::builder(redis).settings(settings)
/// }
///
/// # async fn example(redis: Redis) -> Result<(), rowbust_client::Error> {
/// let products = shop(redis.clone()).build()?;
/// let banners = shop(redis).strategy(CacheAside).build()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Builder {
    redis: Redis,
    strategy: Arc<dyn Strategy>,
    settings: Settings,
    hooks: Option<Arc<dyn Hooks>>,
}

impl Builder {
    pub(super) fn new(redis: Redis, strategy: Arc<dyn Strategy>) -> Self {
        Self { redis, strategy, settings: Settings::default(), hooks: None }
    }

    /// Which strategy. Default: [`Guarded`](crate::strategy::Guarded).
    ///
    /// ```no_run
    /// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{Client, strategy::Guarded};
    /// let client = Client::builder(redis).strategy(Guarded::new().source_name("shop")).build()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn strategy(self, strategy: impl Strategy) -> Self {
        self.strategy_arc(Arc::new(strategy))
    }

    /// The same, for a strategy that is chosen while the program runs.
    ///
    /// ```no_run
    /// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
    /// use std::sync::Arc;
    /// use rowbust_client::{Client, strategy::{CacheAside, Guarded, Strategy}};
    /// let strategy: Arc<dyn Strategy> = match std::env::var("CACHE").as_deref() {
    ///     Ok("plain") => Arc::new(CacheAside),
    ///     _ => Arc::new(Guarded::new()),
    /// };
    /// let client = Client::builder(redis).strategy_arc(strategy).build()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn strategy_arc(mut self, strategy: Arc<dyn Strategy>) -> Self {
        self.strategy = strategy;
        self
    }

    /// Settings for all calls, instead of what was set before. Default: [`Settings::default`].
    ///
    /// ```no_run
    /// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
    /// use std::time::Duration;
    /// use rowbust_client::{Client, LoadLimit, Settings};
    /// let limit = LoadLimit { concurrent: 32, wait: Duration::from_millis(200) };
    /// let settings = Settings { load_limit: Some(limit), ..Settings::default() };
    /// let client = Client::builder(redis).settings(settings).build()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Called before each step, for tests: see [`Hooks`]. Default: none.
    ///
    /// ```no_run
    /// # #[derive(Debug)]
    /// # struct SlowFills;
    /// # impl rowbust_client::Hooks for SlowFills {
    /// #     fn before<'a>(&'a self, _: rowbust_client::Step, _: &'a str) -> futures_util::future::BoxFuture<'a, ()> {
    /// #         Box::pin(async {})
    /// #     }
    /// # }
    /// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
    /// use std::sync::Arc;
    /// use rowbust_client::Client;
    /// let client = Client::builder(redis).hooks(Arc::new(SlowFills)).build()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn hooks(mut self, hooks: Arc<dyn Hooks>) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// The client. Strategies with a background task (`delayed-double-delete`) start it here, on the current tokio runtime; it ends with the
    /// client's last clone.
    ///
    /// # Errors
    /// [`Error::Settings`] when settings contradict each other or the strategy, or there is no runtime for the background task.
    ///
    /// ```no_run
    /// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{Client, EarlyRefresh, Error, Settings};
    /// // The default strategy's fills need a lease: there is none to refresh with.
    /// let settings = Settings { early_refresh: Some(EarlyRefresh { beta: 1.0 }), ..Settings::default() };
    /// let refused = Client::builder(redis).settings(settings).build();
    /// assert!(matches!(refused, Err(Error::Settings(_))));
    /// # Ok(()) }
    /// ```
    pub fn build(self) -> Result<Client, Error> {
        let Self { redis, strategy, settings, hooks } = self;
        settings.check(&*strategy)?;
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
            load_times: LoadTimes::default(),
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
