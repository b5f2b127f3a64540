//! Rows that are found by a column that changes.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use mysql_async::prelude::Queryable as _;
use rand::RngExt as _;

use super::{Load, Mapping, rows::insert};
use crate::{live::actor::App, zipf::Zipf};

/// As many rows as slots. A write swaps the slots of two rows; both get a version above those that they had, so that a slot's versions
/// increase whichever row is in it.
#[derive(Debug)]
pub(super) struct Moves {
    slots: u32,
    popular: Zipf,
}

impl Moves {
    pub(super) fn new(rows: u32) -> Self {
        Self { slots: rows.max(2), popular: Zipf::new(rows.max(2)) }
    }
}

impl Load for Moves {
    fn cells(&self) -> u32 {
        self.slots
    }

    fn key(&self, prefix: &str, cell: u32) -> String {
        format!("{prefix}slot:{cell}")
    }

    fn tables(&self, schema: &str) -> Vec<String> {
        let table = format!(
            "CREATE TABLE {schema}.items (id INT UNSIGNED PRIMARY KEY, slot INT UNSIGNED NOT NULL, ver BIGINT UNSIGNED NOT NULL, \
             val BIGINT UNSIGNED NOT NULL, KEY (slot)) ENGINE=InnoDB"
        );
        let rows = (0..self.slots).map(|id| format!("({id},{id},1,{})", self.first(id)));
        std::iter::once(table).chain(insert(&format!("{schema}.items"), rows)).collect()
    }

    fn mappings(&self, schema: &str, prefix: &str) -> Vec<Mapping> {
        vec![Mapping { table: format!("{schema}.items"), keys: vec![format!("{prefix}slot:{{slot}}")] }]
    }

    fn state(&self, schema: &str) -> String {
        format!("SELECT slot, ver, val FROM {schema}.items")
    }

    fn pauses(&self) -> (Duration, Duration) {
        (Duration::from_millis(1), Duration::from_millis(20))
    }

    fn read<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let slot = self.popular.pick(&mut app.rng);
            let sql = format!("SELECT ver, val FROM {}.items WHERE slot = {slot}", app.stage.schema);
            app.read(slot, &sql).await;
        })
    }

    fn write<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let a = self.popular.pick(&mut app.rng);
            let b = (a + 1 + app.rng.random_range(0..self.slots - 1)) % self.slots;
            let table = format!("{}.items", app.stage.schema);
            app.write(&[a, b], move |link, val| {
                link.transaction(move |conn| {
                    Box::pin(async move {
                        let find =
                            format!("SELECT id, slot, ver FROM {table} WHERE slot IN ({a},{b}) FOR UPDATE");
                        let rows: Vec<(u32, u32, u64)> = conn.query(find).await?;
                        let (Some((i, at, v)), Some((j, _, w))) = (rows.first(), rows.get(1)) else {
                            return Ok(0);
                        };
                        let (version, other) = (v.max(w) + 1, if *at == a { b } else { a });
                        let swap = format!(
                            "UPDATE {table} SET slot = IF(id = {i}, {other}, {at}), ver = {version}, val = {val} WHERE id IN ({i},{j})"
                        );
                        conn.query_drop(swap).await?;
                        Ok(version)
                    })
                })
            })
            .await;
        })
    }
}
