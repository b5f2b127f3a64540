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
/// # async fn example(redis: rowbust_client::Redis) -> Result<(), rowbust_client::Error> {
/// use std::{sync::Arc, time::Duration};
/// use rowbust_client::{Client, Settings, strategy::{CacheAside, Guarded, Strategy}};
/// // Chosen while the program runs:
/// let strategy: Arc<dyn Strategy> = match std::env::var("CACHE").as_deref() {
///     Ok("plain") => Arc::new(CacheAside),
///     _ => Arc::new(Guarded::new()),
/// };
/// let settings = Settings { ttl: Duration::from_secs(60), ..Settings::default() };
/// let client = Client::builder(redis).strategy_arc(strategy).settings(settings).build()?;
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
