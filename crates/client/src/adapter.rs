//! Connections to the server that a load must read from.
//!
//! [`Sources`] holds one pool of connections per member, of any driver. Behind the features `mysql_async` and `sqlx` it also opens the
//! connection. It takes pools, not connections: what it hands out has no transaction open, so that a read on it sees the newest state.
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
    /// The primary's pool.
    pub fn new(primary: P) -> Self {
        Self { primary, members: HashMap::new() }
    }

    /// The pool of a replica; `address` is `host:port` as in the daemon's `source.replicas`.
    #[must_use]
    pub fn member(mut self, address: impl Into<String>, pool: P) -> Self {
        self.members.insert(address.into(), pool);
        self
    }

    /// The pool to read from.
    pub fn of(&self, source: &ReadSource) -> &P {
        if source.is_primary() {
            return &self.primary;
        }
        source.member().and_then(|member| self.members.get(member)).unwrap_or(&self.primary)
    }

    /// The primary's pool, to write to.
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
