//! MySQL: programs and instances.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Instant;

use anyhow::Result;

use crate::install::{Need, ensure, find_program, output_of, run, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::{cache, fetch_sid, wire};

/// Paths of MySQL's programs.
#[derive(Debug, Clone)]
pub struct MySqlPrograms {
    /// `mysqld`.
    pub server: PathBuf,
    /// `mysqlbinlog`.
    pub binlog: PathBuf,
    /// `mysql`, the command-line client.
    pub client: PathBuf,
    /// Such as `9.7.0`.
    pub version: String,
    /// Where it was unpacked; `None` when it is the system's own.
    pub root: Option<PathBuf>,
}

impl MySqlPrograms {
    /// MySQL 9 in `PATH`, else the one unpacked in the cache.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::in_path().or_else(|| Self::unpacked(&fetch_sid::newest(&fetch_sid::MYSQL)?))
    }

    fn in_path() -> Option<Self> {
        let server = find_program("mysqld")?;
        let text = output_of(&server, "--version").filter(|t| !t.contains("MariaDB"))?;
        let version = version_after(&text, "Ver").filter(|v| v.starts_with("9."))?;
        Some(Self {
            server,
            binlog: find_program("mysqlbinlog")?,
            client: find_program("mysql")?,
            version,
            root: None,
        })
    }

    /// The programs in a folder that [`fetch_sid::fetch`] made.
    fn unpacked(dir: &Path) -> Option<Self> {
        let program = |name: &str| Some(dir.join("bin").join(name)).filter(|p| p.is_file());
        Some(Self {
            server: program("mysqld")?,
            binlog: program("mysqlbinlog")?,
            client: program("mysql")?,
            version: fs::read_to_string(dir.join("version")).ok()?.trim().to_owned(),
            root: Some(dir.join("root")),
        })
    }

    /// Options that tell an unpacked server where its files are.
    fn base_options(&self) -> Vec<String> {
        let mut options = vec!["--secure-file-priv=".to_owned(), "--mysqlx=OFF".to_owned()];
        if let Some(root) = &self.root {
            options.extend(wire::unpacked_options(root, "mysql"));
        }
        options
    }
}

/// A MySQL server: binlog on (ROW, full metadata), GTIDs on, root over TCP and socket without a password.
#[derive(Debug)]
pub struct MySql(Instance<MySqlKind>);
deref_to_instance!(MySql, MySqlKind);

impl MySql {
    /// Starts a server, fetching MySQL if it is missing; returns when it answers.
    ///
    /// # Errors
    /// When it can't be fetched or doesn't come up.
    pub fn start(options: StartOptions) -> Result<Self> {
        let programs = ensure(&[Need::MySql])?.mysql;
        Instance::start(options, || Ok(MySqlKind(programs.clone().ok_or_else(|| Need::MySql.missing())?)))
            .map(Self)
    }

    /// Paths of the programs, such as `mysqlbinlog`.
    #[must_use]
    pub fn programs(&self) -> &MySqlPrograms {
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
pub struct MySqlKind(MySqlPrograms);

impl MySqlKind {
    /// An initialised data directory to copy from: `--initialize` takes seconds. Made once per version.
    fn template(&self) -> Result<PathBuf> {
        let template = cache::dir()?.join("templates").join(format!("mysql-{}", self.0.version));
        if template.exists() {
            return Ok(template);
        }
        let _lock = cache::lock("template")?;
        if !template.exists() {
            let start = Instant::now();
            cache::fill(&template, |new| {
                let data = new.join("data");
                run(process::Command::new(&self.0.server)
                    // Little redo log: it is copied for every instance, and grows by itself.
                    .args(["--no-defaults", "--initialize-insecure", "--innodb-redo-log-capacity=8M"])
                    .arg(format!("--datadir={}", data.display()))
                    .args(self.0.base_options())
                    .args(wire::user_option()))?;
                // Holds the server's uuid: every instance gets its own.
                Ok(fs::remove_file(data.join("auto.cnf"))?)
            })?;
            eprintln!(
                "initialised a MySQL {} data directory in {:.1} s",
                self.0.version,
                start.elapsed().as_secs_f64()
            );
        }
        Ok(template)
    }
}

impl Kind for MySqlKind {
    const NAME: &'static str = "mysql";

    fn version(&self) -> &str {
        &self.0.version
    }

    fn prepare(&self, place: &Place, _args: &[String]) -> Result<()> {
        let data = place.data();
        if data.exists() {
            return Ok(());
        }
        let template = self.template()?.join("data");
        cache::fill(&data, |new| cache::copy_dir(&template, new))
    }

    fn command(&self, place: &Place, extra: &[String]) -> Command {
        let mut args = wire::common_options(place);
        args.extend(self.0.base_options());
        args.extend(
            ["--binlog-row-metadata=FULL", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
                .map(String::from),
        );
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
