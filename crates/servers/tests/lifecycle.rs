//! Each server for real: start, ready, freeze, restart keeps data, `kill -9`, stop leaves no process.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rowbust_servers::process::Identity;
use rowbust_servers::{Kafka, MariaDb, MySql, Need, Record, Redis, RedisTls, StartOptions, require};
use tempfile::TempDir;

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn sql(client: &Path, port: u16, statement: &str) -> String {
    output(Command::new(client).args([
        "--no-defaults",
        "--protocol=tcp",
        "-h127.0.0.1",
        &format!("-P{port}"),
        "-uroot",
        "-N",
        "-e",
        statement,
    ]))
}

/// Runs `$body` on a server's whole life: it must leave no process and no record.
macro_rules! life {
    ($server:ident, $write:expr, $read:expr) => {{
        let first = $server.pid().unwrap();
        let record = Record::read($server.dir()).unwrap();
        assert_eq!(record, $server.record().unwrap());
        assert!(record.process.is_alive());
        let _ = $write;
        let kept = $read;

        $server.restart().unwrap();
        assert_ne!($server.pid().unwrap(), first);
        assert_eq!($read, kept, "restart keeps data");
        $server.start_again().unwrap(); // runs: nothing to do

        $server.freeze().unwrap();
        let mut frozen = TcpStream::connect(("127.0.0.1", $server.port())).unwrap();
        frozen.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(frozen.read(&mut [0]).is_err(), "a frozen server says nothing");
        $server.thaw().unwrap();

        let before = Identity::of($server.pid().unwrap()).unwrap();
        $server.kill9().unwrap();
        assert!(!before.is_alive() && !$server.is_running() && $server.pid().is_none());
        assert!($server.freeze().is_err());
        assert!(TcpStream::connect(("127.0.0.1", $server.port())).is_err());
        $server.start_again().unwrap();

        let last = Identity::of($server.pid().unwrap()).unwrap();
        let dir = $server.dir().to_owned();
        $server.stop().unwrap();
        $server.stop().unwrap(); // stopped: nothing to do
        assert!(!last.is_alive() && Record::read(&dir).is_none());
        $server.start_again().unwrap();
        let last = Identity::of($server.pid().unwrap()).unwrap();
        drop($server);
        assert!(!last.is_alive() && Record::read(&dir).is_none());
    }};
}

#[test]
fn mariadb() {
    let Some(_) = require(&[Need::MariaDb]) else { return };
    mariadb_life(MariaDb::start);
}

#[test]
fn mariadb_11_8() {
    let Some(_) = require(&[Need::MariaDb118]) else { return };
    mariadb_life(MariaDb::start_11_8);
}

fn mariadb_life(start: fn(StartOptions) -> anyhow::Result<MariaDb>) {
    let dir = TempDir::new().unwrap();
    let s = start(StartOptions::new(dir.path())).unwrap();
    let client = s.programs().client.clone();
    let settings = "select @@version, @@log_bin, @@binlog_format, @@binlog_row_metadata, @@server_id";
    let said = sql(&client, s.port(), settings);
    assert!(said.starts_with(s.version()) && said.ends_with("1\tROW\tFULL\t1"), "{said}");
    let by_socket = format!("--socket={}", s.socket().display());
    assert_eq!(
        output(Command::new(&client).args(["--no-defaults", &by_socket, "-uroot", "-Ne", "select 7"])),
        "7"
    );
    sql(&client, s.port(), "create table mysql.kept (id int) engine=innodb");
    let binlog = s.data_dir().join("binlog.000001");
    let events = output(Command::new(&s.programs().binlog).args(["--no-defaults", "-v"]).arg(binlog));
    assert!(events.contains("create table mysql.kept"), "{events}");
    life!(
        s,
        sql(&client, s.port(), "insert into mysql.kept values (42)"),
        sql(&client, s.port(), "select id from mysql.kept")
    );
}

#[test]
fn mysql() {
    let Some(_) = require(&[Need::MySql]) else { return };
    let dir = TempDir::new().unwrap();
    let s = MySql::start(StartOptions::new(dir.path().join("a"))).unwrap();
    let other =
        MySql::start(StartOptions::new(dir.path().join("b")).arg("--binlog-row-metadata=MINIMAL")).unwrap();
    let client = s.programs().client.clone();
    let said = sql(
        &client,
        s.port(),
        "select @@version, @@log_bin, @@gtid_mode, @@binlog_row_metadata, @@server_id",
    );
    assert!(said.starts_with(s.version()) && said.ends_with("1\tON\tFULL\t1"), "{said}");
    assert_eq!(sql(&client, other.port(), "select @@binlog_row_metadata"), "MINIMAL", "the last option wins");
    let uuid = "select @@server_uuid";
    assert_ne!(sql(&client, s.port(), uuid), sql(&client, other.port(), uuid));
    drop(other);
    sql(&client, s.port(), "create database shop; create table shop.kept (id int primary key)");
    let binlog = s.data_dir().join("binlog.000001");
    life!(
        s,
        sql(&client, s.port(), "insert into shop.kept values (42)"),
        sql(&client, s.port(), "select id from shop.kept")
    );
    let s = MySql::start(StartOptions::new(dir.path().join("a"))).unwrap();
    assert_eq!(
        sql(&client, s.port(), "select id from shop.kept"),
        "42",
        "data found in the folder is used again"
    );
    let events = output(Command::new(&s.programs().binlog).args(["--no-defaults", "-v"]).arg(binlog));
    assert!(events.contains("@1=42"), "{events}");
}

fn redis_cli(s: &Redis, args: &[&str]) -> String {
    output(Command::new(&s.programs().cli).args(["-p", &s.port().to_string()]).args(args))
}

#[test]
fn redis() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = TempDir::new().unwrap();
    let s = Redis::start(StartOptions::new(dir.path()).arg("--maxmemory").arg("64mb")).unwrap();
    assert_eq!(redis_cli(&s, &["config", "get", "maxmemory"]), format!("maxmemory\n{}", 64 << 20));
    redis_cli(&s, &["set", "kept", "42"]);
    s.shutdown_nosave().unwrap();
    s.start_again().unwrap();
    assert_eq!(redis_cli(&s, &["get", "kept"]), "");
    life!(s, redis_cli(&s, &["set", "kept", "42"]), redis_cli(&s, &["get", "kept"]));
}

#[test]
fn redis_with_tls_and_acl() {
    let Some(_) = require(&[Need::Redis]) else { return };
    if rowbust_servers::install::find_program("openssl").is_none() {
        eprintln!("skipped: no openssl to make a certificate with");
        return;
    }
    let dir = TempDir::new().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let subject = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost";
    output(Command::new("openssl").args(subject.split(' ')).arg("-keyout").arg(&key).arg("-out").arg(&cert));
    let acl = dir.path().join("users.acl");
    fs::write(&acl, "user default on nopass ~* +@all\nuser app on >secret ~app:* +get +set +ping\n").unwrap();
    let tls = RedisTls { cert: cert.clone(), key, client_ca: None, ca: None };
    let s = Redis::start_with(StartOptions::new(dir.path().join("redis")), Some(tls), Some(&acl)).unwrap();
    let port = s.tls_port().unwrap().to_string();
    let secure = |args: &[&str]| {
        let mut c = Command::new(&s.programs().cli);
        c.args(["--tls", "-h", "localhost", "-p", &port, "--cacert"]).arg(&cert);
        output(c.args(["--user", "app", "--pass", "secret", "--no-auth-warning"]).args(args))
    };
    assert_eq!(secure(&["set", "app:1", "x"]), "OK");
    assert!(secure(&["get", "other"]).contains("NOPERM"));
}

#[test]
fn kafka() {
    let Some(_) = require(&[Need::Kafka]) else { return };
    let dir = TempDir::new().unwrap();
    let s = Kafka::start(StartOptions::new(dir.path()).arg("num.partitions=3")).unwrap();
    life!(s, create_topic(s.port(), "kept"), topic_exists(s.port(), "kept"));
}

/// One request and its answer, without its length.
fn kafka_call(port: u16, api: u8, version: u8, body: &[u8]) -> Vec<u8> {
    let mut request = vec![0, api, 0, version, 0, 0, 0, 1, 0xff, 0xff];
    request.extend_from_slice(body);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn kafka_string(s: &str) -> Vec<u8> {
    [&u16::try_from(s.len()).unwrap().to_be_bytes()[..], s.as_bytes()].concat()
}

/// CreateTopics, version 2: one topic of one partition and replica.
fn create_topic(port: u16, name: &str) {
    let mut body = vec![0, 0, 0, 1];
    body.extend(kafka_string(name));
    body.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]); // partitions, replicas, no assignments, no configs
    body.extend([0, 0, 0x75, 0x30, 0]); // 30 s, not only validated
    let answer = kafka_call(port, 19, 2, &body);
    // correlation, throttle, one topic: its name, its error
    let error = &answer[12 + 2 + name.len()..][..2];
    assert_eq!(error, [0, 0], "{answer:?}");
}

/// Metadata, version 1, for one topic: true once it has a leader (a broker that was just started learns of it later).
fn topic_exists(port: u16, name: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    let body = [&[0, 0, 0, 1][..], &kafka_string(name)].concat();
    loop {
        let answer = kafka_call(port, 3, 1, &body);
        // The answer ends with the only topic: error, name, not internal, one partition (error, index, leader, …).
        let tail =
            [&[0, 0][..], &kafka_string(name), &[0], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
        if answer.windows(tail.len()).any(|w| w == tail) {
            return true;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = TempDir::new().unwrap();
    let error = Redis::start(StartOptions::new(dir.path()).arg("--nonsense").arg("1")).unwrap_err();
    assert!(format!("{error:#}").contains("nonsense"), "{error:#}");
    assert!(Record::read(dir.path()).is_none());
}

#[test]
fn a_left_over_server_is_ended_first() {
    let Some(_) = require(&[Need::Redis]) else { return };
    let dir = TempDir::new().unwrap();
    let first = Redis::start(StartOptions::new(dir.path()).detached()).unwrap();
    let left_over = first.record().unwrap();
    drop(first);
    assert!(left_over.process.is_alive(), "detached: not stopped when dropped");
    let second = Redis::start(StartOptions::new(dir.path()).port(left_over.port)).unwrap();
    assert!(!left_over.process.is_alive() && second.is_running());
}

/// Not a test: the process that [`servers_die_with_their_owner`] kills.
#[test]
#[ignore = "run by servers_die_with_their_owner"]
fn owner() {
    let Some(dir) = std::env::var_os("ROWBUST_TEST_OWNER_DIR") else { return };
    let _redis = Redis::start(StartOptions::new(dir)).unwrap();
    println!("started");
    _ = std::io::stdin().read(&mut [0]); // until killed
}

#[test]
fn servers_die_with_their_owner() {
    let Some(_) = require(&[Need::Redis]) else { return };
    if rowbust_servers::install::find_program("setpriv").is_none() {
        eprintln!("skipped: no setpriv");
        return;
    }
    let dir = TempDir::new().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--ignored", "--nocapture"])
        .env("ROWBUST_TEST_OWNER_DIR", dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    lines.map(Result::unwrap).find(|l| l.contains("started")).unwrap();
    let server = Record::read(dir.path()).unwrap().process;
    assert!(server.is_alive());
    owner.kill().unwrap(); // kill -9
    owner.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.is_alive() {
        assert!(Instant::now() < deadline, "the server outlived its owner");
        std::thread::sleep(Duration::from_millis(5));
    }
}
