//! Several keys with one load.

use std::{collections::HashMap, future::Future, time::Instant};

use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, Inner, decode};
use crate::{
    BoxError, CallOptions, Error, Step, codec,
    commands::Cached,
    source::ReadSource,
    stats::count,
    strategy::{Acquired, Found, Lookup, Ticket},
};

impl Client {
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
                let tickets = turns.into_iter().filter_map(|(key, ticket)| Some((key, ticket?)));
                join_all(tickets.map(|(key, ticket)| inner.strategy.abandon(&inner.cx, key, ticket))).await;
                return Err(error);
            }
        };
        let mut fills = Vec::new();
        for ((key, ticket), (cached, value)) in turns.into_iter().zip(encoded) {
            values.extend(value.map(|value| (key.to_owned(), value)));
            fills.push(async move { inner.fill(key, options, ticket, &cached).await });
        }
        join_all(fills).await.into_iter().collect::<Result<(), Error>>()?;
        Ok(values)
    }
}

impl Inner {
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
