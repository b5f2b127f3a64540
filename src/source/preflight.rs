//! Can this server be followed? Asked before each start and by `check --live`.
//!
//! Guarantees: every refusal has a stable code, says what is wrong and what to do; nothing on the server is changed.
//! A session may still turn on what the globals don't have: the follower checks each event again.
//! May depend on `connect`.

use std::collections::HashMap;

use mysql_async::{Conn, prelude::Queryable};
use rowbust_binlog::Flavor;

use super::{
    error::{Refusal, SourceError},
    start::quote,
};
use crate::config;

/// What was found about the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// MySQL or MariaDB.
    pub flavor: Flavor,
    /// `SELECT VERSION()`.
    pub version: String,
    /// Who the server is: its `server_uuid` on MySQL; MariaDB has none that is unique, so there its `server_id`.
    pub identity: String,
    /// The connection is encrypted.
    pub tls: bool,
    /// The id that the daemon is known by as a replica.
    pub server_id: u32,
    /// Commits become visible in the order of the binlog (`binlog_order_commits`, MySQL). Always true on MariaDB.
    pub order_commits: bool,
    /// A crash of it loses no commit: `sync_binlog` and `innodb_flush_log_at_trx_commit` are 1, or `source.lossless` says so.
    pub durable: bool,
    /// What may go wrong, in words.
    pub warnings: Vec<String>,
}

/// The global variables that matter here.
const VARIABLES: &[&str] = &[
    "log_bin",
    "binlog_format",
    "binlog_row_image",
    "binlog_row_metadata",
    "binlog_order_commits",
    "sync_binlog",
    "innodb_flush_log_at_trx_commit",
    "gtid_mode",
    "server_uuid",
    "server_id",
    "wsrep_on",
    "read_only",
];

/// Reads global variables, upper-cased values by lower-case name. Unknown ones are left out.
pub(crate) async fn global_variables(
    conn: &mut Conn,
    names: &[&str],
) -> Result<HashMap<String, String>, mysql_async::Error> {
    let list = names.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(",");
    let rows: Vec<(String, String)> =
        conn.query(format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({list})")).await?;
    Ok(rows
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_ascii_uppercase()))
        .collect())
}

/// All errors at once would hide the first cause (binlog off makes half of the rest unknown), so the first one returns.
pub async fn preflight(
    conn: &mut Conn,
    config: &config::Config,
    tls: bool,
) -> Result<Preflight, SourceError> {
    let version: String = conn.query_first("SELECT VERSION()").await?.unwrap_or_default();
    let flavor = Flavor::from_version(&version);
    let vars = global_variables(conn, VARIABLES).await?;
    check_version(flavor, &version)?;
    check_variables(flavor, &vars)?;
    check_grants(conn, flavor, &version).await?;

    let mut warnings = Vec::new();
    let is = |name: &str, value: &str| vars.get(name).is_some_and(|v| v == value);
    if vars.get("binlog_row_image").is_some_and(|v| v != "FULL" && v != "FULL_NODUP") {
        warnings.push(format!(
            "binlog_row_image is {}: a key whose columns a row image lacks can't be known; sessions can set it too",
            vars.get("binlog_row_image").map_or("", String::as_str)
        ));
    }
    if is("wsrep_on", "ON") {
        warnings.push("Galera is not tried yet".into());
    }
    let synced = is("sync_binlog", "1") && is("innodb_flush_log_at_trx_commit", "1");
    let durable = synced || config.source.policies.lossless;
    if !durable {
        let value = |name: &str| vars.get(name).map_or("", String::as_str);
        warnings.push(format!(
            "sync_binlog={}, innodb_flush_log_at_trx_commit={}: a crash of the server may lose commits that readers saw, and \
             counts as a gap; set both to 1",
            value("sync_binlog"),
            value("innodb_flush_log_at_trx_commit")
        ));
    }
    let server_id = server_id(config, vars.get("server_id"), &mut warnings)?;
    if flavor == Flavor::MySql {
        let taken: Vec<mysql_async::Row> = conn.query(replicas_statement(&version)).await?;
        if taken
            .iter()
            .any(|row| row.get_opt::<u32, _>(0).is_some_and(|id| id.is_ok_and(|id| id == server_id)))
        {
            // Not refused: it may be this daemon's own connection before a restart, which the server hasn't missed yet.
            warnings.push(format!("server_id {server_id} is registered by a replica already"));
        }
    }
    let identity = match vars.get("server_uuid").filter(|u| !u.is_empty()) {
        Some(uuid) => uuid.to_ascii_lowercase(),
        None => format!("server_id {}", vars.get("server_id").map_or("", String::as_str)),
    };
    Ok(Preflight {
        flavor,
        identity,
        tls,
        server_id,
        order_commits: flavor == Flavor::MariaDb || is("binlog_order_commits", "ON"),
        durable,
        warnings,
        version,
    })
}

/// The oldest versions whose binlog is known, to the letter.
pub(crate) fn check_version(flavor: Flavor, version: &str) -> Result<(), Refusal> {
    let (major, minor, _) = version_number(version);
    let (oldest, name) = match flavor {
        Flavor::MySql => ((5, 7), "MySQL 5.7"),
        Flavor::MariaDb => ((10, 5), "MariaDB 10.5"),
    };
    if (major, minor) < oldest {
        return Err(Refusal::new(
            "source.version",
            format!("the server is {flavor} {version}"),
            format!("{name} and newer are supported"),
        ));
    }
    Ok(())
}

fn check_variables(flavor: Flavor, vars: &HashMap<String, String>) -> Result<(), Refusal> {
    check_binlog(vars)?;
    check_format(vars)?;
    check_gtids(flavor, vars)
}

fn value<'v>(vars: &'v HashMap<String, String>, name: &str) -> &'v str {
    vars.get(name).map_or("", String::as_str)
}

/// `log_bin`
pub(crate) fn check_binlog(vars: &HashMap<String, String>) -> Result<(), Refusal> {
    if value(vars, "log_bin") == "ON" {
        return Ok(());
    }
    Err(Refusal::new(
        "source.binlog_off",
        "the server writes no binlog (log_bin=OFF)",
        "set `log_bin` in the server's configuration and restart it",
    ))
}

/// `binlog_format`
pub(crate) fn check_format(vars: &HashMap<String, String>) -> Result<(), Refusal> {
    if matches!(value(vars, "binlog_format"), "ROW" | "") {
        return Ok(());
    }
    Err(Refusal::new(
        "source.binlog_format",
        format!("binlog_format is {}", value(vars, "binlog_format")),
        "SET GLOBAL binlog_format=ROW, also in the server's configuration; sessions keep theirs until they reconnect",
    ))
}

/// `gtid_mode`; MariaDB always has GTIDs.
pub(crate) fn check_gtids(flavor: Flavor, vars: &HashMap<String, String>) -> Result<(), Refusal> {
    if flavor == Flavor::MariaDb || value(vars, "gtid_mode") == "ON" {
        return Ok(());
    }
    Err(Refusal::new(
        "source.gtid_off",
        format!("gtid_mode is {}", value(vars, "gtid_mode")),
        "enable GTIDs: enforce_gtid_consistency=ON, then gtid_mode step by step up to ON (the manual's \
         \"Enabling GTID Transactions Online\")",
    ))
}

/// The privileges by what they allow. Asked by the statements themselves, so that roles count.
async fn check_grants(conn: &mut Conn, flavor: Flavor, version: &str) -> Result<(), SourceError> {
    let client = denied(conn, latest_statement(flavor, version)).await?;
    let slave = match flavor {
        Flavor::MySql => denied(conn, replicas_statement(version)).await?,
        // MariaDB's SHOW REPLICA HOSTS asks for another privilege. A role is only found out by the dump itself.
        Flavor::MariaDb => {
            let granted: Option<u64> = conn
                .query_first(
                    "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE='REPLICATION SLAVE'",
                )
                .await?;
            let roles: Option<u64> = conn
                .query_first(
                    "SELECT COUNT(*) FROM information_schema.ENABLED_ROLES WHERE ROLE_NAME IS NOT NULL",
                )
                .await?;
            granted == Some(0) && roles == Some(0)
        }
    };
    if client || slave {
        return Err(grants_refusal(conn, flavor).await?.into());
    }
    Ok(())
}

/// The refusal with the exact GRANT statement for this account.
pub(crate) async fn grants_refusal(conn: &mut Conn, flavor: Flavor) -> Result<Refusal, SourceError> {
    let account: String = conn.query_first("SELECT CURRENT_USER()").await?.unwrap_or_default();
    let privileges = match flavor {
        Flavor::MySql => "REPLICATION SLAVE, REPLICATION CLIENT",
        Flavor::MariaDb => "REPLICATION SLAVE, BINLOG MONITOR",
    };
    Ok(Refusal::new(
        "source.grants",
        format!("the account {account} may not read the binlog"),
        format!("GRANT {privileges} ON *.* TO {};", quote_account(&account)),
    ))
}

/// What `CURRENT_USER()` says as it stands in a statement.
pub(crate) fn quote_account(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    format!("{}@{}", quote(user), quote(host))
}

pub(crate) async fn denied(conn: &mut Conn, statement: &str) -> Result<bool, SourceError> {
    match conn.query_drop(statement).await {
        Ok(()) => Ok(false),
        Err(mysql_async::Error::Server(e)) if matches!(e.code, 1227 | 1142 | 1044 | 1045) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Asks who is registered as a replica: MySQL 8.0.22 renamed it, 8.4 removed the old name.
pub(crate) fn replicas_statement(version: &str) -> &'static str {
    if version_number(version) >= (8, 0, 22) { "SHOW REPLICAS" } else { "SHOW SLAVE HOSTS" }
}

/// `8.0.40-log` as its three numbers.
pub(crate) fn version_number(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Asks for the newest position: MySQL 8.2 renamed it, 8.4 removed the old name.
pub(crate) fn latest_statement(flavor: Flavor, version: &str) -> &'static str {
    if flavor == Flavor::MySql && version_number(version) >= (8, 2, 0) {
        "SHOW BINARY LOG STATUS"
    } else {
        "SHOW MASTER STATUS"
    }
}

pub(crate) fn server_id(
    config: &config::Config,
    own: Option<&String>,
    warnings: &mut Vec<String>,
) -> Result<u32, Refusal> {
    let own = own.and_then(|id| id.parse::<u32>().ok()).unwrap_or(0);
    if let Some(id) = config.source.server_id {
        if id == own {
            return Err(Refusal::new(
                "source.server_id",
                format!("`source.server_id` {id} is the server's own"),
                "give the daemon another one, unique among the server and its replicas",
            ));
        }
        return Ok(id);
    }
    // People number servers from 1 up: stay far above.
    let id = 1_000_000_000 + u32::try_from(config.fingerprint % 3_000_000_000).unwrap_or(0);
    if id == own {
        warnings.push(format!("the derived server_id {id} is the server's own: using the next one"));
        return Ok(id + 1);
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn vars(change: &[(&str, &str)]) -> HashMap<String, String> {
        let mut vars: HashMap<String, String> =
            [("log_bin", "ON"), ("binlog_format", "ROW"), ("gtid_mode", "ON")]
                .map(|(k, v)| (k.into(), v.into()))
                .into();
        for (k, v) in change {
            vars.insert((*k).into(), (*v).into());
        }
        vars
    }

    #[test]
    fn settings_are_refused_by_code() {
        for (flavor, name, value, code) in [
            (Flavor::MySql, "log_bin", "OFF", "source.binlog_off"),
            (Flavor::MySql, "binlog_format", "MIXED", "source.binlog_format"),
            (Flavor::MySql, "gtid_mode", "ON_PERMISSIVE", "source.gtid_off"),
        ] {
            assert_eq!(check_variables(flavor, &vars(&[(name, value)])).unwrap_err().code, code);
        }
        assert_eq!(check_variables(Flavor::MySql, &vars(&[])), Ok(()));
        for (flavor, name, value) in [
            (Flavor::MySql, "binlog_row_value_options", "PARTIAL_JSON"),
            (Flavor::MySql, "binlog_transaction_compression", "ON"),
            (Flavor::MariaDb, "log_bin_compress", "ON"),
            (Flavor::MariaDb, "encrypt_binlog", "ON"),
        ] {
            assert_eq!(check_variables(flavor, &vars(&[(name, value)])), Ok(()), "{name}");
        }
        assert_eq!(check_variables(Flavor::MariaDb, &vars(&[("gtid_mode", "")])), Ok(()));
    }

    #[test]
    fn old_servers_are_refused() {
        assert!(check_version(Flavor::MySql, "5.6.51").is_err());
        assert!(check_version(Flavor::MySql, "5.7.44-log").is_ok());
        assert!(check_version(Flavor::MariaDb, "10.4.34-MariaDB").is_err());
        assert!(check_version(Flavor::MySql, "9.7.4").is_ok());
        assert!(check_version(Flavor::MariaDb, "10.11.19-MariaDB-0+deb12u1").is_ok());
    }

    #[test]
    fn the_newest_position_by_version() {
        assert_eq!(latest_statement(Flavor::MySql, "8.0.40"), "SHOW MASTER STATUS");
        assert_eq!(latest_statement(Flavor::MySql, "9.7.4"), "SHOW BINARY LOG STATUS");
        assert_eq!(latest_statement(Flavor::MariaDb, "11.8.9-MariaDB"), "SHOW MASTER STATUS");
        assert_eq!(replicas_statement("5.7.44-log"), "SHOW SLAVE HOSTS");
        assert_eq!(replicas_statement("8.0.21"), "SHOW SLAVE HOSTS");
        assert_eq!(replicas_statement("8.0.22"), "SHOW REPLICAS");
    }
}
