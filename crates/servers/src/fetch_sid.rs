//! MySQL 9, MariaDB 11.8, Redis 8, Valkey, Prometheus and Docker Compose from Debian's unstable suite, unpacked into the cache.
//!
//! They are built against a newer libc than a stable system has. So the server, its libraries and *their* libc are
//! unpacked into a folder of their own, and small wrappers run the programs under that libc's loader. The host is not touched: apt gets a private configuration, private lists and an empty
//! package status, and `dpkg-deb -x` runs no package script. Packages are verified by apt against Debian's keys.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cache;
use crate::install::{at_least, find_program, output_of, run, version_after};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One server in the suite.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// What its folders in the cache are called, before their version.
    name: &'static str,
    /// For messages.
    title: &'static str,
    /// What it downloads, about.
    megabytes: u32,
    /// What to install by hand where nothing can be fetched.
    instead: &'static str,
    /// Those that are wanted; the libraries come along.
    packages: &'static [&'static str],
    /// The programs that get a wrapper; the first is the server.
    programs: &'static [&'static str],
    /// What stands before the version in what the server says to `--version`.
    marker: &'static str,
    /// Whether this version is what it should be.
    fits: fn(&str) -> bool,
}

/// MySQL 9.
pub(crate) const MYSQL: Recipe = Recipe {
    name: "mysql",
    title: "MySQL 9",
    megabytes: 60,
    instead: "please install MySQL 9, so that mysqld and mysqlbinlog are in PATH",
    packages: &["mysql-server-core", "mysql-client-core"],
    programs: &["usr/sbin/mysqld", "usr/bin/mysql", "usr/bin/mysqlbinlog", "usr/bin/mysqladmin"],
    marker: "Ver",
    fits: |version| version.starts_with("9."),
};

/// MariaDB 11.8 or newer. Its plugins are in the package `mariadb-server`, of which nothing else is used.
pub(crate) const MARIADB: Recipe = Recipe {
    name: "mariadb",
    title: "MariaDB 11.8",
    megabytes: 60,
    instead: "please install MariaDB 11.8, so that mariadbd and mariadb-binlog are in PATH",
    packages: &["mariadb-server-core", "mariadb-client-core", "mariadb-client", "mariadb-server"],
    programs: &["usr/sbin/mariadbd", "usr/bin/mariadb", "usr/bin/mariadb-binlog", "usr/bin/mariadb-admin"],
    marker: "Ver",
    fits: |version| at_least(version, 11, 8),
};

/// Redis 8 or newer. The server is a link of its package to a program of the tools' package.
pub(crate) const REDIS: Recipe = Recipe {
    name: "redis8",
    title: "Redis 8",
    megabytes: 15,
    instead: "please install Redis 8, so that redis-server and redis-cli are in PATH",
    packages: &["redis-server", "redis-tools"],
    programs: &["usr/bin/redis-server", "usr/bin/redis-cli"],
    marker: "v=",
    fits: |version| at_least(version, 8, 0),
};

/// Valkey 8 or newer.
pub(crate) const VALKEY: Recipe = Recipe {
    name: "valkey",
    title: "Valkey",
    megabytes: 15,
    instead: "please install Valkey 8, so that valkey-server and valkey-cli are in PATH",
    packages: &["valkey-server", "valkey-tools"],
    programs: &["usr/bin/valkey-server", "usr/bin/valkey-cli"],
    marker: "v=",
    fits: |version| at_least(version, 8, 0),
};

/// Prometheus 3 and promtool, which comes in a package of its own.
pub(crate) const PROMETHEUS: Recipe = Recipe {
    name: "prometheus",
    title: "Prometheus 3",
    megabytes: 45,
    instead: "please install Prometheus 3, so that prometheus and promtool are in PATH",
    packages: &["prometheus", "promtool"],
    programs: &["usr/bin/prometheus", "usr/bin/promtool"],
    marker: "version",
    fits: |version| at_least(version, 3, 0),
};

/// Docker Compose 2: `config` needs no engine.
pub(crate) const COMPOSE: Recipe = Recipe {
    name: "compose",
    title: "Docker Compose 2",
    megabytes: 20,
    instead: "please install Docker Compose 2, so that docker-compose is in PATH",
    packages: &["docker-compose"],
    programs: &["usr/libexec/docker/cli-plugins/docker-compose"],
    marker: "version",
    fits: |version| at_least(version, 2, 20),
};

/// The folder of the newest version in the cache.
pub(crate) fn newest(recipe: &Recipe) -> Option<PathBuf> {
    let version = |p: &Path| -> Option<Vec<u32>> {
        let name = p.file_name()?.to_str()?;
        let version = name.strip_prefix(recipe.name)?.strip_prefix('-')?;
        Some(version.split('.').map(|n| n.parse().unwrap_or(0)).collect())
    };
    fs::read_dir(cache::dir().ok()?.join("servers"))
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter_map(|p| Some((version(&p)?, p)))
        .max()
        .map(|(_, p)| p)
}

/// Downloads and unpacks a server; the caller holds the installation lock.
pub(crate) fn fetch(recipe: &Recipe) -> Result<()> {
    let Recipe { name, title, megabytes, instead, packages, programs, marker, fits } = recipe;
    let start = Instant::now();
    for program in ["apt-get", "dpkg-deb"] {
        if find_program(program).is_none() {
            bail!("not a Debian or Ubuntu system: {instead}");
        }
    }
    let mirror = mirror(recipe)?;
    eprintln!("fetching {title} from Debian unstable at {mirror} (about {megabytes} MB)");
    let servers = cache::dir()?.join("servers");
    fs::create_dir_all(&servers)?;
    let temporary = tempfile::Builder::new().prefix(".apt-").tempdir_in(&servers)?;
    let apt = PrivateApt::new(temporary.path(), &mirror)?;
    let packages = apt.closure(packages)?;
    let debs = apt.download(&packages)?;
    let size: u64 = debs.iter().filter_map(|d| Some(fs::metadata(d).ok()?.len())).sum();

    let new = temporary.path().join("new");
    let root = new.join("root");
    fs::create_dir_all(&root)?;
    for deb in &debs {
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root))?;
    }
    for unused in ["doc", "man", "locale", "info", "lintian"] {
        _ = fs::remove_dir_all(root.join("usr/share").join(unused));
    }
    fs::create_dir(new.join("bin"))?;
    for program in *programs {
        write_wrapper(&new, program)?;
    }
    let server = Path::new(programs.first().context("no program")?).file_name().context("no name")?;
    let said = output_of(&new.join("bin").join(server), "--version")
        .with_context(|| format!("the unpacked {title} does not run"))?;
    let version = version_after(&said, marker).with_context(|| format!("no version in {said:?}"))?;
    if !fits(&version) {
        bail!("Debian unstable has {name} {version}, not {title}: {instead}");
    }
    fs::write(new.join("version"), &version)?;
    fs::rename(&new, servers.join(format!("{name}-{version}")))
        .with_context(|| format!("cannot move {title} to its place"))?;
    eprintln!(
        "{title} ({version}): {} packages, {} MB, in {:.0} s",
        debs.len(),
        size / 1_000_000,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The Debian mirror that this system's apt uses already; `ROWBUST_DEBIAN_MIRROR` where it uses none (Ubuntu).
fn mirror(recipe: &Recipe) -> Result<String> {
    if let Ok(mirror) = std::env::var("ROWBUST_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let format = "$(SITE)|$(ORIGIN)|$(LABEL)|$(RELEASE)|$(COMPONENT)";
    let targets =
        run(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    pick_mirror(&targets, &os).ok_or_else(|| {
        anyhow!(
            "apt knows no Debian mirror here, and {} comes from one: {}, or set ROWBUST_DEBIAN_MIRROR and install \
             debian-archive-keyring",
            recipe.title,
            recipe.instead
        )
    })
}

/// A line is Debian's main archive if its downloaded list says so, or, before any list is there, if it names this
/// Debian's own release.
fn pick_mirror(targets: &str, os_release: &str) -> Option<String> {
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|l| Some(l.strip_prefix(name)?.strip_prefix('=')?.trim_matches('"').to_owned()))
    };
    let codename = field("VERSION_CODENAME").filter(|_| field("ID").as_deref() == Some("debian"));
    targets.lines().find_map(|line| {
        let mut parts = line.split('|');
        let (site, origin, label) = (parts.next()?, parts.next()?, parts.next()?);
        let (release, component) = (parts.next()?, parts.next()?);
        let listed = origin == "Debian" && label == "Debian";
        let named = codename.as_deref() == Some(release) && component == "main";
        (listed || named).then(|| site.to_owned())
    })
}

/// apt with its own configuration, lists and (empty) package status.
struct PrivateApt {
    config: PathBuf,
    archives: PathBuf,
}

impl PrivateApt {
    fn new(dir: &Path, mirror: &str) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: please install debian-archive-keyring");
        }
        let archives = dir.join("archives");
        for sub in [dir.join("lists/partial"), archives.join("partial"), dir.join("none")] {
            fs::create_dir_all(sub)?;
        }
        fs::write(dir.join("status"), "")?;
        fs::write(
            dir.join("sid.sources"),
            format!("Types: deb\nURIs: {mirror}\nSuites: sid\nComponents: main\nSigned-By: {KEYRING}\n"),
        )?;
        let user = run(Command::new("id").arg("-un"))?;
        let mut config = String::new();
        let d = dir.display();
        // The host's configuration is shut out first: its hooks must not run here.
        for (name, value) in [
            ("Dir::Etc::main", "/dev/null".to_owned()),
            ("Dir::Etc::parts", format!("{d}/none")),
            ("Dir::Etc::sourcelist", format!("{d}/sid.sources")),
            ("Dir::Etc::sourceparts", format!("{d}/none")),
            ("Dir::Etc::preferences", "/dev/null".to_owned()),
            ("Dir::Etc::preferencesparts", format!("{d}/none")),
            ("Dir::State", d.to_string()),
            ("Dir::State::lists", format!("{d}/lists")),
            ("Dir::State::status", format!("{d}/status")),
            ("Dir::Cache", d.to_string()),
            ("Dir::Cache::archives", format!("{d}/archives")),
            ("APT::Sandbox::User", user.trim().to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
            // A mirror that lags may serve a Release file of unstable that has expired; it is signed all the same.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
        ] {
            writeln!(config, "{name} \"{value}\";")?;
        }
        let path = dir.join("apt.conf");
        fs::write(&path, config)?;
        let apt = Self { config: path, archives };
        run(apt.command("apt-get").args(["-qq", "update"]))
            .context("cannot read Debian unstable's package list")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Read before, and here instead of, /etc/apt: apt.conf(5).
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C").current_dir(&self.archives);
        command
    }

    /// The packages and all libraries they depend on. A server process runs no programs of other packages.
    fn closure(&self, packages: &[&str]) -> Result<Vec<String>> {
        let plan = run(self.command("apt-get").args(["install", "--simulate"]).args(packages))
            .context("cannot resolve the server's packages")?;
        let wanted = |p: &&str| {
            packages.contains(p) || *p == "zlib1g" || (p.starts_with("lib") && !p.starts_with("libperl"))
        };
        let list: Vec<String> = plan
            .lines()
            .filter_map(|l| l.strip_prefix("Inst ")?.split_whitespace().next())
            .filter(wanted)
            .map(String::from)
            .collect();
        if packages.iter().all(|p| list.iter().any(|l| l == p)) {
            Ok(list)
        } else {
            bail!("unexpected answer of apt-get install --simulate:\n{plan}")
        }
    }

    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        run(self.command("apt-get").args(["-qq", "download"]).args(packages))
            .context("cannot download the server's packages")?;
        let debs: Vec<PathBuf> = fs::read_dir(&self.archives)?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "deb"))
            .collect();
        if debs.len() == packages.len() {
            Ok(debs)
        } else {
            bail!("{} packages wanted, {} downloaded", packages.len(), debs.len())
        }
    }
}

/// Writes `bin/NAME`: the program under the unpacked loader and libraries. It replaces the shell, so its pid is the
/// one that was started; and it finds its files beside itself, so the folder can be moved.
fn write_wrapper(dir: &Path, program: &str) -> Result<()> {
    let root = dir.join("root");
    if !root.join(program).is_file() {
        bail!("the server's packages lack {program}");
    }
    let inside = |p: &Path| p.strip_prefix(&root).map(|p| p.display().to_string()).unwrap_or_default();
    let libraries = find_dir(&root.join("usr/lib"), "-linux-gnu")
        .context("the server's packages lack usr/lib/*-linux-gnu")?;
    let loader = ["usr/lib64", "usr/lib", "lib64", "lib"]
        .iter()
        .map(|d| root.join(d))
        .chain([libraries.clone()])
        .find_map(|d| find_loader(&d))
        .context("the server's packages lack a loader")?;
    let script = format!(
        "#!/bin/sh\n\
         # Runs the unpacked program under its own loader and libraries.\n\
         root=$(cd \"$(dirname \"$0\")/../root\" && pwd)\n\
         exec \"$root/{}\" --argv0 \"$root/{program}\" --library-path \"$root/{}\" \"$root/{program}\" \"$@\"\n",
        inside(&loader),
        inside(&libraries),
    );
    let name = Path::new(program).file_name().unwrap_or_default();
    let path = dir.join("bin").join(name);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn find_dir(dir: &Path, suffix: &str) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.is_dir() && p.to_string_lossy().ends_with(suffix))
}

fn find_loader(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-linux-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";

    #[test]
    fn mirror_of_a_debian_with_and_without_lists() {
        let third = "https://other.example/apt|Other|Other|cloud-bookworm|main\n";
        let fresh = format!("{third}http://m.example/debian|$(ORIGIN)|$(LABEL)|bookworm|main\n");
        assert_eq!(pick_mirror(&fresh, DEBIAN).as_deref(), Some("http://m.example/debian"));
        let listed = format!(
            "{third}http://m.example/debian-security|Debian|Debian-Security|bookworm-security|main\n\
             http://m.example/debian|Debian|Debian|stable|main\n"
        );
        assert_eq!(pick_mirror(&listed, DEBIAN).as_deref(), Some("http://m.example/debian"));
    }

    #[test]
    fn no_mirror_on_ubuntu() {
        let targets = "http://u.example/ubuntu|Ubuntu|Ubuntu|noble|main\n";
        assert_eq!(pick_mirror(targets, "ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
    }
}
