//! `rowbust checkpoint show|set`

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    time::{SystemTime, UNIX_EPOCH},
};

use rowbust_binlog::{Flavor, GtidState};
use serde_json::{Value, json};

use super::{Exit, Global, block_on, load, out};
use crate::{
    checkpoint::{
        CheckpointError, Store,
        file::{Generation, Saved},
        flavor_name, look, place,
    },
    config::{Config, Start},
    source::{lease::Candidate, locate::locate, position::Position},
};

/// Arguments of `rowbust checkpoint set`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Refused while a daemon is active. The position is looked up at the source; where that can't be reached, only a
position by GTID can be set. The old position is kept as a backup. Cached keys that changes behind the old
position and before the new one made wrong stay stale: flush them.

Examples:
  rowbust checkpoint set --latest --dry-run
  rowbust checkpoint set --gtid 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5714 --yes
  rowbust checkpoint set --file binlog.000042 --position 157
  rowbust checkpoint set --backup"
)]
pub struct SetArgs {
    #[command(flatten)]
    to: To,
    /// Offset in FILE at which an event begins
    #[arg(long, value_name = "BYTES", requires = "file", default_value_t = 4)]
    position: u64,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
struct To {
    /// A GTID set of MySQL, or a GTID position of MariaDB: everything in it counts as done
    #[arg(long, value_name = "GTIDS")]
    gtid: Option<String>,
    /// A binlog file, as in SHOW BINARY LOGS
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// The newest position
    #[arg(long)]
    latest: bool,
    /// The oldest position that the source still has
    #[arg(long)]
    earliest: bool,
    /// What was saved before the last `checkpoint set`
    #[arg(long)]
    backup: bool,
}

pub(super) fn show(global: &Global) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let place = place(&config);
    let found = match block_on(look(&config)) {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    match found {
        Ok(found) if global.json => {
            out::json(&json!({
                "schema_version": 1,
                "path": place,
                "checkpoint": found.as_ref().map(|(saved, _)| saved),
                "previous_generation": found.as_ref().map(|(_, generation)| *generation == Generation::Previous),
            }));
            Exit::Ok
        }
        Ok(None) if config.checkpoint.shared.is_some() => {
            out::stdout(&format!(
                "no checkpoint yet at {place}: `rowbust checkpoint set --latest` gives it its first position\n"
            ));
            Exit::Ok
        }
        Ok(None) => {
            out::stdout(&format!("no checkpoint yet at {place}: `run` begins at source.start\n"));
            Exit::Ok
        }
        Ok(Some((saved, generation))) => {
            out::stdout(&text(&place, &saved, generation));
            Exit::Ok
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &CheckpointError) -> Exit {
    out::complain(&error.to_string());
    match error {
        CheckpointError::Unavailable { .. } => Exit::Unavailable,
        _ => Exit::Failure,
    }
}

fn text(path: &str, saved: &Saved, generation: Generation) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let commit = if saved.commit_time == 0 {
        "none done yet".into()
    } else {
        format!("{} ({})", saved.commit_time, out::ago(saved.commit_time.into()))
    };
    let mut rows = vec![
        row("path", path.to_owned()),
        row("source", format!("{} {}", saved.flavor, saved.source)),
        row("gtids", saved.gtids.clone()),
        row("position", format!("{}:{}", saved.file, saved.position)),
        row("newest commit", commit),
        row("saved", format!("{} ({})", saved.saved_at, out::ago(saved.saved_at))),
        row("generation", format!("{}, epoch {}, fence {}", saved.generation, saved.epoch, saved.fence)),
    ];
    if generation == Generation::Previous {
        rows.push(row("note", "the newest file can't be read; this is the previous generation".into()));
    }
    out::table(&rows)
}

pub(super) fn set(global: &Global, args: &SetArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match block_on(set_now(global, &config, args)) {
        Ok(Ok(exit)) | Ok(Err(exit)) | Err(exit) => exit,
    }
}

async fn set_now(global: &Global, config: &Config, args: &SetArgs) -> Result<Exit, Exit> {
    let lease = match Candidate::new(config).try_acquire().await {
        Ok(Some(lease)) => Some(lease),
        Ok(None) => {
            out::complain("a daemon is active, it has the lease: stop it first, and those that stand by");
            return Err(Exit::Failure);
        }
        Err(error) => {
            out::complain(&format!("{error}; the position can't be looked up there"));
            None
        }
    };
    let old = match look(config).await {
        Ok(found) => found.map(|(saved, _)| saved),
        Err(error @ CheckpointError::Unreadable { .. }) => {
            out::stderr(&format!("rowbust: what is there can't be kept: {error}\n"));
            None
        }
        Err(error) => return Err(failed(&error)),
    };
    let new =
        if args.to.backup { None } else { Some(resolve(config, args, old.as_ref(), lease.is_some()).await?) };
    if !args.dry_run && !args.yes {
        let to = new.as_ref().map_or("the backup".into(), places);
        confirm(&place(config), old.as_ref(), &to)?;
    }
    if args.dry_run {
        report(global, config, old.as_ref(), new.as_ref(), false);
        return Ok(Exit::Ok);
    }
    // Only now: in a shared store this fences whoever saved until now.
    let (store, found) = Store::take_for_set(config).await.map_err(|error| failed(&error))?;
    let old = found.map(|(saved, _)| saved).or(old);
    let new = match new {
        Some(new) => new,
        None => store.backup().await.map_err(|error| failed(&error))?.ok_or_else(|| {
            out::complain("there is no backup");
            Exit::Failure
        })?,
    };
    let saved = async {
        if let Some(old) = &old {
            store.keep_backup(old).await?;
        }
        let epoch = old.as_ref().map_or(0, |old| old.epoch).max(new.epoch) + 1;
        store.save(Saved { epoch, saved_at: now(), ..new }).await
    };
    let saved = saved.await.map_err(|error| failed(&error))?;
    report(global, config, old.as_ref(), Some(&saved), true);
    if let Some(lease) = lease {
        lease.release().await;
    }
    Ok(Exit::Ok)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn places(saved: &Saved) -> String {
    match (saved.gtids.as_str(), saved.file.as_str()) {
        (gtids, "") => gtids.to_owned(),
        ("", file) => format!("{file}:{}", saved.position),
        (gtids, file) => format!("{gtids} ({file}:{})", saved.position),
    }
}

/// The position that is asked for, as a checkpoint.
async fn resolve(
    config: &Config,
    args: &SetArgs,
    old: Option<&Saved>,
    reachable: bool,
) -> Result<Saved, Exit> {
    let To { gtid, file, latest, earliest, .. } = &args.to;
    let start = match (gtid, file) {
        (Some(gtid), _) => Start::Gtid(gtid.clone()),
        (_, Some(file)) => Start::Position { file: file.clone(), position: args.position },
        _ if *latest && !*earliest => Start::Latest,
        _ => Start::Earliest,
    };
    if reachable {
        let (server, position) = locate(config, start).await.map_err(|error| {
            out::complain(&error.to_string());
            match error.exit_code() {
                69 => Exit::Unavailable,
                78 => Exit::Config,
                _ => Exit::Failure,
            }
        })?;
        return Ok(saved(server.flavor, server.identity, &position, old));
    }
    let (Start::Gtid(text), Some(old)) = (start, old) else {
        out::complain(
            "without the source only a position by GTID can be set, and only in the place of another",
        );
        return Err(Exit::Unavailable);
    };
    let flavor = if old.flavor == flavor_name(Flavor::MySql) { Flavor::MySql } else { Flavor::MariaDb };
    let gtids = GtidState::parse(flavor, &text).ok().filter(|gtids| !gtids.is_empty()).ok_or_else(|| {
        out::complain(&format!("`{text}` is no GTID position of {flavor}"));
        Exit::Usage
    })?;
    let position = Position { gtids, at: crate::source::start::nowhere() };
    Ok(saved(flavor, old.source.clone(), &position, Some(old)))
}

fn saved(flavor: Flavor, source: String, position: &Position, old: Option<&Saved>) -> Saved {
    Saved {
        // Who sets it knows better than we do what the cache holds: nothing is flushed for it.
        covered: old.map_or_else(|| Some(Vec::new()), |old| old.covered.clone()),
        generation: 0,
        epoch: 0,
        flavor: flavor_name(flavor).to_owned(),
        source,
        gtids: position.gtids.to_string(),
        file: position.at.file.to_string(),
        position: position.at.position,
        anchor: None,
        commit_time: 0,
        saved_at: 0,
        followed_since: old.map_or_else(crate::source::now, |old| old.followed_since),
        fence: 0,
        lineage: String::new(),
        published: Default::default(),
    }
}

fn confirm(place: &str, old: Option<&Saved>, to: &str) -> Result<(), Exit> {
    let from = old.map_or("nothing".into(), places);
    out::stderr(&format!("checkpoint {place}\n  from {from}\n  to   {to}\n"));
    if !io::stdin().is_terminal() {
        out::complain("nothing was changed: say `--yes` where nobody can be asked");
        return Err(Exit::Usage);
    }
    out::stderr("Go on? [y/N] ");
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    out::complain("nothing was changed");
    Err(Exit::Failure)
}

fn report(global: &Global, config: &Config, old: Option<&Saved>, new: Option<&Saved>, done: bool) {
    if global.json {
        let value = |saved: Option<&Saved>| saved.map_or(Value::Null, |saved| json!(saved));
        out::json(&json!({
            "schema_version": 1, "path": place(config), "done": done, "old": value(old), "new": value(new),
        }));
        return;
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("path", place(config)),
        row("from", old.map_or("nothing".into(), places)),
        row("to", new.map_or("the backup".into(), places)),
    ];
    match (done, new) {
        (true, Some(new)) => {
            rows.push(row("saved", format!("generation {}, epoch {}", new.generation, new.epoch)));
            if old.is_some() {
                rows.push(row("to go back", "rowbust checkpoint set --backup".into()));
            }
        }
        _ => rows.push(row("", "nothing was changed".into())),
    }
    out::stdout(&out::table(&rows));
}
