//! A flash sale: stock in Redis, orders through a queue.
//!
//! A buyer takes a piece from Redis by a script, which also puts the order into a list; a worker moves it to a second list, books it in the
//! database (order and stock in one transaction, each order once), and strikes it out. An order that couldn't be booked goes back into the
//! first list. The stock in the database is what the cached key shows. The database refuses to sell what isn't there, so that a Redis that
//! forgets can't make it.
//!
//! Guarantees: unless Redis forgets, each piece is, at the end, either left in Redis, or ordered and not booked, or booked; else it is said.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, LocalBoxFuture};
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;

use super::{Load, Mapping, rows::insert};
use crate::{
    history::Outcome,
    live::{LiveError, World, actor::App, error::LiveError as Error, stage::Stage},
    zipf::Zipf,
};

/// Of each item.
const STOCK: u32 = 200;

const TAKE: &str = "local left = tonumber(redis.call('GET', KEYS[1]) or '0') if left < 1 then return 0 end \
                    redis.call('DECR', KEYS[1]) redis.call('LPUSH', KEYS[2], ARGV[1]) return 1";

/// An order that is still in the second list goes back into the first, to be booked by whoever comes next.
const GIVE_BACK: &str =
    "if redis.call('LREM', KEYS[1], 1, ARGV[1]) > 0 then redis.call('RPUSH', KEYS[2], ARGV[1]) end return 0";

/// Items with little stock, some of them wanted by all.
#[derive(Debug)]
pub(super) struct Sale {
    items: u32,
    popular: Zipf,
}

impl Sale {
    pub(super) fn new(rows: u32) -> Self {
        Self { items: rows, popular: Zipf::new(rows) }
    }
}

fn left(stage: &Stage, item: u32) -> String {
    format!("{}left:{item}", stage.prefix())
}

/// Orders that wait, and those that somebody is at.
fn lists(stage: &Stage) -> (String, String) {
    (format!("{}orders", stage.prefix()), format!("{}taken", stage.prefix()))
}

/// Number and item of an order in a list.
fn parse(order: &str) -> Option<(u64, u32)> {
    let (number, item) = order.split_once(':')?;
    Some((number.parse().ok()?, item.parse().ok()?))
}

/// What database and Redis hold at the end.
#[derive(Debug)]
struct Books {
    /// Pieces by item, in the database.
    pieces: Vec<(u32, u32)>,
    /// Orders that are booked, with their items.
    booked: HashMap<u64, u32>,
    /// Orders in both lists.
    listed: HashMap<u64, u32>,
    /// Pieces by item, in Redis.
    left: HashMap<u32, i64>,
}

impl Books {
    /// What doesn't come out even. Of a Redis that `forgot` something nothing is asked.
    fn wrong(&self, forgot: bool) -> Vec<String> {
        let count = |orders: &mut dyn Iterator<Item = u32>| {
            let mut counts: HashMap<u32, i64> = HashMap::new();
            orders.for_each(|item| *counts.entry(item).or_default() += 1);
            counts
        };
        let booked = count(&mut self.booked.values().copied());
        // One that was booked and couldn't be struck out is no other one.
        let is_owed = |(order, _): &(&u64, &u32)| !self.booked.contains_key(order);
        let owed = count(&mut self.listed.iter().filter(is_owed).map(|(_, item)| *item));
        let of = |counts: &HashMap<u32, i64>, item| counts.get(&item).copied().unwrap_or(0);
        let stock = i64::from(STOCK);
        let mut wrong = Vec::new();
        for (item, pieces) in &self.pieces {
            let (orders, owed, left) = (of(&booked, *item), of(&owed, *item), of(&self.left, *item));
            if orders > stock || i64::from(*pieces) + orders != stock {
                wrong.push(format!("item {item}: {orders} sold and {pieces} left of {stock}"));
            }
            if !forgot && (left < 0 || left + owed + orders != stock) {
                wrong.push(format!(
                    "item {item}: {left} left in Redis, {owed} ordered and {orders} booked of {stock}"
                ));
            }
        }
        let items: HashSet<u32> = self.pieces.iter().map(|(item, _)| *item).collect();
        let strange = self.booked.values().chain(self.listed.values()).filter(|item| !items.contains(item));
        wrong.extend(strange.map(|item| format!("an order of item {item}, which there isn't")));
        wrong
    }
}

impl Load for Sale {
    fn cells(&self) -> u32 {
        self.items
    }

    fn key(&self, prefix: &str, cell: u32) -> String {
        format!("{prefix}stock:{cell}")
    }

    fn tables(&self, schema: &str) -> Vec<String> {
        let stock = format!(
            "CREATE TABLE {schema}.stock (id INT UNSIGNED PRIMARY KEY, pieces INT UNSIGNED NOT NULL, ver BIGINT UNSIGNED NOT NULL, \
             val BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB"
        );
        let orders = format!(
            "CREATE TABLE {schema}.orders (id BIGINT UNSIGNED PRIMARY KEY, item INT UNSIGNED NOT NULL, KEY (item)) ENGINE=InnoDB"
        );
        let rows = (0..self.items).map(|id| format!("({id},{STOCK},1,{})", self.first(id)));
        [stock, orders].into_iter().chain(insert(&format!("{schema}.stock"), rows)).collect()
    }

    fn mappings(&self, schema: &str, prefix: &str) -> Vec<Mapping> {
        vec![Mapping { table: format!("{schema}.stock"), keys: vec![format!("{prefix}stock:{{id}}")] }]
    }

    fn state(&self, schema: &str) -> String {
        format!("SELECT id, ver, val FROM {schema}.stock")
    }

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(1), Duration::from_millis(20))
    }

    fn seed<'a>(
        &'a self,
        stage: &'a Stage,
        raw: &'a mut MultiplexedConnection,
    ) -> BoxFuture<'a, Result<(), LiveError>> {
        Box::pin(async move {
            let mut all = redis::pipe();
            for item in 0..self.items {
                all.set(left(stage, item), STOCK).ignore();
            }
            all.query_async::<()>(raw).await.map_err(Error::redis("laying in stock"))
        })
    }

    fn broken<'a>(
        &'a self,
        stage: &'a Stage,
        world: &'a World,
        forgot: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, LiveError>> {
        Box::pin(async move {
            let (schema, counting) = (&stage.schema, || Error::database("counting orders"));
            let pieces = format!("SELECT id, pieces FROM {schema}.stock");
            let pieces = world.admin().all(&pieces).await.map_err(counting())?;
            let orders = format!("SELECT id, item FROM {schema}.orders");
            let orders: Vec<(u64, u32)> = world.admin().all(&orders).await.map_err(counting())?;
            let mut raw = world.raw().await?;
            let (waiting, taken) = lists(stage);
            let mut listed = HashMap::new();
            for list in [waiting, taken] {
                let mut range = redis::cmd("LRANGE");
                range.arg(list).arg(0).arg(-1);
                let orders: Vec<String> =
                    range.query_async(&mut raw).await.map_err(Error::redis("LRANGE"))?;
                listed.extend(orders.iter().filter_map(|order| parse(order)));
            }
            let mut left = HashMap::new();
            for item in 0..self.items {
                let get = redis::cmd("GET").arg(self::left(stage, item)).query_async(&mut raw).await;
                let pieces: Option<i64> = get.map_err(Error::redis("GET"))?;
                left.insert(item, pieces.unwrap_or(0));
            }
            let books = Books { pieces, booked: orders.into_iter().collect(), listed, left };
            Ok(books.wrong(forgot))
        })
    }

    fn read<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let item = self.popular.pick(&mut app.rng);
            let sql = format!("SELECT ver, val FROM {}.stock WHERE id = {item}", app.stage.schema);
            app.read(item, &sql).await;
        })
    }

    fn write<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let item = self.popular.pick(&mut app.rng);
            let order = app.number();
            let (queue, taken) = lists(&app.stage);
            let key = left(&app.stage, item);
            let Some(raw) = app.raw().await else { return };
            let bought = async {
                let mut take = redis::cmd("EVAL");
                take.arg(TAKE).arg(2).arg(key).arg(&queue).arg(format!("{order}:{item}"));
                take.query_async::<u64>(raw).await?;
                redis::cmd("LMOVE")
                    .arg(&[&queue, &taken])
                    .arg("RIGHT")
                    .arg("LEFT")
                    .query_async::<Option<String>>(raw)
                    .await
            };
            let Ok(next) = bought.await else {
                app.forget();
                return;
            };
            let Some((order, item)) = next.as_deref().and_then(parse) else { return };
            let schema = app.stage.schema.clone();
            let was_booked = Arc::new(AtomicBool::default());
            let found_booked = was_booked.clone();
            let written = app.write(&[item], move |link, val| {
                link.transaction(move |conn| {
                    Box::pin(async move {
                        // The row first: all orders of an item follow one another.
                        let sql = format!("SELECT pieces, ver FROM {schema}.stock WHERE id = {item} FOR UPDATE");
                        let found: Option<(u32, u64)> = conn.query_first(sql).await?;
                        let Some((pieces, version)) = found else { return Ok(0) };
                        if pieces == 0 {
                            let sql = format!("SELECT COUNT(*) FROM {schema}.orders WHERE id = {order}");
                            let booked: Option<u64> = conn.query_first(sql).await?;
                            found_booked.store(booked == Some(1), Relaxed);
                            return Ok(0);
                        }
                        conn.query_drop(format!("INSERT IGNORE INTO {schema}.orders VALUES ({order},{item})")).await?;
                        if conn.affected_rows() == 0 {
                            found_booked.store(true, Relaxed);
                            return Ok(0);
                        }
                        let (pieces, version) = (pieces - 1, version + 1);
                        let sql = format!(
                            "UPDATE {schema}.stock SET pieces = {pieces}, ver = {version}, val = {val} WHERE id = {item}"
                        );
                        conn.query_drop(sql).await?;
                        Ok(version)
                    })
                })
            })
            .await;
            let Some(raw) = app.raw().await else { return };
            // What isn't certainly booked, is booked once more, and counts once.
            let done = match written == Outcome::Ok || was_booked.load(Relaxed) {
                true => redis::cmd("LREM").arg(&taken).arg(1).arg(next).query_async::<u64>(raw).await,
                false => {
                    redis::cmd("EVAL")
                        .arg(GIVE_BACK)
                        .arg(2)
                        .arg(&taken)
                        .arg(&queue)
                        .arg(next)
                        .query_async::<u64>(raw)
                        .await
                }
            };
            if done.is_err() {
                // It stays in the second list.
                app.forget();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One item: so many pieces in the database, so many orders booked, these in lists, so many pieces left in Redis.
    fn books(pieces: u32, booked: u64, listed: &[u64], left: i64) -> Books {
        Books {
            pieces: vec![(0, pieces)],
            booked: (0..booked).map(|order| (order, 0)).collect(),
            listed: listed.iter().map(|order| (*order, 0)).collect(),
            left: [(0, left)].into(),
        }
    }

    #[test]
    fn each_piece_is_somewhere_once() {
        assert!(books(200, 0, &[], 200).wrong(false).is_empty());
        // Order 700 isn't booked yet; order 3 is, and wasn't struck out.
        assert!(books(190, 10, &[700, 3], 189).wrong(false).is_empty());
        for (books, forgot, word) in [
            (books(190, 10, &[], 189), false, "189 left in Redis"),
            (books(0, 200, &[700], 0), false, "1 ordered"),
            (books(0, 200, &[700], -1), false, "-1 left"),
            (books(190, 11, &[], 189), true, "11 sold"),
            (books(0, 201, &[], 0), true, "201 sold"),
        ] {
            let wrong = books.wrong(forgot);
            assert!(wrong.len() == 1 && wrong[0].contains(word), "{wrong:?}");
        }
        // A Redis that forgot sells more than the database books.
        assert!(books(0, 200, &[700], 5).wrong(true).is_empty());
        assert_eq!(parse("4294967297:3"), Some((4_294_967_297, 3)));
    }
}
