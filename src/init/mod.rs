//! A first config from a live database: `rowbust init`.
//!
//! Guarantees: whatever the names of schemas, tables and columns, the text that is made passes `rowbust check`; what isn't certain (which
//! further keys the cache has) stands in it as comments. Nothing on the server is changed, no row is read. May depend on `config` and
//! `source`.
//!
//! - `survey`: what tables there are. `render`: tables to YAML. `yaml`: names as they stand there.

mod render;
mod survey;
mod yaml;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

pub use self::{
    render::{Rendered, render},
    survey::{Foreign, Table},
};
use crate::{
    config::{self, Config, Report},
    source::{SourceError, connect::Connector},
};

/// What the user says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `mysql://USER@HOST:PORT`, without a password.
    pub source: String,
    /// Where the password comes from.
    pub password: PasswordFrom,
    /// Mode of TLS to the database; `None`: by the config's default.
    pub tls: Option<String>,
    /// `ca_file` of it.
    pub ca_file: Option<PathBuf>,
    /// URL of Redis; `None`: that of a Redis on this machine.
    pub redis: Option<String>,
    /// Only these schemas; empty: all.
    pub schemas: Vec<String>,
    /// Only tables whose name matches this glob.
    pub tables: Option<String>,
    /// The file that is to be written: the default server id and relative paths depend on it.
    pub output: PathBuf,
}

/// Where the database's password comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PasswordFrom {
    /// There is none.
    #[default]
    Nowhere,
    /// The environment variable of this name.
    Environment(String),
    /// A file.
    File(PathBuf),
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The arguments make no valid config: in the words of `rowbust check`.
    #[error("the arguments make no valid config")]
    Invalid(Box<Report>),
    /// The glob can't be read.
    #[error("`{0}` is no glob: {1}")]
    Glob(String, String),
    /// The server can't be asked.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is nothing to map.
    #[error("{what}\n  {help}")]
    Nothing {
        /// What was looked for.
        what: String,
        /// What to do.
        help: String,
    },
}

/// The head of the file: everything before `mappings`.
fn head(options: &Options, about: &str, server_id: Option<(u32, &str)>) -> String {
    let mut out = String::from("# yaml-language-server: $schema=rowbust.schema.json\n");
    out.push_str(&format!("# Written by `rowbust init`{}.\n", yaml::comment(about)));
    out.push_str(
        "# Lines behind a `#` are guesses: take those that your cache has. Fields: docs/config.md, templates: docs/mappings.md.\nversion: 1\n\n",
    );
    out.push_str(&format!("source:\n  url: {}\n", yaml::quoted(&options.source)));
    match &options.password {
        PasswordFrom::Nowhere => {}
        PasswordFrom::Environment(name) => out.push_str(&format!("  password: ${{{name}}}\n")),
        PasswordFrom::File(path) => out.push_str(&format!("  password_file: {}\n", yaml::path(path))),
    }
    match (&options.tls, &options.ca_file) {
        (None, None) => {}
        (Some(mode), None) => out.push_str(&format!("  tls: {}\n", yaml::quoted(mode))),
        (mode, Some(ca)) => out.push_str(&format!(
            "  tls: {{ mode: {}, ca_file: {} }}\n",
            yaml::quoted(mode.as_deref().unwrap_or("verify_identity")),
            yaml::path(ca)
        )),
    }
    if let Some((id, note)) = server_id {
        out.push_str(&format!("  server_id: {id}  # {note}\n"));
    }
    out.push_str("  # replicas: [\"db2:3306\"]  # every further server that cache fills read from\n");
    let redis = options.redis.as_deref().unwrap_or("redis://127.0.0.1:6379/0");
    out.push_str(&format!("\nredis:\n  main:\n    url: {}\n", yaml::quoted(redis)));
    out.push_str("    # password: ${REDIS_PASSWORD}\n\nmappings:\n");
    out
}

/// The config, if the text is valid at that path. A variable that isn't set stands for any text: an empty one would be a mistake.
fn parsed(text: &str, file: &Path) -> Result<Config, Box<Report>> {
    config::parse(text, file, &|name| Some(std::env::var(name).unwrap_or_else(|_| "not set".to_owned())))
        .map_err(Box::new)
}

/// Asks the database and makes the config.
///
/// # Errors
/// See [`InitError`]; then there is nothing to be written.
pub async fn init(options: &Options) -> Result<Rendered, InitError> {
    let glob = options.tables.as_deref().map(glob).transpose()?;
    // With any mapping: what is wrong with the arguments shows before anything is asked.
    let trial = format!("{}  - {{ table: a.b, keys: [a] }}\n", head(options, "", None));
    let config = parsed(&trial, &options.output).map_err(InitError::Invalid)?;
    let connector = Connector::new(&config.source);
    let found = survey::survey(&connector, &config).await?;
    let wanted = |table: &Table| {
        (options.schemas.is_empty() || options.schemas.contains(&table.schema))
            && glob.as_ref().is_none_or(|glob| {
                glob.is_match(&table.name) || glob.is_match(format!("{}.{}", table.schema, table.name))
            })
    };
    let tables: Vec<Table> = found.tables.into_iter().filter(wanted).collect();
    if tables.is_empty() {
        return Err(InitError::Nothing {
            what: "the account sees no such table".into(),
            help: format!(
                "look at --schema and --tables (letter case counts); what it may not read it doesn't see: GRANT SELECT ON `SCHEMA`.* TO {};",
                found.account
            ),
        });
    }
    let about = format!(" from {} at {}", found.version, connector.primary_address());
    let head = head(options, &about, Some((found.server_id, found.server_id_note)));
    render(&head, &tables, &options.output)
}

fn glob(text: &str) -> Result<GlobMatcher, InitError> {
    let made = GlobBuilder::new(text).backslash_escape(false).build();
    made.map(|glob| glob.compile_matcher())
        .map_err(|error| InitError::Glob(text.to_owned(), error.kind().to_string()))
}
