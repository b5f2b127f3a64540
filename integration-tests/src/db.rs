//! MariaDB and MySQL behind one face.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row};
use rowbust_servers::{MariaDb, MySql, Need, StartOptions};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// Which dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MariaDB 10.11 or newer.
    MariaDb,
    /// MySQL 9.
    MySql,
}

impl Flavor {
    /// What [`rowbust_servers::require`] is asked for.
    #[must_use]
    pub fn need(self) -> Need {
        match self {
            Self::MariaDb => Need::MariaDb,
            Self::MySql => Need::MySql,
        }
    }

    /// `mariadb` or `mysql`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
        }
    }
}

/// A dialect in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Server {
    /// The system's MariaDB, 10.11 or newer.
    MariaDb,
    /// MariaDB 11.8 or newer.
    MariaDb118,
    /// MySQL 9.
    MySql,
}

impl Server {
    /// Every kind that the tests run.
    pub const ALL: [Self; 3] = [Self::MariaDb, Self::MariaDb118, Self::MySql];

    /// What [`rowbust_servers::require`] is asked for.
    #[must_use]
    pub fn need(self) -> Need {
        match self {
            Self::MariaDb => Need::MariaDb,
            Self::MariaDb118 => Need::MariaDb118,
            Self::MySql => Need::MySql,
        }
    }

    /// Its dialect.
    #[must_use]
    pub fn flavor(self) -> Flavor {
        match self {
            Self::MariaDb | Self::MariaDb118 => Flavor::MariaDb,
            Self::MySql => Flavor::MySql,
        }
    }
}

impl From<Flavor> for Server {
    fn from(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MariaDb => Self::MariaDb,
            Flavor::MySql => Self::MySql,
        }
    }
}

/// The account that the daemon uses. Its rights are those that the documentation asks for, and no more.
pub const USER: &str = "rowbust";
/// Its password.
pub const PASSWORD: &str = "canary-5e7d";

/// A server of either kind, in a folder that goes with it.
#[derive(Debug)]
pub struct Db {
    kind: Kind,
    _dir: TempDir,
}

#[derive(Debug)]
enum Kind {
    MariaDb(MariaDb),
    MySql(MySql),
}

macro_rules! either {
    ($self:ident, $server:ident => $body:expr) => {
        match &$self.kind {
            Kind::MariaDb($server) => $body,
            Kind::MySql($server) => $body,
        }
    };
}

/// One server of each kind for all tests of a process, as long as one of them uses it.
static SHARED: [Mutex<Weak<Db>>; 2] = [Mutex::const_new(Weak::new()), Mutex::const_new(Weak::new())];

impl Db {
    /// The server of this kind that the tests of this process share. Each takes a schema of its own.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn shared(flavor: Flavor) -> Result<Arc<Self>> {
        let mut shared = SHARED[usize::from(flavor == Flavor::MySql)].lock().await;
        if let Some(db) = shared.upgrade() {
            return Ok(db);
        }
        let db = Arc::new(Self::start(flavor, &[]).await?);
        *shared = Arc::downgrade(&db);
        Ok(db)
    }

    /// Starts a server with these options added, and makes the daemon's account.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn start(server: impl Into<Server>, args: &[&str]) -> Result<Self> {
        let server = server.into();
        let dir = tempfile::Builder::new().prefix("rowbust-db-").tempdir()?;
        let mut options = StartOptions::new(dir.path());
        // A test's server needs no durability against loss of power: kill -9 loses nothing of what was written.
        options.args = ["--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0"]
            .iter()
            .chain(args)
            .map(|s| (*s).to_owned())
            .collect();
        let kind = tokio::task::spawn_blocking(move || {
            anyhow::Ok(match server {
                Server::MariaDb => Kind::MariaDb(MariaDb::start(options)?),
                Server::MariaDb118 => Kind::MariaDb(MariaDb::start_11_8(options)?),
                Server::MySql => Kind::MySql(MySql::start(options)?),
            })
        })
        .await??;
        let db = Self { kind, _dir: dir };
        db.make_account().await?;
        Ok(db)
    }

    async fn make_account(&self) -> Result<()> {
        let rights = match self.flavor() {
            Flavor::MariaDb => "REPLICATION SLAVE, BINLOG MONITOR",
            Flavor::MySql => "REPLICATION SLAVE, REPLICATION CLIENT",
        };
        let mut conn = self.connect().await?;
        // Out of the binlog, so that a test's file holds its own changes alone.
        for statement in [
            "SET sql_log_bin=0".to_owned(),
            format!("CREATE USER IF NOT EXISTS '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT {rights} ON *.* TO '{USER}'@'127.0.0.1'"),
        ] {
            conn.query_drop(&statement).await.with_context(|| statement.clone())?;
        }
        conn.disconnect().await?;
        Ok(())
    }

    /// Which kind it is.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        match self.kind {
            Kind::MariaDb(_) => Flavor::MariaDb,
            Kind::MySql(_) => Flavor::MySql,
        }
    }

    /// Its version, such as `10.11.19`.
    #[must_use]
    pub fn version(&self) -> &str {
        either!(self, s => s.version())
    }

    /// Its TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        either!(self, s => s.port())
    }

    /// Ends it in good order.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn stop(&self) -> Result<()> {
        either!(self, s => s.stop())
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it can't be ended.
    pub fn kill9(&self) -> Result<()> {
        either!(self, s => s.kill9())
    }

    /// Starts it again on the same port and data.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn start_again(&self) -> Result<()> {
        either!(self, s => s.start_again())
    }

    /// Sets the extra arguments of the next start.
    pub fn set_args(&self, args: &[&str]) {
        either!(self, s => s.set_args(args.iter().copied()));
    }

    /// The binlog files, oldest first.
    ///
    /// # Errors
    /// When the data folder can't be read.
    pub fn binlogs(&self) -> Result<Vec<PathBuf>> {
        let dir = either!(self, s => s.data_dir());
        let number =
            |p: &Path| p.extension().is_some_and(|e| e.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| number(p)).collect();
        files.retain(|p| p.file_stem().is_some_and(|s| s == "binlog"));
        files.sort();
        Ok(files)
    }

    /// The file of a plugin of MariaDB's; `None` where it isn't installed, and for MySQL.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<PathBuf> {
        match &self.kind {
            Kind::MariaDb(server) => server.programs().plugin(name),
            Kind::MySql(_) => None,
        }
    }

    /// `mariadb-binlog` or `mysqlbinlog`.
    #[must_use]
    pub fn binlog_program(&self) -> &Path {
        either!(self, s => &s.programs().binlog)
    }

    /// A connection as root.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub async fn connect(&self) -> Result<Conn> {
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port())
            .user(Some("root"))
            .prefer_socket(false)
            .stmt_cache_size(0);
        let conn = tokio::time::timeout(Duration::from_secs(10), Conn::new(opts)).await;
        Ok(conn.context("the server doesn't answer")??)
    }

    /// The newest end of the binlog: file and offset.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub async fn newest(&self, conn: &mut Conn) -> Result<(String, u64)> {
        let statement = match self.flavor() {
            Flavor::MariaDb => "SHOW MASTER STATUS",
            Flavor::MySql => "SHOW BINARY LOG STATUS",
        };
        let row: Row = conn.query_first(statement).await?.context("no binlog")?;
        let file = row.get(0).context("no file")?;
        Ok((file, row.get(1).context("no position")?))
    }

    /// The newest position in GTIDs: the executed set, or the last of each domain.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub async fn gtids(&self, conn: &mut Conn) -> Result<String> {
        let statement = match self.flavor() {
            Flavor::MariaDb => "SELECT @@gtid_binlog_pos",
            Flavor::MySql => "SELECT @@gtid_executed",
        };
        let text: String = conn.query_first(statement).await?.context("no GTID position")?;
        Ok(text.split_whitespace().collect())
    }
}

/// Runs statements one after the other.
///
/// # Errors
/// The first error, with its statement.
pub async fn run(conn: &mut Conn, statements: &[&str]) -> Result<()> {
    for statement in statements {
        conn.query_drop(*statement).await.with_context(|| format!("{statement:.300}"))?;
    }
    Ok(())
}
