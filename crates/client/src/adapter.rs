//! Connections to the server that a load must read from.
//!
//! [`Sources`] holds one pool of connections per member, of any driver. Behind the features `mysql_async` and `sqlx` it also opens the
//! connection. It takes pools, not connections: what it hands out has no transaction open, so that a read on it sees the newest state.
//!
//! Example: see [`Sources`].
//!
//! Guarantees: a member without a pool of its own is read at the primary, which is always a member.

use std::{collections::HashMap, fmt};

use crate::ReadSource;

/// One pool per member of the pool of read sources.
///
/// ```no_run
/// # #[cfg(feature = "mysql_async")]
/// # async fn example(client: rowbust_client::Client) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use mysql_async::{Pool, prelude::Queryable};
/// use rowbust_client::adapter::Sources;
///
/// let sources = Sources::new(Pool::new("mysql://app@db1:3306/shop"))
///     .member("db2:3306", Pool::new("mysql://app@db2:3306/shop"));
/// let name: Option<String> = client
///     .get_or_load("product:7", async |source| {
///         let mut connection = sources.read(&source).await?;
///         connection.exec_first("SELECT name FROM products WHERE id = ?", (7,)).await
///     })
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sources<P> {
    primary: P,
    members: HashMap<String, P>,
}

impl<P> fmt::Debug for Sources<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Pools may show passwords.
        f.debug_struct("Sources").field("members", &self.members.keys()).finish_non_exhaustive()
    }
}

impl<P> Sources<P> {
    /// The primary's pool, which also stands for each member that has none of its own.
    ///
    /// ```
    /// use rowbust_client::adapter::Sources;
    /// // A pool may be of any driver, and so of any type.
    /// let sources = Sources::new("mysql://app@db1:3306/shop");
    /// assert_eq!(*sources.primary(), "mysql://app@db1:3306/shop");
    /// ```
    pub fn new(primary: P) -> Self {
        Self { primary, members: HashMap::new() }
    }

    /// The pool of a replica; `address` is `host:port` as in the daemon's `source.replicas`. The pool given last for an address counts.
    ///
    /// ```
    /// use rowbust_client::adapter::Sources;
    /// let sources = Sources::new("mysql://app@db1:3306/shop")
    ///     .member("db2:3306", "mysql://app@db2:3306/shop")
    ///     .member("db3:3306", "mysql://app@db3:3306/shop");
    /// ```
    #[must_use]
    pub fn member(mut self, address: impl Into<String>, pool: P) -> Self {
        self.members.insert(address.into(), pool);
        self
    }

    /// The pool to read from: the member's that `source` names, else the primary's. For drivers without an adapter of their own here.
    ///
    /// ```no_run
    /// # struct Pool;
    /// # impl Pool { async fn stock_of(&self, _: u64) -> Result<Option<u32>, std::io::Error> { Ok(None) } }
    /// # use rowbust_client::{Client, adapter::Sources};
    /// # async fn example(client: Client, sources: Sources<Pool>) -> Result<(), rowbust_client::Error> {
    /// let stock: Option<u32> = client
    ///     .get_or_load("stock:7", async |source| sources.of(&source).stock_of(7).await)
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn of(&self, source: &ReadSource) -> &P {
        if source.is_primary() {
            return &self.primary;
        }
        source.member().and_then(|member| self.members.get(member)).unwrap_or(&self.primary)
    }

    /// The primary's pool, to write to.
    ///
    /// ```no_run
    /// # #[cfg(feature = "mysql_async")]
    /// # async fn example(
    /// #     client: rowbust_client::Client,
    /// #     sources: rowbust_client::adapter::Sources<mysql_async::Pool>,
    /// # ) -> Result<(), rowbust_client::Error> {
    /// use mysql_async::prelude::Queryable;
    /// use rowbust_client::Change;
    /// let update = async || {
    ///     let mut connection = sources.primary().get_conn().await?;
    ///     connection.exec_drop("UPDATE products SET name = ? WHERE id = ?", ("a new name", 7)).await
    /// };
    /// client.write(&Change::of("product:7"), update).await?.into_result()?;
    /// # Ok(()) }
    /// ```
    pub fn primary(&self) -> &P {
        &self.primary
    }
}

#[cfg(feature = "mysql_async")]
impl Sources<mysql_async::Pool> {
    /// A connection to read on, without an open transaction: the pool resets connections that come back
    /// (`PoolOpts::with_reset_connection`, on by default; leave it on).
    ///
    /// # Errors
    /// When none can be had.
    ///
    /// ```no_run
    /// # #[cfg(feature = "mysql_async")]
    /// # async fn example(
    /// #     client: rowbust_client::Client,
    /// #     sources: rowbust_client::adapter::Sources<mysql_async::Pool>,
    /// # ) -> Result<(), rowbust_client::Error> {
    /// use mysql_async::prelude::Queryable;
    /// let prices: Option<Vec<u32>> = client
    ///     .get_or_load("prices:7", async |source| {
    ///         let mut connection = sources.read(&source).await?;
    ///         connection.exec("SELECT price FROM prices WHERE product = ?", (7,)).await.map(Some)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn read(&self, source: &ReadSource) -> mysql_async::Result<mysql_async::Conn> {
        self.of(source).get_conn().await
    }
}

#[cfg(feature = "sqlx")]
impl Sources<sqlx::MySqlPool> {
    /// A connection to read on, without an open transaction: sqlx rolls back what is open when a `Transaction` is dropped.
    ///
    /// # Errors
    /// When none can be had.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlx")]
    /// # async fn example(
    /// #     client: rowbust_client::Client,
    /// #     sources: rowbust_client::adapter::Sources<sqlx::MySqlPool>,
    /// # ) -> Result<(), rowbust_client::Error> {
    /// let name: Option<String> = client
    ///     .get_or_load("product:7", async |source| {
    ///         let mut connection = sources.read(&source).await?;
    ///         let query = sqlx::query_scalar("SELECT name FROM products WHERE id = ?").bind(7_u64);
    ///         query.fetch_optional(&mut *connection).await
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn read(&self, source: &ReadSource) -> sqlx::Result<sqlx::pool::PoolConnection<sqlx::MySql>> {
        self.of(source).acquire().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_a_pool_is_read_at_the_primary() {
        let sources = Sources::new("db1").member("db2:3306", "db2");
        assert_eq!(*sources.of(&ReadSource::primary()), "db1");
        let chosen = |members: &[&str]| {
            let members: Vec<String> = members.iter().map(|m| (*m).to_owned()).collect();
            let source = std::iter::repeat_with(|| ReadSource::of(members.clone()))
                .find(|source| !source.is_primary());
            source.map(|source| *sources.of(&source))
        };
        assert_eq!(chosen(&["db1:3306", "db2:3306"]), Some("db2"));
        assert_eq!(chosen(&["db1:3306", "db3:3306"]), Some("db1"));
    }
}
