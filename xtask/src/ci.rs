//! `cargo xtask test`: what CI checks, step by step, the cheap ones first. Stops at the first failure and says how to
//! run that step alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rowbust_servers::install::{apt_install, find_program};
use rowbust_servers::{Need, cache, install};

/// Built once and kept in the cache: its own tree of dependencies takes minutes.
const CARGO_DENY: &str = "0.20.2";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what needs no server: formatting, lints, documentation, dependencies.
    #[arg(long)]
    quick: bool,
}

type Action = Box<dyn Fn(&Path) -> Result<()>>;

struct Step {
    /// The command line that does the same alone.
    alone: String,
    action: Action,
}

impl Step {
    fn new(alone: &str, action: impl Fn(&Path) -> Result<()> + 'static) -> Self {
        Self { alone: alone.into(), action: Box::new(action) }
    }

    /// A cargo command with environment variables.
    fn cargo(env: &[(&'static str, &str)], line: &'static str) -> Self {
        let env: Vec<_> = env.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        let variables: String = env.iter().map(|(k, v)| format!("{k}='{v}' ")).collect();
        Self::new(&format!("{variables}cargo {line}"), move |root| {
            call(cargo(root).args(line.split_whitespace()).envs(env.iter().map(|(k, v)| (k, v))))
        })
    }
}

/// What the tests must not skip.
macro_rules! required {
    () => {
        "mariadb,mariadb118,mysql,redis,redis8,valkey,kafka,chromium,prometheus,compose,systemd,faketime"
    };
}

/// Helm is built by Go, which not every machine has: elsewhere the workflow's job `chart` renders the chart.
fn helm_can_be_had() -> bool {
    ["helm", "go"].iter().any(|program| find_program(program).is_some())
}

fn steps(quick: bool) -> Result<Vec<Step>> {
    let lint = "clippy --workspace --all-targets --all-features -- -D warnings";
    let document = "doc --workspace --no-deps --all-features";
    let mut steps = vec![
        Step::new("cargo xtask servers install", move |_| prepare(quick)),
        Step::cargo(&[], "fmt --all --check"),
        Step::new("cargo deny check bans licenses sources", deny),
        Step::cargo(&[], lint),
        Step::cargo(&[("RUSTDOCFLAGS", "-D warnings")], document),
    ];
    if !quick {
        // What `cargo xtask demo` builds, on a machine without OpenSSL too.
        steps.push(Step::cargo(&[], "check --package rowbust --no-default-features"));
        steps.push(Step::cargo(&[], "check --package rowbust --no-default-features --features kafka"));
        let required = if helm_can_be_had() { concat!(required!(), ",helm") } else { required!() };
        // The daemon with failpoints, which crash tests would build once more otherwise.
        let daemon = crate::target()?.join("debug/rowbust");
        let env = [
            ("ROWBUST_REQUIRE", required),
            ("ROWBUST_BIN", &daemon.to_string_lossy()),
            ("RUST_TEST_THREADS", &test_threads()),
        ];
        steps.push(Step::cargo(&env, "test --workspace --features rowbust/failpoints --no-fail-fast"));
        steps.push(Step::cargo(&[], "xtask fuzz --seconds 10"));
        // With the daemon that the tests have built.
        steps.push(with_program("xtask soak --minutes 1 --rowbust", "debug"));
        steps.push(Step::cargo(&[], "xtask package"));
        // With the one in the package.
        steps.push(with_program("xtask demo --small --daemon", "release"));
    }
    Ok(steps)
}

/// The tests on servers wait for most of their time.
fn test_threads() -> String {
    (2 * std::thread::available_parallelism().map_or(2, usize::from)).to_string()
}

/// A cargo command whose last argument is the daemon of this profile.
fn with_program(line: &'static str, profile: &'static str) -> Step {
    let place = Path::new(profile).join("rowbust");
    Step::new(&format!("cargo {line} target/{}", place.display()), move |root| {
        call(cargo(root).args(line.split_whitespace()).arg(crate::target()?.join(&place)))
    })
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace()?;
    let start = Instant::now();
    let mut times: Vec<(String, Duration)> = Vec::new();
    for Step { alone, action } in steps(args.quick)? {
        eprintln!("\n== {alone}");
        let begun = Instant::now();
        let done = action(&root);
        times.push((alone.clone(), begun.elapsed()));
        if let Err(e) = done {
            summarise(&times, start.elapsed());
            return Err(e.context(format!("failed: {alone}\nrun it alone with the line above")));
        }
        eprintln!("== ok in {:.0} s", begun.elapsed().as_secs_f64());
    }
    summarise(&times, start.elapsed());
    Ok(())
}

fn summarise(times: &[(String, Duration)], total: Duration) {
    eprintln!();
    for (step, time) in times {
        eprintln!("{:>6.0} s  {step}", time.as_secs_f64());
    }
    eprintln!("{:>6.0} s  in all", total.as_secs_f64());
}

/// Servers, and what the builds of librdkafka and openssl-sys need.
fn prepare(quick: bool) -> Result<()> {
    if ["gcc", "g++", "make"].iter().any(|p| find_program(p).is_none()) {
        apt_install(&["build-essential"])?;
    }
    // For the driver mysql_cdc.
    if find_program("pkg-config").is_none() || !pkg_config("openssl") {
        apt_install(&["libssl-dev", "pkg-config"])?;
    }
    if !quick {
        let tools = [Need::Chromium, Need::Prometheus, Need::Compose, Need::Systemd, Need::Faketime];
        install::ensure(&[&Need::SERVERS[..], &tools].concat())?;
        if helm_can_be_had() {
            install::ensure(&[Need::Helm])?;
        }
    }
    Ok(())
}

/// Advisories are for the workflow: they need the network, and can fail without a change of ours.
fn deny(root: &Path) -> Result<()> {
    let program = tool("cargo-deny", CARGO_DENY)?;
    call(Command::new(program).args(["deny", "check", "bans", "licenses", "sources"]).current_dir(root))
}

/// Whether a library can be linked.
fn pkg_config(library: &str) -> bool {
    Command::new("pkg-config").args(["--exists", library]).status().is_ok_and(|status| status.success())
}

/// A cargo command of this version, built first if it is not in the cache.
pub(crate) fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let tools = cache::dir()?.join("tools");
    let program = tools.join("bin").join(name);
    let output = Command::new(&program).arg("--version").output();
    if !output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).trim() == format!("{name} {version}")) {
        eprintln!("building {name} {version} (some minutes, once)");
        std::fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
        call(
            // Elsewhere, so that this workspace's toolchain file and lock file don't count.
            cargo(&tools)
                // Without optimisation, which takes longer than it saves.
                .args(["install", "--locked", "--quiet", "--debug", "--version", version, "--root"])
                .arg(&tools)
                .arg(name),
        )?;
    }
    Ok(program)
}

/// Cargo in this folder, without the variables that name the package of the cargo that runs us.
fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir).env_remove("CARGO_MANIFEST_DIR");
    command
}

pub(crate) fn call(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}
