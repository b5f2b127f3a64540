//! Our decoder beside others, on the same files: `xtask/compare` measures, a crate of its own so that what is compared with is
//! neither built nor checked with the product.
//!
//! Each file holds updates of one table, an image before and one after each, and is made by a private server once. Processor time
//! per row; in each round all libraries take turns. The others have no way to leave columns out: they are measured with all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use rowbust_servers::{Need, install};
use serde::Deserialize;

use super::{
    Section,
    env::{Bench, Db, remove, target_dir},
};

/// Changes with this number when the files' content does.
const VERSION: u32 = 1;

/// Bars: how many times the processor time of the best other library ours is.
const ONE_OF_TEN: f64 = 8.0;
const ALL: f64 = 2.0;

/// A file to decode.
struct File {
    name: &'static str,
    columns: u32,
    rows: u32,
    /// One event per row.
    singles: bool,
    compressed: bool,
    mysql: bool,
}

const FILES: [File; 7] = [
    File { name: "1 column", columns: 1, rows: 400_000, singles: false, compressed: false, mysql: true },
    File { name: "10 columns", columns: 10, rows: 200_000, singles: false, compressed: false, mysql: true },
    File {
        name: "10 columns, single rows",
        columns: 10,
        rows: 100_000,
        singles: true,
        compressed: false,
        mysql: true,
    },
    File { name: "50 columns", columns: 50, rows: 50_000, singles: false, compressed: false, mysql: true },
    File { name: "200 columns", columns: 200, rows: 10_000, singles: false, compressed: false, mysql: true },
    File {
        name: "10 columns, zstd payload",
        columns: 10,
        rows: 100_000,
        singles: false,
        compressed: true,
        mysql: true,
    },
    File {
        name: "10 columns, log_bin_compress",
        columns: 10,
        rows: 100_000,
        singles: false,
        compressed: true,
        mysql: false,
    },
];

/// A library's result on one file.
#[derive(Debug, Deserialize)]
struct Measured {
    library: String,
    mapped: String,
    rows: u64,
    error: Option<String>,
    /// Absent if it didn't find all rows.
    nanos_per_row: Option<f64>,
}

pub(super) fn run(bench: &Bench) -> Result<Section> {
    install::ensure(&[Need::MySql, Need::MariaDb])?;
    let dir = bench.home.join("compare");
    let program = build(bench)?;
    let mut section = Section::new("compare", bench, "MySQL and MariaDB files".to_owned());
    for mysql in [true, false] {
        let files: Vec<(&File, u32, PathBuf)> = FILES
            .iter()
            .filter(|file| file.mysql == mysql)
            .map(|file| {
                let rows = bench.scaled(file.rows);
                let name = format!("{}-{rows}-v{VERSION}.binlog", file.name.replace([' ', ','], "_"));
                (file, rows, dir.join(name))
            })
            .collect();
        if bench.fresh || files.iter().any(|(.., path)| !path.exists()) {
            make(bench, mysql, &dir, &files)?;
        }
        for (file, rows, path) in &files {
            let output = Command::new(&program)
                .arg(path)
                .args([file.columns, *rows, bench.rounds()].map(|n| n.to_string()))
                .output()
                .with_context(|| format!("cannot run {}", program.display()))?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let measured: Vec<Measured> = serde_json::from_slice(&output.stdout)?;
            judge(&mut section, file, u64::from(*rows), &measured)?;
        }
    }
    section.note("updates, an image before and one after each row; files in memory; only rowbust checks CRC32, and it alone can leave columns out");
    section.note("rowbust's values borrow from the event, the others' are owned; `as text` writes the text of each, as in keys");
    Ok(section)
}

fn judge(section: &mut Section, file: &File, rows: u64, measured: &[Measured]) -> Result<()> {
    let mut best: Option<(&str, f64)> = None;
    for m in measured {
        let label = format!("{}: {}, {} mapped", file.name, m.library, m.mapped);
        match m.nanos_per_row {
            Some(nanos) => {
                section.figure(label, nanos, "ns/row");
                if m.library != "rowbust" && best.is_none_or(|(_, least)| nanos < least) {
                    best = Some((&m.library, nanos));
                }
            }
            None if m.library == "rowbust" => bail!("{label}: {} of {rows} rows: {:?}", m.rows, m.error),
            None => {
                let why = m.error.as_deref().unwrap_or("rows passed over");
                section.note(format!("{label}: {} of {rows} rows, {why}", m.rows));
            }
        }
    }
    let Some((library, least)) = best else { return Ok(()) };
    let ours = |mapped: &str| {
        let found = measured.iter().find(|m| m.library == "rowbust" && m.mapped == mapped);
        found.and_then(|m| m.nanos_per_row)
    };
    if file.columns == 10
        && let Some(nanos) = ours("1")
    {
        section.at_least(
            format!("{}: 1 mapped, times faster than {library}", file.name),
            least / nanos,
            ONE_OF_TEN,
            "",
        );
    }
    if let Some(nanos) = ours("all") {
        section.at_least(
            format!("{}: all mapped, times faster than {library}", file.name),
            least / nanos,
            ALL,
            "",
        );
    }
    Ok(())
}

/// Builds the measuring program, and says where it is.
fn build(bench: &Bench) -> Result<PathBuf> {
    let target = target_dir(&bench.root)?.join("compare");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--manifest-path"])
        .arg(bench.root.join("xtask/compare/Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "xtask/compare does not build: it needs OpenSSL's headers, for mysql_cdc");
    Ok(target.join("release/rowbust-compare"))
}

/// Types that all of the libraries can read, ten by ten.
const TYPES: [(&str, &str); 10] = [
    ("INT", "n"),
    ("VARCHAR(60)", "CONCAT('product number ', n)"),
    ("DECIMAL(10,2)", "n % 9973 + 0.99"),
    ("INT", "n % 211"),
    ("BIGINT", "n * 1000003"),
    ("VARCHAR(20)", "CONCAT('sku-', n)"),
    ("VARCHAR(200)", "REPEAT('description ', 4)"),
    ("DATETIME", "'2026-01-02 03:04:05'"),
    ("DATETIME(3)", "'2026-01-02 03:04:05.678'"),
    ("TINYINT", "1"),
];

fn make(bench: &Bench, mysql: bool, dir: &Path, files: &[(&File, u32, PathBuf)]) -> Result<()> {
    fs::create_dir_all(dir)?;
    let scratch = bench.scratch("compare-server")?;
    let bench = Bench { home: bench.home.clone(), root: bench.root.clone(), mysql, ..*bench };
    let db = Db::start(&bench, &scratch.0.join("db"))?;
    db.run(&["CREATE DATABASE bench"])?;
    for (file, rows, path) in files {
        let types: Vec<_> = TYPES.iter().cycle().take(file.columns as usize).enumerate().collect();
        let columns: Vec<String> = types
            .iter()
            .map(
                |(i, (kind, _))| {
                    if *i == 0 { "c0 INT PRIMARY KEY".to_owned() } else { format!("c{i} {kind}") }
                },
            )
            .collect();
        let values: Vec<&str> = types.iter().map(|(_, (_, value))| *value).collect();
        let set = if file.columns == 1 { "c0 = c0 + 1000000" } else { "c3 = c3 + 1" };
        let cte = if mysql {
            "SET cte_max_recursion_depth = 1000000"
        } else {
            "SET max_recursive_iterations = 1000000"
        };
        db.run(&[
            "DROP TABLE IF EXISTS bench.t",
            &format!("CREATE TABLE bench.t ({})", columns.join(", ")),
            cte,
            &format!(
                "INSERT INTO bench.t WITH RECURSIVE s AS (SELECT 1 n UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) \
                 SELECT {} FROM s",
                values.join(", ")
            ),
        ])?;
        let name = db.new_binlog()?;
        let compression = match (file.compressed, mysql) {
            (false, _) => "DO 0",
            (true, true) => "SET binlog_transaction_compression = ON",
            // The least length is that of one row, not of the event.
            (true, false) => "SET GLOBAL log_bin_compress = ON, GLOBAL log_bin_compress_min_len = 10",
        };
        if file.singles {
            db.run(&[
                "DROP PROCEDURE IF EXISTS bench.touch",
                "CREATE PROCEDURE bench.touch(last INT) BEGIN DECLARE i INT DEFAULT 1; \
                 WHILE i <= last DO UPDATE bench.t SET c3 = c3 + 1 WHERE c0 = i; SET i = i + 1; END WHILE; END",
            ])?;
            let name = db.new_binlog()?;
            db.run(&["BEGIN", &format!("CALL bench.touch({rows})"), "COMMIT"])?;
            copy(&db, &name, path)?;
            continue;
        }
        db.run(&[compression, &format!("UPDATE bench.t SET {set} ORDER BY c0 DESC")])?;
        copy(&db, &name, path)?;
    }
    db.stop()?;
    remove(&scratch.0)
}

/// Ends the file `name`, and takes it.
fn copy(db: &Db, name: &str, path: &Path) -> Result<()> {
    db.new_binlog()?;
    fs::copy(db.data_dir().join(name), path).with_context(|| format!("cannot copy binlog {name}"))?;
    Ok(())
}
