//! Why there is no checkpoint to be had, or it can't be saved. May depend on nothing of ours.

use std::{io, path::PathBuf};

/// What went wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Both generations of the file are unusable.
    #[error(
        "checkpoint {path}: {newest}; {previous_path}: {previous}. Refusing to guess a position: restore one of the files, or remove \
         both to begin at `source.start` (cached keys that changed meanwhile stay stale)"
    )]
    Corrupt {
        /// The newest generation.
        path: PathBuf,
        /// What is wrong with it.
        newest: String,
        /// The generation before.
        previous_path: PathBuf,
        /// What is wrong with that.
        previous: String,
    },
    /// Another process holds the file.
    #[error(
        "checkpoint {path} is in use by another rowbust: stop it, or give this one its own `checkpoint.path`"
    )]
    Locked {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The file can't be read or written.
    #[error("checkpoint {path}: can't {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A shared store holds something that can't be read.
    #[error(
        "checkpoint {place}: {why}. Refusing to guess a position: `rowbust checkpoint set` gives it a new one, from its backup or by \
         GTID (cached keys that changed meanwhile stay stale)"
    )]
    Unreadable {
        /// Which store and record.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// A shared store holds no position.
    #[error(
        "checkpoint {place}: there is none. If this deployment has never run, give it its first position: `rowbust checkpoint set \
         --latest`. If it has, the store has lost it: `rowbust checkpoint set --gtid …` with a position from a log, or \
         `source.on_gap: flush`, which removes every key that the mappings could make and goes on from the newest position"
    )]
    Absent {
        /// Which store and record.
        place: String,
    },
    /// A shared store can't be reached, or refuses.
    #[error("checkpoint {place}: {why}")]
    Unavailable {
        /// Which store and record.
        place: String,
        /// In words.
        why: String,
    },
    /// Another daemon has taken the checkpoint over.
    #[error("checkpoint {place}: another daemon has taken it over with fence {theirs}, this one has {mine}")]
    Fenced {
        /// Which store and record.
        place: String,
        /// This daemon's number.
        mine: u64,
        /// The newest number.
        theirs: u64,
    },
}
