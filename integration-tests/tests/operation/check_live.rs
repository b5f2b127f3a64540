//! `rowbust check --live`: each line in its good and in its bad form, on real servers; what it says to run is run, and mends it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rowbust_integration_tests::daemon::{Daemon, cli};
use rowbust_integration_tests::db::{Db, Flavor, PASSWORD, USER, run};
use rowbust_servers::ports::free_port;
use rowbust_servers::{Need, Redis, StartOptions, require};
use serde_json::Value;
use tempfile::TempDir;

#[path = "check_live/bad.rs"]
mod bad_forms;
#[path = "check_live/redis.rs"]
mod redis_lines;
#[path = "check_live/replicas.rs"]
mod replicas_lines;
#[path = "check_live/report.rs"]
mod report_lines;
#[path = "check_live/source.rs"]
mod source_lines;
#[path = "check_live/tables.rs"]
mod tables_lines;

/// A config and what stands around it.
struct Site {
    dir: TempDir,
    /// Of both servers.
    host: String,
    db_port: u16,
    redis_port: u16,
    user: String,
    password: String,
    /// More fields of `source`, each line indented by two.
    source: String,
    /// `redis.main`; empty: the URL alone.
    redis: String,
    /// More of the file.
    more: String,
    mappings: String,
    admin: u16,
}

impl Site {
    fn new(db_port: u16, redis_port: u16, mappings: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rowbust-check-").tempdir()?;
        Ok(Self {
            dir,
            host: "127.0.0.1".into(),
            db_port,
            redis_port,
            user: USER.into(),
            password: PASSWORD.into(),
            source: String::new(),
            redis: String::new(),
            more: String::new(),
            mappings: mappings.into(),
            admin: free_port()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Result<PathBuf> {
        fs::write(self.path("password"), format!("{}\n", self.password))?;
        set_mode(&self.path("password"), 0o600)?;
        let redis = if self.redis.is_empty() {
            format!("\"redis://{}:{}/0\"", self.host, self.redis_port)
        } else {
            self.redis.clone()
        };
        let text = format!(
            "source:\n  url: mysql://{}@{}:{}\n  password_file: password\n{}redis:\n  main: {redis}\n\
             admin: {{ listen: \"127.0.0.1:{}\" }}\n{}mappings:\n{}",
            self.user, self.host, self.db_port, self.source, self.admin, self.more, self.mappings
        );
        let path = self.path("rowbust.yaml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The report as data, with its exit code.
    fn check(&self) -> Result<Checked> {
        self.check_with(&[])
    }

    fn check_with(&self, args: &[&str]) -> Result<Checked> {
        let config = self.config()?;
        let config = config.to_str().context("odd path")?;
        let args = [&["-c", config, "check", "--live", "--json"], args].concat();
        let out = tokio::task::block_in_place(|| cli(args))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(!text.contains(PASSWORD), "the password is shown: {text}");
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("{text}{}", String::from_utf8_lossy(&out.stderr)))?;
        let exit = out.status.code().context("killed")?;
        ensure!(value["schema_version"] == 1 && value["exit_code"] == exit, "exit {exit}: {value:#}");
        Ok(Checked { exit, value })
    }

    /// The report for people.
    fn text(&self) -> Result<String> {
        let config = self.config()?;
        let config = config.to_str().context("odd path")?;
        let out = tokio::task::block_in_place(|| cli(["-c", config, "check", "--live"]))?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

struct Checked {
    exit: i32,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    code: String,
    mark: String,
    text: String,
    help: String,
}

impl Checked {
    fn lines(&self) -> Vec<Line> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let groups = self.value["groups"].as_array().into_iter().flatten();
        groups
            .flat_map(|group| group["lines"].as_array().into_iter().flatten())
            .map(|line| Line {
                code: text(&line["code"]),
                mark: text(&line["mark"]),
                text: text(&line["text"]),
                help: text(&line["help"]),
            })
            .collect()
    }

    /// The lines with this code and mark.
    fn of(&self, code: &str, mark: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.code == code && line.mark == mark).collect()
    }

    /// There is such a line, and each that isn't ok says what to do.
    fn has(&self, code: &str, mark: &str, text: &str) -> Result<Line> {
        for line in self.lines() {
            ensure!(line.mark == "ok" || !line.help.is_empty(), "no help: {line:?}");
        }
        let found = self.of(code, mark).into_iter().find(|line| line.text.contains(text));
        found.with_context(|| format!("no {mark} of {code} with {text:?}: {:#}", self.value))
    }

    /// Codes of the lines that have this mark.
    fn codes(&self, mark: &str) -> BTreeSet<String> {
        self.lines().into_iter().filter(|line| line.mark == mark).map(|line| line.code).collect()
    }
}

/// What every test needs: a database that is as the documentation asks for, and Redis.
struct Servers {
    db: std::sync::Arc<Db>,
    redis: Redis,
    _dir: TempDir,
}

impl Servers {
    /// On the database that the tests of this process share; `None` where a server can't be had.
    async fn shared(flavor: Flavor) -> Result<Option<Self>> {
        if require(&[flavor.need(), Need::Redis]).is_none() {
            return Ok(None);
        }
        Self::with(Db::shared(flavor).await?, &[]).await.map(Some)
    }

    /// [`Servers::shared`], with a schema of these tables, which the daemon's account may read.
    async fn schema(flavor: Flavor, name: &str, tables: &[&str]) -> Result<Option<(Self, Conn)>> {
        let Some(servers) = Self::shared(flavor).await? else { return Ok(None) };
        let mut conn = servers.db.connect().await?;
        schema(&mut conn, name, tables).await?;
        Ok(Some((servers, conn)))
    }

    async fn with(db: std::sync::Arc<Db>, redis_args: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rowbust-check-redis-").tempdir()?;
        let mut options = StartOptions::new(dir.path());
        for arg in redis_args {
            options = options.arg(*arg);
        }
        let redis = tokio::task::spawn_blocking(|| Redis::start(options)).await??;
        Ok(Self { db, redis, _dir: dir })
    }

    fn site(&self, mappings: &str) -> Result<Site> {
        Site::new(self.db.port(), self.redis.port(), mappings)
    }
}

/// A schema of these tables, which the daemon's account may read.
async fn schema(conn: &mut Conn, name: &str, tables: &[&str]) -> Result<()> {
    run(conn, &[&format!("CREATE DATABASE {name}"), &format!("USE {name}")]).await?;
    run(conn, tables).await?;
    run(conn, &[&format!("GRANT SELECT ON {name}.* TO '{USER}'@'127.0.0.1'")]).await
}
