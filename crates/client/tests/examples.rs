//! The examples, run: each against servers of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use mysql_async::{Pool, prelude::Queryable as _};
use rowbust_servers::{MariaDb, Need, StartOptions, require};
use support::Cache;

/// `cargo test` builds examples before it runs tests; `cargo test --test examples` doesn't.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", "rowbust-client", "--features", "mysql_async,sqlx", "--example", name]);
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    }
    assert!(program.exists(), "{} wasn't built", program.display());
    program
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Status and body.
fn request(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support::WITHIN)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_with_axum_and_sqlx() {
    let Some(_) = require(&[Need::MariaDb]) else { return };
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let mariadb = MariaDb::start(StartOptions::new(dir.path())).unwrap();
    let pool = Pool::from_url(mariadb.url()).unwrap();
    let mut sql = pool.get_conn().await.unwrap();
    sql.query_drop("CREATE DATABASE shop").await.unwrap();

    let mut command = Command::new(program("axum_sqlx"));
    let database = format!("{}/shop", mariadb.url().trim_end_matches('/'));
    command.args([&cache.server.url(), &database, "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut service = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(service.0.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("listening on http://").unwrap();

    let get = |id| request(address, "GET", &format!("/products/{id}"), "");
    let answer = |name: &str| (200, format!(r#"{{"id":7,"name":"{name}"}}"#));
    assert_eq!(get(7).0, 404);
    assert_eq!(request(address, "PUT", "/products/7", "first").0, 204);
    assert_eq!(get(7), answer("first"), "absent was cached, and the write removed it");
    assert_eq!(request(address, "PUT", "/products/7", "second").0, 204);
    assert_eq!(get(7), answer("second"));
    assert_eq!(cache.get("product:7").as_deref(), Some(r#"{"id":7,"name":"second"}"#));
    // Changed behind the service's back: it answers from the cache until the key is removed, which is the daemon's part.
    sql.query_drop("UPDATE shop.products SET name = 'third'").await.unwrap();
    assert_eq!(get(7), answer("second"));
    cache.unlink("product:7");
    assert_eq!(get(7), answer("third"));
    assert_eq!(get(8).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_with_mysql_async() {
    let Some(_) = require(&[Need::MariaDb]) else { return };
    let Some(cache) = Cache::start(Need::Redis) else { return };
    let dir = tempfile::TempDir::new().unwrap();
    let mariadb = MariaDb::start(StartOptions::new(dir.path())).unwrap();
    let output =
        Command::new(program("mysql_async")).args([cache.server.url(), mariadb.url()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let loaded = |name, origin| {
        format!("Loaded {{ value: Some(Product {{ id: 7, name: \"{name}\" }}), origin: {origin} }}")
    };
    assert_eq!(lines[0], loaded("a name", "Database"));
    assert_eq!(lines[1], loaded("a name", "Cache"));
    assert_eq!(lines[2], loaded("a new name", "Database"));
    assert!(lines[3].contains("hits: 1, misses: 2, loads: 2"), "{}", lines[3]);
    assert_eq!(cache.get("product:7").as_deref(), Some(r#"{"id":7,"name":"a new name"}"#));
}
