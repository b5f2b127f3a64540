//! What is measured on: a table of ten columns, and binlogs of known content, kept between runs because a million commits
//! take their time.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use mysql_async::prelude::Queryable;
use rowbust_binlog::{Decoder, Event, Projection, RowSlots, Value};
use serde::{Deserialize, Serialize};

use super::{
    decode::Walk,
    env::{Bench, Db, connect, remove, runtime},
};

/// Connections that write at once.
pub(super) const WRITERS: u32 = 8;

/// Changes with this number when the content does.
const VERSION: u32 = 1;

const TABLE: &str = "CREATE TABLE bench.products (
    id INT UNSIGNED PRIMARY KEY, name VARCHAR(60), price DECIMAL(10,2), stock INT, category_id INT, sku VARCHAR(20),
    description VARCHAR(200), created DATETIME, updated DATETIME(3), active TINYINT) ENGINE=InnoDB";

/// Updates of one row each, by primary key; commits of their own unless a transaction is open.
const TOUCH: &str = "CREATE PROCEDURE bench.touch(first INT UNSIGNED, last INT UNSIGNED)
    BEGIN
        DECLARE i INT UNSIGNED DEFAULT first;
        WHILE i <= last DO
            UPDATE bench.products SET stock = stock + 1, updated = NOW(3) WHERE id = i;
            SET i = i + 1;
        END WHILE;
    END";

/// The same for random rows.
const TOUCH_RANDOM: &str = "CREATE PROCEDURE bench.touch_random(times INT UNSIGNED, among INT UNSIGNED)
    BEGIN
        DECLARE i, row_id INT UNSIGNED DEFAULT 0;
        WHILE i < times DO
            SET row_id = 1 + FLOOR(RAND() * among);
            UPDATE bench.products SET stock = stock + 1, updated = NOW(3) WHERE id = row_id;
            SET i = i + 1;
        END WHILE;
    END";

/// Makes the table with ids from 1 to `rows`, and the procedures.
pub(super) fn create(db: &Db, rows: u32) -> Result<()> {
    db.run(&["CREATE DATABASE bench", TABLE, TOUCH, TOUCH_RANDOM])?;
    fill(db, rows)
}

/// One transaction that inserts all rows.
pub(super) fn fill(db: &Db, rows: u32) -> Result<()> {
    let values = |id: &str| {
        format!(
            "{id}, CONCAT('product number ', {id}), {id} % 9973 + 0.99, {id} % 211, {id} % 40, CONCAT('sku-', {id}), \
             REPEAT('description ', 4), '2026-01-02 03:04:05', NOW(3), 1"
        )
    };
    let mut statements =
        vec!["BEGIN".to_owned(), format!("INSERT INTO bench.products SELECT {}", values("1"))];
    let mut have = 1;
    while have < rows {
        let more = have.min(rows - have);
        statements.push(format!(
            "INSERT INTO bench.products SELECT {} FROM bench.products WHERE id <= {more}",
            values(&format!("id + {have}"))
        ));
        have += more;
    }
    statements.push("COMMIT".to_owned());
    db.run(&statements.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Binlog files by what is in them.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Rows updated in each of them.
    rows: u32,
    /// One transaction of single-row events.
    singles: String,
    /// One statement's multi-row events.
    multi: String,
    /// Single-row commits; goes on to the newest file.
    backlog: String,
}

/// A server with these binlogs.
pub(super) struct Backlog {
    pub(super) db: Db,
    content: Content,
}

impl Backlog {
    /// Starts the server that was kept, or makes it.
    pub(super) fn open(bench: &Bench) -> Result<Self> {
        let rows = bench.scaled(1_000_000);
        let dir = bench.home.join(format!("data-{}-{rows}", bench.flavor_name()));
        let note = dir.join("content.json");
        let kept: Option<Content> =
            fs::read(&note).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(content) = kept.filter(|content| content.version == VERSION && !bench.fresh) {
            let db = Db::start(bench, &dir)?;
            // As on a server at work: a MariaDB that has committed nothing since its start can't say what readers see of the files
            // before.
            db.run(&[
                "DROP TABLE IF EXISTS bench.awake",
                "CREATE TABLE bench.awake (id INT PRIMARY KEY)",
                "INSERT INTO bench.awake VALUES (1)",
            ])?;
            return Ok(Self { db, content });
        }
        remove(&dir)?;
        let begun = Instant::now();
        let db = Db::start(bench, &dir)?;
        create(&db, rows)?;
        let quiet = annotate_off(&db);
        let singles = db.new_binlog()?;
        db.run(&[quiet, "BEGIN", &format!("CALL bench.touch(1, {rows})"), "COMMIT"])?;
        let multi = db.new_binlog()?;
        db.run(&[quiet, "UPDATE bench.products SET stock = stock + 1"])?;
        let backlog = db.new_binlog()?;
        commits(&db, rows)?;
        let content = Content { version: VERSION, rows, singles, multi, backlog };
        fs::write(&note, serde_json::to_vec_pretty(&content)?)?;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("made a backlog of {rows} commits in {took:.0} s, kept in {}", dir.display());
        Ok(Self { db, content })
    }

    pub(super) fn rows(&self) -> u32 {
        self.content.rows
    }

    pub(super) fn singles(&self) -> PathBuf {
        self.db.data_dir().join(&self.content.singles)
    }

    pub(super) fn multi(&self) -> PathBuf {
        self.db.data_dir().join(&self.content.multi)
    }

    /// The file in which the backlog begins.
    pub(super) fn file(&self) -> &str {
        &self.content.backlog
    }

    /// The value of `source.start`.
    pub(super) fn start(&self) -> String {
        format!("{{ file: {}, position: 4 }}", self.content.backlog)
    }

    /// The ids in the order of their commits, so that what is compared removes the same keys in the same order.
    pub(super) fn ids(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(self.rows() as usize);
        let (stem, number) = self.content.backlog.rsplit_once('.').context("binlog name without a number")?;
        let mut number: u32 = number.parse()?;
        while ids.len() < self.rows() as usize {
            let file = self.db.data_dir().join(format!("{stem}.{number:06}"));
            ids_of(&file, &mut ids).with_context(|| file.display().to_string())?;
            number += 1;
        }
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        ensure!(sorted.iter().copied().eq(1..=self.rows()), "the backlog doesn't have each id once");
        Ok(ids)
    }
}

/// MariaDB writes each statement's text into the file, but sends it only to who asks for it: without, file and stream have the
/// same events.
fn annotate_off(db: &Db) -> &'static str {
    if db.is_mysql() { "SET binlog_rows_query_log_events = 0" } else { "SET binlog_annotate_row_events = 0" }
}

/// Each row once, in a commit of its own, by several connections.
fn commits(db: &Db, rows: u32) -> Result<()> {
    let (port, quiet) = (db.port(), annotate_off(db));
    runtime()?.block_on(async {
        let share = rows.div_ceil(WRITERS);
        let mut writers = Vec::new();
        for w in 0..WRITERS {
            let (first, last) = (w * share + 1, ((w + 1) * share).min(rows));
            writers.push(tokio::spawn(async move {
                let mut conn = connect(port).await?;
                conn.query_drop(quiet).await?;
                conn.query_drop(format!("CALL bench.touch({first}, {last})")).await?;
                conn.disconnect().await?;
                anyhow::Ok(())
            }));
        }
        for writer in writers {
            writer.await??;
        }
        Ok(())
    })
}

fn ids_of(file: &Path, ids: &mut Vec<u32>) -> Result<()> {
    let mut decoder = Decoder::new();
    let mut first = FirstColumn::default();
    Walk::open(file)?.each(|bytes| {
        let raw = rowbust_binlog::RawEvent::parse(bytes, decoder.checksummed())?;
        first.event(&mut decoder, &raw, |id| ids.push(id))
    })
}

/// Takes the first column, an INT, out of every row.
#[derive(Default)]
pub(super) struct FirstColumn {
    projection: Option<Projection>,
}

impl FirstColumn {
    pub(super) fn event(
        &mut self,
        decoder: &mut Decoder,
        raw: &rowbust_binlog::RawEvent<'_>,
        mut id: impl FnMut(u32),
    ) -> Result<()> {
        match decoder.decode(raw)? {
            Event::TableMap { slot, fresh: true } => {
                self.projection = Some(Projection::new(decoder.table(slot), &[0])?);
            }
            Event::Rows(rows) => {
                let Some(projection) = &self.projection else { bail!("rows without their table map") };
                let mut slots = RowSlots::new();
                let mut cursor = rows.cursor(decoder.table(rows.slot), projection)?;
                while cursor.next(&mut slots)? {
                    match slots.after.first() {
                        Some(Value::UInt(n)) => id(u32::try_from(*n)?),
                        Some(Value::Int(n)) => id(u32::try_from(*n)?),
                        other => bail!("the id is {other:?}"),
                    }
                }
            }
            Event::Xid(_) => decoder.end_transaction(),
            _ => {}
        }
        Ok(())
    }
}
