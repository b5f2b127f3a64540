//! Every command of the documentation, typed as it stands: each page's `sh` and `console` blocks in their order, into one bash, against
//! private servers. See [`rowbust_integration_tests::terminal`] for what is mapped.
//!
//! - In a `console` block the lines behind `$ ` are typed, and what stands below one is what it prints: each line must come, in this order;
//!   digits stand for any number, `…` for anything, blanks for any blanks. It is typed again until it does, for what takes effect a moment later.
//! - A block of YAML that is a whole config (`version:`) is the page's config from there on; another one is added to a page's first config.
//! - Where a command would ask, it isn't asked: there is no terminal.
//! - Fences without a language, or with another one, hold no command: a line that begins with `$ ` there fails the test.
//! - A part of a config is added to one, and must be taken.
//! - [`NOT_TYPED`] says what isn't typed, and why. A command that is neither there nor known fails the test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rowbust::config;
use rowbust_integration_tests::compose::root;
use rowbust_integration_tests::daemon::binary;
use rowbust_integration_tests::http;
use rowbust_integration_tests::terminal::{Terminal, Typed};
use rowbust_servers::ports::free_port;
use rowbust_servers::{MySql, Need, Redis, StartOptions, require};
use serde_json::Value;
use tokio::task::block_in_place;

const WITHIN: Duration = Duration::from_secs(40);

/// How a command begins that isn't typed, and why.
const NOT_TYPED: [(&str, &str); 9] = [
    ("cargo xtask", "runs these tests, and more"),
    ("cargo build", "the test has built the program"),
    ("install -m 755 target/release/rowbust", "the program is in PATH by another way"),
    ("rowbust lab", "takes minutes: lab.rs has it at small size, crates/lab/tests the model"),
    ("docker build", "there is no engine: the workflow's weekly job `image` builds it"),
    ("docker compose", "there is no engine: compose.rs runs what it would start"),
    ("systemctl", "there is no systemd: its unit is checked by systemd.rs"),
    ("helm", "chart.rs renders it"),
    ("kubectl", "there is no cluster: chart.rs checks what it would be given"),
];

/// What is typed.
const TYPED: [&str; 8] = ["rowbust", "redis-cli", "redis-server", "mysql", "curl", "export", "kill", "cat"];

/// How many commands of a page are typed at least: a fence that isn't seen any more shows here.
const LEAST: [(&str, usize); 7] = [
    ("README.md", 9),
    ("docs/check.md", 1),
    ("docs/high-availability.md", 4),
    ("docs/mappings.md", 1),
    ("docs/operations.md", 8),
    ("docs/quick-start.md", 16),
    ("docs/retry.md", 6),
];

/// What runs until it is stopped.
fn lasts(command: &str) -> bool {
    ["rowbust run", "rowbust watch"].iter().any(|begin| command.starts_with(begin))
        || command.contains(" --watch")
}

/// A command and what the page shows of its output.
#[derive(Debug, Default)]
struct Line {
    text: String,
    shown: Vec<String>,
}

#[derive(Debug)]
enum Block {
    Commands(Vec<Line>),
    Sql(String),
    Yaml(String),
    /// Something else.
    Other(String),
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, Vec<&str>)>);
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.trim().to_owned(), Vec::new())),
            (Some(_), Some((language, lines))) => match language.as_str() {
                "sh" | "bash" | "shell" => blocks.push(Block::Commands(plain(&lines))),
                "console" => blocks.push(Block::Commands(console(&lines))),
                "sql" => blocks.push(Block::Sql(lines.join("\n"))),
                "yaml" => blocks.push(Block::Yaml(lines.join("\n") + "\n")),
                _ => blocks.push(Block::Other(lines.join("\n"))),
            },
            (None, Some((language, mut lines))) => {
                lines.push(line);
                open = Some((language, lines));
            }
            (None, None) => {}
        }
    }
    blocks
}

fn plain(lines: &[&str]) -> Vec<Line> {
    let mut commands: Vec<Line> = Vec::new();
    let mut goes_on = false;
    for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match commands.last_mut().filter(|_| goes_on) {
            Some(last) => last.text = format!("{}\n{line}", last.text),
            None => commands.push(Line { text: line.to_owned(), shown: Vec::new() }),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

fn console(lines: &[&str]) -> Vec<Line> {
    let mut commands: Vec<Line> = Vec::new();
    for line in lines {
        if let Some(text) = line.strip_prefix("$ ") {
            commands.push(Line { text: text.to_owned(), shown: Vec::new() });
        } else if let Some(last) = commands.last_mut().filter(|_| !line.trim().is_empty()) {
            if last.text.ends_with('\\') && last.shown.is_empty() {
                last.text = format!("{}\n{line}", last.text);
            } else {
                last.shown.push((*line).to_owned());
            }
        }
    }
    commands
}

/// Words with one blank between them, each number as `0`.
fn loose(line: &str) -> String {
    let mut out = String::new();
    for c in line.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match c {
            '0'..='9' if out.ends_with('0') => {}
            '0'..='9' => out.push('0'),
            c => out.push(c),
        }
    }
    out
}

/// Whether a line is as shown.
fn fits(shown: &str, line: &str) -> bool {
    let (shown, line) = (loose(shown), loose(line));
    let mut rest = line.as_str();
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The first shown line that doesn't come.
fn missing<'a>(shown: &'a [String], text: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    shown.iter().find(|wanted| !lines.any(|line| fits(wanted, line))).map(String::as_str)
}

/// A page's world.
struct Reader {
    name: String,
    terminal: Terminal,
    admin: u16,
    lasting: Vec<Child>,
    typed: usize,
    config: String,
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.lasting {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// The config of pages that show none of their own.
const CONFIG: &str = "version: 1
source: { url: \"mysql://rowbust@127.0.0.1:3306\", password: choose-one }
redis: { main: \"redis://127.0.0.1:6379/0\" }
mappings:
  - table: shop.products
    keys: [\"product:{id}\"]
";

/// The reader's own database: what the pages speak of.
const SHOP: &str = "DROP DATABASE IF EXISTS shop; CREATE DATABASE shop; DROP USER IF EXISTS rowbust@'%';
CREATE TABLE shop.products (id INT PRIMARY KEY, sku VARCHAR(20) NOT NULL, category_id INT NOT NULL, price DECIMAL(10,2) NOT NULL);
CREATE TABLE shop.customers (id INT PRIMARY KEY, name VARCHAR(100), email VARCHAR(100));
INSERT INTO shop.products VALUES (1, 'A', 7, 1.00), (2, 'B', 7, 2.00), (3, 'C', 8, 3.00);
INSERT INTO shop.customers VALUES (1, 'Ann', 'Ann@example.org')";

/// As docs/binlog.md has it.
const ACCOUNT: &str = "CREATE USER rowbust@'%' IDENTIFIED BY 'choose-one';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO rowbust@'%'; GRANT SELECT ON shop.* TO rowbust@'%'";

impl Reader {
    fn new(name: &str, dir: &Path, mysql: &Arc<MySql>) -> Result<Self> {
        let redis = Arc::new(Redis::start(StartOptions::new(dir.join("redis")))?);
        let again = Arc::clone(&redis);
        let mut terminal = Terminal::new(&dir.join("reader"), move |words| match words {
            [program, ..] if program == "redis-server" => {
                Typed::from_result(again.start_again().map(|()| String::new()))
            }
            _ => Typed { code: 1, text: format!("docs.rs doesn't know {words:?}\n") },
        })?;
        let admin = free_port()?;
        for server in ["127.0.0.1", "db1"] {
            terminal.map(format!("{server}:3306"), format!("127.0.0.1:{}", mysql.port()));
        }
        terminal.map("@db1 ", format!("@127.0.0.1:{} ", mysql.port()));
        for server in ["127.0.0.1", "cache"] {
            terminal.map(format!("{server}:6379"), format!("127.0.0.1:{}", redis.port()));
        }
        terminal.map("127.0.0.1:8321", format!("127.0.0.1:{admin}"));
        terminal.map("/run/secrets/mysql", terminal.dir().join("password").display().to_string());
        fs::write(terminal.dir().join("password"), "choose-one\n")?;
        // What asks on a terminal wants `--yes` where there is none; a first config stands beside the page's own.
        terminal.program(
            "rowbust",
            &format!(
                "case \"$*\" in *--dry-run* | *' -o '*) ;; 'checkpoint set'*) set -- \"$@\" --yes ;; \
                 'init '*) set -- \"$@\" -o first.yaml ;; esac\nexec {} \"$@\"",
                binary()?.display()
            ),
        )?;
        terminal.program(
            "mysql",
            &format!(
                "exec {} --no-defaults -h 127.0.0.1 -P {} -u root \"$@\"",
                mysql.programs().client.display(),
                mysql.port()
            ),
        )?;
        // As on a terminal: (nil), OK.
        terminal.program(
            "redis-cli",
            &format!("exec {} -p {} --no-raw \"$@\"", redis.programs().cli.display(), redis.port()),
        )?;
        terminal.asks("redis-server")?;
        let reader = Self {
            name: name.to_owned(),
            terminal,
            admin,
            lasting: Vec::new(),
            typed: 0,
            config: String::new(),
        };
        reader.sql(SHOP)?;
        Ok(reader)
    }

    fn sql(&self, statements: &str) -> Result<()> {
        let path = self.terminal.dir().join("statements.sql");
        fs::write(&path, self.terminal.mapped(statements))?;
        self.terminal.succeeds(&format!("mysql < {}", path.display())).map(drop)
    }

    /// From now on the reader's config.
    fn write_config(&mut self, text: &str) -> Result<()> {
        text.clone_into(&mut self.config);
        let admin = if text.contains("\nadmin:") {
            String::new()
        } else {
            format!("admin: {{ listen: \"127.0.0.1:{}\" }}\n", self.admin)
        };
        fs::write(self.terminal.dir().join("rowbust.yaml"), self.terminal.mapped(text) + &admin)?;
        Ok(())
    }

    /// Starts what lasts; a daemon is waited for.
    async fn start(&mut self, command: &str) -> Result<()> {
        let path = self.terminal.dir().join(format!("lasting-{}.log", self.lasting.len()));
        let log = fs::File::create(&path)?;
        let child = self
            .terminal
            .bash(&format!("exec {command}"), &["bash"])?
            .stdout(log)
            .stdin(Stdio::null())
            .spawn()?;
        self.lasting.push(child);
        if command.starts_with("rowbust run") && !command.contains("--dry-run") {
            let begun = Instant::now();
            while !http::get(self.admin, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
                ensure!(begun.elapsed() < WITHIN, "{command}: not ready: {}", fs::read_to_string(&path)?);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn command(&mut self, line: &Line) -> Result<()> {
        let text = line.text.trim();
        if NOT_TYPED.iter().any(|(begin, _)| text.starts_with(begin)) {
            return Ok(());
        }
        let program = text.split_whitespace().next().unwrap_or_default();
        ensure!(
            TYPED.contains(&program),
            "unknown command `{text}`: teach tests/operation/docs.rs to type it, or say in NOT_TYPED why not"
        );
        self.typed += 1;
        let bare = text.split('#').next().unwrap_or_default().trim();
        if lasts(bare) {
            return self.start(bare).await;
        }
        let begun = Instant::now();
        loop {
            let Typed { code, text: said } = block_in_place(|| self.terminal.run(text))?;
            let missing = missing(&line.shown, &said);
            if code == 0 && missing.is_none() {
                eprintln!("{}: $ {text}\n{said}", self.name);
                return Ok(());
            }
            // What shows nothing on the page must work at once.
            if line.shown.is_empty() || begun.elapsed() > WITHIN {
                bail!("$ {text}\nexit {code}, no line `{}` in:\n{said}", missing.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn read(&mut self, page: &str) -> Result<()> {
        for block in blocks(page) {
            match block {
                Block::Yaml(_) if self.name.starts_with("deploy/helm") => {} // values, not a config
                Block::Yaml(text) if is_whole(&text) => self.write_config(&text)?,
                Block::Yaml(text) => fragment(self, &text)?,
                Block::Other(_) => {}
                Block::Sql(text) if self.name == "docs/quick-start.md" => self.sql(&text)?,
                Block::Sql(_) => {} // security.rs runs the grants
                Block::Commands(lines) => {
                    for line in &lines {
                        self.command(line).await.with_context(|| self.name.clone())?;
                    }
                }
            }
        }
        for child in &mut self.lasting {
            let ended = child.try_wait()?;
            ensure!(
                ended.is_none_or(|status| status.success()),
                "{}: what should last ended: {ended:?}",
                self.name
            );
        }
        Ok(())
    }
}

/// A part of a config, where the page means it to be added to the reader's.
fn fragment(reader: &mut Reader, text: &str) -> Result<()> {
    if reader.name == "docs/high-availability.md" {
        // Without the brokers: ha_store.rs and retry_kafka.rs have them.
        let lines: String =
            text.lines().filter(|line| !line.starts_with("retry:")).map(|l| format!("{l}\n")).collect();
        reader.write_config(&with(&lines))?;
    } else if reader.name == "docs/mappings.md" && text.starts_with("mappings:") {
        reader.write_config(&with(text))?;
    }
    Ok(())
}

fn is_whole(text: &str) -> bool {
    text.contains("version: 1\n")
}

/// The config of pages that show none, with these fields in place of its own.
fn with(part: &str) -> String {
    let key = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
    let top = |line: &&str| !line.starts_with([' ', '#']) && !line.trim().is_empty();
    let replaced: Vec<_> = part.lines().filter(top).filter_map(key).collect();
    let (mut out, mut kept) = (String::new(), true);
    for line in CONFIG.lines() {
        if top(&line) {
            kept = !key(line).is_some_and(|key| replaced.contains(&key));
        }
        if kept {
            out.push_str(&format!("{line}\n"));
        }
    }
    out + part
}

/// How a block of YAML begins that is no part of a config, and who looks at it.
const NO_CONFIG: [(&str, &str); 3] = [
    ("cases:", "commands_offline.rs runs such files"),
    ("scrape_configs:", "Prometheus' own"),
    ("# Guarded:", "the lab's thresholds: crates/lab/tests"),
];

/// Every config and every part of one that a page shows is taken by the reader of configs.
#[test]
fn every_config_is_taken() -> Result<()> {
    let (mut whole, mut parts) = (0, 0);
    for (name, page) in pages()? {
        for block in blocks(&page) {
            let Block::Yaml(text) = block else { continue };
            let text = if name.starts_with("deploy/helm") {
                let values: Value = serde_saphyr::from_str(&text).context(name.clone())?;
                whole += 1;
                values["config"].to_string()
            } else if is_whole(&text) {
                whole += 1;
                text
            } else if NO_CONFIG.iter().any(|(begin, _)| text.starts_with(begin)) {
                let _: Value = serde_saphyr::from_str(&text).context(name.clone())?;
                continue;
            } else if text.starts_with("keys:") {
                parts += 1;
                let keys: String = text.lines().map(|line| format!("    {line}\n")).collect();
                with(&format!("mappings:\n  - table: shop.products\n{keys}"))
            } else {
                parts += 1;
                with(&text)
            };
            let file = Path::new("/etc/rowbust/rowbust.yaml");
            if let Err(report) = config::parse(&text, file, &|_| Some("value".to_owned())) {
                bail!("{name}:\n{text}\n{}", report.render(config::Style::Plain));
            }
        }
    }
    ensure!(whole >= 3 && parts >= 12, "{whole} configs, {parts} parts");
    Ok(())
}

/// What is typed stands where it is typed.
#[test]
fn no_command_stands_in_another_block() -> Result<()> {
    for (name, page) in pages()? {
        for block in blocks(&page) {
            let Block::Other(text) = block else { continue };
            let prompt = text.lines().find(|line| line.trim_start().starts_with("$ "));
            ensure!(prompt.is_none(), "{name}: mark the block `console`: {}", prompt.unwrap_or_default());
        }
    }
    Ok(())
}

/// Cases for the README's config.
const CASES: &str = "cases:
  - name: another sku
    table: shop.products
    before: { id: 1, sku: A, category_id: 7 }
    after: { id: 1, sku: B, category_id: 7 }
    expect: [\"product:1\", \"product:sku:A\", { key: \"category:7:products\", field: \"1\" }]
";

/// What a page expects to be there before its first command.
async fn prepare(reader: &mut Reader) -> Result<()> {
    let name = reader.name.clone();
    if name == "docs/quick-start.md" {
        return Ok(()); // it says all itself
    }
    reader.sql(ACCOUNT)?;
    reader.write_config(CONFIG)?;
    match name.as_str() {
        "README.md" => {
            fs::write(reader.terminal.dir().join("rowbust.tests.yaml"), CASES)?;
            block_in_place(|| reader.terminal.succeeds("export MYSQL_PASSWORD=choose-one"))?;
        }
        // Its places in the binlog are made up: these are there.
        "docs/high-availability.md" => {
            let ask = |statement: &str| {
                block_in_place(|| reader.terminal.succeeds(&format!("mysql -N -e '{statement}'")))
            };
            let gtids = ask("SELECT @@gtid_executed")?.replace(['\n', ' '], "");
            let status = ask("SHOW BINARY LOG STATUS")?;
            let mut words = status.split_whitespace();
            let mut word = || words.next().map(ToOwned::to_owned).context("no binlog");
            let (file, position) = (word()?, word()?);
            reader.terminal.map("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5714", gtids);
            reader.terminal.map("binlog.000042", file);
            reader.terminal.map("--position 157", format!("--position {position}"));
        }
        "docs/retry.md" => dead_letter(reader).await?,
        // Somebody's running daemon.
        _ => reader.start("rowbust run").await?,
    }
    Ok(())
}

/// A row whose key is longer than a key may be, and the letter's id in place of the page's.
async fn dead_letter(reader: &mut Reader) -> Result<()> {
    reader.sql("CREATE TABLE shop.notes (id INT PRIMARY KEY, name MEDIUMTEXT)")?;
    let config = CONFIG.replace("password: choose-one", "password: choose-one, on_undecodable: flush");
    reader.write_config(&format!("{config}  - table: shop.notes\n    keys: [\"note:{{name}}\"]\n"))?;
    reader.start("rowbust run").await?;
    reader.sql("INSERT INTO shop.notes VALUES (1, REPEAT('x', 70000))")?;
    let begun = Instant::now();
    let id = loop {
        let said = block_in_place(|| reader.terminal.succeeds("rowbust retry ls --dead"))?;
        let last = said.lines().last().and_then(|line| line.split_whitespace().next());
        if let Some(id) = last.filter(|id| id.parse::<u64>().is_ok()) {
            break id.to_owned();
        }
        ensure!(begun.elapsed() < WITHIN, "no dead letter: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    reader.terminal.map("17", id);
    Ok(())
}

fn pages() -> Result<Vec<(String, String)>> {
    let mut pages = vec!["README.md".to_owned(), "deploy/helm/rowbust/README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
        .into_iter()
        .map(|name| Ok((fs::read_to_string(root().join(&name))?, name)))
        .map(|r: Result<_>| r.map(|(t, n)| (n, t)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_does_what_the_page_says() -> Result<()> {
    if require(&[Need::MySql, Need::Redis]).is_none() {
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("rowbust-docs-").tempdir()?;
    let mysql = Arc::new(block_in_place(|| MySql::start(StartOptions::new(dir.path().join("mysql"))))?);
    let mut typed = BTreeMap::new();
    let mut failed = Vec::new();
    for (name, page) in pages()? {
        if !blocks(&page).iter().any(|block| matches!(block, Block::Commands(_))) {
            continue;
        }
        let place = dir.path().join(name.replace('/', "-"));
        let mut reader = block_in_place(|| Reader::new(&name, &place, &mysql))?;
        let done = match prepare(&mut reader).await {
            Ok(()) => reader.read(&page).await,
            Err(e) => Err(e.context(format!("{name}: its preparation"))),
        };
        if let Err(e) = done {
            failed.push(format!("{e:#}"));
        }
        typed.insert(name, reader.typed);
    }
    eprintln!("typed: {typed:?}");
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    for (page, least) in LEAST {
        ensure!(typed.get(page).is_some_and(|n| *n >= least), "{page}: fewer than {least}: {typed:?}");
    }
    Ok(())
}

#[test]
fn what_is_shown_is_matched_loosely_and_in_order() {
    assert!(fits("id  to    key", "id to key"));
    assert!(fits("commit 17 at 12:30:05", "commit 4711 at 01:02:03"));
    assert!(fits("removed … by …:…", "removed product:1 by aaa:5"));
    assert!(!fits("removed … by", "removed product:1 by aaa"));
    assert!(!fits("OK", "(nil)"));
    let shown = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(missing(&shown, "a\nx\nb\n"), None);
    assert_eq!(missing(&shown, "b\na\n"), Some("b"));
    assert_eq!(console(&["$ one \\", "  two", "out", "$ three"]).len(), 2);
    assert_eq!(console(&["$ one \\", "  two", "out"])[0].shown, ["out"]);
    assert_eq!(plain(&["# only a comment", "rowbust check \\", "--json", "", "rowbust run"]).len(), 2);
}
