//! The validated configuration: what the rest of the daemon works with.
//!
//! Guarantees: a [`Config`] can't hold nonsense. It is made only by [`load`] and [`parse`], which report every
//! mistake in one run with file, line, column, code, source line and help. Secrets are [`secrecy`] values and are
//! never printed. May depend on `rowbust-protocol` (templates) and nothing else of ours.

mod codes;
mod connections;
mod diag;
mod fields;
mod keys;
mod mappings;
mod mask;
mod node;
mod redis;
mod rules;
mod schema;
mod settings;
mod show;
mod storage;
mod units;
mod url;
mod walk;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use self::units::{show_duration, show_size};
pub use self::{
    codes::Code,
    diag::{Diagnostic, Report, Style},
    fields::{SECTIONS, codes_markdown, fields_markdown},
    rules::{ALARM_ABOVE, DdlPolicy, Events, Image, KeyOp, KeyRule, Mapping, OnDdl, SecondRemoval, When},
    schema::schema,
    settings::{
        Admin, Checkpoint, ClientCertificate, Driver, Durability, Limits, MIN_TOKEN, Password, Policies,
        Policy, Properties, RedisMode, RedisTarget, Retry, RetryPolicy, Shared, Source, Start, Tier, Tls,
        TlsMode,
    },
    show::Shown,
    storage::RESERVED_PROPERTIES,
    walk::Env,
};
use self::{
    node::{Node, Value},
    walk::Walk,
};
pub(crate) use self::{url::is_loopback, walk::nearest};

/// Everything that `rowbust.yaml` says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server whose binlog is followed.
    pub source: Source,
    /// Redis targets by name, in the order of the file. At least one.
    pub redis: Vec<RedisTarget>,
    /// Where failed removals are kept.
    pub retry: Retry,
    /// Where the position to resume from is kept.
    pub checkpoint: Checkpoint,
    /// The admin HTTP server.
    pub admin: Admin,
    /// Bounds.
    pub limits: Limits,
    /// Tables to keys, in the order of the file. At least one.
    pub mappings: Vec<Mapping>,
    /// Stable fingerprint of host name and config path: the default `server_id` is derived from it.
    pub fingerprint: u64,
}

/// Largest config file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads and validates a config file; `${NAME}` comes from the process' environment.
///
/// # Errors
/// Every mistake of the file, or that it can't be read.
pub fn load(file: &Path) -> Result<Config, Report> {
    let fail = |e: std::io::Error| {
        let help = "name the file with -c/--config; the default is ./rowbust.yaml";
        Report::of_file(file, format!("can't read the config file: {e}"), help)
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(fail)?;
    opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Report::of_file(file, "the config file is larger than 1 MiB".into(), "split it up"));
    }
    parse(&text, file, &|name| std::env::var(name).ok())
}

/// Validates the text of a config file. `file` gives messages their name, relative paths their folder, and the
/// fingerprint; it is not opened.
///
/// # Errors
/// Every mistake of the text.
pub fn parse(text: &str, file: &Path, env: &Env<'_>) -> Result<Config, Report> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
    let root = match node::parse(text) {
        Ok(Some(root)) => root,
        Ok(None) => Node { span: 0..0, value: Value::Map(Vec::new()) },
        Err(e) => return Err(Report::new(file, text, vec![diag::of_yaml(&e, text)], &mask::guess(text))),
    };
    let mut secrets = Vec::new();
    root.secrets(text, &mut secrets);
    let mut walk = Walk { text, env, base, mistakes: Vec::new(), secrets };
    let config = walk.root(&root, fingerprint(&absolute));
    match config {
        Some(config) if walk.mistakes.is_empty() => Ok(config),
        _ => Err(Report::new(file, text, walk.mistakes, &walk.secrets)),
    }
}

impl Walk<'_> {
    fn root(&mut self, node: &Node, fingerprint: u64) -> Option<Config> {
        let object = self.object(node, 0..0, &fields::ROOT)?;
        let at = |name: &str| object.get(name).map(|node| (node, object.key_span(name)));
        if let Some(node) = object.get("version") {
            self.version(node);
        }
        let source = at("source").and_then(|(node, span)| self.source(node, span));
        let redis = at("redis").and_then(|(node, span)| self.redis(node, span));
        let checkpoint = self.checkpoint(at("checkpoint"), source.as_ref(), redis.as_deref());
        let retry = self.retry(at("retry"), checkpoint.as_ref());
        let admin = self.admin(at("admin"));
        let limits = self.limits(at("limits"));
        let policies = source.as_ref().map(|source| source.policies).unwrap_or_default();
        let mappings =
            object.get("mappings").and_then(|node| self.mappings(node, redis.as_deref(), policies));
        if let (Some(checkpoint), Some(mappings)) = (&checkpoint, &mappings) {
            self.checkpoint_apart(checkpoint, at("checkpoint"), mappings);
        }
        if let Some(mappings) = &mappings {
            self.sets_are_alone(mappings);
        }
        Some(Config {
            source: source?,
            redis: redis?,
            retry: retry?,
            checkpoint: checkpoint?,
            admin: admin?,
            limits: limits?,
            mappings: mappings?,
            fingerprint,
        })
    }
}

/// A duration as it is written in the config, such as `2h`.
///
/// # Errors
/// What is wrong with it, and what to write.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|(why, help)| format!("{why}: {help}"))
}

/// FNV-1a over host name and config path: stable across restarts and versions, and different for two configs on one
/// host.
fn fingerprint(file: &Path) -> u64 {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let bytes = host.as_encoded_bytes().iter().chain(&[0]).chain(file.as_os_str().as_encoded_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}
