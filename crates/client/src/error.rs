//! What can go wrong, and what to do about it.

use std::{error::Error as StdError, sync::Arc, time::Duration};

/// An error of the application's own code: its loader or its update. Whatever `?` can turn into it will do.
///
/// ```
/// use rowbust_client::BoxError;
/// let error: BoxError = "no such table".into();
/// let error: BoxError = std::io::Error::other(error).into();
/// ```
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong. Each text says what to do. It can be cloned: callers that share a load share its error.
///
/// ```
/// use rowbust_client::Error;
/// fn status(error: &Error) -> u16 {
///     match error {
///         Error::Overloaded { .. } | Error::LockBusy { .. } => 503,
///         error if error.is_cache() => 502,
///         _ => 500,
///     }
/// }
/// assert_eq!(status(&Error::Overloaded { reason: "too many" }), 503);
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Redis can't be reached, or refused a command.
    #[error("redis, at {command}: {source}. Reads can go on without it: `Settings::on_cache_error`")]
    Redis {
        /// Which command.
        command: &'static str,
        /// What it said.
        source: redis::RedisError,
    },
    /// Redis answered with something that the command never answers with: not a Redis, or a proxy that changes replies.
    #[error("redis answered {command} with {reply}: is there a proxy between, or a server of another make?")]
    Reply {
        /// Which command.
        command: &'static str,
        /// The beginning of what it said.
        reply: String,
    },
    /// The loader failed. Nothing was cached.
    #[error("the loader failed: {0}")]
    Load(#[source] Arc<dyn StdError + Send + Sync>),
    /// The update failed, or its outcome is unknown. What the strategy removes was removed all the same, for it may have been committed.
    #[error("the update failed: {0}")]
    Update(#[source] Arc<dyn StdError + Send + Sync>),
    /// Keys that should have been removed may still hold their old values. After a write, the database has the change.
    #[error(
        "not removed, and maybe stale until their TTL ends: {keys:?}. Call `invalidate` again, or let the daemon remove them. {source}"
    )]
    NotRemoved {
        /// Which keys.
        keys: Vec<String>,
        /// Why.
        source: Box<Error>,
    },
    /// The value can't be turned into JSON.
    #[error("the value of {key} can't be encoded: {source}")]
    Encode {
        /// Which key.
        key: String,
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// The key holds bytes that are no such value: another program's, or an older version's.
    #[error(
        "{key} holds bytes that are no such value ({source}): give versions keys of their own, or choose `Foreign::Reload`"
    )]
    Foreign {
        /// Which key.
        key: String,
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// The encoded value begins with what marks rowbust's own entries.
    #[error("{key}: {source}")]
    Reserved {
        /// Which key.
        key: String,
        /// What to do.
        source: rowbust_protocol::lease::ReservedValue,
    },
    /// The strategy keeps a lock beside the key, and no name of that lock falls into the key's cluster slot.
    #[error(
        "{key} contains \"}}\" but no hash tag \"{{…}}\": a lock beside it can't be named; rename the key, or give it a hash tag"
    )]
    Key {
        /// Which key.
        key: String,
    },
    /// The database gets no further load now: too many are running, or too many have failed.
    #[error(
        "not loaded, to spare the database: {reason}. Try again later, or choose `OnOverload::ServeStale`"
    )]
    Overloaded {
        /// Limit or breaker.
        reason: &'static str,
    },
    /// A lock wasn't free in time.
    #[error("the lock of {key} wasn't free within {waited:?}: nothing was changed; try again")]
    LockBusy {
        /// Whose lock.
        key: String,
        /// For how long it was tried.
        waited: Duration,
    },
    /// The strategy needs to know what the value becomes.
    #[error("{strategy} writes values to the cache: tell the one of {key} with `Change::value`")]
    NoValue {
        /// Which strategy.
        strategy: &'static str,
        /// Whose value is missing.
        key: String,
    },
    /// Settings that contradict each other or can't be.
    #[error("settings: {0}")]
    Settings(String),
}

impl Error {
    pub(crate) fn load(error: impl Into<BoxError>) -> Self {
        Self::Load(Arc::from(error.into()))
    }

    pub(crate) fn update(error: impl Into<BoxError>) -> Self {
        Self::Update(Arc::from(error.into()))
    }

    pub(crate) fn reply(command: &'static str, value: &redis::Value) -> Self {
        let reply: String = format!("{value:?}").chars().take(100).collect();
        Self::Reply { command, reply }
    }

    /// Whether Redis is to blame: [`Error::Redis`] and [`Error::Reply`]. A read may go on without it.
    ///
    /// ```
    /// use rowbust_client::Error;
    /// let answer = Error::Reply { command: "GET", reply: "Okay(...)".to_owned() };
    /// assert!(answer.is_cache());
    /// assert!(!Error::Overloaded { reason: "the breaker is open" }.is_cache());
    /// ```
    #[must_use]
    pub fn is_cache(&self) -> bool {
        matches!(self, Self::Redis { .. } | Self::Reply { .. })
    }
}
