//! The shop: its two tables, and how a row is written into the cache.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Rows of one INSERT or SELECT, keys of one MGET.
pub(crate) const CHUNK: usize = 1000;

/// A table of the schema `shop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// `shop.products`
    Products,
    /// `shop.customers`
    Customers,
}

impl Table {
    pub(crate) const ALL: [Self; 2] = [Self::Products, Self::Customers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Products => "products",
            Self::Customers => "customers",
        }
    }

    /// What a cache key begins with, up to the colon.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Products => "product",
            Self::Customers => "customer",
        }
    }

    /// The column that the application changes: a price in cents, points of a bonus card.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Products => "price",
            Self::Customers => "points",
        }
    }

    /// Reads one row by id.
    pub(crate) fn select(self) -> String {
        format!("SELECT id, version, name, {} FROM shop.{} WHERE id = ?", self.column(), self.name())
    }

    /// Reads `n` rows by id.
    pub(crate) fn select_many(self, n: usize) -> String {
        let marks = vec!["?"; n].join(",");
        format!("SELECT id, version, name, {} FROM shop.{} WHERE id IN ({marks})", self.column(), self.name())
    }

    /// Changes one row. The new version comes back in the server's OK packet: `LAST_INSERT_ID(expr)` puts it there.
    pub(crate) fn update(self) -> String {
        format!(
            "UPDATE shop.{} SET {} = ?, version = LAST_INSERT_ID(version + 1) WHERE id = ?",
            self.name(),
            self.column()
        )
    }
}

/// A row, and its cache key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) table: Table,
    pub(crate) id: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table.prefix(), self.id)
    }
}

impl Key {
    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (prefix, id) = text.split_once(':')?;
        let table = Table::ALL.into_iter().find(|table| table.prefix() == prefix)?;
        Some(Self { table, id: id.parse().ok()? })
    }
}

/// A row: id, version, name, price or points.
pub(crate) type Row = (u32, u64, String, i64);

/// A row as the cache holds it. Names of the shop need no JSON escapes.
pub(crate) fn cached_form(table: Table, (id, version, name, number): &Row) -> String {
    format!("{{\"version\":{version},\"id\":{id},\"name\":\"{name}\",\"{}\":{number}}}", table.column())
}

/// How many rows the shop has.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Size {
    pub(crate) products: u32,
    pub(crate) customers: u32,
}

impl Size {
    pub(crate) fn of(self, table: Table) -> u32 {
        match table {
            Table::Products => self.products,
            Table::Customers => self.customers,
        }
    }

    pub(crate) fn rows(self) -> u64 {
        u64::from(self.products) + u64::from(self.customers)
    }
}

/// Makes the schema and fills it.
pub(crate) async fn create(db: &mut Conn, size: Size, seed: u64) -> Result<()> {
    db.query_drop("CREATE DATABASE shop").await.context("cannot create the schema")?;
    let mut rng = StdRng::seed_from_u64(seed);
    for table in Table::ALL {
        let (name, column) = (table.name(), table.column());
        db.query_drop(format!(
            "CREATE TABLE shop.{name} (id INT UNSIGNED PRIMARY KEY, name VARCHAR(80) NOT NULL, {column} BIGINT NOT NULL, \
             version BIGINT UNSIGNED NOT NULL)"
        ))
        .await?;
        db.query_drop("START TRANSACTION").await?;
        let ids: Vec<u32> = (1..=size.of(table)).collect();
        for chunk in ids.chunks(CHUNK) {
            let marks = vec!["(?,?,?,1)"; chunk.len()].join(",");
            let values: Vec<Value> = chunk
                .iter()
                .flat_map(|id| {
                    let name = format!("{} {id}", table.prefix());
                    [Value::from(*id), Value::from(name), Value::from(rng.random_range(100..100_000_i64))]
                })
                .collect();
            let insert = format!("INSERT INTO shop.{name} (id, name, {column}, version) VALUES {marks}");
            db.exec_drop(insert, Params::Positional(values)).await?;
        }
        db.query_drop("COMMIT").await?;
        let rows: Option<u64> = db.query_first(format!("SELECT COUNT(*) FROM shop.{name}")).await?;
        if rows != Some(u64::from(size.of(table))) {
            bail!("shop.{name} has {rows:?} rows instead of {}", size.of(table));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_go_both_ways() {
        for table in Table::ALL {
            let key = Key { table, id: 4711 };
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
        for wrong in ["product", "product:", "product:x", "rowbust:probe", "order:1", "product:-1"] {
            assert_eq!(Key::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_cached_form_is_json() {
        let text = cached_form(Table::Products, &(7, 3, "product 7".into(), 1999));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["version"], 3);
        assert_eq!(value["price"], 1999);
    }
}
