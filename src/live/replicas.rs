//! `source.replicas`: servers that cache fills read from.
//!
//! May depend on `source` and its siblings.

use std::collections::HashMap;

use futures_util::future::join_all;
use mysql_async::{Conn, Row, prelude::Queryable as _};
use rowbust_binlog::Flavor;

use super::{
    Waiting,
    report::Group,
    rights,
    source::{Server, lost, no_connection},
    within,
};
use crate::{
    config::Config,
    source::{SourceError, connect::Connector, preflight},
};

const VARIABLES: &[&str] = &[
    "gtid_mode",
    "read_only",
    "replica_preserve_commit_order",
    "slave_preserve_commit_order",
    "replica_parallel_workers",
    "slave_parallel_workers",
    "slave_parallel_threads",
    "slave_parallel_mode",
    "server_uuid",
    "server_id",
];

/// A group for each.
pub(super) async fn look(config: &Config, primary: Option<&Server>, waiting: &Waiting) -> Vec<Group> {
    let connector = Connector::new(&config.source);
    join_all(config.source.replicas.iter().map(async |(host, port)| {
        let group = Group::new("replicas", format!("read source {host}:{port}"));
        within(waiting, group, "replicas.answer", async |group: &mut Group| {
            if let Err(error) = questions(&connector, host, *port, primary, group).await {
                lost(group, "replicas.answer", &error);
            }
        })
        .await
    }))
    .await
}

async fn questions(
    connector: &Connector,
    host: &str,
    port: u16,
    primary: Option<&Server>,
    group: &mut Group,
) -> Result<(), SourceError> {
    let mut conn = match connector.connect(host, port).await {
        Ok(conn) => conn,
        Err(error) => {
            no_connection(group, "replicas.connect", &error);
            return Ok(());
        }
    };
    let version: String = conn.query_first("SELECT VERSION()").await?.unwrap_or_default();
    let account: String = conn.query_first("SELECT CURRENT_USER()").await?.unwrap_or_default();
    let vars = preflight::global_variables(&mut conn, VARIABLES).await?;
    let flavor = Flavor::from_version(&version);
    let id = vars.get("server_id").and_then(|id| id.parse().ok()).unwrap_or(0);
    let server = Server { flavor, version, account, id, vars, clock: None };
    group.ok("replicas.connect", format!("{flavor} {}, logged in as {}", server.version, server.account));
    if primary.is_some_and(|primary| primary.flavor != flavor) {
        group.error(
            "replicas.source",
            "it is of another kind than the primary: GTIDs can't be compared",
            "name replicas of the primary in `source.replicas`",
        );
        return Ok(());
    }
    status(&mut conn, primary, &server, group).await?;
    order(&server, group);
    match server.var("read_only") {
        "ON" => group.ok("replicas.read_only", "ON"),
        value => group.warning(
            "replicas.read_only",
            format!("read_only is {value}: what is written there is in no binlog that rowbust reads"),
            "SET GLOBAL read_only=ON, also in the server's configuration",
        ),
    }
    conn.disconnect().await.ok();
    Ok(())
}

async fn status(
    conn: &mut Conn,
    primary: Option<&Server>,
    server: &Server,
    group: &mut Group,
) -> Result<(), SourceError> {
    let statement = rights::replica_status(server);
    if preflight::denied(conn, statement).await? {
        let privilege = match server.flavor {
            Flavor::MySql => "REPLICATION CLIENT",
            Flavor::MariaDb => "SLAVE MONITOR",
        };
        group.not_tested(
            "replicas.source",
            "whether it replicates the primary: the account may not ask",
            format!("there: GRANT {privilege} ON *.* TO {};", preflight::quote_account(&server.account)),
        );
        return Ok(());
    }
    let Some(row) = conn.query_first::<Row, _>(statement).await? else {
        group.error(
            "replicas.source",
            "it is no replica: commits of the primary never become visible there, and every second removal waits for them",
            "let it replicate the primary, or take it out of `source.replicas`",
        );
        return Ok(());
    };
    let fields: HashMap<String, String> = row
        .columns_ref()
        .iter()
        .enumerate()
        .filter_map(|(at, column)| {
            let value = row.get_opt::<Option<String>, _>(at)?.ok()??;
            Some((column.name_str().to_lowercase(), value))
        })
        .collect();
    let field = |names: [&str; 2]| {
        names.iter().find_map(|name| fields.get(*name)).map(String::as_str).unwrap_or_default()
    };
    let at = format!("{}:{}", field(["source_host", "master_host"]), field(["source_port", "master_port"]));
    if let Some(primary) = primary {
        let uuid = field(["source_uuid", "master_uuid"]);
        let direct = if uuid.is_empty() {
            field(["source_server_id", "master_server_id"]) == primary.id.to_string()
        } else {
            uuid.eq_ignore_ascii_case(primary.var("server_uuid"))
        };
        if direct {
            group.ok("replicas.source", format!("replicates the primary, {at}"));
        } else {
            group.warning(
                "replicas.source",
                format!("replicates {at}, which is another server than `source.url` (or was never reached)"),
                "right for a replica of a replica of the primary; else name a replica of it",
            );
        }
    }
    let io = field(["replica_io_running", "slave_io_running"]);
    let sql = field(["replica_sql_running", "slave_sql_running"]);
    let lag = field(["seconds_behind_source", "seconds_behind_master"]);
    if sql != "Yes" || io != "Yes" {
        let error = [field(["last_io_error", "last_io_error"]), field(["last_sql_error", "last_sql_error"])];
        let error = error.into_iter().find(|text| !text.is_empty()).unwrap_or("no error is given");
        group.error(
            "replicas.running",
            format!("replication stands still (receiver: {io}, applier: {sql}): {error}"),
            "START REPLICA, after mending its cause: second removals wait for this server, then reading does",
        );
    } else {
        match lag.parse::<u64>() {
            Ok(lag) if lag > 60 => group.warning(
                "replicas.running",
                format!("{lag} s behind: second removals wait for so long"),
                "find out why it is slow, or take it out of the readers' pool and of `source.replicas`",
            ),
            Ok(lag) => group.ok("replicas.running", format!("{lag} s behind")),
            Err(_) => group.ok("replicas.running", "receives and applies"),
        }
    }
    Ok(())
}

fn order(server: &Server, group: &mut Group) {
    let first =
        |names: [&str; 2]| names.iter().map(|name| server.var(name)).find(|v| !v.is_empty()).unwrap_or("");
    match server.flavor {
        Flavor::MySql => {
            if server.var("gtid_mode") == "ON" {
                group.ok("replicas.gtid_mode", "ON");
            } else {
                group.error(
                    "replicas.gtid_mode",
                    format!("gtid_mode is {}: what is visible there can't be known", server.var("gtid_mode")),
                    "enable GTIDs there as on the primary",
                );
            }
            let workers = first(["replica_parallel_workers", "slave_parallel_workers"]).parse().unwrap_or(0);
            let ordered = workers <= 1
                || first(["replica_preserve_commit_order", "slave_preserve_commit_order"]) == "ON";
            if ordered {
                group.ok("replicas.commit_order", "commits as the primary does");
            } else {
                group.warning(
                    "replicas.commit_order",
                    "replica_preserve_commit_order is OFF: commits become visible in another order than the primary's; each is waited for by its GTID",
                    "SET GLOBAL replica_preserve_commit_order=ON, so that readers see no state that never was",
                );
            }
        }
        // All modes commit in order within a GTID domain.
        Flavor::MariaDb => {
            let mode = server.var("slave_parallel_mode").to_lowercase();
            group
                .ok("replicas.commit_order", format!("within each GTID domain as the primary does ({mode})"));
        }
    }
}
