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
    /// The server can't send its log from there, and couldn't after some tries.
    #[error("{0}")]
    Dump(Refusal),
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
            | Self::Dump(_)
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

    /// The server found no event that can be read where it was asked to begin. About a place that was read before it says that the
    /// log is another one.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Dump(refusal) if refusal.code == UNREADABLE)
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
                let refusal = |code, help| Refusal::new(code, said.clone(), help);
                match DumpError::of(&text) {
                    DumpError::Lost => Self::Lost(said),
                    DumpError::Gone => Self::gap(said),
                    DumpError::Refused => Self::Refused(refusal(
                        "source.dump",
                        "change the setting that it names, or see its error log",
                    )),
                    DumpError::Unreadable => Self::Dump(refusal(
                        UNREADABLE,
                        "see the server's error log and look at the file with mysqlbinlog or mariadb-binlog. If it is damaged, remove the \
                         cached keys and the checkpoint, and start behind the damage with `start`",
                    )),
                    DumpError::Passing => Self::Dump(refusal(
                        "source.dump_failed",
                        "see the server's error log; the checkpoint stays, and the next start tries again",
                    )),
                }
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

/// The code of a [`SourceError::Dump`] about bytes that the server can't read.
const UNREADABLE: &str = "source.log_unreadable";

/// `message` in lower case. MySQL 5.7 to 9 and MariaDB up to 11.4 say `server_uuid/server_id`, MariaDB 11.8 says `server_id`.
fn is_clash(message: &str) -> bool {
    ["a slave with the same server_", "a replica with the same server_", "same server id"]
        .iter()
        .any(|text| message.contains(text))
}

/// What error 1236 means, by its text: `Binlog_sender` in `sql/rpl_binlog_sender.cc` and `Binlog_read_error` in `sql/binlog_reader.h`
/// of MySQL (5.7: `log_read_error_msg` in `sql/rpl_master.cc`), `mysql_binlog_send` and `gtid_find_binlog_file` in `sql/sql_repl.cc` of
/// MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DumpError {
    /// The connection.
    Lost,
    /// What was asked for isn't there, and won't come back.
    Gone,
    /// A setting, of the server or of ours.
    Refused,
    /// Bytes of the log.
    Unreadable,
    /// Everything else: memory, a file that can't be opened, the next file not found while the log is rotated.
    Passing,
}

impl DumpError {
    /// `text` in lower case.
    fn of(text: &str) -> Self {
        const CLASSES: &[(DumpError, &[&str])] = &[
            (DumpError::Lost, &["net error", "could not read packet", "on my_net_write", "on net_flush"]),
            (
                DumpError::Gone,
                &[
                    // MySQL 5.7 `the master has purged`, 8 and 9 `the source purged`, MariaDB `have been purged`.
                    "purged",
                    "could not find first log file name in binary log index file",
                    // A place behind the end; `impossible position`: before the first event, or behind the end on MariaDB.
                    "position > file size",
                    "impossible position",
                    // ER_SLAVE_HAS_MORE_GTIDS_THAN_MASTER: it lost its tail.
                    "has more gtids than",
                    // MariaDB: ER_GTID_POSITION_NOT_FOUND_IN_BINLOG, ..2, ER_GTID_START_FROM_BINLOG_HOLE and its strict forms.
                    "which is not in the master's binlog",
                    "gtid state not found in binlog",
                    "is missing the gtid",
                ],
            ),
            (
                DumpError::Refused,
                &[
                    "can not handle replication events with the checksum",
                    "auto_position",
                    "gtid_mode",
                    "misconfigured",
                    "binary log is not open",
                ],
            ),
            (
                DumpError::Unreadable,
                &[
                    // A dump thread's bound is 1 GiB, so the event's length makes no sense.
                    "exceeded max_allowed_packet",
                    "bogus data in log event",
                    "corrupted data in log event",
                    "binlog truncated in the middle of event",
                    "did not pass crc check",
                    "did not pass checksum",
                    "does not correspond to the location of any binlog event",
                    "decrypt",
                    "corrupt",
                    "unknown error reading log event",
                ],
            ),
        ];
        let found = CLASSES.iter().find(|(_, texts)| texts.iter().any(|known| text.contains(known)));
        // MariaDB can't tell a damaged event from a lack of memory.
        if text.contains("memory") {
            return Self::Passing;
        }
        found.map_or(Self::Passing, |(class, _)| *class)
    }
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
            SourceError::Dump(r) => r.code,
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
                UNREADABLE,
            ),
            (
                1236,
                "Cannot replicate because the master purged required binary logs. Replicate the missing transactions from elsewhere",
                "gap",
            ),
            (
                1236,
                "The slave is connecting using CHANGE MASTER TO MASTER_AUTO_POSITION = 1, but the master has purged binary logs containing \
                 GTIDs that the slave requires.",
                "gap",
            ),
            (
                1236,
                "Slave has more GTIDs than the master has, using the master's SERVER_UUID. This may indicate that the end of the binary \
                 log was truncated or that the last binary log file was lost",
                "gap",
            ),
            (1236, "Replica has more GTIDs than the source has, using the source's SERVER_UUID.", "gap"),
            (1236, "Client requested source to start replication from position > file size", "gap"),
            (1236, "Client requested master to start replication from impossible position", "gap"),
            (
                1236,
                "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and required \
                 binlog files have been purged.",
                "gap",
            ),
            (
                1236,
                "The binlog on the master is missing the GTID 0-1-5 requested by the slave (even though a subsequent sequence number \
                 does exist), and GTID strict mode is enabled",
                "gap",
            ),
            (1236, "could not find next log", "source.dump_failed"),
            (1236, "Could not open log file", "source.dump_failed"),
            (1236, "I/O error reading log event", "source.dump_failed"),
            (1236, "memory allocation failed reading log event", "source.dump_failed"),
            (1236, "Corrupt Format_description event found or out-of-memory", "source.dump_failed"),
            (1236, "Failed to run hook 'transmit_start'", "source.dump_failed"),
            (1236, "a text of another version", "source.dump_failed"),
            (
                1236,
                "binlog truncated in the middle of event; consider out of disk space on source",
                UNREADABLE,
            ),
            (1236, "bogus data in log event", UNREADABLE),
            (1236, "event read from binlog did not pass crc check", UNREADABLE),
            (
                1236,
                "Slave can not handle replication events with the checksum that master is configured to log",
                "source.dump",
            ),
            (
                1236,
                "Cannot replicate anonymous transaction when AUTO_POSITION = 1, at file ./b.000001, position 157.",
                "source.dump",
            ),
            (1236, "A slave with the same server_id as this slave has connected to the master", "clash"),
            (
                1236,
                "A replica with the same server_uuid/server_id as this replica has connected to the source; the first event 'b.000001' \
                 at 157",
                "clash",
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
