//! `rowbust check`: what was understood of the config; with `--live`, whether the servers are as it needs them.

mod live;

use serde_json::{Value, json};

use super::{Exit, Global, block_on, load, out};
use crate::config::{
    Config, Driver, Events, Image, KeyOp, KeyRule, Mapping, Password, RedisMode, RedisTarget, Retry,
    SecondRemoval, Start, Tls, TlsMode, show_duration, show_size,
};

/// Arguments of `rowbust check`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Without --live the config file is read only: no server is asked. With it every server is asked, nothing is
changed, and each line that isn't ok says what to do; docs/check.md explains them.

Exit codes: 0 fine (warnings too), 69 a server can't be reached, 78 a mistake in the config or a setting of a server.

Examples:
  rowbust check
  rowbust -c shop.yaml check --json
  rowbust check --live
  rowbust check --live --strict --json"
)]
pub struct CheckArgs {
    /// Ask the servers: settings, grants, tables, read sources, Redis, the retry queue, this machine
    #[arg(long)]
    pub live: bool,
    /// Warnings of --live count as mistakes
    #[arg(long, requires = "live")]
    pub strict: bool,
}

pub(super) fn execute(global: &Global, args: &CheckArgs) -> Exit {
    let config = match load(global) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if args.live {
        return live::execute(global, args, &config);
    }
    let file = global.config.display().to_string();
    if global.json {
        out::json(&to_json(&file, &config));
    } else {
        out::stdout(&format!("{file} is fine\n\n{}", text(&config)));
    }
    Exit::Ok
}

fn text(config: &Config) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let source = &config.source;
    let mut rows = vec![
        row("source", format!("{}, password {}", source_url(config), password(&source.password))),
        row("", format!("tls {}, start {}", tls(&source.tls), start(&source.start))),
    ];
    let ids = source.server_id.map_or("derived".into(), |id| id.to_string());
    rows.push(row("", format!("server id {ids}")));
    if !source.replicas.is_empty() {
        rows.push(row("replicas", source.replicas.iter().map(address).collect::<Vec<_>>().join(", ")));
    }
    if let Some((schema, table)) = &source.heartbeat {
        rows.push(row("heartbeat", format!("{schema}.{table}")));
    }
    let policies = source.policies;
    rows.push(row(
        "policies",
        format!(
            "on_gap {}, on_undecodable {}, on_statement {}",
            policies.on_gap.as_str(),
            policies.on_undecodable.as_str(),
            policies.on_statement.as_str()
        ),
    ));
    if source.driver == Driver::MysqlCdc {
        rows.push(row("driver", "mysql_cdc, which has limits:".into()));
        rows.extend(driver_limits().iter().map(|limit| row("", (*limit).into())));
    }
    for target in &config.redis {
        let tls = target.tls.as_ref().map_or(String::new(), |t| format!(", tls {}", tls(t)));
        let auth = format!(", password {}", password(&target.password));
        let durability = target.durability.map_or(String::new(), |d| {
            format!(", removals wait {:?} for {} replicas", d.timeout, d.replicas)
        });
        rows.push(row("redis", format!("{}: {}{auth}{tls}{durability}", target.name, redis_url(target))));
    }
    rows.push(row("retry", retry(&config.retry)));
    rows.push(row("checkpoint", crate::checkpoint::place(config)));
    if config.checkpoint.shared.is_some() && matches!(config.retry, Retry::Disk { .. }) {
        let note = "shared, but the retry queue is on this host's disk: the checkpoint waits while that holds anything;                     use retry.kafka";
        rows.push(row("", note.into()));
    }
    rows.push(row("admin", config.admin.listen.to_string()));
    rows.push(row(
        "limits",
        format!(
            "memory {}, bulk {}, flush {}, sweep {}",
            show_size(config.limits.memory),
            rate(config.limits.keys_per_second),
            rate(config.limits.flush_keys_per_second),
            rate(config.limits.sweep_keys_per_second)
        ),
    ));
    let mut text = out::table(&rows);
    for mapping in &config.mappings {
        text.push_str(&format!(
            "\n{} -> {} (line {})\n",
            mapping.table,
            target_name(config, mapping),
            mapping.line
        ));
        let mut rows = Vec::new();
        let mut add = |name: &str, value: String| rows.push(vec![format!("  {name}"), value]);
        if let Some(columns) = &mapping.when_changed {
            add("when changed", columns.join(", "));
        }
        if let Some(when) = &mapping.when {
            add("when", format!("{} in {:?}, image {}", when.column, when.any_of, image(when.image)));
        }
        for rule in &mapping.keys {
            add(op(rule), key(rule));
        }
        add("second removal", second_removal(mapping));
        if mapping.keys_per_second > 0 {
            add("bulk", rate(mapping.keys_per_second));
        }
        let ddl = mapping.on_ddl;
        let words = [("truncate", ddl.truncate), ("drop", ddl.drop), ("rename", ddl.rename)];
        let words = words.map(|(name, policy)| format!("{name} {}", policy.as_str())).join(", ");
        add("on ddl", format!("{words}; on_schema {}", mapping.on_schema.as_str()));
        for note in mapping.keys.iter().flat_map(notes) {
            add("note", note);
        }
        text.push_str(&out::table(&rows));
    }
    text
}

fn to_json(file: &str, config: &Config) -> Value {
    let source = &config.source;
    let mappings: Vec<Value> = config.mappings.iter().map(|m| mapping_json(config, m)).collect();
    let redis: Vec<Value> = config
        .redis
        .iter()
        .map(|t| {
            json!({
                "name": t.name, "url": redis_url(t), "password": password(&t.password),
                "mode": redis_mode(t), "nodes": t.addresses().iter().map(address).collect::<Vec<_>>(),
                "tls": t.tls.as_ref().map(tls),
                "wait_replicas": t.durability.map(|d| d.replicas),
            })
        })
        .collect();
    json!({
        "schema_version": 1,
        "ok": true,
        "file": file,
        "source": {
            "url": source_url(config), "password": password(&source.password), "tls": tls(&source.tls),
            "start": start(&source.start), "server_id": source.server_id,
            "replicas": source.replicas.iter().map(address).collect::<Vec<_>>(),
            "on_gap": source.policies.on_gap.as_str(),
            "on_undecodable": source.policies.on_undecodable.as_str(),
            "on_statement": source.policies.on_statement.as_str(),
            "driver": driver(source.driver), "driver_limits": if source.driver == Driver::MysqlCdc { driver_limits() } else { &[] },
            "heartbeat": source.heartbeat.as_ref().map(|(s, t)| format!("{s}.{t}")),
        },
        "redis": redis,
        "retry": retry(&config.retry),
        "checkpoint": crate::checkpoint::place(config),
        "admin": config.admin.listen.to_string(),
        "limits": {
            "memory_bytes": config.limits.memory,
            "keys_per_second": config.limits.keys_per_second,
            "flush_keys_per_second": config.limits.flush_keys_per_second,
            "sweep_keys_per_second": config.limits.sweep_keys_per_second,
        },
        "mappings": mappings,
    })
}

fn mapping_json(config: &Config, mapping: &Mapping) -> Value {
    let keys: Vec<Value> = mapping
        .keys
        .iter()
        .map(|rule| {
            let field = match &rule.op {
                KeyOp::Hdel { field } => Some(field.source()),
                _ => None,
            };
            let alarm_above = match &rule.op {
                KeyOp::Prefix { alarm_above } => Some(*alarm_above),
                _ => None,
            };
            let members_prefix = match &rule.op {
                KeyOp::MembersOf { members_prefix } => Some(members_prefix),
                _ => None,
            };
            let notes = notes(rule);
            json!({
                "line": rule.line, "op": op(rule), "key": rule.key.source(), "field": field,
                "alarm_above": alarm_above, "members_prefix": members_prefix,
                "events": events(rule.events), "note": notes.first(), "notes": notes,
            })
        })
        .collect();
    let when = mapping.when.as_ref();
    json!({
        "line": mapping.line, "table": mapping.table, "to": target_name(config, mapping),
        "when_changed": mapping.when_changed,
        "when": when.map(|w| json!({ "column": w.column, "in": w.any_of, "image": image(w.image) })),
        "keys": keys, "second_removal": second_removal(mapping), "guarded": mapping.guarded,
        "keys_per_second": mapping.keys_per_second,
        "on_ddl": {
            "truncate": mapping.on_ddl.truncate.as_str(),
            "drop": mapping.on_ddl.drop.as_str(),
            "rename": mapping.on_ddl.rename.as_str(),
        },
        "on_schema": mapping.on_schema.as_str(),
    })
}

fn driver(driver: Driver) -> &'static str {
    match driver {
        Driver::Native => "native",
        Driver::MysqlCdc => "mysql_cdc",
    }
}

/// What `mysql_cdc` can't do.
fn driver_limits() -> &'static [&'static str] {
    #[cfg(feature = "mysql-cdc")]
    return crate::source::CDC_LIMITS;
    #[cfg(not(feature = "mysql-cdc"))]
    &[]
}

fn target_name<'c>(config: &'c Config, mapping: &Mapping) -> &'c str {
    config.redis.get(mapping.target).map_or("", |t| t.name.as_str())
}

fn source_url(config: &Config) -> String {
    let source = &config.source;
    format!("mysql://{}@{}", source.user, address(&(source.host.clone(), source.port)))
}

/// For people: of a cluster its nodes, of sentinels the master's name at them.
fn redis_url(target: &RedisTarget) -> String {
    let scheme = if target.tls.is_some() { "rediss" } else { "redis" };
    let user = target.username.as_ref().map_or(String::new(), |u| format!("{u}@"));
    let nodes = target.addresses().iter().map(address).collect::<Vec<_>>().join(",");
    match &target.mode {
        RedisMode::Standalone { .. } => format!("{scheme}://{user}{nodes}/{}", target.db),
        RedisMode::Cluster { .. } => format!("cluster {scheme}://{user}{nodes}"),
        RedisMode::Sentinel { master, .. } => {
            format!("{scheme}://{user}{master}/{} by sentinels {nodes}", target.db)
        }
    }
}

fn redis_mode(target: &RedisTarget) -> &'static str {
    match target.mode {
        RedisMode::Standalone { .. } => "standalone",
        RedisMode::Cluster { .. } => "cluster",
        RedisMode::Sentinel { .. } => "sentinel",
    }
}

fn address((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn password(password: &Password) -> String {
    match password {
        Password::Empty => "none".into(),
        Password::Value(_) => "given".into(),
        Password::File(path) => format!("from {}", path.display()),
    }
}

fn tls(tls: &Tls) -> String {
    let mode = match tls.mode {
        TlsMode::Disabled => "disabled",
        TlsMode::Required => "required",
        TlsMode::VerifyCa => "verify_ca",
        TlsMode::VerifyIdentity => "verify_identity",
    };
    let mut text = mode.to_owned();
    if let Some(ca) = &tls.ca_file {
        text += &format!(" by {}", ca.display());
    }
    if let Some(client) = &tls.client {
        text += &format!(", with {}", client.cert_file.display());
    }
    text
}

fn start(start: &Start) -> String {
    match start {
        Start::Latest => "latest".into(),
        Start::Earliest => "earliest".into(),
        Start::Gtid(gtid) => format!("behind {gtid}"),
        Start::Position { file, position } => format!("at {file}:{position}"),
    }
}

fn retry(retry: &Retry) -> String {
    let (place, policy) = match retry {
        Retry::Disk { path, policy } => (format!("disk {}", path.display()), policy),
        Retry::Kafka { brokers, prefix, policy, .. } => {
            (format!("kafka {} topics {prefix}.*", brokers.join(",")), policy)
        }
    };
    let tiers: Vec<String> = policy
        .tiers()
        .map(|tier| format!("{} attempts, {} apart", tier.attempts, show_duration(tier.delay)))
        .collect();
    format!("{place}, {}", tiers.join(", then "))
}

fn op(rule: &KeyRule) -> &'static str {
    match rule.op {
        KeyOp::Unlink => "unlink",
        KeyOp::Hdel { .. } => "hdel",
        KeyOp::Prefix { .. } => "prefix",
        KeyOp::MembersOf { .. } => "members_of",
    }
}

fn rate(per_second: u64) -> String {
    match per_second {
        0 => "unlimited".to_owned(),
        n => format!("{n}/s"),
    }
}

fn key(rule: &KeyRule) -> String {
    let more = match &rule.op {
        KeyOp::Unlink => String::new(),
        KeyOp::Hdel { field } => format!(" {}", field.source()),
        KeyOp::Prefix { alarm_above } => format!("  alarm above {alarm_above}"),
        KeyOp::MembersOf { members_prefix } if members_prefix.is_empty() => String::new(),
        KeyOp::MembersOf { members_prefix } => format!("  that begin with {}", members_prefix.join(", ")),
    };
    let on = if rule.events == Events::ALL {
        String::new()
    } else {
        format!("  on {}", events(rule.events).join(", "))
    };
    format!("{}{more}{on}", rule.key.source())
}

/// What may surprise, but is right; and what the servers must hold to.
fn notes(rule: &KeyRule) -> Vec<String> {
    let mut notes = Vec::new();
    let source = rule.key.source();
    if let Some(pair) = rule.key.ambiguity() {
        notes.push(format!(
            "{source}: values of {} and {} can run into each other; too many keys are removed then, never too few",
            pair.first, pair.second
        ));
    }
    let constant = rule.key.is_constant()
        && match &rule.op {
            KeyOp::Hdel { field } => field.is_constant(),
            KeyOp::Unlink | KeyOp::Prefix { .. } | KeyOp::MembersOf { .. } => true,
        };
    if constant {
        let what = if matches!(rule.op, KeyOp::Prefix { .. }) { "prefix" } else { "key" };
        notes.push(format!("{source}: every row gives this one {what}"));
    }
    match &rule.op {
        KeyOp::Unlink | KeyOp::Hdel { .. } => {}
        KeyOp::Prefix { .. } => {
            notes.push(format!("{source}: each change costs two passes over the whole database (SCAN), shared by all that wait"));
            if rule.key.ends_with_column() {
                notes.push(format!(
                    "{source}: ends with a column: what begins with 1 begins with 10 too; a separator at its end tells them apart"
                ));
            }
        }
        KeyOp::MembersOf { members_prefix } => {
            notes.push(format!(
                "{source}: where Redis may evict or expire a set, its members are forgotten: give sets no TTL below that of their members, \
                 and use maxmemory-policy noeviction or volatile-*"
            ));
            if members_prefix.is_empty() {
                notes.push(format!(
                    "{source}: every member is removed, whatever key it names; `members_prefix` bounds that"
                ));
            }
        }
    }
    notes
}

fn events(events: Events) -> Vec<&'static str> {
    let all = [(events.insert, "insert"), (events.update, "update"), (events.delete, "delete")];
    all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
}

fn image(image: Image) -> &'static str {
    match image {
        Image::Before => "before",
        Image::After => "after",
        Image::Any => "any",
    }
}

fn second_removal(mapping: &Mapping) -> String {
    match mapping.second_removal {
        SecondRemoval::WhenVisible if mapping.guarded => "when visible; guarded, no fill grace".into(),
        SecondRemoval::WhenVisible => {
            format!("when visible, plus {} fill grace", show_duration(mapping.fill_grace))
        }
        SecondRemoval::After(after) => format!("{} after the first", show_duration(after)),
        SecondRemoval::Never => "never".into(),
    }
}
