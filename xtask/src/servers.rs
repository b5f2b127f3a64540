//! `cargo xtask servers`: servers that go on running after the command, under `target/servers/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use comfy_table::{Table, presets};
use rowbust_servers::instance::StartOptions;
use rowbust_servers::{Kafka, MariaDb, MySql, Need, Record, Redis, install};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start servers; they are ready when the command returns, and run until `down`.
    Up {
        #[command(flatten)]
        which: Which,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End them and remove their data.
    Down,
    /// Print those that run.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Install what they need, and start nothing.
    Install {
        #[command(flatten)]
        which: Which,
    },
}

/// Which servers; none named: all.
#[derive(clap::Args)]
struct Which {
    /// MariaDB 10.11 or newer.
    #[arg(long)]
    mariadb: bool,
    /// MariaDB 11.8 or newer.
    #[arg(long)]
    mariadb118: bool,
    /// MySQL 9.
    #[arg(long)]
    mysql: bool,
    /// Redis 7 or newer.
    #[arg(long)]
    redis: bool,
    /// Redis 8 or newer.
    #[arg(long)]
    redis8: bool,
    /// Valkey 8 or newer.
    #[arg(long)]
    valkey: bool,
    /// Apache Kafka 4.
    #[arg(long)]
    kafka: bool,
}

impl Which {
    fn needs(&self) -> Vec<Need> {
        let flags =
            [self.mariadb, self.mariadb118, self.mysql, self.redis, self.redis8, self.valkey, self.kafka];
        let all = !flags.contains(&true);
        Need::SERVERS.into_iter().zip(flags).filter(|(_, flag)| *flag || all).map(|(need, _)| need).collect()
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let home = home()?;
    match args.action {
        Action::Up { which, json } => {
            up(&home, &which.needs())?;
            print(&home, json)
        }
        Action::Down => down(&home),
        Action::Status { json } => print(&home, json),
        Action::Install { which } => install::ensure(&which.needs()).map(drop),
    }
}

/// `servers` in the target folder.
fn home() -> Result<PathBuf> {
    Ok(crate::target()?.join("servers"))
}

fn up(home: &Path, needs: &[Need]) -> Result<()> {
    let missing: Vec<Need> = needs.iter().copied().filter(|n| running(home, *n).is_none()).collect();
    for need in needs.iter().filter(|n| !missing.contains(n)) {
        eprintln!("{need} is up already");
    }
    install::ensure(&missing)?;
    for need in missing {
        let dir = home.join(need.name());
        if let Some(left_over) = Record::read(&dir) {
            left_over.end()?;
        }
        remove(&dir)?;
        let options = StartOptions::new(dir).detached();
        match need {
            Need::MariaDb => MariaDb::start(options).map(drop)?,
            Need::MariaDb118 => MariaDb::start_11_8(options).map(drop)?,
            Need::MySql => MySql::start(options).map(drop)?,
            Need::Redis | Need::Redis8 | Need::Valkey => Redis::start_as(need, options).map(drop)?,
            Need::Kafka => Kafka::start(options).map(drop)?,
            // No servers.
            Need::Sysbench
            | Need::Chromium
            | Need::Prometheus
            | Need::Compose
            | Need::Helm
            | Need::Systemd
            | Need::Faketime => {}
        }
    }
    Ok(())
}

/// The record of a server whose process is alive.
fn running(home: &Path, need: Need) -> Option<Record> {
    Record::read(&home.join(need.name())).filter(|r| r.process.is_alive())
}

/// Ends whatever is recorded, and removes the whole folder. Without servers: nothing to do.
fn down(home: &Path) -> Result<()> {
    for need in Need::SERVERS {
        if let Some(record) = Record::read(&home.join(need.name())) {
            record.end()?;
            eprintln!("{need} ended");
        }
    }
    remove(home)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    servers: Vec<Record>,
}

#[allow(clippy::print_stdout, reason = "the command's result")]
fn print(home: &Path, json: bool) -> Result<()> {
    let servers: Vec<Record> = Need::SERVERS.into_iter().filter_map(|n| running(home, n)).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&Report { schema_version: 1, servers })?);
        return Ok(());
    }
    if servers.is_empty() {
        eprintln!("no server is up");
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(["server", "version", "pid", "address", "folder"]);
    for s in servers {
        table.add_row([s.name, s.version, s.process.pid.to_string(), s.url, s.dir.display().to_string()]);
    }
    println!("{table}");
    Ok(())
}
