//! MariaDB: programs and instances.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result};

use crate::install::{Need, at_least, ensure, find_program, output_of, run, run_with, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::{cache, fetch_sid, wire};

/// Paths of MariaDB's programs.
#[derive(Debug, Clone)]
pub struct MariaDbPrograms {
    /// `mariadbd`.
    pub server: PathBuf,
    /// `mariadb-binlog`.
    pub binlog: PathBuf,
    /// `mariadb`, the command-line client.
    pub client: PathBuf,
    /// Such as `10.11.19`.
    pub version: String,
    setup: Setup,
}

/// How a data directory is made.
#[derive(Debug, Clone)]
enum Setup {
    /// By `mariadb-install-db`, this program.
    Script(PathBuf),
    /// By the SQL files of a server that was unpacked here.
    Unpacked(PathBuf),
}

impl MariaDbPrograms {
    /// Those in `PATH`, if they are all there and 10.11 or newer.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::in_path().filter(|p| at_least(&p.version, 10, 11))
    }

    /// Those in `PATH` if they are 11.8 or newer, else the ones unpacked in the cache.
    #[must_use]
    pub fn find_11_8() -> Option<Self> {
        Self::in_path()
            .filter(|p| at_least(&p.version, 11, 8))
            .or_else(|| Self::unpacked(&fetch_sid::newest(&fetch_sid::MARIADB)?))
    }

    fn in_path() -> Option<Self> {
        let server = find_program("mariadbd")?;
        let version = version_after(&output_of(&server, "--version")?, "Ver")?;
        Some(Self {
            server,
            binlog: find_program("mariadb-binlog")?,
            client: find_program("mariadb")?,
            version,
            setup: Setup::Script(find_program("mariadb-install-db")?),
        })
    }

    /// The programs in a folder that [`fetch_sid::fetch`] made.
    fn unpacked(dir: &Path) -> Option<Self> {
        let program = |name: &str| Some(dir.join("bin").join(name)).filter(|p| p.is_file());
        Some(Self {
            server: program("mariadbd")?,
            binlog: program("mariadb-binlog")?,
            client: program("mariadb")?,
            version: fs::read_to_string(dir.join("version")).ok()?.trim().to_owned(),
            setup: Setup::Unpacked(dir.join("root")),
        })
    }

    /// The file of a server plugin; `None` where it isn't installed.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<PathBuf> {
        let root = match &self.setup {
            Setup::Script(_) => Path::new("/"),
            Setup::Unpacked(root) => root,
        };
        Some(root.join("usr/lib/mysql/plugin").join(format!("{name}.so"))).filter(|p| p.is_file())
    }

    /// Options that tell an unpacked server where its files are.
    fn base_options(&self) -> Vec<String> {
        match &self.setup {
            Setup::Script(_) => Vec::new(),
            Setup::Unpacked(root) => wire::unpacked_options(root, "mariadb"),
        }
    }
}

/// A MariaDB server: binlog on (ROW, full metadata), root over TCP and socket without a password.
#[derive(Debug)]
pub struct MariaDb(Instance<MariaDbKind>);
deref_to_instance!(MariaDb, MariaDbKind);

impl MariaDb {
    /// Starts the system's server (10.11 or newer), installing MariaDB if it is missing; returns when it answers.
    ///
    /// # Errors
    /// When it can't be installed or doesn't come up.
    pub fn start(options: StartOptions) -> Result<Self> {
        Self::start_need(options, Need::MariaDb)
    }

    /// Starts MariaDB 11.8 or newer, fetching it if it is missing; returns when it answers.
    ///
    /// # Errors
    /// When it can't be fetched or doesn't come up.
    pub fn start_11_8(options: StartOptions) -> Result<Self> {
        Self::start_need(options, Need::MariaDb118)
    }

    fn start_need(options: StartOptions, need: Need) -> Result<Self> {
        let installed = ensure(&[need])?;
        let programs = installed.mariadb.or(installed.mariadb118).ok_or_else(|| need.missing())?;
        Instance::start(options, || Ok(MariaDbKind(programs.clone()))).map(Self)
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

impl MariaDbKind {
    /// A data directory made by the SQL files of the unpacked server, as `mariadb-install-db` does: that script looks for
    /// the programs themselves, not for their wrappers. Made once per version, to copy from.
    fn template(&self, root: &Path) -> Result<PathBuf> {
        let template = cache::dir()?.join("templates").join(format!("mariadb-{}", self.0.version));
        let _lock = cache::lock("template")?;
        if !template.exists() {
            cache::fill(&template, |new| self.bootstrap(root, &new.join("data"), new))?;
        }
        Ok(template)
    }

    fn bootstrap(&self, root: &Path, data: &Path, temporary: &Path) -> Result<()> {
        fs::create_dir(data)?;
        let sql = temporary.join("bootstrap.sql");
        let mut all = File::create(&sql)?;
        // A statement ends with its line. No anonymous account; root needs no system account of that name.
        for statement in [
            "create database if not exists mysql;",
            "use mysql;",
            "set @skip_auth_anonymous=1;",
            "set @auth_root_socket=NULL;",
        ] {
            writeln!(all, "{statement}")?;
        }
        for name in [
            "mariadb_system_tables.sql",
            "mariadb_performance_tables.sql",
            "mariadb_system_tables_data.sql",
            "maria_add_gis_sp_bootstrap.sql",
            "mariadb_sys_schema.sql",
        ] {
            let file = root.join("usr/share/mariadb").join(name);
            all.write_all(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?)?;
            writeln!(all)?;
        }
        drop(all);
        run_with(
            process::Command::new(&self.0.server)
                .args(["--no-defaults", "--bootstrap", "--skip-log-bin", "--silent-startup"])
                .args(["--innodb-log-file-size=8M"])
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--tmpdir={}", temporary.display()))
                .args(self.0.base_options())
                .args(wire::user_option()),
            File::open(&sql)?.into(),
        )?;
        Ok(fs::remove_file(sql)?)
    }
}

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
        match &self.0.setup {
            Setup::Script(script) => cache::fill(&data, |new| {
                run(process::Command::new(script)
                    .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                    .arg(format!("--datadir={}", new.display()))
                    .env("TMPDIR", &place.dir)
                    .args(wire::user_option()))?;
                Ok(())
            }),
            Setup::Unpacked(root) => {
                let template = self.template(root)?.join("data");
                cache::fill(&data, |new| cache::copy_dir(&template, new))
            }
        }
    }

    fn command(&self, place: &Place, extra: &[String]) -> Command {
        let mut args = wire::common_options(place);
        args.extend(self.0.base_options());
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
