//! Which of the two binlog dialects a server speaks.

use std::fmt;

/// The dialect of a server's binlog: the event header and row events are shared, GTIDs are not.
///
/// ```
/// use rowbust_binlog::Flavor;
/// assert_eq!(Flavor::from_version("10.11.19-MariaDB-log"), Flavor::MariaDb);
/// assert_eq!(Flavor::from_version("8.4.0"), Flavor::MySql);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MySQL (and Percona Server).
    MySql,
    /// MariaDB.
    MariaDb,
}

impl Flavor {
    /// Reads the flavour from a server version string, as `SELECT VERSION()` or the format description event
    /// gives it. MariaDB always names itself in it (`10.11.19-MariaDB-log`), MySQL does not.
    pub fn from_version(version: &str) -> Self {
        if version.to_ascii_lowercase().contains("mariadb") { Self::MariaDb } else { Self::MySql }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}
