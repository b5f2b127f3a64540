//! Several keys with one load.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    time::Instant,
};

use futures_util::future::{BoxFuture, join_all};
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, Inner, Loaded, Origin, decode};
use crate::{
    BoxError, CallOptions, Error, Step, codec,
    commands::Cached,
    source::ReadSource,
    stats::count,
    strategy::{Acquired, Found, Lookup, Ticket},
};

/// What each key's answer is, as far as there is one.
type Values<T> = HashMap<String, Loaded<T>>;

impl Client {
    /// The values of several keys; what is missing is loaded by *one* call of `load`, which gets the missing keys and returns those rows
    /// that there are. Keys without a row are left out of the answer.
    ///
    /// The keys are looked at independently of each other: the values together are no snapshot. Loads are not shared with other callers,
    /// and nobody is waited for: what another one is filling is loaded without filling.
    ///
    /// Entries near their end, which the load was to refresh, are handed out as they are when it fails; the call fails only where a key
    /// is missing.
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
        let loaded = self.get_many_with(keys, &CallOptions::default(), load).await?;
        Ok(loaded.into_iter().filter_map(|(key, loaded)| Some((key, loaded.value?))).collect())
    }

    /// [`Client::get_many`] with options of its own, which count for each key; tells of each key where its value came from. Keys without
    /// a row are in the answer too, as `None`.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// use rowbust_client::{CallOptions, Origin};
    /// let options = CallOptions::default().ttl(std::time::Duration::from_secs(5));
    /// let stock = client
    ///     .get_many_with(&["stock:7", "stock:8"], &options, async |_source, missing| {
    ///         Ok::<_, std::io::Error>(missing.into_iter().map(|key| (key, 5)).collect())
    ///     })
    ///     .await?;
    /// let is_fresh = stock.values().all(|stock| stock.origin != Origin::Stale);
    /// # Ok(()) }
    /// ```
    pub async fn get_many_with<T, E, F, Fut>(
        &self,
        keys: &[&str],
        options: &CallOptions,
        load: F,
    ) -> Result<HashMap<String, Loaded<T>>, Error>
    where
        T: Serialize + DeserializeOwned + Send,
        E: Into<BoxError>,
        F: FnOnce(ReadSource, Vec<String>) -> Fut + Send,
        Fut: Future<Output = Result<HashMap<String, T>, E>> + Send,
    {
        let inner = &*self.0;
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut values = Values::new();
        // Those in `early` have a value already, to be handed out if there is no newer one.
        let (mut missing, mut early) = (Vec::new(), HashSet::new());
        // Commands of one connection that wait at the same time go out together.
        let looked = join_all(keys.iter().map(async |key| (*key, inner.look(key, options).await))).await;
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
            match decode(key, &cached) {
                Ok(value) => {
                    count(&inner.cx.counters.hits);
                    inner.remember(key, cached);
                    values.insert(key.to_owned(), Loaded { value, origin: Origin::Cache });
                    if is_early {
                        missing.push(key);
                        early.insert(key);
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
        let acquired = join_all(missing.iter().map(async |key| {
            let acquired = match early.contains(key) {
                true => inner.acquire_early(key, options).await,
                false => inner.acquire(key, options, false).await,
            };
            (*key, acquired)
        }))
        .await;
        let mut failed = None;
        for (key, acquired) in acquired {
            match acquired {
                Ok(Acquired::Turn(ticket)) => turns.push((key, Some(ticket))),
                // Somebody else refreshes it, or nobody can.
                Ok(Acquired::Busy) | Err(_) if early.contains(key) => {}
                Ok(Acquired::Busy) => {
                    count(&inner.cx.counters.busy);
                    turns.push((key, None));
                }
                Ok(Acquired::Hit(Found(cached))) => match decode(key, &cached) {
                    Ok(value) => {
                        inner.remember(key, cached);
                        values.insert(key.to_owned(), Loaded { value, origin: Origin::Cache });
                    }
                    Err(error) => match inner.foreign(key, options, error).await {
                        Ok(()) => turns.push((key, None)),
                        Err(error) => failed = Some(error),
                    },
                },
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            inner.abandon_all(turns).await;
            return Err(error);
        }
        if turns.is_empty() {
            return Ok(values);
        }
        let asked: Vec<String> = turns.iter().map(|(key, _)| (*key).to_owned()).collect();
        let loaded = inner.load_many(options, asked, load).await;
        // All are encoded before the first is filled: one that can't be leaves nothing half done.
        let encoded = loaded.and_then(|mut loaded| {
            let keys = turns.iter().map(|(key, _)| *key);
            let encode = |key| {
                let value = loaded.remove(key);
                let cached = match &value {
                    Some(value) => Cached::Value(codec::encode(key, value)?),
                    None => Cached::Null,
                };
                Ok((cached, value))
            };
            keys.map(encode).collect::<Result<Vec<_>, Error>>()
        });
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => {
                let needed = turns.iter().map(|(key, _)| *key).filter(|key| !early.contains(key));
                let instead = inner.instead_of_all(needed, error);
                inner.abandon_all(turns).await;
                values.extend(instead?);
                return Ok(values);
            }
        };
        let mut fills = Vec::new();
        for ((key, ticket), (cached, value)) in turns.into_iter().zip(encoded) {
            values.insert(key.to_owned(), Loaded { value, origin: Origin::Database });
            let is_early = early.contains(key);
            if is_early {
                count(&inner.cx.counters.early);
            }
            fills.push(async move {
                let filled = inner.fill(key, options, ticket, &cached).await;
                inner.remember(key, cached);
                if is_early { Ok(()) } else { filled }
            });
        }
        join_all(fills).await.into_iter().collect::<Result<(), Error>>()?;
        Ok(values)
    }
}

impl Inner {
    async fn look(&self, key: &str, options: &CallOptions) -> Result<Lookup, Error> {
        match options.refresh {
            true => {
                // Its type would be too deep for the compiler in a caller's task.
                let removed: BoxFuture<'_, _> = Box::pin(self.remove(key, options));
                removed.await.map(|()| Lookup::Miss)
            }
            false => self.lookup(key, options).await,
        }
    }

    async fn abandon_all(&self, turns: Vec<(&str, Option<Ticket>)>) {
        let tickets = turns.into_iter().filter_map(|(key, ticket)| Some((key, ticket?)));
        join_all(tickets.map(|(key, ticket)| self.strategy.abandon(&self.cx, key, ticket))).await;
    }

    /// Remembered values instead of a load that was refused: of all these keys, or the error. Of no keys, no values.
    fn instead_of_all<'a, T: DeserializeOwned>(
        &self,
        needed: impl Iterator<Item = &'a str>,
        error: Error,
    ) -> Result<Values<T>, Error> {
        let of = |key: &str| {
            let (Error::Overloaded { .. }, Some(remembered)) = (&error, &self.remembered) else {
                return None;
            };
            let value = decode(key, &*remembered.get(key)?).ok()?;
            Some((key.to_owned(), Loaded { value, origin: Origin::Stale }))
        };
        let values: Option<Values<T>> = needed.map(of).collect();
        let Some(values) = values else { return Err(error) };
        tracing::debug!(%error, stale = values.len(), "old values instead");
        values.iter().for_each(|_| count(&self.cx.counters.stale));
        Ok(values)
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
}
