//! The server whose binlog is followed: its settings, the account.
//!
//! Guarantees: as the module. Which settings are refused is [`preflight`]'s to say. May depend on `source`.

use std::collections::HashMap;

use mysql_async::{Conn, Row, prelude::Queryable as _};
use rowbust_binlog::Flavor;

use super::{Waiting, identity, report::Group, rights, within};
use crate::{
    config::{Config, Driver, TlsMode, is_loopback},
    source::{
        Refusal, SourceError,
        connect::{ConnectError, Connector},
        preflight,
    },
};

/// What the other groups need to know of it.
pub(super) struct Server {
    pub(super) flavor: Flavor,
    pub(super) version: String,
    /// `CURRENT_USER()`
    pub(super) account: String,
    /// Its own `server_id`.
    pub(super) id: u32,
    /// Global variables by name, values in upper case.
    pub(super) vars: HashMap<String, String>,
    /// Seconds by which its clock is ahead of this machine's.
    pub(super) clock: Option<f64>,
}

impl Server {
    pub(super) fn var(&self, name: &str) -> &str {
        self.vars.get(name).map_or("", String::as_str)
    }
}

const VARIABLES: &[&str] = &[
    "log_bin",
    "binlog_format",
    "binlog_row_image",
    "binlog_row_metadata",
    "binlog_row_value_options",
    "binlog_order_commits",
    "binlog_optimize_thread_scheduling",
    "sync_binlog",
    "innodb_flush_log_at_trx_commit",
    "innodb_native_foreign_keys",
    "gtid_mode",
    "gtid_slave_pos",
    "group_replication_group_name",
    "log_slave_updates",
    "log_replica_updates",
    "partial_revokes",
    "server_id",
    "server_uuid",
    "wsrep_on",
];

const CONFIGURED: &str = "also in the server's configuration";

/// `None`: nothing can be asked.
pub(super) async fn look(config: &Config, waiting: &Waiting) -> (Group, Option<Server>) {
    let source = &config.source;
    let connector = Connector::new(source);
    let title = format!("source mysql://{}@{}", source.user, connector.primary_address());
    let mut server = None;
    let group = within(waiting, Group::new("source", title), "source.answer", async |group: &mut Group| {
        if let Err(error) = questions(config, &connector, group, &mut server).await {
            lost(group, "source.answer", &error);
        }
    });
    let group = group.await;
    (group, server)
}

/// A question that wasn't answered.
pub(super) fn lost(group: &mut Group, code: &'static str, error: &SourceError) {
    let help = "the rest is not tested: try again";
    match error {
        SourceError::Connect(_) | SourceError::Lost(_) => {
            group.unreachable(code, format!("a question was not answered: {error}"), help);
        }
        _ => group.error(code, format!("a question was refused: {error}"), help),
    }
}

/// Why there is no connection to a database.
pub(super) fn no_connection(group: &mut Group, code: &'static str, error: &ConnectError) {
    match error {
        ConnectError::Unreachable { .. } => group.unreachable(
            code,
            error.to_string(),
            "does the server run, is the address right, does a firewall stand between?",
        ),
        ConnectError::Auth { .. } => group.error(
            code,
            error.to_string(),
            "look at the user in `source.url` and at `source.password` or `password_file`; the account's host must match this machine",
        ),
        ConnectError::Tls { .. } => {
            group.error(code, error.to_string(), "look at `source.tls`: its mode and `ca_file`, see docs/security.md");
        }
        ConnectError::PasswordFile { .. } | ConnectError::TlsFile(_) => {
            group.error(code, error.to_string(), "name a file in the config that rowbust's user may read");
        }
    }
}

async fn questions(
    config: &Config,
    connector: &Connector,
    group: &mut Group,
    found: &mut Option<Server>,
) -> Result<(), SourceError> {
    let mut conn = match connector.primary().await {
        Ok(conn) => conn,
        Err(error) => {
            no_connection(group, "source.connect", &error);
            group.not_tested("source.answer", "settings, grants, place", "mend the connection first");
            return Ok(());
        }
    };
    let account: String = conn.query_first("SELECT CURRENT_USER()").await?.unwrap_or_default();
    let version: String = conn.query_first("SELECT VERSION()").await?.unwrap_or_default();
    let flavor = rowbust_binlog::Flavor::from_version(&version);
    let vars = preflight::global_variables(&mut conn, VARIABLES).await?;
    let clock = clock(&mut conn).await?;
    let id = vars.get("server_id").and_then(|id| id.parse().ok()).unwrap_or(0);
    let server = found.insert(Server { flavor, version, account, id, vars, clock });

    group.ok("source.connect", format!("logged in as {}", server.account));
    let mode = config.source.tls.mode;
    if mode != TlsMode::Disabled {
        group.ok("source.tls", "encrypted");
    } else if is_loopback(&config.source.host) {
        group.ok("source.tls", "plain text, on this machine");
    } else {
        group.warning(
            "source.tls",
            "the binlog crosses the network in plain text",
            "set `source.tls` to verify_identity",
        );
    }
    settings(config, group, server);
    driver(config, &mut conn, group).await?;
    if let Some(shown) = grants(connector, &mut conn, group, server).await? {
        filters(config, group, &shown);
    }
    chain(&mut conn, group, server).await?;
    identity::look(config, &mut conn, group, server).await?;
    if let Some((schema, table)) = &config.source.heartbeat {
        heartbeat(&mut conn, group, server, schema, table).await?;
    }
    conn.disconnect().await.ok();
    Ok(())
}

/// Half of the way there and back is what it can't tell.
pub(super) async fn clock(conn: &mut Conn) -> Result<Option<f64>, mysql_async::Error> {
    let before = unix_now();
    let theirs: Option<f64> = conn.query_first("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) AS DOUBLE)").await?;
    let after = unix_now();
    Ok(theirs.map(|theirs| theirs - (before + after) / 2.0))
}

pub(super) fn unix_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn settings(config: &Config, group: &mut Group, server: &Server) {
    let mut refusable = |code, checked: Result<(), Refusal>, well: String| match checked {
        Ok(()) => group.ok(code, well),
        Err(refusal) => group.error(code, refusal.what, refusal.help),
    };
    let flavor = server.flavor;
    let named = if server.version.contains("MariaDB") {
        server.version.clone()
    } else {
        format!("{flavor} {}", server.version)
    };
    refusable("source.version", preflight::check_version(flavor, &server.version), named);
    refusable("source.binlog", preflight::check_binlog(&server.vars), "on".into());
    refusable("source.binlog_format", preflight::check_format(&server.vars), "ROW".into());
    let gtids = match flavor {
        Flavor::MySql => "ON",
        Flavor::MariaDb => "always on with MariaDB",
    };
    refusable("source.gtid_mode", preflight::check_gtids(flavor, &server.vars), gtids.into());

    let image = server.var("binlog_row_image");
    match image {
        "FULL" | "FULL_NODUP" => group.ok("source.binlog_row_image", image),
        _ => group.warning(
            "source.binlog_row_image",
            format!("{image}: a key of other columns than the primary key's can't be known from every row, and stops the daemon"),
            format!("SET GLOBAL binlog_row_image=FULL, {CONFIGURED}; sessions keep theirs until they reconnect"),
        ),
    }
    if flavor == Flavor::MySql {
        match server.var("binlog_row_value_options") {
            "" => group.ok("source.binlog_row_value_options", "none"),
            options if image == "FULL" => {
                group.ok("source.binlog_row_value_options", format!("{options}: applied to the row before"));
            }
            options => group.warning(
                "source.binlog_row_value_options",
                format!(
                    "{options}, but with binlog_row_image={image} the document that it changes may be missing"
                ),
                format!("SET GLOBAL binlog_row_value_options='', or binlog_row_image=FULL, {CONFIGURED}"),
            ),
        }
    }
    match server.var("binlog_row_metadata") {
        "FULL" => group.ok("source.binlog_row_metadata", "FULL"),
        "" => group.ok(
            "source.binlog_row_metadata",
            "this version has none: names of columns come from information_schema",
        ),
        metadata => group.warning(
            "source.binlog_row_metadata",
            format!("{metadata}: names of columns come from information_schema, and rows from before an ALTER that is read later go by `on_schema`"),
            format!("SET GLOBAL binlog_row_metadata=FULL, {CONFIGURED}"),
        ),
    }
    match flavor {
        Flavor::MySql if server.var("binlog_order_commits") == "OFF" => group.warning(
            "source.commit_order",
            "binlog_order_commits is OFF: commits become visible in another order than the binlog's; each is waited for by its GTID",
            format!("nothing to do for rowbust; other readers of the binlog may need SET GLOBAL binlog_order_commits=ON, {CONFIGURED}"),
        ),
        Flavor::MySql => group.ok("source.commit_order", "that of the binlog; visibility by gtid_executed"),
        Flavor::MariaDb if server.var("binlog_optimize_thread_scheduling") == "OFF" => group.warning(
            "source.commit_order",
            "binlog_optimize_thread_scheduling is OFF: when a commit is visible can't be known, a delay of 1 s stands for it",
            "remove skip-binlog-optimize-thread-scheduling from the server's configuration and restart it",
        ),
        Flavor::MariaDb => group.ok("source.commit_order", "that of the binlog; visibility by binlog_snapshot"),
    }
    let (sync, flush) = (server.var("sync_binlog"), server.var("innodb_flush_log_at_trx_commit"));
    if (sync, flush) == ("1", "1") {
        group.ok("source.durability", "a crash loses no commit");
    } else if config.source.policies.lossless {
        group.ok("source.durability", "`source.lossless` says that no commit is ever lost");
    } else {
        group.warning(
            "source.durability",
            format!(
                "sync_binlog={sync}, innodb_flush_log_at_trx_commit={flush}: a crash of the server may lose commits that readers saw, \
                 and counts as a gap"
            ),
            format!("SET GLOBAL sync_binlog=1, GLOBAL innodb_flush_log_at_trx_commit=1; {CONFIGURED}"),
        );
    }
    if server.var("wsrep_on") == "ON" {
        group.warning(
            "source.group",
            "Galera is not tried yet",
            "try it where stale keys do no harm, and tell us",
        );
    } else if !server.var("group_replication_group_name").is_empty() {
        group.warning(
            "source.group",
            "Group Replication is not tried yet",
            "try it where stale keys do no harm, and tell us",
        );
    }
}

async fn driver(config: &Config, conn: &mut Conn, group: &mut Group) -> Result<(), SourceError> {
    if config.source.driver == Driver::Native {
        return Ok(());
    }
    #[cfg(feature = "mysql-cdc")]
    match crate::source::cdc_refuses(conn).await {
        Ok(()) => group.warning(
            "source.driver",
            "mysql_cdc, which has limits",
            "`rowbust check` lists them; remove `source.driver` to have none",
        ),
        Err(SourceError::Refused(refusal)) => group.error("source.driver", refusal.what, refusal.help),
        Err(error) => return Err(error),
    }
    #[cfg(not(feature = "mysql-cdc"))]
    let _ = (conn, group);
    Ok(())
}

/// The line of the newest position, if it may be seen.
async fn grants(
    connector: &Connector,
    conn: &mut Conn,
    group: &mut Group,
    server: &Server,
) -> Result<Option<Row>, SourceError> {
    let latest = preflight::latest_statement(server.flavor, &server.version);
    let mut missing = Vec::new();
    let may_follow = match server.flavor {
        Flavor::MySql => !preflight::denied(conn, preflight::replicas_statement(&server.version)).await?,
        // What lists the replicas asks for another privilege there.
        Flavor::MariaDb => match connector.stream().await?.register(identity::TRIED_ID).await {
            Ok(()) => true,
            Err(crate::source::wire::WireError::Server { code: 1227 | 1045, .. }) => false,
            Err(error) => return Err(SourceError::Lost(error.to_string())),
        },
    };
    if !may_follow {
        missing.push("REPLICATION SLAVE");
    }
    let may_look = !preflight::denied(conn, latest).await?;
    if !may_look {
        missing.push(match server.flavor {
            Flavor::MySql => "REPLICATION CLIENT",
            Flavor::MariaDb => "BINLOG MONITOR",
        });
    }
    if missing.is_empty() {
        group.ok("source.grants", "the binlog may be read, and its place be asked for");
    } else {
        group.error(
            "source.grants",
            format!("the account {} lacks {}", server.account, missing.join(" and ")),
            format!("GRANT {} ON *.* TO {};", missing.join(", "), preflight::quote_account(&server.account)),
        );
    }
    if !may_look {
        return Ok(None);
    }
    Ok(conn.query_first(latest).await?)
}

/// `binlog_do_db` and `binlog_ignore_db`: by default database, also for rows, but rows of another one than the default are filtered
/// by their own (MySQL's manual, "Evaluation of Database-Level Replication and Binary Logging Options").
fn filters(config: &Config, group: &mut Group, shown: &Row) {
    let list = |at: usize| -> Vec<String> {
        let text = shown.get_opt::<String, _>(at).and_then(Result::ok).unwrap_or_default();
        text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let (only, ignored) = (list(2), list(3));
    let mut lost: Vec<String> = Vec::new();
    for mapping in &config.mappings {
        let hit = ignored.iter().any(|schema| mapping.schema_glob.is_match(schema))
            || (!only.is_empty() && !only.iter().any(|schema| mapping.schema_glob.is_match(schema)));
        if hit && !lost.contains(&mapping.table) {
            lost.push(mapping.table.clone());
        }
    }
    if lost.is_empty() {
        group.ok("source.filters", "no mapped schema is left out of the binlog");
        return;
    }
    group.error(
        "source.filters",
        format!("binlog_do_db or binlog_ignore_db keeps changes of {} out of the binlog", lost.join(", ")),
        "remove these options from the server's configuration and restart it",
    );
}

/// A replica that doesn't log what it applies shows nothing of it.
async fn chain(conn: &mut Conn, group: &mut Group, server: &Server) -> Result<(), SourceError> {
    let logs = server.var("log_replica_updates") == "ON" || server.var("log_slave_updates") == "ON";
    if logs {
        return Ok(());
    }
    let is_replica = match server.flavor {
        Flavor::MariaDb => !server.var("gtid_slave_pos").is_empty(),
        Flavor::MySql => {
            let statement = rights::replica_status(server);
            if preflight::denied(conn, statement).await? {
                return Ok(());
            }
            conn.query_first::<Row, _>(statement).await?.is_some()
        }
    };
    if is_replica {
        group.error(
            "source.chain",
            "the server is or was a replica and does not log what it applies (log_replica_updates=OFF): these changes are not in its binlog",
            "follow the primary itself, or set log_slave_updates (log_replica_updates) in the server's configuration and restart it",
        );
    }
    Ok(())
}

async fn heartbeat(
    conn: &mut Conn,
    group: &mut Group,
    server: &Server,
    schema: &str,
    table: &str,
) -> Result<(), SourceError> {
    let code = "source.heartbeat";
    let name = rights::quoted_table(schema, table);
    let made =
        format!("CREATE TABLE {name} (id BIGINT UNSIGNED PRIMARY KEY, beat BIGINT UNSIGNED NOT NULL);");
    // It is planned and not done, and asks for the rights of the statement itself.
    match conn.query_drop(format!("EXPLAIN REPLACE INTO {name} (id, beat) VALUES (1, 1)")).await {
        Ok(()) => group.ok(code, format!("{schema}.{table} may be written to")),
        Err(mysql_async::Error::Server(error)) => match error.code {
            1142 | 1143 | 1044 => group.error(
                code,
                format!("the account may not write to {schema}.{table}, or it is missing: {}", error.message),
                format!("GRANT INSERT, DELETE ON {name} TO {};", preflight::quote_account(&server.account)),
            ),
            1146 | 1049 => group.error(code, format!("there is no table {schema}.{table}"), made),
            1054 => group.error(code, format!("{schema}.{table}: {}", error.message), made),
            _ => group.error(code, format!("{schema}.{table}: {}", error.message), made),
        },
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
