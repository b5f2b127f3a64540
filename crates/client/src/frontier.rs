//! Up to where everything is removed, as the daemon tells.
//!
//! Guarantees: what is read stood on the server that has the key. May depend on `link`, `error` and `rowbust-protocol`.

use std::time::{Duration, SystemTime};

use redis::Value;
use rowbust_protocol::slots::{SLOTS, slot, tags};
use serde::Deserialize;

use crate::{Client, Error, Redis};

/// Everything before this place of the database's binlog has been removed from this Redis, for the second time.
///
/// ```no_run
/// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
/// use rowbust_client::Frontier;
/// if let Some(Frontier { file, position, .. }) = client.frontier("main", "product:7").await? {
///     println!("all changes before {file} {position} are done");
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Frontier {
    v: u32,
    /// `mysql` or `mariadb`.
    pub flavor: String,
    /// The server that file and position belong to: `@@server_uuid`, on MariaDB `@@server_id`.
    pub source: String,
    /// MySQL: the executed set. MariaDB: the last GTID of each domain. Empty: the server has none.
    pub gtids: String,
    /// Binlog file.
    pub file: String,
    /// Offset behind the last event that is done.
    pub position: u64,
    /// Unix time in seconds of the newest commit before it, by the source's clock; 0: unknown.
    pub time: u32,
}

impl Frontier {
    fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(text).ok().filter(|frontier| frontier.v == 1)
    }

    /// When the newest commit before it was made, by the source's clock; `None`: unknown.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// # let text = r#"{"v":1,"flavor":"mariadb","source":"1","gtids":"0-1-5","file":"b.000001","position":100,"time":1792000000}"#;
    /// # let frontier: rowbust_client::Frontier = serde_json::from_str(text).unwrap();
    /// // How long the cache is behind, where both clocks agree.
    /// let behind = frontier.commit_time().and_then(|time| time.elapsed().ok());
    /// assert_eq!(frontier.time, 1_792_000_000);
    /// assert_eq!(frontier.commit_time(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_792_000_000)));
    /// ```
    #[must_use]
    pub fn commit_time(&self) -> Option<SystemTime> {
        (self.time > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(self.time.into()))
    }
}

impl Client {
    /// The frontier that the daemon with this `source.name` has published, as it stands on the server that has `key`: on a cluster each
    /// master has one, all of the same place. `None`: nothing is published (yet), or in a later version's form.
    ///
    /// It may be told of a value only where that was read *after* it from the same server: a Redis that loses its memory forgets both. On
    /// a cluster this asks for the slots first: it is for monitoring, not for each read.
    ///
    /// # Errors
    /// When Redis fails.
    ///
    /// ```no_run
    /// # async fn example(client: rowbust_client::Client) -> Result<(), rowbust_client::Error> {
    /// match client.frontier("main", "product:7").await? {
    ///     Some(frontier) => println!("done up to {:?}", frontier.commit_time()),
    ///     None => println!("no daemon has published anything yet"),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn frontier(&self, source_name: &str, key: &str) -> Result<Option<Frontier>, Error> {
        let redis = self.redis();
        let at = match redis.is_cluster() {
            false => format!("rowbust:frontier:{source_name}"),
            true => match redis.tag_beside(key).await? {
                Some(tag) => format!("rowbust:frontier:{{{tag}}}:{source_name}"),
                None => return Ok(None),
            },
        };
        Ok(redis.get_raw(&at).await?.as_deref().and_then(Frontier::parse))
    }
}

impl Redis {
    /// The least number whose slot is served by the server that has this key.
    async fn tag_beside(&self, key: &str) -> Result<Option<String>, Error> {
        const NAME: &str = "CLUSTER SLOTS";
        let answer = self
            .query_again(redis::cmd("CLUSTER").arg("SLOTS"))
            .await
            .map_err(|source| Error::Redis { command: NAME, source })?;
        let ranges = ranges(&answer).ok_or_else(|| Error::reply(NAME, &answer))?;
        let owner = |slot: u16| {
            ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(.., owner)| *owner)
        };
        let Some(own) = owner(slot(key.as_bytes())) else { return Ok(None) };
        Ok(tags(|slot| owner(slot) == Some(own), 1).pop())
    }
}

/// First slot, last slot, master (<https://redis.io/docs/latest/commands/cluster-slots/>).
fn ranges(reply: &Value) -> Option<Vec<(u16, u16, &Value)>> {
    let Value::Array(entries) = reply else { return None };
    entries.iter().map(range).collect()
}

fn range(entry: &Value) -> Option<(u16, u16, &Value)> {
    let Value::Array(parts) = entry else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    // Host, port, id: the id is its name.
    let id = master.get(2)?;
    Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok().filter(|last| *last < SLOTS)?, id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_form_is_as_documented() {
        let page = include_str!("../../../docs/wire-format.md");
        let text = page.lines().find(|line| line.starts_with(r#"{"v":1,"id":"#)).unwrap();
        let frontier = Frontier::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (frontier.gtids.as_str(), frontier.position, frontier.commit_time()),
            ("0-1-5", 100, None)
        );
        assert!(Frontier::parse(text.replace("\"v\":1", "\"v\":2").as_bytes()).is_none());
        assert!(Frontier::parse(b"{").is_none());
    }

    #[test]
    fn slots_that_are_none_are_no_slots() {
        let id = || Value::BulkString(b"a".to_vec());
        let master = |parts| Value::Array(vec![Value::Int(0), Value::Int(5), Value::Array(parts)]);
        let whole = master(vec![id(), Value::Int(1), id()]);
        assert_eq!(ranges(&Value::Array(vec![whole.clone()])).unwrap(), [(0, 5, &id())]);
        for wrong in [Value::Nil, Value::Int(1), master(vec![]), Value::Array(vec![])] {
            assert!(ranges(&Value::Array(vec![whole.clone(), wrong])).is_none());
        }
        assert!(ranges(&Value::Nil).is_none());
    }
}
