//! `rowbust flush`

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    Exit, Global,
    admin::{Admin, Refused},
    block_on, load, out,
};
use crate::{
    admin::flush::{plans, sweep},
    config::Config,
    daemon,
    flush::FlushStats,
};

/// Arguments of `rowbust flush`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Removes what the mappings can make, and nothing else, at `limits.flush_keys_per_second`. Through the running daemon, with a
second pass once everything is visible at all read sources; without one directly, in one pass.

Examples:
  rowbust flush --table shop.products --dry-run
  rowbust flush --table 'shop_*.products'
  rowbust flush --key product:42"
)]
pub struct FlushArgs {
    /// All keys that this table's mappings can make: a table, or a mapping's `table` as written
    #[arg(long, value_name = "DB.TABLE", required_unless_present_any = ["key", "all"], conflicts_with_all = ["key", "all"])]
    pub table: Option<String>,
    /// This key, if a mapping can make it
    #[arg(long, value_name = "KEY", conflicts_with = "all")]
    pub key: Option<String>,
    /// All keys of all mappings
    #[arg(long)]
    pub all: bool,
    /// Count what would be removed; of a key it is not asked whether it is there
    #[arg(long)]
    pub dry_run: bool,
}

/// Time between two looks at the progress.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn execute(global: &Global, args: &FlushArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let admin = Admin::new(&config);
    let asked = json!({ "table": args.table, "key": args.key, "all": args.all, "dry_run": args.dry_run });
    let bar = Bar::new();
    let done = match admin.post("/flush", &asked) {
        Ok(answer) => wait(&admin, &answer["flush"]["number"], &bar),
        Err(Refused::NoAnswer(why)) => {
            out::complain(&format!(
                "no daemon answers at {} ({why}): flushing directly, in one pass",
                config.admin.listen
            ));
            return directly(global, args, &config, &bar);
        }
        Err(refused) => Err(refused),
    };
    bar.clear();
    match done {
        Ok(flush) => {
            let over = flush["state"] == "done";
            show(global, args, true, &flush);
            if over { Exit::Ok } else { Exit::Failure }
        }
        Err(refused) => admin.complain(global, &refused),
    }
}

fn wait(admin: &Admin, number: &Value, bar: &Bar) -> Result<Value, Refused> {
    loop {
        let flush = admin.get("/flush", &[])?["flush"].take();
        if flush["over"] == true || flush["number"] != *number {
            return Ok(flush);
        }
        bar.show(&flush);
        std::thread::sleep(LOOK);
    }
}

fn directly(global: &Global, args: &FlushArgs, config: &Config, bar: &Bar) -> Exit {
    let (plans, tables) = match plans(config, args.table.as_deref(), args.key.as_deref(), args.all) {
        Ok(found) => found,
        Err((code, message, help)) => {
            if global.json {
                out::json(
                    &json!({ "schema_version": 1, "error": { "code": code, "message": message, "help": help } }),
                );
            } else {
                out::complain(&format!("{message}\n  {help}"));
            }
            return Exit::Usage;
        }
    };
    let ended = block_on(async {
        let targets = daemon::connect_targets(config).await?;
        let chosen: Vec<_> = plans
            .iter()
            .filter_map(|(at, plan)| Some((targets.get(*at)?, *at, plan, Arc::new(FlushStats::default()))))
            .collect();
        if let Some((target, ..)) = chosen.iter().find(|(target, ..)| target.breaker.is_open()) {
            return Ok(Err(target.name().to_owned()));
        }
        let state = |over: bool| {
            let targets: Vec<Value> = chosen
                .iter()
                .map(|(target, _, _, stats)| {
                    let (removed, scanned) = stats.counts();
                    let running = stats.snapshot().running;
                    json!({
                        "name": target.name(), "removed": removed, "scanned": scanned,
                        "to_scan": running.and_then(|running| running.to_scan),
                    })
                })
                .collect();
            json!({ "state": if over { "done" } else { "first pass" }, "dry_run": args.dry_run, "tables": tables, "targets": targets })
        };
        let all = futures_util::future::join_all(chosen.iter().map(|(target, at, plan, stats)| {
            sweep(target, *at, config, stats, plan, tables.clone(), args.dry_run)
        }));
        tokio::pin!(all);
        loop {
            tokio::select! {
                _ = &mut all => return Ok::<_, daemon::RunError>(Ok(state(true))),
                () = tokio::time::sleep(LOOK) => bar.show(&state(false)),
            }
        }
    });
    bar.clear();
    match ended {
        Err(exit) => exit,
        Ok(Ok(Ok(flush))) => {
            show(global, args, false, &flush);
            Exit::Ok
        }
        Ok(Ok(Err(target))) => {
            out::complain(&format!(
                "redis {target} can't be reached: nothing was removed; look at its address in the config"
            ));
            Exit::Unavailable
        }
        Ok(Err(error)) => {
            out::complain(&error.to_string());
            error.exit()
        }
    }
}

fn show(global: &Global, args: &FlushArgs, by_daemon: bool, flush: &Value) {
    if global.json {
        out::json(&json!({ "schema_version": 1, "by_daemon": by_daemon, "flush": flush }));
        return;
    }
    let would = if args.dry_run { "would be removed" } else { "removed" };
    let mut text = String::new();
    for target in flush["targets"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "{}: {} keys and fields {would}, {} looked at\n",
            target["name"].as_str().unwrap_or_default(),
            target["removed"],
            target["scanned"]
        ));
    }
    if flush["state"] != "done" {
        text.push_str(&format!("not finished: {}\n", flush["state"].as_str().unwrap_or_default()));
    }
    out::stdout(&text);
}

/// On a terminal only.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
                bar.set_style(style);
            }
            bar
        }))
    }

    fn show(&self, flush: &Value) {
        let Some(bar) = &self.0 else { return };
        let sum = |name: &str| -> u64 {
            flush["targets"].as_array().into_iter().flatten().filter_map(|target| target[name].as_u64()).sum()
        };
        bar.set_length(sum("to_scan"));
        bar.set_position(sum("scanned").saturating_sub(sum("scanned_before")).min(sum("to_scan")));
        bar.set_message(flush["state"].as_str().unwrap_or_default().to_owned());
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
