//! A flash sale: stock in Redis, orders through a queue.
//!
//! A buyer takes a piece from Redis by a script, which also puts the order into a list; a worker moves it to a second list, books it in the
//! database (order and stock in one transaction, each order once), and strikes it out. The stock in the database is what the
//! cached key shows. The database refuses to sell what isn't there, so that a Redis that forgets can't make it.

use std::time::Duration;

use futures_util::future::{BoxFuture, LocalBoxFuture};
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;

use super::{Load, Mapping, rows::insert};
use crate::{
    live::{LiveError, World, actor::App, error::LiveError as Error, stage::Stage},
    zipf::Zipf,
};

/// Of each item.
const STOCK: u32 = 200;

const TAKE: &str = "local left = tonumber(redis.call('GET', KEYS[1]) or '0') if left < 1 then return 0 end \
                    redis.call('DECR', KEYS[1]) redis.call('LPUSH', KEYS[2], ARGV[1]) return 1";

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
    ) -> BoxFuture<'a, Result<Vec<String>, LiveError>> {
        Box::pin(async move {
            let schema = &stage.schema;
            let sql = format!(
                "SELECT s.id, s.pieces, CAST(COUNT(o.id) AS UNSIGNED) FROM {schema}.stock s LEFT JOIN {schema}.orders o ON o.item = s.id \
                 GROUP BY s.id, s.pieces"
            );
            let rows: Vec<(u32, u32, u64)> =
                world.admin().all(&sql).await.map_err(Error::database("counting orders"))?;
            let is_wrong = |(_, pieces, orders): &&(u32, u32, u64)| {
                *orders > u64::from(STOCK) || u64::from(*pieces) + orders != u64::from(STOCK)
            };
            let wrong = rows.iter().filter(is_wrong);
            let text = |(id, pieces, orders): &(u32, u32, u64)| {
                format!("item {id}: {orders} sold and {pieces} left of {STOCK}")
            };
            Ok(wrong.map(text).collect())
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
            let (queue, taken) =
                (format!("{}orders", app.stage.prefix()), format!("{}taken", app.stage.prefix()));
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
            let parsed = next.as_ref().and_then(|text| {
                let (order, item) = text.split_once(':')?;
                Some((order.parse::<u64>().ok()?, item.parse::<u32>().ok()?))
            });
            let Some((order, item)) = parsed else { return };
            let schema = app.stage.schema.clone();
            app.write(&[item], move |link, val| {
                link.transaction(move |conn| {
                    Box::pin(async move {
                        // The row first: all orders of an item follow one another.
                        let sql = format!("SELECT pieces, ver FROM {schema}.stock WHERE id = {item} FOR UPDATE");
                        let found: Option<(u32, u64)> = conn.query_first(sql).await?;
                        let Some((pieces, version)) = found.filter(|(pieces, _)| *pieces > 0) else { return Ok(0) };
                        conn.query_drop(format!("INSERT IGNORE INTO {schema}.orders VALUES ({order},{item})")).await?;
                        if conn.affected_rows() == 0 {
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
            let mut strike = redis::cmd("LREM");
            strike.arg(&taken).arg(1).arg(next);
            if strike.query_async::<u64>(raw).await.is_err() {
                // It stays in the second list: booked already, and booked once.
                app.forget();
            }
        })
    }
}
