//! What a comparison found: written as `summary.json`, read by the report.
//!
//! Example: see [`Summary`].
//!
//! Guarantees: a summary of another format version is refused, as is one that isn't whole. Depends on [`crate::checker`].

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{checker, history::Nanos};

/// The format's version, counted up when a reader of the old one would misunderstand the new one.
///
/// Example: see [`Summary`].
pub const FORMAT: u32 = 1;

/// All runs of a comparison.
///
/// ```
/// use rowbust_lab::summary::{Environment, FORMAT, Summary};
/// let environment = Environment {
///     seed: 1,
///     database: "MariaDB 10.11".to_owned(),
///     redis: "Redis 7.0".to_owned(),
///     cores: 2,
///     command: "rowbust lab compare --quick".to_owned(),
/// };
/// let summary = Summary { format: FORMAT, environment, runs: Vec::new() };
/// # let file = tempfile::NamedTempFile::new()?;
/// # let path = file.path();
/// std::fs::write(path, serde_json::to_string(&summary)?)?;
/// assert_eq!(Summary::load(path)?, summary);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`FORMAT`].
    pub format: u32,
    /// Where it ran.
    pub environment: Environment,
    /// A run per strategy, workload and set of faults.
    pub runs: Vec<Run>,
}

/// Where a comparison ran, and how to run it again.
///
/// Example: see [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Of the workload's choices.
    pub seed: u64,
    /// Name and version.
    pub database: String,
    /// Name and version.
    pub redis: String,
    /// Processors that the run could use.
    pub cores: usize,
    /// The command line.
    pub command: String,
}

/// One strategy under one workload.
///
/// ```
/// use rowbust_lab::{
///     checker::Report,
///     summary::{Fault, Measures, Run},
/// };
/// let run = Run {
///     strategy: "cache-aside".to_owned(),
///     workload: "read-heavy".to_owned(),
///     length: 2_000_000_000,
///     fault: "slow-reader".to_owned(),
///     struck: [("slow-reader".to_owned(), 3)].into(),
///     faults: vec![Fault { name: "slow-reader".to_owned(), from: 500_000_000, to: 1_500_000_000 }],
///     stale_keys: vec![(1_000_000_000, 4)],
///     report: Report { reads: 900, stale_reads: 9, writes: 100, ..Report::default() },
///     measures: Measures { database_reads: 90, fills: 90, ..Measures::default() },
///     void: None,
///     repeats: 0,
/// };
/// assert_eq!(run.throughput(), 500.0);
/// assert_eq!(run.stale_ratio(), 0.01);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// As in `docs/strategies.md`.
    pub strategy: String,
    /// As in `docs/lab.md`.
    pub workload: String,
    /// How long operations were made, in nanoseconds.
    pub length: Nanos,
    /// Names of the faults, with `+` between; `none`.
    #[serde(default)]
    pub fault: String,
    /// How often each truly struck, of those that can strike the strategy.
    #[serde(default)]
    pub struck: BTreeMap<String, u64>,
    /// When which fault was on.
    pub faults: Vec<Fault>,
    /// Keys whose cached version wasn't the database's, as they were counted while it ran: time and number.
    pub stale_keys: Vec<(Nanos, u64)>,
    /// What the checker says.
    pub report: checker::Report,
    /// What clients and daemon counted.
    #[serde(default)]
    pub measures: Measures,
    /// Why the run counts for nothing, if it does: a fault that never struck, for one.
    pub void: Option<String>,
    /// How often it was made before and showed nothing: a fault never struck, or less was found than a threshold asks for.
    #[serde(default)]
    pub repeats: u32,
}

/// What clients and daemon counted.
///
/// Example: see [`Run`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Loads: reads of the database for the cache.
    pub database_reads: u64,
    /// Fills that were accepted.
    pub fills: u64,
    /// Fills that were refused: a lease was revoked, a fence had moved.
    pub refused_fills: u64,
    /// Reads that loaded without filling, as somebody else had the right to fill.
    pub lock_waits: u64,
    /// Locks that were lost while they were held.
    pub locks_lost: u64,
    /// Second deletes of `delayed-double-delete`.
    pub second_deletes: u64,
    /// Commands of reads that Redis didn't carry out.
    pub cache_errors: u64,
    /// Writes after which keys couldn't be removed.
    pub not_removed: u64,
    /// From a commit to its first removal, by the daemon. MariaDB's binlog has whole seconds: there from the event's receipt. Since the
    /// daemon's last start.
    pub first_removal: Option<Removal>,
    /// The same to the second removal.
    pub second_removal: Option<Removal>,
    /// What the workload found wrong in itself at the end: more sold than there was, for one.
    pub broken: Vec<String>,
}

/// How long removals took, in seconds.
///
/// ```
/// use rowbust_lab::summary::Removal;
/// // 99 of 100 removals within 5 ms, one within 50 ms.
/// let removal = Removal { count: 100, p50: Some(0.005), p99: Some(0.005), buckets: vec![(0.005, 99), (0.05, 100)] };
/// assert!(removal.p99 < Some(0.05));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Removal {
    /// How many there were.
    pub count: u64,
    /// Half of them took at most this: the bound of a bucket. None: longer than the last one.
    pub p50: Option<f64>,
    /// 99 %.
    pub p99: Option<f64>,
    /// Bound, and how many took at most this.
    pub buckets: Vec<(f64, u64)>,
}

/// A fault and its time.
///
/// Example: see [`Run`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What it is.
    pub name: String,
    /// From the run's begin.
    pub from: Nanos,
    /// From the run's begin.
    pub to: Nanos,
}

impl Run {
    /// Operations per second.
    ///
    /// Example: see [`Run`].
    #[allow(clippy::cast_precision_loss)]
    pub fn throughput(&self) -> f64 {
        let operations = self.report.reads + self.report.writes;
        if self.length == 0 { 0.0 } else { operations as f64 / (self.length as f64 / 1e9) }
    }

    /// Stale reads among all that had a value.
    ///
    /// Example: see [`Run`].
    #[allow(clippy::cast_precision_loss)]
    pub fn stale_ratio(&self) -> f64 {
        if self.report.reads == 0 { 0.0 } else { self.report.stale_reads as f64 / self.report.reads as f64 }
    }
}

/// Why a summary can't be used.
///
/// ```
/// use std::path::Path;
/// use rowbust_lab::summary::{Summary, SummaryError};
/// let missing = Summary::load(Path::new("no/such/summary.json"));
/// assert!(matches!(missing, Err(SummaryError::File { .. })));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// The file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Its content.
    #[error("{path}: not a summary of a comparison: {source}")]
    Content {
        /// Which.
        path: String,
        /// Place and cause.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("{path}: format {found}, this version reads {FORMAT}; run the comparison again")]
    Format {
        /// Which.
        path: String,
        /// What it says.
        found: u32,
    },
}

impl Summary {
    /// Reads `summary.json`.
    ///
    /// # Errors
    /// See [`SummaryError`].
    ///
    /// Example: see [`Summary`].
    pub fn load(path: &Path) -> Result<Self, SummaryError> {
        let name = || path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| SummaryError::File { path: name(), source })?;
        let content = |source| SummaryError::Content { path: name(), source };
        // The version first: the rest of another one can be anything.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_str(&text).map_err(content)?;
        if format != FORMAT {
            return Err(SummaryError::Format { path: name(), found: format });
        }
        serde_json::from_str(&text).map_err(content)
    }
}
