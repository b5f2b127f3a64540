//! What applications do: rows, keys, reads and writes.
//!
//! A *cell* is a cached key with the row, or the part of one, that it is a copy of; the history knows it by number.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, LocalBoxFuture};
use redis::aio::MultiplexedConnection;

use super::{LiveError, World, actor::App, stage::Stage};
use crate::names::named;

mod counter;
mod moves;
mod rows;
mod sale;

named! {
    /// A workload, as `docs/lab.md` describes it.
    ///
    /// ```
    /// use rowbust_lab::live::Workload;
    /// for workload in Workload::ALL {
    ///     println!("{}: {}", workload.name(), workload.about());
    /// }
    /// assert_eq!(Workload::named("flash-sale"), Some(Workload::FlashSale));
    /// ```
    pub enum Workload {
        /// Many reads, few writes, and a hot key: Zipf's law over the rows.
        ReadMostly = "read-mostly",
        /// As many writes as reads.
        WriteHeavy = "write-heavy",
        /// Four keys per row, all of which a write makes wrong.
        ManyKeys = "many-keys",
        /// Rows found by an indexed column, which changes: each write swaps two rows, and makes both keys wrong.
        KeyMoves = "key-moves",
        /// Stock is deducted in Redis by a script, orders go through a queue to the database, the stock there is cached. More must never be sold than there was, and no order be lost.
        FlashSale = "flash-sale",
        /// Counters of eight rows each, so that writers don't meet at one; a read takes all eight at once.
        ShardedCounter = "sharded-counter",
    }
}

impl Workload {
    /// All of them.
    ///
    /// Example: see [`Workload`].
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name on the command line.
    ///
    /// Example: see [`Workload`].
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What it is, in a line or two.
    ///
    /// Example: see [`Workload`].
    #[must_use]
    pub fn about(self) -> &'static str {
        self.row().1
    }

    /// By its name.
    ///
    /// Example: see [`Workload`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }

    pub(super) fn load(self, rows: u32) -> Arc<dyn Load> {
        let ms = Duration::from_millis;
        match self {
            Self::ReadMostly => Arc::new(rows::Rows::new(rows, 1, ms(1), ms(20))),
            Self::WriteHeavy => Arc::new(rows::Rows::new(rows, 1, ms(4), ms(4))),
            Self::ManyKeys => Arc::new(rows::Rows::new(rows, 4, ms(1), ms(20))),
            Self::KeyMoves => Arc::new(moves::Moves::new(rows)),
            Self::FlashSale => Arc::new(sale::Sale::new(rows)),
            Self::ShardedCounter => Arc::new(counter::Counters::new(rows)),
        }
    }
}

/// A table's keys, for the daemon's mappings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) table: String,
    /// Templates.
    pub(super) keys: Vec<String>,
}

/// A workload at work.
pub(super) trait Load: fmt::Debug + Send + Sync {
    /// How many cells there are.
    fn cells(&self) -> u32;
    /// The key of one.
    fn key(&self, prefix: &str, cell: u32) -> String;
    /// Statements that make the tables in the schema and fill them. Every row begins with version 1, and the value that [`Load::first`] says.
    fn tables(&self, schema: &str) -> Vec<String>;
    /// For the daemon.
    fn mappings(&self, schema: &str, prefix: &str) -> Vec<Mapping>;
    /// Gives item, version and value of all.
    fn state(&self, schema: &str) -> String;
    /// The cells of an item: one, unless told otherwise.
    fn cells_of(&self, item: u32) -> Range<u32> {
        item..item + 1
    }
    /// The item of a cell.
    fn item_of(&self, cell: u32) -> u32 {
        cell
    }
    /// The value that an item begins with: unique, and below 2^32.
    fn first(&self, item: u32) -> u64 {
        u64::from(item) + 1
    }
    /// Between two operations of a reader and of a writer, on average.
    fn pauses(&self) -> (Duration, Duration);
    /// What is in Redis before the run.
    fn seed<'a>(
        &'a self,
        _: &'a Stage,
        _: &'a mut MultiplexedConnection,
    ) -> BoxFuture<'a, Result<(), LiveError>> {
        Box::pin(async { Ok(()) })
    }
    /// What it finds wrong in itself when all is over. `forgot`: Redis may have lost what was written.
    fn broken<'a>(
        &'a self,
        _: &'a Stage,
        _: &'a World,
        _forgot: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, LiveError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// One turn of a reader.
    fn read<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()>;
    /// One turn of a writer.
    fn write<'a>(&'a self, app: &'a mut App) -> LocalBoxFuture<'a, ()>;
}
