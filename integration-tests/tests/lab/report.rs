//! The lab's report, in a browser: it asks nobody for anything, shows the figures of its summary, in the light and in the dark, on a phone,
//! and by the keyboard alone.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use anyhow::{Result, ensure};
use rowbust_integration_tests::browser::Browser;
use rowbust_lab::checker::{Bucket, Final, Nines, Quantiles, Report};
use rowbust_lab::report;
use rowbust_lab::summary::{Environment, FORMAT, Fault, Measures, Removal, Run, Summary};
use serde_json::Value;

const SECOND: u64 = 1_000_000_000;
/// A name that is no name of a strategy.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&";

/// As of a comparison of all strategies; `n` makes each run's figures its own.
fn run(n: u64, strategy: &str, workload: &str, faults: &[Fault]) -> Run {
    let ours = strategy == "guarded";
    let stale = if ours { 0 } else { 10 + n * 37 };
    let quantiles = |count: u64, unit: u64| Quantiles {
        count,
        p50: unit * (n + 3),
        p99: unit * (n + 3) * 11,
        p999: unit * (n + 3) * 29,
        max: unit * (n + 3) * 83,
    };
    let bucket =
        |at: u64| Bucket { reads: 1000, stale: if ours { at % 2 } else { (at * n) % 90 }, writes: 100 };
    let forever = if ours { 0 } else { n % 5 };
    Run {
        strategy: strategy.into(),
        workload: workload.into(),
        length: 30 * SECOND,
        fault: if faults.is_empty() { "none".into() } else { format!("daemon-kill+{HOSTILE}") },
        struck: faults.iter().map(|fault| (fault.name.clone(), n + 1)).collect(),
        measures: Measures {
            database_reads: n * 11,
            refused_fills: n * 13,
            lock_waits: n * 17,
            first_removal: ours.then(|| Removal { p99: Some(0.0025), ..Removal::default() }),
            second_removal: ours.then(Removal::default),
            ..Measures::default()
        },
        faults: faults.to_vec(),
        stale_keys: (0..30)
            .map(|at| {
                let during = (10..16).contains(&at);
                (at * SECOND, if ours { u64::from(during) * 40 } else { (at * (n + 1)) % 300 })
            })
            .collect(),
        report: Report {
            reads: 30_000 + n,
            hits: 20_000 + n * 7,
            writes: 3000,
            stale_reads: stale,
            staleness: quantiles(stale, 700_000),
            staleness_shares: (1..=10)
                .map(|at| (at * 700_000, f64::from(u32::try_from(at).unwrap()) / 10.0))
                .collect(),
            read_latency: quantiles(30_000, 40_000),
            write_latency: quantiles(3000, 90_000),
            own_write_missed: n * 3,
            went_back: n,
            absent: n * 2,
            nines: vec![Nines {
                after: SECOND,
                inconsistent: forever,
                nines: (forever > 0).then_some(2.5),
                at_most: (forever == 0).then_some(0.001),
            }],
            permanently_stale: (0..forever)
                .map(|key| Final { key: u32::try_from(key).unwrap(), cached: Some(1), database: 9 })
                .collect(),
            bucket: SECOND,
            timeline: (0..30).map(|at| (at, bucket(at))).collect(),
            ..Report::default()
        },
        void: (strategy == HOSTILE).then(|| HOSTILE.to_owned()),
        repeats: 0,
    }
}

fn summary() -> Summary {
    let strategies = [
        "ttl-only",
        "cache-aside",
        "delete-first",
        "write-db-then-cache",
        "write-cache-then-db",
        "write-through",
        "delayed-double-delete",
        "lock-serialized-unfenced",
        "lock-serialized",
        "logical-expiry",
        "binlog",
        "binlog-lease",
        "binlog-twice",
        "guarded",
        HOSTILE,
    ];
    let fault = |name: &str, from, to| Fault { name: name.into(), from: from * SECOND, to: to * SECOND };
    let faults = [fault("daemon killed", 10, 13), fault(HOSTILE, 20, 22)];
    let runs = [("zipf", &faults[..]), ("write-heavy", &[])];
    let numbered = || (0..).zip(strategies);
    Summary {
        format: FORMAT,
        environment: Environment {
            seed: 42,
            database: "MariaDB 10.11".into(),
            redis: "Redis 7.0".into(),
            cores: 2,
            command: format!("rowbust lab compare {HOSTILE} {}", "--very-long-option".repeat(12)),
        },
        runs: runs
            .iter()
            .flat_map(|(workload, faults)| numbered().map(move |(n, name)| run(n, name, workload, faults)))
            .collect(),
    }
}

/// Text against what is behind it, WCAG 2.2: the least contrast of all elements with text of their own, and whose it is.
const CONTRAST: &str = r"(() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => text.match(/[\d.]+/g).map(Number);
  const paper = light(parse(getComputedStyle(document.body).backgroundColor));
  let least = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || ['SCRIPT', 'STYLE', 'title'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = light(parse(element instanceof SVGElement ? style.fill : style.color));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < least[0]) least = [contrast, element.outerHTML.slice(0, 200)];
  }
  return least;
})()";

/// The figures of each row, as the page holds them, by section and strategy.
const FIGURES: &str = r"[...document.querySelectorAll('section')].map(section => [section.querySelector('h2').textContent,
  [...section.querySelectorAll('tbody tr')].map(row => [row.querySelector('th').textContent,
    [...row.querySelectorAll('data')].map(data => data.value)])])";

/// What the page must say of a run, read from the file as any other program would.
fn expected(run: &Value) -> Vec<f64> {
    let report = &run["report"];
    let number = |value: &Value| value.as_f64().unwrap();
    let share = |part: &str| number(&report[part]) / number(&report["reads"]);
    let nines = report["nines"].as_array().unwrap().iter().find(|nines| nines["after"] == SECOND).unwrap();
    let nines = nines["nines"].as_f64().or(nines["at_most"].as_f64()).unwrap();
    let quantile = |of: &str, which: &str| match report[of]["count"].as_u64() {
        Some(0) => f64::NAN,
        _ => number(&report[of][which]),
    };
    let operations = number(&report["reads"]) + number(&report["writes"]);
    vec![
        f64::from(u32::try_from(report["permanently_stale"].as_array().unwrap().len()).unwrap()),
        number(&report["absent"]),
        share("stale_reads"),
        quantile("staleness", "p50"),
        quantile("staleness", "p99"),
        quantile("staleness", "max"),
        nines,
        number(&report["own_write_missed"]),
        number(&report["went_back"]),
        share("hits"),
        operations / (number(&run["length"]) / 1e9),
        quantile("read_latency", "p50"),
        quantile("read_latency", "p99"),
        quantile("write_latency", "p50"),
        quantile("write_latency", "p99"),
        number(&run["measures"]["database_reads"]),
        number(&run["measures"]["refused_fills"]),
        number(&run["measures"]["lock_waits"]),
        run["measures"]["first_removal"]["p99"].as_f64().unwrap_or(f64::NAN),
        run["measures"]["second_removal"]["p99"].as_f64().unwrap_or(f64::NAN),
    ]
}

fn same_figures(page: &Value, summary: &Value) -> Result<()> {
    let sections = page.as_array().unwrap();
    ensure!(sections.len() == 2, "{page}");
    let mut compared = 0;
    for section in sections {
        let title = section[0].as_str().unwrap();
        for row in section[1].as_array().unwrap() {
            let run = summary["runs"].as_array().unwrap().iter().find(|run| {
                run["strategy"] == row[0] && title.starts_with(run["workload"].as_str().unwrap())
            });
            let expected = expected(run.unwrap());
            let shown: Vec<f64> = row[1]
                .as_array()
                .unwrap()
                .iter()
                .map(|text| text.as_str().unwrap().parse().unwrap_or(f64::NAN))
                .collect();
            ensure!(shown.len() == expected.len(), "{row}");
            for (shown, expected) in shown.iter().zip(&expected) {
                let both_none = shown.is_nan() && expected.is_nan();
                ensure!(
                    both_none || (shown - expected).abs() <= expected.abs() * 1e-9,
                    "{title}: {row}, {expected:?}"
                );
                compared += 1;
            }
        }
    }
    ensure!(compared == 2 * 15 * 20, "void: {compared} figures");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_in_a_browser() -> Result<()> {
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("summary.json");
    std::fs::write(&path, serde_json::to_string(&summary())?)?;
    let files = report::write(&Summary::load(&path)?, dir.path())?;
    let dark = files.iter().filter(|file| file.to_string_lossy().ends_with("-dark.png")).count();
    ensure!(dark == 12 && files.len() == 1 + 3 * 12, "{files:?}");
    let pictures = std::env::var_os("ROWBUST_PICTURES");
    let picture = async |name: &str| match &pictures {
        Some(folder) => browser.picture(&Path::new(folder).join(name)).await,
        None => Ok(()),
    };

    browser.size(1280, 900).await?;
    browser.colours("light").await?;
    browser.open(&format!("file://{}", files[0].display())).await?;
    let asked = browser.eval("performance.getEntriesByType('resource').map(entry => entry.name)").await?;
    ensure!(asked == serde_json::json!([]), "asked for {asked}");
    let refused =
        browser.eval("fetch('http://127.0.0.1:9/').then(() => 'answered', error => String(error))").await?;
    ensure!(refused.as_str().unwrap().contains("TypeError"), "{refused}");
    let policy = browser.complaints();
    ensure!(
        !policy.is_empty()
            && policy
                .iter()
                .all(|said| said.contains("Content Security Policy") || said.contains("connect-src")),
        "{policy:?}"
    );
    let of_file: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    same_figures(&browser.eval(FIGURES).await?, &of_file)?;
    ensure!(browser.eval("document.querySelectorAll('img').length").await? == 0);
    ensure!(browser.eval("document.querySelectorAll('figure svg').length").await? == 12);

    let mut papers = Vec::new();
    for scheme in ["light", "dark"] {
        browser.colours(scheme).await?;
        papers.push(browser.eval("getComputedStyle(document.body).backgroundColor").await?);
        let least = browser.eval(CONTRAST).await?;
        ensure!(least[0].as_f64().unwrap() >= 4.5, "{scheme}: {least}");
        picture(&format!("report-{scheme}.png")).await?;
    }
    ensure!(papers[0] != papers[1], "{papers:?}");

    browser.size(320, 640).await?;
    let width = browser.eval("document.documentElement.scrollWidth").await?;
    ensure!(width == 320, "{width} wide on a phone");
    picture("report-phone.png").await?;

    by_keyboard(&browser).await?;
    let complaints = browser.complaints();
    ensure!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}

/// Every box and every region that scrolls is reached by Tab, and a box works by Space.
async fn by_keyboard(browser: &Browser) -> Result<()> {
    browser.size(1280, 900).await?;
    let wanted =
        browser.eval("document.querySelectorAll('input, .scroll, summary').length").await?.as_u64().unwrap();
    ensure!(wanted == 15 + 2 + 12 + 1, "{wanted}");
    let mut reached = Vec::new();
    for _ in 0..wanted {
        browser.press("Tab").await?;
        let place = browser
            .eval("[...document.querySelectorAll('input, .scroll, summary')].indexOf(document.activeElement)")
            .await?;
        let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle").await?;
        ensure!(outline == "solid", "where the keyboard is can't be seen");
        reached.push(place.as_u64());
    }
    ensure!(reached == (0..wanted).map(Some).collect::<Vec<_>>(), "{reached:?}");
    browser.eval("document.querySelector('input[value=\"1\"]').focus()").await?;
    let shown = "[...document.querySelectorAll('figure .n1')].filter(line => getComputedStyle(line).display !== 'none').length";
    let before = browser.eval(shown).await?.as_u64().unwrap();
    browser.press(" ").await?;
    let after = browser.eval(shown).await?.as_u64().unwrap();
    ensure!(before > 5 && after == 0, "{before}, {after}");
    browser.press(" ").await?;
    ensure!(browser.eval(shown).await? == before);
    Ok(())
}
