//! What can end or hold up the following of a binlog, by what has to be done about it.
//!
//! May depend on `position` and `connect` only.

use std::fmt;

use rowbust_binlog::Gtid;

use super::{connect::ConnectError, position::Coordinates};

/// A server or configuration that can't work: exit code 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable name, for scripts and the documentation.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: &'static str, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, what: what.into(), help: help.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}); {}", self.what, self.code, self.help)
    }
}

/// An event that can't be followed exactly: going on would skip it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// Stable name.
    pub code: &'static str,
    /// The start of the event, as `SHOW BINLOG EVENTS` shows it.
    pub at: Coordinates,
    /// The transaction that it stands in.
    pub gtid: Option<Gtid>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.what, self.at)?;
        if let Some(gtid) = self.gtid {
            write!(f, " in {gtid}")?;
        }
        write!(f, " ({}); {}", self.code, self.help)
    }
}

/// Why a binlog isn't followed any more.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server can't be followed as it is configured: exit code 78.
    #[error("{0}")]
    Refused(Refusal),
    /// There was no first connection: exit code 69, or 78 where it is about the account or the certificate.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What lies between the position and the server's oldest event is gone.
    #[error("gap in the binlog: {what}; {help}")]
    Gap {
        /// What is missing.
        what: String,
        /// What to do.
        help: String,
    },
    /// A running daemon found a gap or another server, and should begin anew at its checkpoint: nothing that is on its way is
    /// worth waiting for.
    #[error("{why}")]
    Anew {
        /// What was found.
        why: String,
        /// It is a gap, whatever the checkpoint looks like.
        gap: bool,
    },
    /// The binlog no longer reaches back to where it was rewound to.
    #[error("the binlog no longer reaches back to what redis remembers: {0}")]
    OutOfReach(String),
    /// An event that can't be followed exactly.
    #[error("{0}")]
    Halt(Box<Halt>),
    /// The connection was lost. Seen outside only from the first connection's statements.
    #[error("connection lost: {0}")]
    Lost(String),
    /// Another replica with the same id took the server's place over and over.
    #[error("{0}")]
    Clash(Refusal),
    /// The bytes contradict the format, again after reconnecting.
    #[error("bytes that can't be read at {at}: {reason}")]
    Decode {
        /// The start of the event.
        at: Coordinates,
        /// What is wrong with it.
        reason: String,
    },
    /// What the changes are handed to gave up.
    #[error("{0}")]
    Sink(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// The process' exit code by the contract of the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Clash(_) => 78,
            Self::Connect(ConnectError::Unreachable { .. }) | Self::Lost(_) => 69,
            Self::Connect(_) => 78,
            Self::Gap { .. }
            | Self::Anew { .. }
            | Self::OutOfReach(_)
            | Self::Halt(_)
            | Self::Decode { .. }
            | Self::Sink(_) => 1,
        }
    }
}

impl From<Refusal> for SourceError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Halt> for SourceError {
    fn from(halt: Halt) -> Self {
        Self::Halt(Box::new(halt))
    }
}

/// A statement failed: the server's refusal by what it means, everything else is a lost connection.
impl From<mysql_async::Error> for SourceError {
    fn from(error: mysql_async::Error) -> Self {
        match &error {
            mysql_async::Error::Server(e) => Self::from_server(e.code, &e.message),
            other => Self::Lost(other.to_string()),
        }
    }
}

/// The code of a [`Refusal`] by an error number that isn't known here.
const UNKNOWN_ERROR: &str = "source.statement";

impl SourceError {
    /// An error number of the server that isn't known here: it may pass.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == UNKNOWN_ERROR)
    }

    /// By the server's error number: `share/messages_to_clients.txt` of MySQL, `sql/share/errmsg-utf8.txt` of MariaDB.
    pub(crate) fn from_server(code: u16, message: &str) -> Self {
        let said = format!("the server says: {message} ({code})");
        match code {
            // ER_ACCESS_DENIED_ERROR, ER_DBACCESS_DENIED_ERROR, ER_TABLEACCESS_DENIED_ERROR, ER_SPECIFIC_ACCESS_DENIED_ERROR
            1045 | 1044 | 1142 | 1227 => {
                Refusal::new("source.grants", said, "grant what is missing to the account").into()
            }
            // ER_MASTER_FATAL_ERROR_READING_BINLOG says almost everything about a dump.
            1236 => {
                let text = message.to_ascii_lowercase();
                if is_clash(&text) {
                    return Self::clash(&said);
                }
                if text.contains("net error") || text.contains("could not read packet") {
                    return Self::Lost(said);
                }
                // A checksum-unaware or older replica, an event over max_allowed_packet: not about the position.
                if text.contains("exceeded max_allowed_packet") || text.contains("checksum") {
                    return Refusal::new("source.dump", said, "see the server's error log").into();
                }
                Self::gap(said)
            }
            // ER_REPLICA_CHANNEL..: a dump thread that another one with the same id has ended.
            4052 => Self::clash(&said),
            // ER_SERVER_SHUTDOWN, ER_QUERY_INTERRUPTED, ER_NEW_ABORTING_CONNECTION, ER_CONNECTION_KILLED
            1053 | 1317 | 1184 | 1927 | 3169 => Self::Lost(said),
            // ER_FORCING_CLOSE, ER_ABORTING_CONNECTION, ER_NET_READ_ERROR_FROM_PIPE to ER_NET_WRITE_INTERRUPTED (net
            // errors and timeouts), ER_LOCK_WAIT_TIMEOUT, ER_CLIENT_INTERACTION_TIMEOUT
            1080 | 1152 | 1154..=1161 | 1205 | 4031 => Self::Lost(said),
            _ => Refusal::new(UNKNOWN_ERROR, said, "see the server's manual for this error number").into(),
        }
    }

    fn clash(said: &str) -> Self {
        Self::Clash(Refusal::new(
            "source.server_id_clash",
            format!("another replica has the same server_id: {said}"),
            "give each daemon and replica its own `source.server_id`",
        ))
    }

    pub(crate) fn gap(what: String) -> Self {
        Self::Gap {
            what,
            help: "rows may have changed that no key was removed for: `on_gap: flush` removes every key that the mappings could \
                   make and goes on from the newest position; or flush them by hand, remove the checkpoint and start anew"
                .into(),
        }
    }
}

fn is_clash(message: &str) -> bool {
    message.contains("a slave with the same server_uuid/server_id")
        || message.contains("a replica with the same server_uuid/server_id")
        || message.contains("same server id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_by_class() {
        let class = |code, message| match SourceError::from_server(code, message) {
            SourceError::Refused(r) => r.code,
            SourceError::Gap { .. } => "gap",
            SourceError::Clash(_) => "clash",
            SourceError::Lost(_) => "lost",
            _ => "other",
        };
        let cases = [
            (
                1227,
                "Access denied; you need (at least one of) the REPLICATION SLAVE privilege(s)",
                "source.grants",
            ),
            (1236, "Could not find first log file name in binary log index file", "gap"),
            (1236, "Cannot replicate because the source purged required binary logs.", "gap"),
            (
                1236,
                "Error: connecting slave requested to start from GTID 0-1-9, which is not in the master's binlog",
                "gap",
            ),
            (
                1236,
                "A slave with the same server_uuid/server_id as this slave has connected to the master",
                "clash",
            ),
            (
                1236,
                "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on master",
                "source.dump",
            ),
            (
                4052,
                "A slave with the same server_uuid/server_id as this slave has connected to the master",
                "clash",
            ),
            (1053, "Server shutdown in progress", "lost"),
            (1064, "You have an error in your SQL syntax", "source.statement"),
            (1158, "Got an error reading communication packets", "lost"),
            (1159, "Got timeout reading communication packets", "lost"),
            (1160, "Got an error writing communication packets", "lost"),
            (1161, "Got timeout writing communication packets", "lost"),
            (1080, "Forcing close of thread 5", "lost"),
            (1152, "Aborted connection 5 to db", "lost"),
            (1205, "Lock wait timeout exceeded; try restarting transaction", "lost"),
            (4031, "The client was disconnected by the server because of inactivity.", "lost"),
        ];
        for (code, message, expected) in cases {
            assert_eq!(class(code, message), expected, "{code} {message}");
            assert_eq!(SourceError::from_server(code, message).is_unknown(), expected == UNKNOWN_ERROR);
        }
    }
}
