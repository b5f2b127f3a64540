//! What a write makes wrong in the cache.

use std::time::Duration;

use serde::Serialize;

use crate::{Error, codec, commands::Cached};

/// The keys that a write makes wrong, and what their values become where the strategy wants to know.
///
/// ```
/// use rowbust_client::Change;
/// # fn example() -> Result<(), rowbust_client::Error> {
/// // Enough for strategies that remove:
/// let change = Change::of("product:7").also("product:sku:A-1");
/// // `write-db-then-cache`, `write-cache-then-db` and `write-through` put the new value there:
/// let change = Change::of("product:7").value(&"a new name")?.also("product:sku:A-1").absent();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Change {
    first: Entry,
    others: Vec<Entry>,
}

/// A key, and what it becomes.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) becomes: Option<Cached>,
    pub(crate) ttl: Option<Duration>,
}

impl Entry {
    fn of(key: impl Into<String>) -> Self {
        Self { key: key.into(), becomes: None, ttl: None }
    }
}

impl Change {
    /// This key becomes wrong. What its value becomes isn't told: that is enough for strategies that remove.
    ///
    /// ```
    /// use rowbust_client::Change;
    /// let renamed = Change::of(format!("product:{}", 7));
    /// assert_eq!(renamed.keys().count(), 1);
    /// ```
    #[must_use]
    pub fn of(key: impl Into<String>) -> Self {
        Self { first: Entry::of(key), others: Vec::new() }
    }

    /// This key becomes wrong too.
    ///
    /// ```
    /// use rowbust_client::Change;
    /// // An order placed: the customer's list of orders has one more, and the stock is less.
    /// let placed = Change::of("orders:customer:12").also("stock:7").also("stock:8");
    /// assert_eq!(placed.keys().count(), 3);
    /// ```
    #[must_use]
    pub fn also(mut self, key: impl Into<String>) -> Self {
        self.others.push(Entry::of(key));
        self
    }

    /// The key named last becomes this: what its loader would return after the write. Strategies that only remove don't look at it.
    ///
    /// # Errors
    /// [`Error::Encode`] when it can't be JSON.
    ///
    /// ```
    /// use rowbust_client::Change;
    /// #[derive(serde::Serialize)]
    /// struct Product { id: u64, name: String }
    /// let renamed = Product { id: 7, name: "a new name".to_owned() };
    /// let change = Change::of("product:7").value(&renamed)?.also("product:name:7").value("a new name")?;
    /// # Ok::<(), rowbust_client::Error>(())
    /// ```
    pub fn value<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, Error> {
        let entry = self.last();
        entry.becomes = Some(Cached::Value(codec::encode(&entry.key, value)?));
        Ok(self)
    }

    /// The key named last becomes absent: the row is deleted.
    ///
    /// ```
    /// use rowbust_client::Change;
    /// // DELETE FROM products WHERE id = 7
    /// let deleted = Change::of("product:7").absent().also("product:sku:A-1").absent();
    /// ```
    #[must_use]
    pub fn absent(mut self) -> Self {
        self.last().becomes = Some(Cached::Null);
        self
    }

    /// What the key named last becomes is kept for this long, of at least a millisecond, instead of
    /// [`Settings::ttl`](crate::Settings::ttl) or [`Settings::null_ttl`](crate::Settings::null_ttl); jittered like that. Strategies that
    /// only remove don't look at it: there, each read says for how long it fills.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rowbust_client::Change;
    /// // The name is kept for as long as others; a price changes soon.
    /// let change = Change::of("product:7").value("a new name")?.also("price:7").value(&5)?.ttl(Duration::from_secs(5));
    /// # Ok::<(), rowbust_client::Error>(())
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.last().ttl = Some(ttl);
        self
    }

    fn last(&mut self) -> &mut Entry {
        self.others.last_mut().unwrap_or(&mut self.first)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// All keys, in the order in which they were named.
    ///
    /// ```
    /// use rowbust_client::Change;
    /// let change = Change::of("product:7").also("product:sku:A-1");
    /// assert_eq!(change.keys().collect::<Vec<_>>(), ["product:7", "product:sku:A-1"]);
    /// ```
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|entry| entry.key.as_str())
    }
}

/// What came of a write.
///
/// ```
/// use rowbust_client::{Error, Written};
/// fn of(written: Written<u32>) -> Result<u32, Error> {
///     if let Err(error) = &written.cache {
///         eprintln!("the row is written; old values may stay for a TTL: {error}");
///     }
///     written.into_result()
/// }
/// assert_eq!(of(Written { value: 7, cache: Ok(()) }).unwrap(), 7);
/// ```
#[derive(Debug)]
#[must_use = "the cache may not have taken the change: look at `cache`, or call `into_result`"]
pub struct Written<R> {
    /// What the update returned: the database has the change.
    pub value: R,
    /// Whether the cache was made to follow. An error means that old values may stay until their TTL ends, or until the daemon removes
    /// them.
    pub cache: Result<(), Error>,
}

impl<R> Written<R> {
    /// The value, if the cache was made to follow too.
    ///
    /// # Errors
    /// [`Written::cache`]'s. The database has the change all the same.
    ///
    /// ```
    /// use rowbust_client::{Error, Written};
    /// let removed = Written { value: "order 41", cache: Ok(()) };
    /// assert_eq!(removed.into_result().unwrap(), "order 41");
    ///
    /// # let source = Box::new(Error::Reply { command: "UNLINK", reply: "?".to_owned() });
    /// let not_removed = Error::NotRemoved { keys: vec!["product:7".to_owned()], source };
    /// let written = Written { value: "order 42", cache: Err(not_removed) };
    /// // Order 42 is in the database; product:7 may be stale.
    /// assert!(matches!(written.into_result(), Err(Error::NotRemoved { .. })));
    /// ```
    pub fn into_result(self) -> Result<R, Error> {
        self.cache.map(|()| self.value)
    }
}
