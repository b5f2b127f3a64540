//! The alert rules and the dashboard, by Prometheus itself: the rules' own tests, then every query against the metrics of a daemon that works.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::compose::root;
use rowbust_integration_tests::db::Flavor;
use rowbust_integration_tests::http;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::terminal::{Terminal, Typed};
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::{Need, Prometheus, StartOptions, require};
use serde_json::Value;
use tokio::task::block_in_place;

const WITHIN: Duration = Duration::from_secs(30);

/// A query of ours, and the labels that the texts around it use.
struct Asked {
    place: String,
    query: String,
    labels: Vec<String>,
}

/// Names that follow `before` in a text: `$labels.target`, `{{target}}`.
fn names(text: &str, before: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    text.split(before).skip(1).map(|rest| name(rest.trim_start())).collect()
}

/// The rules, asked for the series that they compare: with `bool` a comparison keeps them all.
fn rules() -> Result<Vec<Asked>> {
    let rules: Value =
        serde_saphyr::from_str(&fs::read_to_string(root().join("deploy/prometheus/alerts.yml"))?)?;
    let rules = rules["groups"][0]["rules"].as_array().context("no rules")?.iter();
    let asked = rules.map(|rule| {
        let expr = rule["expr"].as_str().unwrap_or_default();
        let query =
            [" == ", " > ", " < "].iter().fold(expr.to_owned(), |q, op| q.replace(op, &format!("{op}bool ")));
        let text = rule["annotations"]["description"].as_str().unwrap_or_default();
        Asked { place: format!("alert {}", rule["alert"]), query, labels: names(text, "$labels.") }
    });
    Ok(asked.collect())
}

fn panels() -> Result<Vec<Asked>> {
    let text = fs::read_to_string(root().join("deploy/grafana/rowbust.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let mut asked = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("no query")?;
            // As Grafana fills them in.
            let query = query.replace("$__rate_interval", "1m").replace("$instance", ".*");
            ensure!(!query.contains('$'), "unknown variable in {query}");
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            asked.push(Asked {
                place: format!("panel {}", panel["title"]),
                query,
                labels: names(legend, "{{"),
            });
        }
    }
    Ok(asked)
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

async fn query(port: u16, query: &str) -> Result<Vec<Value>> {
    let (status, body) = http::get(port, &format!("/api/v1/query?query={}", encoded(query))).await?;
    ensure!(status == 200, "{query}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    Ok(answer["data"]["result"].as_array().context("no vector")?.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_finds_its_series() -> Result<()> {
    if require(&[Need::Prometheus]).is_none() {
        return Ok(());
    }
    let Some(stage) = Stage::new(Flavor::MySql, "monitored").await? else { return Ok(()) };
    stage.open_shop(50).await?;
    let daemon = stage.start().await?;
    let config = format!(
        "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}\nscrape_configs:\n  - job_name: rowbust\n    \
         static_configs: [{{ targets: [\"127.0.0.1:{}\"] }}]\n",
        stage.admin()
    );
    let options = StartOptions::new(stage.dir().join("prometheus"));
    let prometheus = block_in_place(|| Prometheus::start(options, &config))?;
    let port = prometheus.port();
    until("a first scrape", WITHIN, async || {
        let up = query(port, "up == 1").await?;
        Ok(Seen::check(!up.is_empty(), || format!("{up:?}")))
    })
    .await?;
    // Seen before and after: rates need both.
    let mut conn = stage.sql().await?;
    for version in [2000, 3000] {
        conn.query_drop(format!("UPDATE products SET ver = {version}, name = 'another'")).await?;
        stage.quiet(&daemon).await?;
        until("two scrapes", WITHIN, async || {
            let rows =
                query(port, "increase(rowbust_rows_total[1m]) > 0 and count_over_time(up[1m]) > 3").await?;
            Ok(Seen::check(!rows.is_empty() || version == 2000, || format!("{rows:?}")))
        })
        .await?;
    }

    let (mut asked, mut without) = (0, BTreeSet::new());
    for Asked { place, query: text, labels } in rules()?.into_iter().chain(panels()?) {
        let found = query(port, &text).await.with_context(|| place.clone())?;
        asked += 1;
        let Some(series) = found.first() else {
            without.insert(format!("{place}: {text}"));
            continue;
        };
        for label in labels {
            ensure!(series["metric"][&label].is_string(), "{place}: no label {label} in {series}");
        }
    }
    ensure!(without.is_empty(), "no series: {without:#?}");
    ensure!(asked > 60, "only {asked} queries");
    Ok(())
}

#[test]
fn promtool_takes_rules_and_configs() -> Result<()> {
    let Some(found) = require(&[Need::Prometheus]) else { return Ok(()) };
    let promtool = found.prometheus.context("no promtool")?.promtool;
    let run = |args: &[&str]| -> Result<String> {
        let out = Command::new(&promtool).args(args).current_dir(root()).output()?;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        ensure!(out.status.success(), "promtool {args:?}: {text}");
        Ok(text)
    };
    run(&["check", "rules", "--lint=all", "--lint-fatal", "deploy/prometheus/alerts.yml"])?;
    run(&["test", "rules", "deploy/prometheus/alerts_test.yml"])?;

    let tests: Value =
        serde_saphyr::from_str(&fs::read_to_string(root().join("deploy/prometheus/alerts_test.yml"))?)?;
    let tested: BTreeSet<&str> =
        tests["tests"].as_array().into_iter().flatten().filter_map(|test| test["name"].as_str()).collect();
    for rule in rules()? {
        let name = rule.place.trim_start_matches("alert ").trim_matches('"');
        ensure!(tested.contains(name), "{name} has no test");
    }

    // The compose file's own, with its paths.
    let dir = tempfile::tempdir()?;
    let mut terminal = Terminal::new(dir.path(), |_| Typed::ok(""))?;
    terminal.map("/etc/prometheus/rules", root().join("deploy/prometheus").display().to_string());
    let config = terminal.copy(&root().join("deploy/compose/prometheus.yml"), "prometheus.yml")?;
    let said = run(&["check", "config", &config.display().to_string()])?;
    ensure!(said.contains("1 rule files found"), "{said}");
    Ok(())
}
