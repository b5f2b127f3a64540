//! `rowbust init`: the config that it writes is right, whatever the names, and the daemon works with it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::{Daemon, cli};
use rowbust_integration_tests::db::{Db, Flavor, PASSWORD, USER, run};
use rowbust_integration_tests::on_both;
use rowbust_integration_tests::wait::{Seen, until};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Need, Redis, StartOptions, require};
use serde_json::Value;

on_both!(writes_what_works);

/// Names that mean something to YAML, to globs, to templates or to the shell.
const ODD: [&str; 16] = [
    "a b", "a.b", "a`b", "a{b", "a}b", "${A}", "{id}", "a\"b", "a'b", "a\\b", "a#b", "x*", "[x]", "a|b:c",
    "größe", "null",
];

fn rowbust(args: &[&str]) -> Result<(i32, String, String)> {
    let out = tokio::task::block_in_place(|| cli(args))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    ensure!(!stdout.contains(PASSWORD) && !stderr.contains(PASSWORD), "{args:?} shows the password");
    Ok((out.status.code().context("killed")?, stdout, stderr))
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

async fn writes_what_works(flavor: Flavor) -> Result<()> {
    if require(&[flavor.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let db = Db::shared(flavor).await?;
    let dir = tempfile::Builder::new().prefix("rowbust-init-").tempdir()?;
    let options = StartOptions::new(dir.path().join("redis"));
    let redis = tokio::task::spawn_blocking(|| Redis::start(options)).await??;
    fs::write(dir.path().join("password"), format!("{PASSWORD}\n"))?;
    let mut conn = db.connect().await?;
    run(
        &mut conn,
        &[
            "CREATE DATABASE init_shop",
            "CREATE TABLE init_shop.categories (id INT PRIMARY KEY, name VARCHAR(40))",
            "CREATE TABLE init_shop.products (id INT PRIMARY KEY, sku VARCHAR(40) NOT NULL UNIQUE, category_id INT, updated_at TIMESTAMP NULL, \
             FOREIGN KEY (category_id) REFERENCES init_shop.categories (id))",
            "CREATE TABLE init_shop.tokens (hash BINARY(16) NOT NULL UNIQUE, user_id INT)",
            "CREATE TABLE init_shop.lines (order_id INT, line INT, PRIMARY KEY (order_id, line))",
            "CREATE TABLE init_shop.request_log (at TIMESTAMP NULL, path VARCHAR(100))",
            "CREATE VIEW init_shop.seen AS SELECT id FROM init_shop.products",
            &format!("GRANT SELECT ON init_shop.* TO '{USER}'@'127.0.0.1'"),
        ],
    )
    .await?;
    let source = format!("mysql://{USER}@127.0.0.1:{}", db.port());
    let password = dir.path().join("password").display().to_string();
    let file = dir.path().join("rowbust.yaml");
    let path = file.to_str().context("odd path")?;
    let url = format!("redis://127.0.0.1:{}/0", redis.port());
    let common = ["init", "--source", &source, "--password-file", &password, "--redis", &url];
    let init = |more: &[&str]| rowbust(&[&common[..], more].concat());

    // Nothing is written where something is wrong.
    let (code, _, said) = init(&["--schema", "nowhere", "-o", path])?;
    ensure!(code == 78 && said.contains("GRANT SELECT"), "exit {code}: {said}");
    let (code, _, said) = init(&["--schema", "init_shop", "--tables", "request*", "-o", path])?;
    ensure!(code == 78 && said.contains("unique key"), "exit {code}: {said}");
    let away = format!("mysql://{USER}@127.0.0.1:{}", free_port()?);
    let (code, _, said) = rowbust(&["init", "--source", &away, "-o", path])?;
    ensure!(code == 69 && said.contains("can't be reached"), "exit {code}: {said}");
    let (code, _, said) = rowbust(&["init", "--source", &source, "-o", path])?;
    ensure!(code == 78 && said.contains("--password-file"), "exit {code}: {said}");
    let (code, _, said) = rowbust(&["init", "--source", "mysql://u:pw@h", "-o", path])?;
    ensure!(code == 78 && said.contains("password"), "exit {code}: {said}");
    ensure!(!file.exists());

    let (code, shown, said) = init(&["--schema", "init_shop", "-o", path])?;
    ensure!(
        code == 0 && shown.is_empty() && said.contains("4 tables mapped, 1 left out"),
        "exit {code}: {said}"
    );
    ensure!(said.contains("check --live"), "{said}");
    let text = fs::read_to_string(&file)?;
    let normal = text
        .replace(&format!(":{}", db.port()), ":DB")
        .replace(&format!(":{}", redis.port()), ":REDIS")
        .replace(&dir.path().display().to_string(), "DIR");
    let lines = normal.lines().map(|line| match line.split_once("server_id: ") {
        Some((before, after)) => {
            format!("{before}server_id: ID{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None if line.starts_with("# Written by") => "# Written by …".to_owned(),
        // An estimate.
        None => line.split(", about").next().unwrap_or(line).to_owned(),
    });
    insta::assert_snapshot!(format!("init_{}", flavor.name()), lines.collect::<Vec<_>>().join("\n"));

    // It is right, offline and live, and isn't overwritten.
    works(&file, 4)?;
    fs::write(&file, "mine")?;
    let (code, _, said) = init(&["--schema", "init_shop", "-o", path])?;
    ensure!(
        code == 1 && said.contains("--force") && fs::read_to_string(&file)? == "mine",
        "exit {code}: {said}"
    );
    let (code, shown, _) = init(&["--schema", "init_shop", "--tables", "products", "-o", "-"])?;
    ensure!(
        code == 0 && shown.contains("products:{id}") && !shown.contains("tokens"),
        "exit {code}: {shown}"
    );
    let (code, shown, _) = init(&["--schema", "init_shop", "-o", path, "--force", "--json"])?;
    let data: Value = serde_json::from_str(&shown)?;
    ensure!(
        code == 0 && data["schema_version"] == 1 && data["left_out"][0] == "init_shop.request_log",
        "{shown}"
    );

    // The daemon works with it.
    let admin = free_port()?;
    fs::write(&file, format!("{}admin: {{ listen: \"127.0.0.1:{admin}\" }}\n", fs::read_to_string(&file)?))?;
    let mut daemon = Daemon::start(&file, admin, dir.path().join("log"), "")?;
    daemon.ready().await?;
    let keys = ["products:7", "lines:1:2", "tokens:00ff0000000000000000000000000000"];
    for key in keys {
        tokio::task::block_in_place(|| redis.cli(&["SET", key, "old"]))?;
    }
    run(
        &mut conn,
        &[
            "INSERT INTO init_shop.products VALUES (7, 'A', NULL, NULL)",
            "INSERT INTO init_shop.lines VALUES (1, 2)",
            "INSERT INTO init_shop.tokens VALUES (x'00ff', 1)",
        ],
    )
    .await?;
    until("the removals", Duration::from_secs(30), async || {
        let left = tokio::task::block_in_place(|| redis.cli(&[&["EXISTS"], &keys[..]].concat()))?;
        Ok(Seen::check(left == "0", || left.clone()))
    })
    .await?;
    drop(daemon);

    // Names that would break a careless writer.
    let mut statements = Vec::new();
    for (at, name) in ODD.iter().enumerate() {
        let name = quoted(name);
        let schema = quoted(&format!("init {at} {}", ODD[at].replace(['.', '/', '\\'], "-")));
        statements.push(format!("CREATE DATABASE {schema}"));
        statements.push(format!(
            "CREATE TABLE {schema}.{name} ({name} VARCHAR(20) NOT NULL, b INT, PRIMARY KEY ({name}, b), UNIQUE KEY {name} (b, {name}))"
        ));
        statements.push(format!("GRANT SELECT ON {schema}.{name} TO '{USER}'@'127.0.0.1'"));
    }
    run(&mut conn, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let odd = dir.path().join("odd.yaml");
    let schemas: Vec<String> = conn
        .query("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE 'init %'")
        .await?;
    ensure!(schemas.len() == ODD.len(), "{schemas:?}");
    let mut args = vec!["-o", odd.to_str().context("odd path")?];
    for schema in &schemas {
        args.extend(["--schema", schema]);
    }
    let (code, _, said) = init(&args)?;
    ensure!(code == 0 && said.contains("16 tables mapped, 0 left out"), "exit {code}: {said}");
    works(&odd, ODD.len())
}

/// The file passes `check`, and `check --live` finds every table and column.
fn works(file: &Path, mappings: usize) -> Result<()> {
    let path = file.to_str().context("odd path")?;
    let (code, shown, said) = rowbust(&["-c", path, "check", "--json"])?;
    let data: Value = serde_json::from_str(&shown)?;
    ensure!(code == 0, "exit {code}: {shown}{said}");
    ensure!(data["mappings"].as_array().is_some_and(|list| list.len() == mappings), "{data:#}");
    let (code, shown, said) = rowbust(&["-c", path, "check", "--live", "--json"])?;
    ensure!(code == 0, "exit {code}: {shown}{said}");
    Ok(())
}
