//! The id as a replica, and whether a daemon of this deployment runs.
//!
//! May depend on `source`.

use mysql_async::{Conn, Row, prelude::Queryable as _};
use rowbust_binlog::Flavor;

use super::{report::Group, source::Server};
use crate::{
    config::Config,
    source::{SourceError, lease, preflight, start},
};

/// An account's rights are tried under it. Nobody has it: ids of daemons are derived below, and people count from 1.
pub(super) const TRIED_ID: u32 = u32::MAX - 1;

pub(super) async fn look(
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
