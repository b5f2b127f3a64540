//! Rows with one key or several.

use std::{ops::Range, time::Duration};

use futures_util::future::LocalBoxFuture;
use rand::RngExt as _;

use super::{Load, Mapping};
use crate::{live::actor::App, zipf::Zipf};

/// Some rows are asked for, and written, far more often than others.
#[derive(Debug)]
pub(super) struct Rows {
    rows: u32,
    /// Keys per row.
    facets: u32,
    popular: Zipf,
    pauses: (Duration, Duration),
}

impl Rows {
    pub(super) fn new(rows: u32, facets: u32, reads: Duration, writes: Duration) -> Self {
        Self { rows, facets, popular: Zipf::new(rows), pauses: (reads, writes) }
    }
}

/// Rows of `VALUES` per statement.
const CHUNK: usize = 500;

/// `INSERT` of these, in pieces.
pub(super) fn insert(into: &str, values: impl Iterator<Item = String>) -> Vec<String> {
    let values: Vec<String> = values.collect();
    values.chunks(CHUNK).map(|chunk| format!("INSERT INTO {into} VALUES {}", chunk.join(","))).collect()
}

impl Load for Rows {
    fn cells(&self) -> u32 {
        self.rows * self.facets
    }

    fn key(&self, prefix: &str, cell: u32) -> String {
        format!("{prefix}item:{}:{}", cell / self.facets, cell % self.facets)
    }

    fn tables(&self, schema: &str) -> Vec<String> {
        let table = format!(
            "CREATE TABLE {schema}.items (id INT UNSIGNED PRIMARY KEY, ver BIGINT UNSIGNED NOT NULL, val BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB"
        );
        let rows = (0..self.rows).map(|id| format!("({id},1,{})", self.first(id)));
        std::iter::once(table).chain(insert(&format!("{schema}.items"), rows)).collect()
    }

    fn mappings(&self, schema: &str, prefix: &str) -> Vec<Mapping> {
        let keys = (0..self.facets).map(|facet| format!("{prefix}item:{{id}}:{facet}")).collect();
        vec![Mapping { table: format!("{schema}.items"), keys }]
    }

    fn state(&self, schema: &str) -> String {
        format!("SELECT id, ver, val FROM {schema}.items")
    }

    fn cells_of(&self, item: u32) -> Range<u32> {
        item * self.facets..(item + 1) * self.facets
    }

    fn item_of(&self, cell: u32) -> u32 {
        cell / self.facets
    }

    fn pauses(&self) -> (Duration, Duration) {
        self.pauses
    }

    fn read<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let row = self.popular.pick(&mut app.rng);
            let cell = row * self.facets + app.rng.random_range(0..self.facets);
            let sql = format!("SELECT ver, val FROM {}.items WHERE id = {row}", app.stage.schema);
            app.read(cell, &sql).await;
        })
    }

    fn write<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let row = self.popular.pick(&mut app.rng);
            let cells: Vec<u32> = self.cells_of(row).collect();
            let table = format!("{}.items", app.stage.schema);
            app.write(&cells, move |link, val| {
                let sql =
                    format!("UPDATE {table} SET ver = LAST_INSERT_ID(ver + 1), val = {val} WHERE id = {row}");
                link.run(vec![sql])
            })
            .await;
        })
    }
}
