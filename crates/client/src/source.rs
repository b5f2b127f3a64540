//! Where a load may read from.
//!
//! Guarantees: a [`ReadSource`] is made by a strategy at the moment at which a read may begin, and by nobody else.

use serde::Deserialize;

/// Handed to a loader: the server to read from, and the permission to begin.
///
/// **Begin the read after you have it.** Open a connection (or take one from a pool), and read in a snapshot that begins now: autocommit,
/// or a transaction that you start here. A transaction that was open before sees an older state of the rows, and a fill with that is what
/// the guarded strategy exists to prevent. The loader gets this token instead of being handed a connection for that reason: take
/// *pools* into the closure, never a connection or transaction.
///
/// **Read from that server, and directly**: a proxy that sends reads to servers of its own choice undoes the choice made here.
///
/// ```no_run
/// # async fn example(client: &rowbust_client::Client) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::ReadSource;
/// let name: Option<String> = client
///     .get_or_load("product:7", async |source: ReadSource| {
///         // None: the primary. Some("db2:3306"): this member of the pool.
///         let host = source.member().unwrap_or("db1:3306");
///         read_name(host, 7).await
///     })
///     .await?;
/// # Ok(()) }
/// # async fn read_name(_: &str, _: u64) -> Result<Option<String>, std::io::Error> { Ok(None) }
/// ```
#[derive(Debug)]
pub struct ReadSource {
    members: Vec<String>,
    chosen: usize,
}

impl ReadSource {
    /// The primary, which is always a member.
    pub(crate) fn primary() -> Self {
        Self { members: Vec::new(), chosen: 0 }
    }

    /// One of these, chosen at random; the first is the primary. None: the primary.
    pub(crate) fn of(members: Vec<String>) -> Self {
        let chosen = rand::random_range(0..members.len().max(1));
        Self { members, chosen }
    }

    /// `host:port` of the server to read from, as the daemon's configuration spells it; chosen at random among the pool's members, so
    /// that loads are shared evenly. `None`: the primary.
    ///
    /// Example: see [`ReadSource`].
    #[must_use]
    pub fn member(&self) -> Option<&str> {
        self.members.get(self.chosen).map(String::as_str)
    }

    /// All members that may be read from, the primary first; empty where only the primary may. For loaders with a choice of their own.
    ///
    /// ```no_run
    /// # async fn read_name(_: &str, _: u64) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let name: Option<String> = client
    ///     .get_or_load("product:7", async |source| {
    ///         // The replica in this data centre while it is a member, else the primary.
    ///         let near = source.members().iter().find(|member| member.starts_with("db2.here:"));
    ///         read_name(near.map_or("db1:3306", String::as_str), 7).await
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn members(&self) -> &[String] {
        &self.members
    }

    /// Whether [`ReadSource::member`] is the primary.
    ///
    /// ```no_run
    /// # async fn read_name(_: &str, _: u64) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// let name: Option<String> = client
    ///     .get_or_load("product:7", async |source| {
    ///         // A primary and one replica.
    ///         read_name(if source.is_primary() { "db1:3306" } else { "db2:3306" }, 7).await
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.chosen == 0
    }
}

/// What stands at the pool's key.
#[derive(Debug, Deserialize)]
struct Listed {
    v: u32,
    members: Vec<String>,
}

/// The published pool; `None` where this version can't read it: then only the primary is sure to be a member.
pub(crate) fn parse_pool(text: &[u8]) -> Option<ReadSource> {
    let listed: Listed = serde_json::from_slice(text).ok()?;
    (listed.v == 1 && !listed.members.is_empty()).then(|| ReadSource::of(listed.members))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_pool_is_read_as_documented() {
        let pool = parse_pool(br#"{"v":1,"members":["db1:3306","db2:3306"]}"#).unwrap();
        assert_eq!(pool.members(), ["db1:3306", "db2:3306"]);
        assert_eq!(pool.is_primary(), pool.member() == Some("db1:3306"));
        for bad in
            ["", "{}", r#"{"v":2,"members":["db1:3306"]}"#, r#"{"v":1,"members":[]}"#, r#"{"v":1}"#, "[1]"]
        {
            assert!(parse_pool(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(ReadSource::primary().is_primary() && ReadSource::primary().member().is_none());
    }

    #[test]
    fn every_member_is_chosen_at_some_time() {
        let members = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let chosen: std::collections::HashSet<_> =
            (0..1000).map(|_| ReadSource::of(members()).member().map(str::to_owned)).collect();
        assert_eq!(chosen.len(), 3);
    }
}
