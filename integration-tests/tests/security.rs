//! docs/security.md: secrets are nowhere, and the rights that it names suffice, to the letter.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::{self, Daemon};
use rowbust_integration_tests::db::{Db, Flavor, Server, USER, run};
use rowbust_integration_tests::http;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{POLL, Seen, until};
use rowbust_servers::ports::free_port;
use rowbust_servers::redis_cluster::ClusterOptions;
use rowbust_servers::sentinel::{MASTER, SentinelOptions};
use rowbust_servers::{Need, Redis, RedisCluster, Sentinels, StartOptions, require};

const DOC: &str = include_str!("../../docs/security.md");
const WITHIN: Duration = Duration::from_secs(30);

/// The code block that begins with this line, without it.
fn block(begin: &str) -> Result<&'static str> {
    let (_, rest) = DOC.split_once(begin).with_context(|| format!("no {begin} in docs/security.md"))?;
    Ok(rest.split("```").next().unwrap_or_default())
}

// Secrets.

/// What stands for a secret: whoever finds it in an output has found a leak.
struct Canaries {
    mysql: String,
    redis: String,
    kafka: String,
    token: String,
}

impl Canaries {
    /// Different for each way, so that a finding names it.
    fn new(way: &str) -> Self {
        let canary = |of: &str| format!("c4n4ry-{of}-{way}-5e1f0b");
        Self {
            mysql: canary("mysql"),
            redis: canary("redis"),
            kafka: canary("kafka"),
            token: canary("token"),
        }
    }

    fn all(&self) -> [&str; 4] {
        [&self.mysql, &self.redis, &self.kafka, &self.token]
    }

    /// Fails if one of them is in a text, as it is or as bytes are usually written.
    fn search(&self, place: &str, text: &str) -> Result<()> {
        let lower = text.to_lowercase();
        for secret in self.all() {
            let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
            let list = secret.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
            // The middle of its base64: where a text begins in it depends on what stands before.
            let found = lower.contains(secret)
                || lower.contains(&hex)
                || text.contains(&list)
                || (0..3).any(|shift| text.contains(&base64_within(secret.as_bytes(), shift)));
            if found {
                let line = text.lines().find(|l| l.contains(secret)).unwrap_or_default();
                bail!("{place}: {secret} is in: {line:.500}");
            }
        }
        Ok(())
    }
}

/// What stands in base64 for these bytes wherever they are `shift` bytes behind a group of three: without the ends, which
/// depend on their neighbours.
fn base64_within(bytes: &[u8], shift: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let whole = &bytes[(3 - shift) % 3..];
    whole
        .chunks_exact(3)
        .flat_map(|c| {
            let n = u32::from(c[0]) << 16 | u32::from(c[1]) << 8 | u32::from(c[2]);
            [18, 12, 6, 0].map(|bits| char::from(LETTERS[(n >> bits & 63) as usize]))
        })
        .collect()
}

#[test]
fn the_search_finds_what_is_there() {
    let canaries = Canaries::new("self");
    let secret = canaries.mysql.as_bytes();
    let hex: String = secret.iter().map(|b| format!("{b:02X}")).collect();
    for text in [
        format!("password={}", canaries.redis),
        hex,
        format!("{secret:?}"),
        // `echo -n "ab:c4n4ry-mysql-self-5e1f0b" | base64`
        "YWI6YzRuNHJ5LW15c3FsLXNlbGYtNWUxZjBi".to_owned(),
        "eDpjNG40cnktbXlzcWwtc2VsZi01ZTFmMGI=".to_owned(),
    ] {
        assert!(canaries.search("here", &text).is_err(), "{text}");
    }
    assert!(canaries.search("here", "nothing").is_ok());
}

/// How secrets come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    File,
    Environment,
    Credentials,
    /// Text in the file itself.
    Config,
}

/// A stage whose servers have canaries for passwords, and its config.
struct Guarded {
    stage: Stage,
    conn: Conn,
    /// Asks for its password.
    redis: Redis,
    canaries: Canaries,
    way: Way,
    admin: u16,
}

impl Guarded {
    async fn new(flavor: Flavor, way: Way, name: &str) -> Result<Option<Self>> {
        let Some(stage) = Stage::new(flavor, &format!("secret_{name}")).await? else { return Ok(None) };
        let canaries = Canaries::new(name);
        let mut conn = stage.db.connect().await?;
        let rights = if flavor == Flavor::MySql { "REPLICATION CLIENT" } else { "BINLOG MONITOR" };
        run(
            &mut conn,
            &[
                &format!("CREATE USER 'guarded_{name}'@'127.0.0.1' IDENTIFIED BY '{}'", canaries.mysql),
                &format!("GRANT REPLICATION SLAVE, {rights} ON *.* TO 'guarded_{name}'@'127.0.0.1'"),
                &format!("GRANT SELECT ON secret_{name}.* TO 'guarded_{name}'@'127.0.0.1'"),
                &format!("CREATE DATABASE secret_{name}"),
                &format!("USE secret_{name}"),
                "CREATE TABLE t (id INT PRIMARY KEY)",
            ],
        )
        .await?;
        let acl = stage.dir().join("acl");
        fs::write(
            &acl,
            format!("user default on nopass ~* &* +@all\nuser rowbust on >{} ~* +@all\n", canaries.redis),
        )?;
        let options = StartOptions::new(stage.dir().join("guarded"));
        let redis =
            tokio::task::spawn_blocking(move || Redis::start_with(options, None, Some(&acl))).await??;
        let guarded = Self { stage, conn, redis, canaries, way, admin: free_port()? };
        guarded.secrets("", "")?;
        Ok(Some(guarded))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stage.dir().join(name)
    }

    /// Writes the files of the secrets, each with something behind it: then they are wrong ones.
    fn secrets(&self, mysql: &str, redis: &str) -> Result<()> {
        fs::write(self.file("s-mysql"), format!("{}{mysql}\n", self.canaries.mysql))?;
        fs::write(self.file("s-redis"), format!("{}{redis}\n", self.canaries.redis))?;
        Ok(fs::write(self.file("s-token"), format!("{}\n", self.canaries.token))?)
    }

    /// A secret's field, and whether the value is to be a wrong one.
    fn field(&self, field: &str, name: &str, value: &str) -> String {
        match self.way {
            Way::File => format!("{field}_file: s-{name}"),
            Way::Credentials => format!("{field}_file: \"${{CREDENTIALS_DIRECTORY}}/s-{name}\""),
            Way::Environment => format!("{field}: \"${{SECRET_{}}}\"", name.to_uppercase()),
            Way::Config => format!("{field}: {value}"),
        }
    }

    fn config(&self, extra: &str) -> Result<PathBuf> {
        let name = &self.stage.schema;
        let user = name.replace("secret_", "guarded_");
        let text = format!(
            "source:\n  url: mysql://{user}@127.0.0.1:{}\n  tls: disabled\n  {}\n\
             redis: {{ main: {{ url: \"redis://127.0.0.1:{}/0\", username: rowbust, {} }} }}\n\
             retry: {{ disk: {{ path: retry }}, delay: 100ms }}\ncheckpoint: {{ path: check/point }}\n\
             admin: {{ listen: \"127.0.0.1:{}\", {} }}\n{extra}\
             mappings:\n  - {{ table: {name}.t, fill_grace: 50ms, keys: [\"app:{{id}}\"] }}\n",
            self.stage.db.port(),
            self.field("password", "mysql", &self.canaries.mysql),
            self.redis.port(),
            self.field("password", "redis", &self.canaries.redis),
            self.admin,
            self.field("token", "token", &self.canaries.token),
        );
        let path = self.file("guarded.yaml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The program, with the secrets in its environment by the way that is tried. `wrong` as in [`Guarded::secrets`].
    fn command(&self, wrong: &str) -> Result<Command> {
        let mut command = Command::new(daemon::binary()?);
        command.current_dir(self.stage.dir()).stdin(Stdio::null()).env("NO_COLOR", "1");
        command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
        match self.way {
            Way::Environment => {
                command.env("SECRET_MYSQL", format!("{}{wrong}", self.canaries.mysql));
                command.env("SECRET_REDIS", format!("{}{wrong}", self.canaries.redis));
                command.env("SECRET_KAFKA", &self.canaries.kafka);
                command.env("SECRET_TOKEN", &self.canaries.token);
            }
            Way::Credentials => _ = command.env("CREDENTIALS_DIRECTORY", self.stage.dir()),
            Way::File | Way::Config => {}
        }
        Ok(command)
    }

    /// What the program prints of these arguments, searched; and its exit code.
    fn prints(&self, args: &[&str], extra: &str) -> Result<(String, Option<i32>)> {
        let config = self.config(extra)?;
        let out = self.command("")?.arg("-c").arg(&config).args(args).output()?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        self.canaries.search(&format!("{args:?}"), &text)?;
        Ok((text, out.status.code()))
    }

    fn spawn(&self, log: &Path, wrong: &str, failpoints: &str) -> Result<Ended> {
        let config = self.config("")?;
        let file = File::create(log)?;
        let mut command = self.command(wrong)?;
        command.arg("run").arg("-c").arg(&config).env("FAILPOINTS", failpoints);
        Ok(Ended(command.stdout(file.try_clone()?).stderr(file).spawn()?))
    }

    async fn answers(&self, path: &str) -> Result<String> {
        let seen = until("an answer", WITHIN, async || {
            Ok(match http::get(self.admin, path).await {
                Ok((200, text)) => Seen::Done(text),
                other => Seen::NotYet(format!("{other:?}")),
            })
        });
        seen.await
    }
}

/// A process that is killed when it is dropped.
struct Ended(Child);

impl Ended {
    async fn exited(&mut self) -> Result<Option<i32>> {
        let began = Instant::now();
        while began.elapsed() < WITHIN {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.code());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("it still runs")
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// One way, from `check` to a panic.
async fn nowhere(flavor: Flavor, way: Way) -> Result<()> {
    let name = format!("{way:?}").to_lowercase();
    let Some(mut guarded) = Guarded::new(flavor, way, &name).await? else { return Ok(()) };
    // Commands that read the config, also where something else is wrong in it.
    for args in [&["check"][..], &["check", "--json"], &["explain", "--table", "x.y"]] {
        guarded.prints(args, "")?;
    }
    let (shown, code) = guarded.prints(&["config", "show"], "")?;
    ensure!(code == Some(0) || shown.contains("not built yet"), "{shown}");
    let mut mistakes = 0;
    for mistake in ["limits: { memory: 3 }\n", "limitz: {}\n", "limits: [\n", "source: {}\n", "\u{1}"] {
        for args in [&["check"][..], &["check", "--json"]] {
            mistakes += usize::from(guarded.prints(args, mistake)?.1 == Some(78));
        }
    }
    ensure!(mistakes == 10, "{mistakes} of 10 mistakes were found");

    // A run that works, and what it answers.
    let log = guarded.file("log-run");
    let mut daemon = guarded.spawn(&log, "", "")?;
    guarded.answers("/readyz").await?;
    guarded.redis.cli(&["SET", "app:1", "old"])?;
    guarded.conn.query_drop("INSERT INTO t VALUES (1)").await?;
    let gone = until("the key's removal", WITHIN, async || {
        let left = guarded.redis.cli(&["EXISTS", "app:1"])?;
        Ok(Seen::check(left.trim() == "0", || left))
    });
    gone.await.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    for path in ["/metrics", "/status", "/livez"] {
        guarded.canaries.search(path, &guarded.answers(path).await?)?;
    }
    for token in [guarded.canaries.token.clone(), format!("{}-wrong", guarded.canaries.token)] {
        for (method, path) in
            [("GET", "/status"), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/flush")]
        {
            let header = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
            let (_, answer) = http::ask(guarded.admin, method, path, &header, "{}").await?;
            guarded.canaries.search(path, &answer)?;
        }
    }
    // Redis refuses it while it runs, and after a new connection.
    guarded.redis.cli(&["ACL", "SETUSER", "rowbust", "resetpass", ">another"])?;
    guarded.redis.cli(&["CLIENT", "KILL", "USER", "rowbust"])?;
    guarded.conn.query_drop("INSERT INTO t VALUES (2)").await?;
    let refused = until("the refusal", WITHIN, async || {
        let text = fs::read_to_string(&log)?;
        Ok(Seen::check(text.contains("WRONGPASS"), || "no WRONGPASS".into()))
    });
    refused.await?;
    guarded.canaries.search("/status", &guarded.answers("/status").await?)?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(daemon.0.id())?),
        nix::sys::signal::SIGTERM,
    )?;
    daemon.exited().await?;
    drop(daemon);
    let text = fs::read_to_string(&log)?;
    ensure!(
        ["TRACE", "DEBUG"].iter().any(|level| text.contains(level)),
        "no more than the usual: {text:.3000}"
    );
    guarded.canaries.search("log of a run", &text)?;
    guarded.redis.cli(&[
        "ACL",
        "SETUSER",
        "rowbust",
        "resetpass",
        &format!(">{}", guarded.canaries.redis),
    ])?;

    // Wrong ones: who refuses them names the account, not them.
    if way != Way::Config {
        guarded.secrets("-wrong", "-wrong")?;
        let log = guarded.file("log-wrong");
        let mut daemon = guarded.spawn(&log, "-wrong", "")?;
        ensure!(daemon.exited().await? == Some(78), "{}", fs::read_to_string(&log)?);
        guarded.canaries.search("log of a wrong password", &fs::read_to_string(&log)?)?;
        guarded.secrets("", "")?;
    }

    // A panic, with its backtrace.
    let log = guarded.file("log-panic");
    guarded.conn.query_drop("INSERT INTO t VALUES (3)").await?;
    let mut daemon = guarded.spawn(&log, "", "after_read=panic(on purpose)")?;
    daemon.exited().await?;
    let text = fs::read_to_string(&log)?;
    ensure!(text.contains("on purpose"), "it panicked: {text}");
    guarded.canaries.search("log of a panic", &text)?;

    // What it leaves on disk.
    for path in walk(guarded.stage.dir())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let own = name.starts_with("s-") || name == "acl" || (way == Way::Config && name == "guarded.yaml");
        if !own {
            let bytes = fs::read(&path).unwrap_or_default();
            guarded.canaries.search(&path.display().to_string(), &String::from_utf8_lossy(&bytes))?;
        }
    }
    Ok(())
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // The server's own data has the ACL.
        if path.is_dir() && !["guarded", "redis"].iter().any(|own| path.ends_with(own)) {
            found.extend(walk(&path)?);
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_nowhere_by_file() -> Result<()> {
    nowhere(Flavor::MySql, Way::File).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_nowhere_by_environment() -> Result<()> {
    nowhere(Flavor::MariaDb, Way::Environment).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_nowhere_by_credentials() -> Result<()> {
    nowhere(Flavor::MariaDb, Way::Credentials).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_nowhere_by_config() -> Result<()> {
    nowhere(Flavor::MySql, Way::Config).await
}

/// Kafka's password: brokers that can't be reached, for librdkafka logs of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_nowhere_with_kafka() -> Result<()> {
    let Some(guarded) = Guarded::new(Flavor::MariaDb, Way::Environment, "kafka").await? else {
        return Ok(());
    };
    let port = free_port()?;
    let config = guarded.config("")?;
    let text = fs::read_to_string(&config)?.replace(
        "retry: { disk: { path: retry }, delay: 100ms }",
        &format!(
            "retry: {{ kafka: {{ brokers: [\"127.0.0.1:{port}\"], prefix: p, properties: {{ security.protocol: sasl_plaintext, \
             sasl.mechanism: SCRAM-SHA-256, sasl.username: u, sasl.password: \"${{SECRET_KAFKA}}\" }} }} }}"
        ),
    );
    fs::write(&config, text)?;
    for args in [&["check"][..], &["check", "--json"], &["config", "show"], &["retry", "ls"], &["run"]] {
        let mut child = guarded.command("")?;
        let log = guarded.file("log-kafka");
        let file = File::create(&log)?;
        child.args(args).arg("-c").arg(&config).stdout(file.try_clone()?).stderr(file);
        let mut child = Ended(child.spawn()?);
        // `run` may go on, and `retry ls` waits for the brokers: what they log until then counts.
        let began = Instant::now();
        while child.0.try_wait()?.is_none() && began.elapsed() < Duration::from_secs(8) {
            tokio::time::sleep(POLL).await;
        }
        drop(child);
        let text = fs::read_to_string(&log)?;
        ensure!(!text.is_empty(), "{args:?} prints nothing");
        guarded.canaries.search(&format!("{args:?}"), &text)?;
    }
    Ok(())
}

// The database's account.

/// The statements of the page for this server, for this test's account and schema.
fn grants(flavor: Flavor, user: &str, schema: &str) -> Result<Vec<String>> {
    let block = block("```sql\n")?;
    let (mysql, mariadb) = block.split_once("-- MariaDB\n").context("no part for MariaDB")?;
    let part = match flavor {
        Flavor::MySql => mysql.trim_start_matches("-- MySQL\n"),
        Flavor::MariaDb => mariadb,
    };
    let statements: Vec<String> = part
        .lines()
        .map(|line| {
            line.trim_end_matches(';')
                .replace("'rowbust'@'%'", &format!("'{user}'@'127.0.0.1'"))
                .replace("shop.*", &format!("{schema}.*"))
        })
        .filter(|line| !line.is_empty())
        .collect();
    ensure!(statements.len() == 3, "{statements:?}");
    Ok(statements)
}

async fn least_privileges(server: Server) -> Result<()> {
    if require(&[server.need(), Need::Redis]).is_none() {
        return Ok(());
    }
    let flavor = server.flavor();
    // The binlog tells the least that it can: then the account is asked for the columns.
    let metadata = match flavor {
        Flavor::MySql => "--binlog-row-metadata=MINIMAL",
        Flavor::MariaDb => "--binlog-row-metadata=NO_LOG",
    };
    let db = Arc::new(Db::start(server, &[metadata]).await?);
    let mut stage = Stage::on(db, "least").await?;
    let statements = grants(flavor, USER, "least")?;
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &["CREATE DATABASE least", "USE least", "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(20))"],
    )
    .await?;
    run(&mut conn, &[&format!("DROP USER '{USER}'@'127.0.0.1'")]).await?;
    run(&mut conn, &statements.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    fs::write(stage.dir().join("password"), "choose-one\n")?;
    stage.settings.mappings =
        Some("\n  - table: least.t\n    fill_grace: 50ms\n    keys: [\"app:{name}\"]\n".into());

    // Exactly these: rows, a flush, and going on behind the checkpoint.
    let mut daemon = stage.start().await?;
    let removes = async |conn: &mut Conn, daemon: &Daemon, statement: &str, key: &str| {
        stage.redis.cli(&["SET", key, "old"])?;
        conn.query_drop(statement).await?;
        stage.quiet(daemon).await?;
        let left = stage.redis.cli(&["EXISTS", key])?;
        ensure!(left.trim() == "0", "{statement}: {key} is still there\n{}", daemon.log_tail());
        anyhow::Ok(())
    };
    removes(&mut conn, &daemon, "INSERT INTO t VALUES (1,'a')", "app:a").await?;
    removes(&mut conn, &daemon, "TRUNCATE t", "app:zzz").await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    conn.query_drop("INSERT INTO t VALUES (2,'b')").await?;
    stage.redis.cli(&["SET", "app:b", "old"])?;
    let mut daemon = stage.start().await?;
    removes(&mut conn, &daemon, "INSERT INTO t VALUES (3,'c')", "app:c").await?;
    ensure!(stage.redis.cli(&["EXISTS", "app:b"])?.trim() == "0", "{}", daemon.log_tail());
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());

    // Each one left out: the end names the statement, and after that statement it runs.
    let global = statements.iter().find(|s| s.contains("ON *.*")).context("no global privileges")?;
    let names = global.trim_start_matches("GRANT ").split(" ON ").next().unwrap_or_default();
    let names: Vec<&str> = names.split(", ").collect();
    ensure!(names.len() == 2, "{names:?}");
    for name in names {
        conn.query_drop(format!("REVOKE {name} ON *.* FROM '{USER}'@'127.0.0.1'")).await?;
        let mut daemon = stage.launch("")?;
        let status = daemon.exited(WITHIN).await?;
        let log = daemon.log_text();
        ensure!(status.code() == Some(78), "without {name}: {status}\n{}", daemon.log_tail());
        let statement = log
            .lines()
            .flat_map(|line| line.split("; "))
            .find_map(|part| part.find("GRANT ").map(|at| &part[at..]))
            .and_then(|part| part.split(';').next())
            .with_context(|| format!("without {name}: no statement\n{}", daemon.log_tail()))?;
        ensure!(statement.contains(name), "without {name}: {statement}");
        conn.query_drop(statement).await.with_context(|| statement.to_owned())?;
        let mut daemon = stage.start().await?;
        let insert = format!("REPLACE INTO t VALUES (4,'{}')", name.len());
        removes(&mut conn, &daemon, &insert, &format!("app:{}", name.len())).await?;
        ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    }

    // The right to see the mapped table's columns: the first row stops it, and says what helps.
    run(
        &mut conn,
        &[
            &format!("REVOKE SELECT ON least.* FROM '{USER}'@'127.0.0.1'"),
            "ALTER TABLE t ADD COLUMN n INT",
            "INSERT INTO t VALUES (9,'d',1)",
        ],
    )
    .await?;
    let mut daemon = stage.launch("")?;
    let status = daemon.exited(WITHIN).await?;
    let log = daemon.log_text();
    ensure!(status.code() == Some(1), "{status}\n{}", daemon.log_tail());
    for words in ["the account may not see it", "binlog_row_metadata=FULL"] {
        ensure!(log.contains(words), "not `{words}`\n{}", daemon.log_tail());
    }
    stage.redis.cli(&["SET", "app:d", "old"])?;
    conn.query_drop(format!("GRANT SELECT ON least.* TO '{USER}'@'127.0.0.1'")).await?;
    let daemon = stage.start().await?;
    stage.quiet(&daemon).await?;
    ensure!(stage.redis.cli(&["EXISTS", "app:d"])?.trim() == "0", "{}", daemon.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_mysql() -> Result<()> {
    least_privileges(Server::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_mariadb() -> Result<()> {
    least_privileges(Server::MariaDb).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_newer_mariadb() -> Result<()> {
    least_privileges(Server::MariaDb118).await
}

// Redis' users.

const SETINFO: &str = "+client|setinfo";

/// Redis before 7.2 refuses the name of a command that it doesn't know.
fn knows_setinfo(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(7), Some(2))
}

/// The rules of the page behind these comments, for a server of this version.
fn rules(version: &str, behind: &[&str]) -> Result<Vec<&'static str>> {
    let block = block("```\nuser rowbust on")?;
    let behind = [&["# with `members_of`, also"], behind].concat();
    let mut rules: Vec<&str> = block.lines().next().unwrap_or_default().split_whitespace().collect();
    rules.insert(0, "on");
    for comment in behind {
        let (_, rest) = block.split_once(comment).with_context(|| format!("no {comment}"))?;
        let line = rest.lines().find(|line| line.starts_with("user ")).context("no rules")?;
        rules.extend(line.split_whitespace().skip(2));
    }
    rules.retain(|rule| *rule != SETINFO || knows_setinfo(version));
    Ok(rules)
}

/// The commands that rules allow, as `INFO commandstats` names them.
fn commands(rules: &[&str]) -> BTreeSet<String> {
    let bare = |rule: &&str| rule.trim_matches(['(', ')']).strip_prefix('+').map(str::to_owned);
    rules.iter().filter_map(bare).collect()
}

fn allow(server: &Redis, rules: &[&str]) -> Result<()> {
    let args = [&["ACL", "SETUSER", "rowbust"][..], rules].concat();
    ensure!(server.cli(&args)?.trim() == "OK", "{rules:?}");
    server.cli(&["ACL", "LOG", "RESET"])?;
    server.cli(&["CONFIG", "RESETSTAT"])?;
    Ok(())
}

/// Commands that were called since [`allow`], but for those of `redis-cli` as this test uses it.
fn called(servers: &[&Redis]) -> Result<BTreeSet<String>> {
    let mut called = BTreeSet::new();
    for server in servers {
        let stats = server.cli(&["INFO", "commandstats"])?;
        for line in stats.lines() {
            if let Some((name, calls)) = line.strip_prefix("cmdstat_").and_then(|l| l.split_once(":calls="))
                && !calls.starts_with("0,")
            {
                called.insert(name.to_owned());
            }
        }
    }
    Ok(called)
}

/// Removes a key, a field and a keyspace by way of the daemon, whose target is `redis`; `set` puts something there. Returns the
/// daemon, which still runs.
async fn remove_everything(
    stage: &mut Stage,
    redis: String,
    cache: &Redis,
    clustered: bool,
) -> Result<Daemon> {
    stage.settings.redis = Some(redis);
    let schema = stage.schema.clone();
    stage.settings.mappings = Some(format!(
        "\n  - table: {schema}.t\n    fill_grace: 50ms\n    keys:\n      - \"app:{{id}}\"\n      - {{ key: \"app:names:{{id}}\", op: hdel, field: \
         \"{{name}}\" }}\n      - {{ members_of: \"app:tag:{{id}}\", members_prefix: \"app:m:\" }}\n"
    ));
    let mut conn = stage.db.connect().await?;
    run(
        &mut conn,
        &[
            &format!("CREATE DATABASE IF NOT EXISTS {schema}"),
            &format!("USE {schema}"),
            "CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY, name VARCHAR(20))",
            &format!("GRANT SELECT ON {schema}.* TO '{USER}'@'127.0.0.1'"),
        ],
    )
    .await?;
    let cli = |args: &[&str]| {
        let args = if clustered { [&["-c"], args].concat() } else { args.to_vec() };
        cache.cli(&args)
    };
    let fill = || -> Result<()> {
        for id in ["1", "2", "3"] {
            cli(&["MSET", &format!("app:{id}"), "old"])?;
            cli(&["HSET", &format!("app:names:{id}"), "a", "1", "b", "1"])?;
            for member in ["x", "y"] {
                let member = format!("app:m:{id}{member}");
                cli(&["MSET", &member, "old"])?;
                cli(&["SADD", &format!("app:tag:{id}"), &member])?;
            }
        }
        Ok(())
    };
    let left = || -> Result<String> {
        let mut left = String::new();
        for id in ["1", "2", "3"] {
            left += cli(&["STRLEN", &format!("app:{id}")])?.trim();
            left += cli(&["HSTRLEN", &format!("app:names:{id}"), "a"])?.trim();
            left += cli(&["HSTRLEN", &format!("app:names:{id}"), "b"])?.trim();
            left += cli(&["STRLEN", &format!("app:m:{id}x")])?.trim();
            left += cli(&["STRLEN", &format!("app:m:{id}y")])?.trim();
        }
        Ok(left)
    };
    fill()?;
    let daemon = stage.start().await?;
    run(&mut conn, &["REPLACE INTO t VALUES (1,'a'), (2,'b')"]).await?;
    stage.quiet(&daemon).await?;
    let found = left()?;
    ensure!(found == "001000100031133", "{found}\n{}", daemon.log_tail());
    fill()?;
    run(&mut conn, &["TRUNCATE t"]).await?;
    stage.quiet(&daemon).await?;
    let found = left()?;
    ensure!(found == "0".repeat(15), "{found}\n{}", daemon.log_tail());
    let marked = until("the mark", WITHIN, async || {
        let marks = daemon.status().await?["marks"].clone();
        let target = &marks["targets"][0];
        let is_there =
            target["lag_seconds"] == 0.0 && target["error"].is_null() && target["sees_restarts"] == true;
        Ok(Seen::check(is_there, || marks.to_string()))
    });
    marked.await.map_err(|e| daemon.explain(&e))?;
    Ok(daemon)
}

/// Nothing was refused, and nothing is allowed that isn't used.
fn to_the_letter(servers: &[&Redis], rules: &[&str], daemon: &Daemon) -> Result<()> {
    for server in servers {
        let refused = server.cli(&["ACL", "LOG"])?;
        ensure!(refused.trim().is_empty(), "refused: {refused}\n{}", daemon.log_tail());
    }
    let called = called(servers)?;
    let unused: Vec<_> = commands(rules).into_iter().filter(|name| !called.contains(name)).collect();
    ensure!(unused.is_empty(), "never called: {unused:?}; called: {called:?}");
    Ok(())
}

/// A stage with a Redis of its own that has the user's password.
async fn acl_stage(name: &str) -> Result<Option<(Stage, PathBuf)>> {
    let Some(stage) = Stage::new(Flavor::MariaDb, name).await? else { return Ok(None) };
    let acl = stage.dir().join("acl");
    fs::write(&acl, "user default on nopass ~* &* +@all\nuser rowbust off\n")?;
    Ok(Some((stage, acl)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_of_one_server() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_one").await? else { return Ok(()) };
    let options = StartOptions::new(stage.dir().join("own"));
    let redis = Redis::start_with(options, None, Some(&acl))?;
    // A database of its own, so that SELECT is needed; redis-cli looks into 0 otherwise.
    let rules = rules(redis.version(), &[])?;
    allow(&redis, &rules)?;
    let target =
        format!("{{ url: \"redis://127.0.0.1:{}\", username: rowbust, password: choose-one }}", redis.port());
    let mut daemon = remove_everything(&mut stage, target, &redis, false).await?;
    ensure!(daemon.sigterm(WITHIN).await?.success(), "{}", daemon.log_tail());
    // Another database: SELECT.
    stage.settings.redis = Some(format!(
        "{{ url: \"redis://127.0.0.1:{}/3\", username: rowbust, password: choose-one }}",
        redis.port()
    ));
    let daemon = stage.start().await?;
    to_the_letter(&[&redis], &rules, &daemon)?;

    // What lies outside of the pattern is refused, and waits.
    stage.settings.mappings =
        Some("\n  - table: acl_one.t\n    fill_grace: 50ms\n    keys: [\"other:{id}\"]\n".into());
    drop(daemon);
    let daemon = stage.start().await?;
    let mut conn = stage.sql().await?;
    redis.cli(&["-n", "3", "SET", "other:7", "kept"])?;
    conn.query_drop("INSERT INTO t VALUES (7,'x')").await?;
    let refused = until("the refusal", WITHIN, async || {
        let log = redis.cli(&["ACL", "LOG"])?;
        Ok(Seen::check(log.contains("other:7"), || log))
    });
    refused.await.map_err(|e| daemon.explain(&e))?;
    ensure!(redis.cli(&["-n", "3", "GET", "other:7"])?.trim() == "kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_with_durability() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_durable").await? else { return Ok(()) };
    let redis = Redis::start_with(StartOptions::new(stage.dir().join("own")), None, Some(&acl))?;
    let replica = StartOptions::new(stage.dir().join("replica"))
        .arg("--replicaof")
        .arg("127.0.0.1")
        .arg(redis.port().to_string());
    let _replica = Redis::start(replica)?;
    let online = until("the replica", WITHIN, async || {
        let info = redis.cli(&["INFO", "replication"])?;
        Ok(Seen::check(info.contains("state=online"), || info))
    });
    online.await?;
    let mut rules = rules(redis.version(), &["# with `durability`, also"])?;
    allow(&redis, &rules)?;
    let target = format!(
        "{{ url: \"redis://127.0.0.1:{}\", username: rowbust, password: choose-one, durability: {{ wait_replicas: 1 }} }}",
        redis.port()
    );
    let daemon = remove_everything(&mut stage, target, &redis, false).await?;
    rules.retain(|rule| *rule != "+select");
    to_the_letter(&[&redis], &rules, &daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_of_a_cluster() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_cluster").await? else { return Ok(()) };
    let options = ClusterOptions {
        acl_file: Some(acl),
        ..ClusterOptions::new(Need::Redis, stage.dir().join("cluster"))
    };
    let cluster = tokio::task::spawn_blocking(move || RedisCluster::start(&options)).await??;
    let mut rules = rules(cluster.nodes[0].version(), &["# with `mode: cluster`, also"])?;
    for node in &cluster.nodes {
        allow(node, &rules)?;
    }
    let nodes: Vec<String> = cluster.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let target = format!(
        "{{ mode: cluster, nodes: [{}], username: rowbust, password: choose-one }}",
        nodes.join(", ")
    );
    let daemon = remove_everything(&mut stage, target, &cluster.nodes[0], true).await?;
    // Databases are one server's; ASKING comes with a slot that moves, a transaction with a member in its set's slot.
    rules.retain(|rule| !["+select", "+asking", "+sadd", "+multi", "+exec"].contains(rule));
    to_the_letter(&cluster.nodes.iter().collect::<Vec<_>>(), &rules, &daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_acl_behind_sentinels() -> Result<()> {
    let Some((mut stage, acl)) = acl_stage("acl_sentinel").await? else { return Ok(()) };
    let block = block("```\nuser rowbust on")?;
    let (_, rest) = block.split_once("# and at the sentinels themselves\n").context("no sentinels' rules")?;
    let sentinel_acl = stage.dir().join("sentinel-acl");
    let mut line = rest.lines().next().unwrap_or_default().to_owned();
    if !knows_setinfo(stage.redis.version()) {
        line = line.replace(SETINFO, "");
    }
    fs::write(&sentinel_acl, format!("user default on nopass ~* &* +@all\n{line}\n"))?;
    let options = SentinelOptions {
        acl_file: Some(acl),
        sentinel_acl_file: Some(sentinel_acl),
        ..SentinelOptions::new(Need::Redis, stage.dir().join("sentinels"))
    };
    let group = tokio::task::spawn_blocking(move || Sentinels::start(&options)).await??;
    let mut rules = rules(group.servers[0].version(), &["# with `mode: sentinel`, also"])?;
    for server in &group.servers {
        allow(server, &rules)?;
    }
    let nodes: Vec<String> = group.ports().iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let target = format!(
        "{{ mode: sentinel, nodes: [{}], master: {}, username: rowbust, password: choose-one, sentinel: {{ username: rowbust, password: \
         choose-one }} }}",
        nodes.join(", "),
        MASTER
    );
    let master = &group.servers[group.master().context("no master")?];
    let daemon = remove_everything(&mut stage, target, master, false).await?;
    rules.retain(|rule| *rule != "+select");
    to_the_letter(&[master], &rules, &daemon)
}
