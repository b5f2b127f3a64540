//! MariaDB: programs and instances.

use std::path::PathBuf;
use std::process;

use anyhow::Result;

use crate::install::{Need, at_least, ensure, find_program, output_of, run, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::{cache, wire};

/// Paths of MariaDB's programs.
#[derive(Debug, Clone)]
pub struct MariaDbPrograms {
    /// `mariadbd`.
    pub server: PathBuf,
    /// `mariadb-install-db`.
    pub install_db: PathBuf,
    /// `mariadb-binlog`.
    pub binlog: PathBuf,
    /// `mariadb`, the command-line client.
    pub client: PathBuf,
    /// Such as `10.11.19`.
    pub version: String,
}

impl MariaDbPrograms {
    /// Those in `PATH`, if they are all there and 10.11 or newer.
    #[must_use]
    pub fn find() -> Option<Self> {
        let server = find_program("mariadbd")?;
        let version = version_after(&output_of(&server, "--version")?, "Ver")?;
        at_least(&version, 10, 11).then_some(())?;
        Some(Self {
            server,
            install_db: find_program("mariadb-install-db")?,
            binlog: find_program("mariadb-binlog")?,
            client: find_program("mariadb")?,
            version,
        })
    }
}

/// A MariaDB server: binlog on (ROW, full metadata), root over TCP and socket without a password.
#[derive(Debug)]
pub struct MariaDb(Instance<MariaDbKind>);
deref_to_instance!(MariaDb, MariaDbKind);

impl MariaDb {
    /// Starts a server, installing MariaDB if it is missing; returns when it answers.
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn start(options: StartOptions) -> Result<Self> {
        let programs = ensure(&[Need::MariaDb])?.mariadb;
        Instance::start(options, || Ok(MariaDbKind(programs.clone().ok_or_else(|| Need::MariaDb.missing())?)))
            .map(Self)
    }

    /// Paths of the programs, such as `mariadb-binlog`.
    #[must_use]
    pub fn programs(&self) -> &MariaDbPrograms {
        &self.kind.0
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.socket()
    }
}

#[derive(Debug)]
#[doc(hidden)]
pub struct MariaDbKind(MariaDbPrograms);

impl Kind for MariaDbKind {
    const NAME: &'static str = "mariadb";

    fn version(&self) -> &str {
        &self.0.version
    }

    fn prepare(&self, place: &Place, _args: &[String]) -> Result<()> {
        let data = place.data();
        if data.exists() {
            return Ok(());
        }
        cache::fill(&data, |new| {
            run(process::Command::new(&self.0.install_db)
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .arg(format!("--datadir={}", new.display()))
                .env("TMPDIR", &place.dir)
                .args(wire::user_option()))?;
            Ok(())
        })
    }

    fn command(&self, place: &Place, extra: &[String]) -> Command {
        let mut args = wire::common_options(place);
        args.extend(["--binlog-format=ROW", "--binlog-row-metadata=FULL"].map(String::from));
        args.extend_from_slice(extra);
        Command { program: self.0.server.clone(), args, env: Vec::new() }
    }

    fn answers(&self, place: &Place) -> bool {
        wire::greets(place.port)
    }

    fn url(&self, port: u16) -> String {
        format!("mysql://root@127.0.0.1:{port}")
    }
}
