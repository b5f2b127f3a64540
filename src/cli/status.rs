//! `rowbust status`

use std::{io::IsTerminal as _, time::Duration};

use serde_json::Value;

use super::{Exit, Global, admin::Admin, load, out};

/// Arguments of `rowbust status`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Asks the running daemon at the config's `admin.listen`. Exits with 0 if one answers, whatever it says; `rowbust healthcheck
--ready` judges. With --json everything that /status has.

Examples:
  rowbust status
  rowbust status --watch
  rowbust status --json | jq .lag_seconds"
)]
pub struct StatusArgs {
    /// Again each second, until interrupted
    #[arg(long)]
    pub watch: bool,
}

pub(super) fn execute(global: &Global, args: &StatusArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let admin = Admin::new(&config);
    let mut before = None;
    loop {
        let status = match admin.get("/status", &[]) {
            Ok(status) => status,
            Err(refused) => return admin.complain(global, &refused),
        };
        let shown = if global.json {
            format!("{}\n", if args.watch { status.to_string() } else { format!("{status:#}") })
        } else {
            // ECMA-48: cursor to the first place, erase from there.
            let clear = if args.watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
            format!("{clear}{}", text(&status, before.as_ref()))
        };
        if !out::try_stdout(&shown) || !args.watch {
            return Exit::Ok;
        }
        before = Some(status);
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn seconds(value: &Value) -> String {
    match value.as_f64() {
        None => "-".into(),
        Some(s) if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        Some(s) if s < 120.0 => format!("{s:.1} s"),
        Some(s) if s < 7200.0 => format!("{:.0} min", s / 60.0),
        Some(s) if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        Some(s) => format!("{:.1} d", s / 86_400.0),
    }
}

fn count(value: &Value) -> String {
    value.as_u64().map_or("?".into(), |n| n.to_string())
}

/// One screen of what matters. `before`: the state a second ago, for rates.
fn text(status: &Value, before: Option<&Value>) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let passed = before.map(|before| {
        let uptime = |status: &Value| status["uptime_seconds"].as_f64().unwrap_or_default();
        uptime(status) - uptime(before)
    });
    // Per second between two looks; without the first, since the start.
    let rate = |path: &str| {
        let now = status.pointer(path).and_then(Value::as_f64).unwrap_or_default();
        let (then, over) = match (before, passed) {
            (Some(before), Some(passed)) if passed > 0.0 => {
                (before.pointer(path).and_then(Value::as_f64).unwrap_or_default(), passed)
            }
            _ => (0.0, status["uptime_seconds"].as_f64().unwrap_or_default()),
        };
        format!("{:.1}/s", ((now - then) / over.max(0.001)).max(0.0))
    };
    let state = match (status["not_ready"].as_str(), status["caught_up"] == true) {
        (Some(why), _) => format!("NOT READY: {why}"),
        (None, true) => "ready, caught up".into(),
        (None, false) => "ready, working".into(),
    };
    let source = &status["source"];
    let mut rows = vec![
        row("state", state),
        row(
            "uptime",
            format!("{} (rowbust {})", seconds(&status["uptime_seconds"]), word(&status["version"])),
        ),
        row("lag", seconds(&status["lag_seconds"])),
        row(
            "source",
            format!(
                "{} {}, {}, {} reconnects, {} gaps",
                word(&source["flavor"]),
                word(&source["version"]),
                if source["connected"] == true { "connected" } else { "NOT CONNECTED" },
                count(&source["reconnects"]),
                count(&source["gaps"])
            ),
        ),
    ];
    let checkpoint = &status["checkpoint"];
    if checkpoint.is_object() {
        let behind = if checkpoint["behind"] == true { ", more is on its way" } else { "" };
        rows.push(row(
            "checkpoint",
            format!(
                "{}:{}, {} old{behind}",
                word(&checkpoint["file"]),
                checkpoint["position"],
                seconds(&checkpoint["age_seconds"])
            ),
        ));
        rows.push(row("gtids", word(&checkpoint["gtids"])));
        if checkpoint["failures"].as_u64().is_some_and(|n| n > 0) {
            rows.push(row("", format!("{} saves FAILED", count(&checkpoint["failures"]))));
        }
    } else {
        rows.push(row("checkpoint", "none yet".into()));
    }
    let over = if before.is_some() { "" } else { " since the start" };
    rows.push(row(
        "rates",
        format!(
            "{} transactions, {} rows, {} keys{over}",
            rate("/source/transactions"),
            rate("/rows"),
            rate("/keys/routed")
        ),
    ));
    rows.push(row(
        "in flight",
        format!(
            "{} segments, {} of {} bytes",
            count(&status["frontier"]["open_segments"]),
            count(&status["in_flight_bytes"]),
            count(&status["in_flight_limit_bytes"])
        ),
    ));
    let queue = &status["queue"];
    rows.push(row(
        "queue",
        format!(
            "{} pending{}, {} dead letters since the start",
            count(&queue["pending"]),
            queue["oldest_seconds"]
                .as_f64()
                .map_or(String::new(), |_| format!(", oldest {}", seconds(&queue["oldest_seconds"]))),
            count(&queue["dead"])
        ),
    ));
    for (at, target) in status["targets"].as_array().into_iter().flatten().enumerate() {
        let breaker = match target["breaker"].as_str() {
            Some("open") => {
                format!("BREAKER OPEN for {} ({})", seconds(&target["open_seconds"]), word(&target["error"]))
            }
            _ => "breaker closed".into(),
        };
        rows.push(row(
            &format!("redis {}", word(&target["name"])),
            format!(
                "{breaker}; {} first and {} last removals, {} queued",
                rate(&format!("/targets/{at}/removed/first")),
                rate(&format!("/targets/{at}/removed/last")),
                count(&target["removed"]["queued"])
            ),
        ));
    }
    for flush in status["flush"].as_array().into_iter().flatten().filter(|flush| flush["running"].is_object())
    {
        let running = &flush["running"];
        rows.push(row(
            "flush",
            format!(
                "{}: {} removed, {} of {} looked at, for {}",
                word(&flush["target"]),
                running["removed"],
                running["scanned"],
                running["to_scan"],
                seconds(&running["seconds"])
            ),
        ));
    }
    for server in status["visibility"].as_array().into_iter().flatten() {
        rows.push(row(
            "visible at",
            format!(
                "{}: by {}, seen {} ago",
                word(&server["server"]),
                word(&server["witness"]),
                seconds(&server["sample_age_seconds"])
            ),
        ));
    }
    let config = &status["config"];
    if let Some(tables) = config["uncovered"].as_array().filter(|tables| !tables.is_empty()) {
        let tables: Vec<&str> = tables.iter().filter_map(Value::as_str).collect();
        rows.push(row(
            "uncovered",
            format!("{}: keys cached before the start were never covered", tables.join(", ")),
        ));
    }
    if config["last_reload"]["outcome"]["ok"] == false {
        rows.push(row(
            "reload",
            format!("REFUSED: {}", word(&config["last_reload"]["outcome"]["error"]["message"])),
        ));
    }
    let mut text = out::table(&rows);
    let log: Vec<&Value> = status["log"].as_array().into_iter().flatten().collect();
    let newest = log.iter().rev().take(5).rev();
    let lines: Vec<Vec<String>> = newest
        .map(|line| {
            vec![
                format!("  {}", out::ago(line["at_ms"].as_u64().unwrap_or_default() / 1000)),
                word(&line["level"]),
                out::key(format!("{} {}", word(&line["message"]), word(&line["values"])).as_bytes()),
            ]
        })
        .collect();
    if !lines.is_empty() {
        text.push_str("\nlast warnings and errors\n");
        text.push_str(&out::table(&lines));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_between_two_looks() {
        let look = |uptime: f64, rows: u64| {
            json!({
                "uptime_seconds": uptime, "rows": rows, "caught_up": true, "version": "1", "lag_seconds": 0.0,
                "source": { "connected": true }, "targets": [], "not_ready": null,
                "log": [{ "at_ms": 0, "level": "warn", "message": "x\u{1b}", "values": "a=1" }],
            })
        };
        let shown = text(&look(10.0, 300), None);
        assert!(shown.contains("30.0/s rows") && shown.contains("keys since the start"), "{shown}");
        assert!(shown.contains("ready, caught up") && shown.contains("x\\u{1b} a=1"), "{shown}");
        let shown = text(&look(12.0, 500), Some(&look(10.0, 300)));
        assert!(shown.contains("100.0/s rows") && !shown.contains("keys since the start"), "{shown}");
        let mut paused = look(12.0, 500);
        paused["not_ready"] = json!("paused for 3 s");
        assert!(text(&paused, None).contains("NOT READY: paused for 3 s"));
    }
}
