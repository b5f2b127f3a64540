//! What can go wrong with a run, as opposed to what it finds.

use std::{io, path::Path};

use crate::checker::Impossible;

/// Why a run couldn't be made, or counts for nothing.
///
/// ```no_run
/// use rowbust_lab::live::{LiveError, World, WorldOptions};
/// # async fn example() {
/// match World::start(WorldOptions::new("target/debug/rowbust")).await {
///     Ok(world) => println!("{}", world.versions().0),
///     // With what installs it.
///     Err(LiveError::Missing(what)) => eprintln!("{what}"),
///     Err(error) => eprintln!("no servers: {error}"),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A server's programs aren't here.
    #[error("{0}")]
    Missing(String),
    /// A server that was started, or given, doesn't do what it should.
    #[error("{doing}: {cause}")]
    Server {
        /// What was tried.
        doing: String,
        /// What came of it.
        cause: String,
    },
    /// The database.
    #[error("{doing}: {source}")]
    Database {
        /// What was asked.
        doing: String,
        /// What came of it.
        source: mysql_async::Error,
    },
    /// Redis.
    #[error("{doing}: {source}")]
    Redis {
        /// What was asked.
        doing: String,
        /// What came of it.
        source: redis::RedisError,
    },
    /// The client library.
    #[error(transparent)]
    Client(#[from] rowbust_client::Error),
    /// A file or folder.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The report.
    #[error(transparent)]
    Report(#[from] crate::report::ReportError),
    /// What was asked for can't be.
    #[error("{0}")]
    Usage(String),
    /// The history is one that no run can produce: a mistake in the lab.
    #[error("the lab is wrong: {0}")]
    Impossible(#[from] Impossible),
    /// It was asked to end.
    #[error("interrupted: nothing is judged")]
    Interrupted,
}

impl LiveError {
    pub(super) fn server(doing: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Server { doing: doing.into(), cause: format!("{cause:#}") }
    }

    pub(super) fn database(doing: impl Into<String>) -> impl FnOnce(mysql_async::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Database { doing, source }
    }

    pub(super) fn redis(doing: impl Into<String>) -> impl FnOnce(redis::RedisError) -> Self {
        let doing = doing.into();
        move |source| Self::Redis { doing, source }
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { path, source }
    }
}
