//! The server whose binlog is followed: its settings, the account, the place where reading would begin.
//!
//! Guarantees: as the module. Which settings are refused is [`preflight`]'s to say. May depend on `source` and `checkpoint`.

use std::collections::HashMap;

use mysql_async::{Conn, Row, prelude::Queryable as _};
use rowbust_binlog::{Flavor, GtidState, MariaGtidPos};

use super::{Waiting, checkpoint::Found, report::Group, rights, within};
use crate::{
    checkpoint,
    config::{Config, Driver, Policy, TlsMode, is_loopback, show_duration},
    source::{
        Refusal, SourceError,
        connect::{ConnectError, Connector},
        lease,
        position::Position,
        preflight, retention, start,
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
    server_id(config, &mut conn, group, server).await?;
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
        Flavor::MariaDb => match connector.stream().await?.register(TRIED_ID).await {
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

/// Nobody has it: ids of daemons are derived below, and people count from 1.
const TRIED_ID: u32 = u32::MAX - 1;

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

async fn server_id(
    config: &Config,
    conn: &mut Conn,
    group: &mut Group,
    server: &Server,
) -> Result<(), SourceError> {
    let running = running(config, conn).await?;
    match running {
        Some(connection) => group.ok(
            "source.lease",
            format!("a daemon of this deployment runs (the server's connection {connection}); another one would stand by"),
        ),
        None => group.ok("source.lease", "free: no daemon of this deployment runs"),
    }
    let code = "source.server_id";
    let id = match preflight::server_id(config, server.vars.get("server_id"), &mut Vec::new()) {
        Ok(id) => id,
        Err(refusal) => {
            group.error(code, refusal.what, refusal.help);
            return Ok(());
        }
    };
    let statement = match server.flavor {
        Flavor::MySql => preflight::replicas_statement(&server.version),
        Flavor::MariaDb => "SHOW SLAVE HOSTS",
    };
    if preflight::denied(conn, statement).await? {
        let (privilege, what) = match server.flavor {
            Flavor::MySql => ("REPLICATION SLAVE", "GRANT"),
            Flavor::MariaDb => ("REPLICATION MASTER ADMIN", "to have it tested: GRANT"),
        };
        group.not_tested(
            code,
            format!("whether {id} is free: the account may not list the replicas"),
            format!("{what} {privilege} ON *.* TO {};", preflight::quote_account(&server.account)),
        );
        return Ok(());
    }
    let rows: Vec<Row> = conn.query(statement).await?;
    let text = |row: &Row, at: usize| row.get_opt::<String, _>(at).and_then(Result::ok).unwrap_or_default();
    let replicas: Vec<(u32, String)> = rows
        .iter()
        .filter_map(|row| {
            let (host, port) = (text(row, 1), text(row, 2));
            let place =
                if host.is_empty() { "no address given".to_owned() } else { format!("{host}:{port}") };
            Some((row.get_opt::<u32, _>(0)?.ok()?, place))
        })
        .filter(|(id, _)| *id != TRIED_ID)
        .collect();
    let listed = |replicas: &[(u32, String)]| match replicas {
        [] => "no replica is connected".to_owned(),
        _ => {
            let list: Vec<String> = replicas.iter().take(20).map(|(id, at)| format!("{id} ({at})")).collect();
            let more = replicas.len().saturating_sub(20);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("connected: {}{more}", list.join(", "))
        }
    };
    if !replicas.iter().any(|(taken, _)| *taken == id) {
        group.ok(code, format!("{id} is free; {}", listed(&replicas)));
    } else if running.is_some() {
        group.ok(code, format!("{id} is that of the daemon that runs; {}", listed(&replicas)));
    } else {
        let free = free_id(id, server.id, &replicas);
        let text = format!("{id} is taken, and no daemon of this deployment runs; {}", listed(&replicas));
        let help = format!(
            "write `source.server_id: {free}`, which is free: two with one id end each other's stream"
        );
        // A connection that was just closed is listed until the server writes to it again.
        if has_run(config) {
            group.warning(
                code,
                text,
                format!("look again in a minute: it may be the one that was stopped; else {help}"),
            );
        } else {
            group.error(code, text, help);
        }
    }
    Ok(())
}

fn free_id(taken: u32, own: u32, replicas: &[(u32, String)]) -> u32 {
    let is_free = |id: &u32| *id != own && !replicas.iter().any(|(other, _)| other == id);
    (taken.saturating_add(1)..=u32::MAX).find(is_free).unwrap_or(1)
}

/// Whether a daemon has had the checkpoint's file on this machine.
fn has_run(config: &Config) -> bool {
    let mut id = config.checkpoint.path.clone().into_os_string();
    id.push(".id");
    config.checkpoint.shared.is_none() && std::path::Path::new(&id).exists()
}

/// The connection of the daemon that holds the lease of this deployment.
async fn running(config: &Config, conn: &mut Conn) -> Result<Option<u64>, SourceError> {
    // Asking for the name of a file that no daemon has made yet would make it.
    if config.checkpoint.shared.is_none() && !has_run(config) {
        return Ok(None);
    }
    let name = start::quote(&lease::name(config));
    let holder: Option<Option<u64>> = conn.query_first(format!("SELECT IS_USED_LOCK({name})")).await?;
    Ok(holder.flatten())
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

/// Where reading would begin, and for how long the server still has that.
pub(super) async fn place(
    config: &Config,
    server: Option<&Server>,
    saved: &Found,
    group: &mut Group,
    waiting: &Waiting,
) {
    if server.is_none() {
        return;
    }
    let taken = std::mem::replace(group, Group::new("source", String::new()));
    *group = within(waiting, taken, "source.answer", async |group: &mut Group| {
        if let Err(error) = begin(config, saved, group).await {
            lost(group, "source.answer", &error);
        }
    })
    .await;
}

async fn begin(config: &Config, saved: &Found, group: &mut Group) -> Result<(), SourceError> {
    let code = "source.start";
    let connector = Connector::new(&config.source);
    let mut conn = connector.primary().await?;
    let asked = preflight::preflight(&mut conn, config, connector.uses_tls()).await;
    let known = match asked {
        Ok(known) => known,
        Err(SourceError::Refused(_)) => {
            group.not_tested(code, "where reading would begin", "mend the errors above first");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let Ok(saved) = &saved.saved else {
        group.not_tested(
            code,
            "where reading would begin: the checkpoint can't be read",
            "see machine.checkpoint",
        );
        return Ok(());
    };
    let mut mark = None;
    match saved {
        None => match start::first_start(&mut conn, &known, &config.source.start).await {
            Ok(begin) => {
                let at = begin.position.at;
                let at =
                    if at.file.is_empty() { "behind `source.start.gtid`".into() } else { at.to_string() };
                group.ok(code, format!("no checkpoint yet: begins at {at}"));
            }
            Err(SourceError::Refused(refusal)) => group.error(code, refusal.what, refusal.help),
            Err(SourceError::Gap { what, help }) => group.error(code, what, help),
            Err(error) => return Err(error),
        },
        Some(saved) => {
            let position = match checkpoint::position(saved) {
                Ok(position) => position,
                Err(why) => {
                    group.error(
                        code,
                        format!("the checkpoint: {why}"),
                        "`rowbust checkpoint set` puts another position there",
                    );
                    return Ok(());
                }
            };
            let newest = start::latest(&mut conn, &known).await?.position;
            if newest.gtids != position.gtids {
                mark = Some(retention::Mark {
                    file: saved.file.clone(),
                    commit_time: u64::from(saved.commit_time),
                });
            }
            let moved = saved.source != known.identity;
            let mut resumed = start::resume(&mut conn, &known, &position, false).await.map(|_| ());
            if moved && resumed.is_ok() && !config.source.policies.lossless {
                let what = format!(
                    "another server answers: {}, before it was {}; what the old one sent to nobody is lost",
                    known.identity, saved.source
                );
                let help = "look at `source.url`; `source.on_gap: flush` removes all mapped keys and goes on, `source.lossless: true` says that \
                            nothing is ever lost";
                resumed = Err(SourceError::Gap { what, help: help.into() });
            }
            match resumed {
                Ok(()) => {
                    group.ok(code, format!("goes on at the checkpoint, {}:{}", saved.file, saved.position))
                }
                Err(SourceError::Refused(refusal)) => group.error(code, refusal.what, refusal.help),
                Err(SourceError::Gap { what, .. }) if config.source.policies.on_gap == Policy::Flush => group
                    .warning(
                        code,
                        format!("a gap: {what}"),
                        "`source.on_gap: flush` will remove every key of the mappings, and go on",
                    ),
                Err(SourceError::Gap { what, help }) => group.error(code, format!("a gap: {what}"), help),
                Err(error) => return Err(error),
            }
        }
    }
    conn.disconnect().await.ok();
    keeps(&connector, mark.as_ref(), group).await
}

/// MariaDB says what it has purged only when it is asked for the stream; the list of GTIDs before its oldest file tells the same.
async fn purged(conn: &mut Conn, position: &Position) -> Result<Option<String>, SourceError> {
    let GtidState::MariaDb(done) = &position.gtids else { return Ok(None) };
    let Some((oldest, _)) = start::binary_logs(conn).await?.into_iter().next() else { return Ok(None) };
    let rows: Vec<Row> =
        conn.query(format!("SHOW BINLOG EVENTS IN {} LIMIT 5", start::quote(&oldest))).await?;
    let text = |row: &Row, at: usize| row.get_opt::<String, _>(at).and_then(Result::ok).unwrap_or_default();
    let list =
        rows.iter().find(|row| text(row, 2) == "Gtid_list").map(|row| text(row, 5)).unwrap_or_default();
    let list = list.trim_matches(['[', ']', ' ']).parse::<MariaGtidPos>();
    // A file that can't be shown, or is shown otherwise, says nothing.
    let lost = list.is_ok_and(|list| !done.is_empty() && !done.is_at_or_past(&list));
    Ok(lost.then(|| format!("the server has purged what lies before {oldest}, and not all of it was read")))
}

/// Less than this is a night without anybody.
const SHORT: u64 = 24 * 3600;

async fn keeps(
    connector: &Connector,
    mark: Option<&retention::Mark>,
    group: &mut Group,
) -> Result<(), SourceError> {
    let code = "source.retention";
    let kept = retention::sample(connector).await?;
    let raise = "SET GLOBAL binlog_expire_logs_seconds=259200 (three days; MariaDB before 10.6: expire_logs_days=3), also in the server's configuration";
    let Some(retention) = kept.retention else {
        group.ok(code, "binlogs are kept until somebody purges them");
        return Ok(());
    };
    let lag = mark.map(|mark| kept.now.saturating_sub(mark.commit_time));
    let behind = lag.map_or("nothing is behind the checkpoint".to_owned(), |lag| {
        format!("the checkpoint's last commit is {lag} s old")
    });
    let shown = show_duration(retention);
    match kept.left(mark) {
        Some(left) if left.is_zero() => group.error(
            code,
            format!(
                "binlogs are kept for {shown} and the checkpoint's may be purged at any moment; {behind}"
            ),
            format!("start the daemon now, and {raise}"),
        ),
        Some(left) if left < retention / 4 => group.warning(
            code,
            format!("binlogs are kept for {shown}, of which {} s are left; {behind}", left.as_secs()),
            format!("start the daemon soon, and {raise}"),
        ),
        _ if retention.as_secs() < SHORT => group.warning(
            code,
            format!("binlogs are kept for {shown} only; {behind}"),
            format!("keep them for longer than an outage may last: {raise}"),
        ),
        _ => group.ok(code, format!("binlogs are kept for {shown}; {behind}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_id_is_free() {
        let replicas = vec![(8, String::new()), (9, String::new())];
        assert_eq!(free_id(7, 1, &replicas), 10);
        assert_eq!(free_id(7, 10, &replicas), 11);
        assert_eq!(free_id(u32::MAX, 1, &[(u32::MAX, String::new())]), 1);
    }
}
