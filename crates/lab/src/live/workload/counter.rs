//! Counters that are kept in several rows.

use std::time::Duration;

use futures_util::future::{BoxFuture, LocalBoxFuture};
use rand::RngExt as _;

use super::{Load, Mapping, rows::insert};
use crate::{
    live::{
        LiveError, World,
        actor::{App, LANES},
        error::LiveError as Error,
        stage::Stage,
    },
    zipf::Zipf,
};

/// Rows per counter.
const SHARDS: u32 = 8;
const _: () = assert!(SHARDS <= LANES, "a read is one operation per shard");

/// A write adds one to a row chosen at random; a read asks for all rows of a counter.
#[derive(Debug)]
pub(super) struct Counters {
    counters: u32,
    popular: Zipf,
}

impl Counters {
    /// About so many rows.
    pub(super) fn new(rows: u32) -> Self {
        let counters = rows.div_ceil(SHARDS);
        Self { counters, popular: Zipf::new(counters) }
    }
}

impl Load for Counters {
    fn cells(&self) -> u32 {
        self.counters * SHARDS
    }

    fn key(&self, prefix: &str, cell: u32) -> String {
        format!("{prefix}counter:{}:{}", cell / SHARDS, cell % SHARDS)
    }

    fn tables(&self, schema: &str) -> Vec<String> {
        let table = format!(
            "CREATE TABLE {schema}.counters (id INT UNSIGNED, shard INT UNSIGNED, n BIGINT UNSIGNED NOT NULL, ver BIGINT UNSIGNED NOT NULL, \
             val BIGINT UNSIGNED NOT NULL, PRIMARY KEY (id, shard)) ENGINE=InnoDB"
        );
        let rows = (0..self.cells())
            .map(|cell| format!("({},{},0,1,{})", cell / SHARDS, cell % SHARDS, self.first(cell)));
        std::iter::once(table).chain(insert(&format!("{schema}.counters"), rows)).collect()
    }

    fn mappings(&self, schema: &str, prefix: &str) -> Vec<Mapping> {
        let keys = vec![format!("{prefix}counter:{{id}}:{{shard}}")];
        vec![Mapping { table: format!("{schema}.counters"), keys }]
    }

    fn state(&self, schema: &str) -> String {
        format!("SELECT id * {SHARDS} + shard, ver, val FROM {schema}.counters")
    }

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(4), Duration::from_millis(20))
    }

    fn broken<'a>(
        &'a self,
        stage: &'a Stage,
        world: &'a World,
        _: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, LiveError>> {
        Box::pin(async move {
            let sql = format!(
                "SELECT CAST(COUNT(*) AS UNSIGNED) FROM {}.counters WHERE n + 1 <> ver",
                stage.schema
            );
            let wrong: Option<u64> =
                world.admin().first(&sql).await.map_err(Error::database("counting what was counted"))?;
            let wrong = wrong.unwrap_or(0);
            Ok((wrong > 0).then(|| format!("{wrong} shards lost an addition")).into_iter().collect())
        })
    }

    fn read<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let counter = self.popular.pick(&mut app.rng);
            let cells: Vec<u32> = (counter * SHARDS..(counter + 1) * SHARDS).collect();
            let table = format!("{}.counters", app.stage.schema);
            let sql = move |cells: &str| {
                format!(
                    "SELECT id * {SHARDS} + shard, ver, val FROM {table} WHERE id = {counter} AND id * {SHARDS} + shard IN ({cells})"
                )
            };
            app.read_many(&cells, sql).await;
        })
    }

    fn write<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let counter = self.popular.pick(&mut app.rng);
            let shard = app.rng.random_range(0..SHARDS);
            let table = format!("{}.counters", app.stage.schema);
            app.write(&[counter * SHARDS + shard], move |link, val| {
                let sql = format!(
                    "UPDATE {table} SET n = n + 1, ver = LAST_INSERT_ID(ver + 1), val = {val} WHERE id = {counter} AND shard = {shard}"
                );
                link.run(vec![sql])
            })
            .await;
        })
    }
}
