//! A canary in the place of each secret, and a search for it in all that the program prints, answers and leaves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon;
use rowbust_integration_tests::db::{Flavor, run};
use rowbust_integration_tests::http;
use rowbust_integration_tests::stage::Stage;
use rowbust_integration_tests::wait::{POLL, Seen, until};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Redis, StartOptions};

use super::WITHIN;

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
            let headers =
                [("Authorization", &*format!("Bearer {token}")), ("Content-Type", "application/json")];
            let (_, answer) = http::ask(guarded.admin, method, path, &headers, "{}").await?;
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
