//! Every cached key compared with the database.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params, Value};
use redis::aio::MultiplexedConnection;

use super::shop::{CHUNK, Key, Row, Size, Table, cached_form};

/// What the comparison found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compared {
    /// Keys in Redis, all of them compared.
    pub(crate) cached: u64,
    /// Cached keys whose value is not what the database holds.
    pub(crate) stale: Vec<Key>,
    /// Rows that have no cached key: counted apart, so that removing everything can't win.
    pub(crate) absent: u64,
}

/// Compares; nothing may write meanwhile.
pub(crate) async fn compare(
    db: &mut Conn,
    redis: &mut MultiplexedConnection,
    size: Size,
) -> Result<Compared> {
    let keys = all_keys(redis).await?;
    let mut compared = Compared { cached: keys.len() as u64, ..Compared::default() };
    compared.absent = size.rows().saturating_sub(compared.cached);
    for table in Table::ALL {
        let keys: Vec<Key> = keys.iter().copied().filter(|key| key.table == table).collect();
        for chunk in keys.chunks(CHUNK) {
            let names: Vec<String> = chunk.iter().map(Key::to_string).collect();
            let values: Vec<Option<String>> = redis::cmd("MGET").arg(&names).query_async(redis).await?;
            let ids: Vec<Value> = chunk.iter().map(|key| Value::from(key.id)).collect();
            let rows: Vec<Row> = db
                .exec(table.select_many(chunk.len()), Params::Positional(ids))
                .await
                .context("cannot read the rows")?;
            let rows: HashMap<u32, String> =
                rows.into_iter().map(|row| (row.0, cached_form(table, &row))).collect();
            for (key, value) in chunk.iter().zip(values) {
                let Some(value) = value else {
                    bail!("{key} vanished during the comparison: something still writes");
                };
                if rows.get(&key.id) != Some(&value) {
                    compared.stale.push(*key);
                }
            }
        }
    }
    Ok(compared)
}

async fn all_keys(redis: &mut MultiplexedConnection) -> Result<BTreeSet<Key>> {
    let mut keys = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let (next, found): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("COUNT")
            .arg(CHUNK)
            .query_async(redis)
            .await
            .context("cannot scan")?;
        // The daemon's marks stand there too.
        for name in found.into_iter().filter(|name| !name.starts_with(rowbust_protocol::OWN)) {
            keys.insert(Key::parse(&name).with_context(|| format!("a key that is none of ours: {name}"))?);
        }
        if next == 0 {
            return Ok(keys);
        }
        cursor = next;
    }
}
