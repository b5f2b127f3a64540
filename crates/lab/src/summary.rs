//! What a comparison found: written as `summary.json`, read by the report.
//!
//! Guarantees: a summary of another format version is refused, as is one that isn't whole. Depends on [`crate::checker`].

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{checker, history::Nanos};

/// The format's version, counted up when a reader of the old one would misunderstand the new one.
pub const FORMAT: u32 = 1;

/// All runs of a comparison.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// As in `docs/strategies.md`.
    pub strategy: String,
    /// As in `docs/lab.md`.
    pub workload: String,
    /// How long operations were made, in nanoseconds.
    pub length: Nanos,
    /// When which fault was on.
    pub faults: Vec<Fault>,
    /// Keys whose cached version wasn't the database's, as they were counted while it ran: time and number.
    pub stale_keys: Vec<(Nanos, u64)>,
    /// What the checker says.
    pub report: checker::Report,
    /// Why the run counts for nothing, if it does: a fault that never struck, for one.
    pub void: Option<String>,
}

/// A fault and its time.
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
    #[allow(clippy::cast_precision_loss)]
    pub fn throughput(&self) -> f64 {
        let operations = self.report.reads + self.report.writes;
        if self.length == 0 { 0.0 } else { operations as f64 / (self.length as f64 / 1e9) }
    }

    /// Stale reads among all that had a value.
    #[allow(clippy::cast_precision_loss)]
    pub fn stale_ratio(&self) -> f64 {
        if self.report.reads == 0 { 0.0 } else { self.report.stale_reads as f64 / self.report.reads as f64 }
    }
}

/// Why a summary can't be used.
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
