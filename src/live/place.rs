//! Where reading would begin, and for how long the server still has that.
//!
//! May depend on `source` and `checkpoint`.

use mysql_async::{Conn, Row, prelude::Queryable as _};
use rowbust_binlog::{GtidState, MariaGtidPos};

use super::{
    Waiting,
    checkpoint::Found,
    report::Group,
    source::{Server, lost},
    within,
};
use crate::{
    checkpoint,
    config::{Config, Policy, show_duration},
    source::{SourceError, connect::Connector, position::Position, preflight, retention, start},
};

/// Asks about the checkpoint, or about `source.start` where there is none.
pub(super) async fn look(
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
            if resumed.is_ok()
                && let Some(what) = purged(&mut conn, &position).await?
            {
                resumed = Err(SourceError::gap(what));
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
