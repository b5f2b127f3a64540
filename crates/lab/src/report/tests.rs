#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    checker::{Bucket, Nines, Quantiles, Report},
    summary::{Environment, FORMAT, Fault, Measures},
};

const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&\u{0}";

fn summary() -> Summary {
    let run = |strategy: &str, stale: u64| Run {
        strategy: strategy.into(),
        workload: "read-mostly".into(),
        length: 10_000_000_000,
        fault: "redis-stop".into(),
        struck: [("redis-stop".into(), 1)].into(),
        measures: Measures::default(),
        faults: vec![Fault { name: "redis stopped".into(), from: 3_000_000_000, to: 5_000_000_000 }],
        stale_keys: vec![(0, 0), (1_000_000_000, stale), (9_000_000_000, stale / 2)],
        report: Report {
            reads: 1000,
            hits: 900,
            writes: 100,
            stale_reads: stale,
            staleness: Quantiles {
                count: stale,
                p50: 1_000_000,
                p99: 20_000_000,
                p999: 30_000_000,
                max: 30_000_000,
            },
            staleness_shares: if stale > 0 { vec![(1_000_000, 0.5), (30_000_000, 1.0)] } else { Vec::new() },
            read_latency: Quantiles {
                count: 1000,
                p50: 50_000,
                p99: 900_000,
                p999: 2_000_000,
                max: 4_000_000,
            },
            nines: vec![Nines { after: 1_000_000_000, inconsistent: 0, nines: None, at_most: Some(0.03) }],
            bucket: 100_000_000,
            timeline: [(3, Bucket { reads: 10, stale: stale.min(10), writes: 1 })].into(),
            ..Report::default()
        },
        void: None,
        repeats: 0,
    };
    Summary {
        format: FORMAT,
        environment: Environment {
            seed: 42,
            database: "MariaDB 10.11".into(),
            redis: "Redis 7.0".into(),
            cores: 2,
            command: HOSTILE.into(),
        },
        runs: vec![
            run("cache-aside", 70),
            run("guarded", 0),
            Run { void: Some(HOSTILE.into()), ..run(HOSTILE, 3) },
        ],
    }
}

fn page(summary: &Summary) -> String {
    render(summary).remove(0).content
}

#[test]
fn what_it_shows() {
    let files = render(&summary());
    let names: Vec<_> = files.iter().map(|f| f.name.as_str()).collect();
    let expected = [
        "report.html",
        "read-mostly-redis-stop-stale-keys.svg",
        "read-mostly-redis-stop-stale-reads.svg",
        "read-mostly-redis-stop-staleness.svg",
        "read-mostly-redis-stop-throughput.svg",
        "read-mostly-redis-stop-read-latency.svg",
    ];
    assert_eq!(names, expected);
    let page = &files[0].content;
    for text in [
        "value=\"0.07\">7 %<",
        "> 1.52",
        ">20 ms<",
        ">110<",
        "redis stopped",
        "class=\"good\"><data value=\"0\">0<",
    ] {
        assert!(page.contains(text) || page.contains(&text.replace('>', "&gt;")), "{text}\n{page}");
    }
}

#[test]
fn a_fault_that_comes_again_and_again_is_named_once() {
    let mut many = summary();
    many.runs.truncate(2);
    let at = |n: u64, name: &str, every: u64| Fault {
        name: name.into(),
        from: n * every,
        to: n * every + every / 2,
    };
    for run in &mut many.runs {
        run.faults = (0..1000)
            .map(|n| at(n, "lag", 10_000_000))
            .chain((1..5).map(|n| at(n, "kill", 2_000_000_000)))
            .collect();
    }
    let svg = &render(&many)[1].content;
    assert_eq!((svg.matches(">lag</text>").count(), svg.matches(">kill</text>").count()), (1, 1));
    // What can't be told apart is one area: 768 units for 10 s.
    assert_eq!(svg.matches("class=\"shade\"").count(), 2);
    assert_eq!(
        svg.split("class=\"shade\"")
            .map(|part| part.split("</g>").next().unwrap().matches("<rect").count())
            .collect::<Vec<_>>()[1..],
        [1, 4]
    );
}

#[test]
fn a_time_is_shaded_for_the_runs_in_which_the_fault_was_on() {
    let mut other = summary();
    other.runs.truncate(2);
    other.runs[1].faults[0].from = 4_000_000_000;
    let svg = &render(&other)[1].content;
    let shade = svg.split("class=\"shade\"").nth(1).unwrap().split("</g>").next().unwrap();
    let value = |rect: &str, name: &str| -> f64 {
        rect.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    let rects: Vec<_> = shade
        .split("<rect")
        .skip(1)
        .map(|rect| (value(rect, "width").round(), value(rect, "fill-opacity")))
        .collect();
    // 768 units for 10 s: one second of half the runs, then one of both.
    assert_eq!(rects, [(77.0, 0.5), (77.0, 1.0)]);
}

#[test]
fn each_line_has_its_name_at_its_end() {
    let many: Vec<String> = (0..12).map(|n| format!("strategy-{n}")).collect();
    let mut all = summary();
    let one = all.runs[0].clone();
    let ends = |n: u64| vec![(0, 0), (9_000_000_000, 10 + n / 2)];
    all.runs = (0..)
        .zip(&many)
        .map(|(n, name)| Run { strategy: name.clone(), stale_keys: ends(n), ..one.clone() })
        .collect();
    let svg = &render(&all)[1].content;
    let place = |name: &str| -> f64 {
        let tag = svg.split("class=\"tag\"").skip(1).find(|tag| tag.contains(&format!(">{name}<"))).unwrap();
        tag.split(" y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    let mut places: Vec<f64> = many.iter().map(|name| place(name)).collect();
    assert!(place("strategy-11") < place("strategy-5") && place("strategy-5") < place("strategy-0"));
    places.sort_by(f64::total_cmp);
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 15.0), "{places:?}");
    assert!(places[0] > 0.0 && places[11] < 380.0, "{places:?}");
}

#[test]
fn a_long_count_is_drawn_as_means_and_ends_with_the_last_one() {
    let mut long = summary();
    long.runs.truncate(1);
    // Each second four counts, 0 and 4 in turn; after the last one none is stale.
    let counts = (0..120).map(|n| (n * 250_000_000, if n == 119 { 0 } else { n % 2 * 4 }));
    long.runs[0].stale_keys = counts.collect();
    let svg = &render(&long)[1].content;
    let points = svg.split("<polyline points=\"").nth(1).unwrap().split('"').next().unwrap();
    let heights: Vec<&str> =
        points.split_whitespace().map(|point| point.split(',').nth(1).unwrap()).collect();
    assert_eq!(heights.last(), Some(&"328.0"), "the axis' begin: {points}");
    // Steps of one height before, but for the last second's mean.
    assert!(heights[..heights.len() - 4].iter().all(|height| *height == heights[0]), "{points}");
    assert!(points.split_whitespace().count() < 70, "{points}");
}

#[test]
fn runs_under_other_faults_have_plots_of_their_own() {
    let mut two = summary();
    let calm: Vec<_> = two.runs.iter().map(|run| Run { fault: "none".into(), ..run.clone() }).collect();
    two.runs.extend(calm);
    let files = render(&two);
    assert_eq!(files.len(), 1 + 2 * 5);
    assert!(files.iter().any(|file| file.name == "read-mostly-stale-keys.svg"));
    assert_eq!(files[0].content.matches("<h2>").count(), 2);
}

#[test]
#[cfg(feature = "png")]
fn files_are_written_with_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write(&summary(), &folder.path().join("new")).unwrap();
    assert_eq!(paths.len(), 1 + 3 * 5);
    assert!(paths[0].ends_with("report.html"));
    for path in &paths {
        let bytes = std::fs::read(path).unwrap();
        let is_png = bytes.starts_with(b"\x89PNG");
        assert_eq!(is_png, path.extension().unwrap() == "png", "{}", path.display());
    }
    let taken = folder.path().join("file");
    std::fs::write(&taken, "").unwrap();
    let error = write(&summary(), &taken).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
}

#[test]
fn file_names_are_file_names() {
    for (name, expected) in [("a b", "a-b"), ("../x", "x"), ("", "run"), ("é", "run"), ("A_1, b", "a-1-b")] {
        assert_eq!(file_name(name), expected);
    }
    assert!(file_name(&"long ".repeat(100)).len() <= 100);
}

#[test]
fn names_are_text() {
    for file in render(&summary()) {
        assert!(!file.content.contains("<img") && !file.content.contains('\u{0}'), "{}", file.name);
    }
    assert!(page(&summary()).contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;\u{fffd}"));
}

#[test]
fn it_asks_nobody() {
    for file in render(&summary()) {
        let rest = file.content.replace("http://www.w3.org/2000/svg", "");
        for text in ["http:", "https:", "//", "@import", "url("] {
            let found = rest.find(text).filter(|_| text != "//" || !rest.contains("// Boxes"));
            assert!(found.is_none(), "{}: {text}", file.name);
        }
    }
}

#[test]
fn elements_are_closed() {
    for file in render(&summary()) {
        let mut open = Vec::new();
        let body = file.content.replace("<!doctype html>", "");
        let body = [(SCRIPT, ""), (PAGE_CSS, ""), (CHART_CSS, "")]
            .iter()
            .fold(body, |b, (from, to)| b.replace(from, to));
        for tag in body.split('<').skip(1).map(|t| t.split('>').next().unwrap()) {
            let name = tag.trim_start_matches('/').split_whitespace().next().unwrap().trim_end_matches('/');
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "{}", file.name);
            } else if !tag.ends_with('/') && !["meta", "input"].contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{}: {open:?}", file.name);
    }
}

#[test]
fn a_void_run_is_said_and_not_drawn() {
    let files = render(&summary());
    assert!(files[0].content.contains(": void: "));
    assert!(!files[1].content.contains("onerror"));
}

#[test]
fn a_summary_survives_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("summary.json");
    std::fs::write(&path, serde_json::to_string(&summary()).unwrap()).unwrap();
    assert_eq!(Summary::load(&path).unwrap(), summary());
    std::fs::write(&path, "{\"format\": 99}").unwrap();
    assert!(Summary::load(&path).unwrap_err().to_string().contains("format 99"));
    std::fs::write(&path, "{").unwrap();
    assert!(Summary::load(&path).unwrap_err().to_string().contains("not a summary"));
    assert!(Summary::load(&folder.path().join("none")).is_err());
}

#[test]
fn nothing_is_no_error() {
    let mut empty = summary();
    empty.runs.clear();
    assert_eq!(render(&empty).len(), 1);
    let mut zero = summary();
    zero.runs =
        vec![Run { length: 0, stale_keys: Vec::new(), report: Report::default(), ..zero.runs[0].clone() }];
    assert!(page(&zero).contains("cache-aside"));
}
