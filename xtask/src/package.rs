//! `cargo xtask package`: builds what a release consists of (`deploy/dist.sh`) and looks into it as a user would: the archive is unpacked,
//! the Debian package installed into a folder, used, and purged. Touches nothing outside the target folder and `~/.cache/rowbust`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rowbust_servers::install::find_program;

use crate::ci::{call, tool};

const CARGO_DEB: &str = "3.8.0";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A static program for this processor and musl, by `cargo zigbuild` and zig, which must be in PATH.
    #[arg(long, value_name = "ARCH-unknown-linux-musl")]
    target: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace()?;
    let dist = root.join("target/dist");
    build(&root, args.target.as_deref())?;
    let version = env!("CARGO_PKG_VERSION");
    // What was made is what the checksums name.
    let triple = args.target.clone().unwrap_or(format!("{}-linux", std::env::consts::ARCH));
    let sums = dist.join(format!("rowbust-{version}-{triple}.sha256"));
    let text = fs::read_to_string(&sums).with_context(|| format!("cannot read {}", sums.display()))?;
    call(Command::new("sha256sum").args(["--check", "--strict"]).arg(&sums).current_dir(&dist))?;
    let made = |suffix: &str| -> Result<PathBuf> {
        let name = text.split_whitespace().find(|word| word.ends_with(suffix));
        Ok(dist.join(name.with_context(|| format!("{}: no {suffix}", sums.display()))?))
    };
    let foreign = !triple.starts_with(std::env::consts::ARCH);
    look_into_archive(&root, &made(".tar.gz")?, foreign, args.target.is_some())?;
    look_into_package(&root, &made(".deb")?, foreign)?;
    eprintln!("packages: {}", dist.display());
    Ok(())
}

fn build(root: &Path, target: Option<&str>) -> Result<()> {
    let tools = tool("cargo-deb", CARGO_DEB)?;
    let tools = tools.parent().context("cargo-deb has no folder")?;
    if target.is_some() && find_program("cargo-zigbuild").is_none() {
        bail!(
            "no cargo-zigbuild in PATH: please `pip install ziglang cargo-zigbuild` (in a venv), and `rustup target add` the target"
        );
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(root.join("deploy/dist.sh"));
    command.args(target).env_remove("CARGO_MANIFEST_DIR");
    call(command.env("PATH", format!("{}:{path}", tools.display())).current_dir(root))
}

/// It has all that docs/production.md says, and the program runs from it. A static one needs no library.
fn look_into_archive(root: &Path, archive: &Path, foreign: bool, fixed: bool) -> Result<()> {
    let dir = scratch(root, "archive")?;
    call(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&dir).arg("--strip-components=1"))?;
    for file in
        ["man/rowbust.1", "completions/_rowbust", "systemd/rowbust.service", "docs/config.md", "LICENSE-MIT"]
    {
        ensure!(dir.join(file).is_file(), "{}: lacks {file}", archive.display());
    }
    let program = dir.join("rowbust");
    let size = fs::metadata(&program)?.len();
    ensure!(size < 64 << 20, "{}: {size} bytes, with line numbers?", program.display());
    if fixed {
        let headers = output(Command::new("readelf").args(["-lW"]).arg(&program))?;
        ensure!(!headers.contains("INTERP"), "{}: the program asks for a loader", archive.display());
    }
    if !foreign {
        works(&program, &dir.join("config/minimal.yaml"))?;
    }
    same(&dir.join("config/rowbust.schema.json"), &root.join("config/rowbust.schema.json"))
}

/// Installed below a folder: the maintainer's scripts run, the unit's program is there and works; a purge leaves what is the operator's.
fn look_into_package(root: &Path, package: &Path, foreign: bool) -> Result<()> {
    let control = output(Command::new("dpkg-deb").arg("--field").arg(package))?;
    for field in ["Package: rowbust", "Maintainer:", "Description:", "Architecture:"] {
        ensure!(control.contains(field), "{}: no `{field}`\n{control}", package.display());
    }
    if foreign {
        return Ok(());
    }
    let dir = scratch(root, "installed")?;
    for part in ["var/lib/dpkg/updates", "var/lib/dpkg/info"] {
        fs::create_dir_all(dir.join(part))?;
    }
    for file in ["status", "available"] {
        fs::write(dir.join("var/lib/dpkg").join(file), "")?;
    }
    let dpkg = || {
        let mut command = Command::new("dpkg");
        // Its dependencies are this machine's, not the folder's; its scripts honour DPKG_ROOT.
        command
            .arg(format!("--root={}", dir.display()))
            .args(["--force-script-chrootless", "--force-depends"]);
        command.args(["--force-not-root", "--log=/dev/null"]);
        command
    };
    call(dpkg().arg("--install").arg(package))?;
    let unit = fs::read_to_string(dir.join("usr/lib/systemd/system/rowbust.service"))?;
    let start =
        unit.lines().find_map(|l| l.strip_prefix("ExecStart=/")).context("the unit starts nothing")?;
    let program = dir.join(start.split(' ').next().unwrap_or_default());
    works(&program, &dir.join("usr/share/doc/rowbust/examples/minimal.yaml"))?;
    for file in
        ["man/man1/rowbust.1.gz", "bash-completion/completions/rowbust", "doc/rowbust/production.md.gz"]
    {
        let file = dir.join("usr/share").join(file);
        ensure!(
            file.is_file() || file.with_extension("").is_file(),
            "{}: lacks {}",
            package.display(),
            file.display()
        );
    }
    let secrets = dir.join("etc/rowbust/secrets");
    let mode = fs::metadata(&secrets).context("no folder of secrets")?.permissions().mode() & 0o777;
    ensure!(mode == 0o700, "{}: mode {mode:o}", secrets.display());
    // As the running service has it.
    let state = dir.join("var/lib/rowbust");
    fs::create_dir_all(&state)?;
    fs::write(state.join("checkpoint"), "x")?;
    fs::write(dir.join("etc/rowbust/rowbust.yaml"), "x")?;
    call(dpkg().args(["--remove", "rowbust"]))?;
    ensure!(state.join("checkpoint").is_file(), "removing the package removed the checkpoint");
    call(dpkg().args(["--purge", "rowbust"]))?;
    ensure!(!state.exists(), "a purge leaves {}", state.display());
    ensure!(dir.join("etc/rowbust/rowbust.yaml").is_file(), "a purge removed the operator's config");
    ensure!(!program.exists(), "a purge leaves {}", program.display());
    Ok(())
}

/// It says its version and finds a config good.
fn works(program: &Path, config: &Path) -> Result<()> {
    let said = output(Command::new(program).arg("--version"))?;
    ensure!(said.contains(env!("CARGO_PKG_VERSION")), "{}: {said}", program.display());
    output(Command::new(program).arg("-c").arg(config).arg("check").env("MYSQL_PASSWORD", "unused"))?;
    Ok(())
}

fn same(one: &Path, other: &Path) -> Result<()> {
    ensure!(fs::read(one)? == fs::read(other)?, "{} differs from {}", one.display(), other.display());
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An empty folder beside what was built.
fn scratch(root: &Path, name: &str) -> Result<PathBuf> {
    let dir = root.join("target/dist/looked-into").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
