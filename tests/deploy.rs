//! What users deploy with, and what the documentation tells them to type: rules, dashboard, compose file, commands.
//!
//! To rewrite the table of metrics in `docs/operations.md`: `UPDATE_DOCS=1 cargo test -p rowbust --test deploy`.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use rowbust::{
    cli, config,
    telemetry::{Kind, METRICS},
};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of metrics in a query. A histogram has three series.
fn metrics_of(query: &str) -> Vec<String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("rowbust_")).map(ToOwned::to_owned).collect()
}

fn exists(name: &str) -> bool {
    METRICS.iter().any(|metric| match metric.kind {
        Kind::Histogram => {
            ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(metric.name))
        }
        _ => name == metric.name,
    })
}

#[test]
fn every_alert_asks_for_metrics_that_exist_and_has_a_runbook() {
    let rules = yaml("deploy/prometheus/alerts.yml");
    let runbooks = read("docs/operations.md");
    let mut alerts = BTreeSet::new();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let expr = rule["expr"].as_str().unwrap();
        for metric in metrics_of(expr) {
            assert!(exists(&metric), "{name} asks for {metric}, which doesn't exist");
        }
        assert!(runbooks.contains(&format!("\n### {name}\n")), "{name} has no section in docs/operations.md");
        let runbook = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"].as_str(), Some(runbook.as_str()));
        assert!(alerts.insert(name.to_owned()), "{name} stands twice");
    }
    for section in runbooks.lines().filter_map(|line| line.strip_prefix("### Rowbust")) {
        assert!(alerts.contains(&format!("Rowbust{section}")), "no alert Rowbust{section}");
    }
}

#[test]
fn every_panel_asks_for_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/rowbust.json")).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let metrics = metrics_of(query);
            assert!(!metrics.is_empty(), "{query}");
            for metric in metrics {
                assert!(exists(&metric), "{}: {metric} doesn't exist", panel["title"]);
                asked += 1;
            }
        }
    }
    assert!(asked > 40);
}

#[test]
fn the_compose_file_is_safe_by_default() {
    let compose = yaml("docker-compose.yml");
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap_or_else(|| panic!("{name} has no image"));
        let tag = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag")).1;
        assert!(tag != "latest" && !tag.is_empty(), "{name}: {image}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} publishes {port}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap();
            if let Some(path) = volume.strip_prefix("./") {
                let path = path.split(':').next().unwrap();
                assert!(root().join(path).exists(), "{name} mounts {path}, which doesn't exist");
            }
        }
        let needs = service["depends_on"].as_object().into_iter().flatten();
        for (other, how) in needs {
            let other_service = &services[other];
            if how["condition"] == "service_healthy" {
                assert!(other_service["healthcheck"].is_object(), "{name} waits for {other}'s health");
            }
        }
    }
    for (name, secret) in compose["secrets"].as_object().unwrap() {
        let file = secret["file"].as_str().unwrap();
        assert!(root().join(file).exists(), "secret {name}: {file}");
    }
    for file in ["deploy/compose/rowbust.yaml", "deploy/compose/rowbust-cluster.yaml"] {
        if let Err(report) = config::parse(&read(file), Path::new("/etc/rowbust/rowbust.yaml"), &|_| None) {
            panic!("{}", report.render(config::Style::Plain));
        }
    }
}

/// What the images are made from says which version it is, as far as the maker gives it one.
#[test]
fn the_base_images_are_pinned() {
    let dockerfile = read("Dockerfile");
    let bases: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(bases.len(), 3, "{bases:?}");
    for base in &bases {
        let (name, tag) = base.rsplit_once(':').unwrap_or_else(|| panic!("{base} has no tag"));
        // Distroless has no versions: Debian's is in the name, and the tag says whom it runs as.
        let pinned = name == "gcr.io/distroless/cc-debian12" && tag == "nonroot"
            || tag.split('-').any(|part| {
                let date = part.len() == 8 && part.chars().all(|c| c.is_ascii_digit());
                date || part.split('.').count() >= 2
            });
        assert!(pinned, "{base} floats");
    }
    let toolchain = read("rust-toolchain.toml");
    let version = bases[0].strip_prefix("rust:").and_then(|tag| tag.split('-').next()).unwrap();
    assert!(toolchain.contains(&format!("channel = \"{version}")), "{version} isn't the toolchain's");
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    docs.chain([root().join("README.md"), root().join("deploy/helm/rowbust/README.md")])
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect()
}

/// A line as a shell takes it apart: words, quotes, a comment, where it is redirected.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c == ' ' => words.extend(word.take()),
            None if matches!(c, '#' | '>' | '|' | ';') && word.is_none() => break,
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What the documentation tells to type is understood by this binary.
#[test]
fn every_command_of_the_documentation_is_understood() {
    let mut commands = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let mut shell = false;
        for line in text.lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                shell = language == "sh";
                continue;
            }
            let line = line.trim();
            if !shell || !line.starts_with("rowbust ") {
                continue;
            }
            commands += 1;
            let words = words(line).into_iter().map(OsString::from);
            assert!(cli::parse(words).is_ok(), "{}: {line}", page.display());
        }
    }
    assert!(commands > 10, "{commands}");
}

/// What stands between backticks in a page's text and tables.
fn code_spans(text: &str) -> Vec<String> {
    let (mut spans, mut fenced) = (Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2).map(ToOwned::to_owned));
        }
    }
    spans
}

/// Also what is named within a sentence, which may leave out what is the reader's: a subcommand, a value.
#[test]
fn every_command_within_a_sentence_is_understood() {
    use clap::{Parser as _, error::ErrorKind};
    let left_out = [
        ErrorKind::MissingSubcommand,
        ErrorKind::MissingRequiredArgument,
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ErrorKind::DisplayVersion,
    ];
    let (mut wrong, mut commands) = (Vec::new(), BTreeSet::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for span in code_spans(&text).into_iter().filter(|span| span.starts_with("rowbust ")) {
            let mut words = words(&span.replace("\\|", "|"));
            // `--after JSON`, `--gtid …`: the value is the reader's.
            let placeholder = words
                .iter()
                .any(|word| word == "…" || word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase()));
            words.retain(|word| word != "…");
            if let Err(error) = cli::Args::try_parse_from(words) {
                let value = matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
                if !(left_out.contains(&error.kind()) || placeholder && value) {
                    wrong.push(format!("{}: `{span}`: {:?}", page.display(), error.kind()));
                }
            }
            commands.insert(span);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(commands.len() > 40, "{}", commands.len());
    assert!(cli::Args::try_parse_from(["rowbust", "flush", "--no-such"]).is_err());
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let mut table = String::from("\n| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        table.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            metric.name,
            labels.join(", "),
            metric.help
        ));
    }
    let page = read("docs/operations.md");
    let (before, rest) = page.split_once("<!-- metrics -->").unwrap();
    let (_, after) = rest.split_once("<!-- /metrics -->").unwrap();
    let wanted = format!("{before}<!-- metrics -->{table}<!-- /metrics -->{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/operations.md"), wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "UPDATE_DOCS=1 cargo test -p rowbust --test deploy");
    }
}

/// The codes that a file of the program gives to what it logs: `"source.incident"`, not in its tests.
fn codes_of(text: &str, groups: &[&str]) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let literals = text.lines().flat_map(|line| line.split('"'));
    let code = |literal: &&str| {
        literal.split_once('.').is_some_and(|(group, what)| {
            groups.contains(&group)
                && !what.is_empty()
                && what.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
    };
    literals.filter(code).map(ToOwned::to_owned).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            rust_files(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            found.push(path);
        }
    }
}

/// What halts, refuses or widens has a code, and each code says in the runbook what to do.
#[test]
fn the_table_of_codes_is_that_of_the_code() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut codes = BTreeSet::new();
    for file in files {
        let path = file.strip_prefix(root().join("src")).unwrap();
        let groups: &[&str] = match path.components().next().unwrap().as_os_str().to_str().unwrap() {
            // Codes of answers, of `check --live` and of fields: other pages have them.
            "admin" | "live" | "config" | "cli" => continue,
            // Beside its codes it names fields, by their paths.
            "reload.rs" => &["reload"],
            _ => &["binlog", "pipeline", "reload", "route", "source"],
        };
        codes.extend(codes_of(&fs::read_to_string(&file).unwrap(), groups));
    }
    assert!(codes.len() > 35 && codes.contains("source.incident"), "{codes:?}");
    let page = read("docs/operations.md");
    let (_, rest) = page.split_once("<!-- log codes -->").unwrap();
    let (table, _) = rest.split_once("<!-- /log codes -->").unwrap();
    let mut listed = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{line}");
        assert!(listed.insert(cells[0].trim_matches('`').to_owned()), "twice: {line}");
    }
    let missing: Vec<_> = codes.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&codes).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in docs/operations.md: {missing:?}; not in src: {gone:?}"
    );
    // Each is really found: a group that nobody looks for would be missed on both sides.
    assert_eq!(
        codes_of(
            "a(\"source.x_y\", \"db.t\", \"source.T\") \n#[cfg(test)]\nmod tests {\n\"source.z\"",
            &["source"]
        ),
        ["source.x_y"]
    );
}

/// Pages name each other and files by paths that exist.
#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.contains(['\n', ' ', '{']) {
                continue;
            }
            assert!(page.parent().unwrap().join(path).exists(), "{}: {target}", page.display());
        }
    }
}

/// What the Debian package is made of is there, and its scripts are scripts.
#[test]
fn the_debian_package_names_what_exists() {
    let manifest = read("Cargo.toml");
    let (_, package) = manifest.split_once("[package.metadata.deb]").unwrap();
    let (_, assets) = package.split_once("assets = [").unwrap();
    let mut named = 0;
    for line in assets.lines().skip(1).take_while(|line| !line.starts_with(']')) {
        let path = line.split('"').nth(1).unwrap();
        named += 1;
        if path.starts_with("target/") {
            continue; // made by deploy/dist.sh
        }
        let there = match path.split_once("/*.") {
            Some((folder, extension)) => fs::read_dir(root().join(folder))
                .unwrap()
                .any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == extension)),
            None => root().join(path).is_file(),
        };
        assert!(there, "{path} doesn't exist");
    }
    assert!(named > 10, "{named}");
    let scripts = ["deploy/debian/postinst", "deploy/debian/prerm", "deploy/debian/postrm", "deploy/dist.sh"];
    for script in scripts.into_iter().chain(["deploy/compose/load.sh", "deploy/compose/mysql/10-shop.sh"]) {
        let status = std::process::Command::new("bash").arg("-n").arg(root().join(script)).status().unwrap();
        assert!(status.success(), "{script}");
    }
}
