//! Prometheus: programs and instances.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::install::{Need, at_least, ensure, find_program, output_of, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::{fetch_sid, wire};

/// Paths of Prometheus' programs.
#[derive(Debug, Clone)]
pub struct PrometheusPrograms {
    /// `prometheus`.
    pub server: PathBuf,
    /// `promtool`.
    pub promtool: PathBuf,
    /// Such as `3.5.3`.
    pub version: String,
}

impl PrometheusPrograms {
    /// Those in `PATH` if they are 3 or newer, else the ones unpacked in the cache.
    #[must_use]
    pub fn find() -> Option<Self> {
        let in_path = || {
            let server = find_program("prometheus")?;
            let version = version_after(&output_of(&server, "--version")?, "version")?;
            at_least(&version, 3, 0).then_some(())?;
            Some(Self { server, promtool: find_program("promtool")?, version })
        };
        in_path().or_else(|| {
            let dir = fetch_sid::newest(&fetch_sid::PROMETHEUS)?;
            let program = |name: &str| Some(dir.join("bin").join(name)).filter(|p| p.is_file());
            Some(Self {
                server: program("prometheus")?,
                promtool: program("promtool")?,
                version: fs::read_to_string(dir.join("version")).ok()?.trim().to_owned(),
            })
        })
    }
}

/// A Prometheus server with a config of the caller's.
#[derive(Debug)]
pub struct Prometheus(Instance<PrometheusKind>);
deref_to_instance!(Prometheus, PrometheusKind);

impl Prometheus {
    /// Starts a server with this config, fetching Prometheus if it is missing; returns when it is ready.
    ///
    /// # Errors
    /// When it can't be fetched or doesn't come up, for a mistake in the config too.
    pub fn start(options: StartOptions, config: &str) -> Result<Self> {
        let programs = ensure(&[Need::Prometheus])?.prometheus;
        Instance::start(options, || {
            let programs = programs.clone().ok_or_else(|| Need::Prometheus.missing())?;
            Ok(PrometheusKind { programs, config: config.to_owned() })
        })
        .map(Self)
    }

    /// Paths of the programs.
    #[must_use]
    pub fn programs(&self) -> &PrometheusPrograms {
        &self.kind.programs
    }
}

#[derive(Debug)]
#[doc(hidden)]
pub struct PrometheusKind {
    programs: PrometheusPrograms,
    config: String,
}

impl Kind for PrometheusKind {
    const NAME: &'static str = "prometheus";

    fn version(&self) -> &str {
        &self.programs.version
    }

    fn prepare(&self, place: &Place, _args: &[String]) -> Result<()> {
        fs::write(place.dir.join("prometheus.yml"), &self.config).context("cannot write the config")
    }

    fn command(&self, place: &Place, extra: &[String]) -> Command {
        let mut args = vec![
            format!("--config.file={}", place.dir.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", place.data().display()),
            format!("--web.listen-address=127.0.0.1:{}", place.port),
        ];
        args.extend_from_slice(extra);
        Command { program: self.programs.server.clone(), args, env: Vec::new() }
    }

    fn answers(&self, place: &Place) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = wire::connect(place.port)?;
            stream.write_all(b"GET /-/ready HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
    }

    fn url(&self, port: u16) -> String {
        format!("http://127.0.0.1:{port}")
    }
}
