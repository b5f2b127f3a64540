//! A config as it was understood: every default filled in, every secret taken out.
//!
//! Guarantees: no password, no admin token, and no librdkafka property that looks like a secret is in a [`Shown`]; and
//! what [`Shown::to_yaml`] prints is a config again, which means the same once the secrets are put back for `****`.

use std::path::Path;

use serde_json::Value;

use super::{
    Config, Driver, Image, KeyOp, KeyRule, Mapping, Password, Properties, RedisMode, RedisTarget, Retry,
    RetryPolicy, SecondRemoval, Shared, Start, Tls, TlsMode, show_duration, show_size,
};

/// What stands where a secret stood.
const REDACTED: &str = "****";

/// A tree of what is printed, in the order of the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A text.
    Text(String),
    /// A whole number.
    Number(u64),
    /// `true` or `false`
    Bool(bool),
    /// A list.
    List(Vec<Shown>),
    /// A mapping.
    Map(Vec<(String, Shown)>),
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&Path> for Shown {
    fn from(path: &Path) -> Self {
        Self::Text(path.display().to_string())
    }
}

impl<T: Into<Shown>> FromIterator<T> for Shown {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

/// Fields in order.
#[derive(Default)]
struct Fields(Vec<(String, Shown)>);

impl Fields {
    fn add(&mut self, name: &str, value: impl Into<Shown>) {
        self.0.push((name.to_owned(), value.into()));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.add(name, Shown::Number(value));
    }

    /// `NAME` or `NAME_file`; neither where there is none.
    fn secret(&mut self, name: &str, secret: &Password) {
        match secret {
            Password::Empty => {}
            Password::Value(_) => self.add(name, REDACTED),
            Password::File(path) => self.add(&format!("{name}_file"), path.as_path()),
        }
    }

    fn username(&mut self, username: Option<&String>) {
        if let Some(username) = username {
            self.add("username", username.as_str());
        }
    }

    fn tls(&mut self, tls: Option<&Tls>) {
        let Some(tls) = tls else { return };
        let mut fields = Self::default();
        let mode = match tls.mode {
            TlsMode::Disabled => "disabled",
            TlsMode::Required => "required",
            TlsMode::VerifyCa => "verify_ca",
            TlsMode::VerifyIdentity => "verify_identity",
        };
        fields.add("mode", mode);
        if let Some(ca_file) = &tls.ca_file {
            fields.add("ca_file", ca_file.as_path());
        }
        if let Some(client) = &tls.client {
            fields.add("cert_file", client.cert_file.as_path());
            fields.add("key_file", client.key_file.as_path());
        }
        self.add("tls", fields);
    }
}

impl From<Fields> for Shown {
    fn from(fields: Fields) -> Self {
        Self::Map(fields.0)
    }
}

impl Config {
    /// Everything that holds, defaults included, without secrets. What is derived when it isn't given (`server_id`) is left
    /// out.
    pub fn shown(&self) -> Shown {
        let mut root = Fields::default();
        root.number("version", 1);
        root.add("source", self.shown_source());
        let targets = self.redis.iter().map(|target| (target.name.clone(), shown_target(target))).collect();
        root.add("redis", Shown::Map(targets));
        root.add("retry", shown_retry(&self.retry));
        root.add("checkpoint", self.shown_checkpoint());
        let mut admin = Fields::default();
        admin.add("listen", self.admin.listen.to_string());
        admin.secret("token", &self.admin.token);
        root.add("admin", admin);
        let mut limits = Fields::default();
        limits.add("memory", show_size(self.limits.memory));
        limits.number("keys_per_second", self.limits.keys_per_second);
        limits.number("flush_keys_per_second", self.limits.flush_keys_per_second);
        limits.number("sweep_keys_per_second", self.limits.sweep_keys_per_second);
        root.add("limits", limits);
        root.add("mappings", self.mappings.iter().map(|m| self.shown_mapping(m)).collect::<Shown>());
        root.into()
    }

    fn shown_source(&self) -> Fields {
        let source = &self.source;
        let mut fields = Fields::default();
        let server = address(&(source.host.clone(), source.port));
        fields.add("url", format!("mysql://{}@{server}", encode(&source.user)));
        fields.secret("password", &source.password);
        if !source.replicas.is_empty() {
            fields.add("replicas", source.replicas.iter().map(address).collect::<Shown>());
        }
        fields.tls(Some(&source.tls));
        if let Some(id) = source.server_id {
            fields.number("server_id", id.into());
        }
        let driver = match source.driver {
            Driver::Native => "native",
            Driver::MysqlCdc => "mysql_cdc",
        };
        fields.add("driver", driver);
        let mut start = Fields::default();
        match &source.start {
            Start::Latest => fields.add("start", "latest"),
            Start::Earliest => fields.add("start", "earliest"),
            Start::Gtid(gtid) => {
                start.add("gtid", gtid.as_str());
                fields.add("start", start);
            }
            Start::Position { file, position } => {
                start.add("file", file.as_str());
                start.number("position", *position);
                fields.add("start", start);
            }
        }
        if let Some((schema, table)) = &source.heartbeat {
            fields.add("heartbeat", format!("{schema}.{table}"));
        }
        fields.add("on_gap", source.policies.on_gap.as_str());
        fields.add("lossless", Shown::Bool(source.policies.lossless));
        fields.add("on_undecodable", source.policies.on_undecodable.as_str());
        fields.add("on_statement", source.policies.on_statement.as_str());
        fields
    }

    fn shown_checkpoint(&self) -> Fields {
        let mut fields = Fields::default();
        match &self.checkpoint.shared {
            None => fields.add("path", self.checkpoint.path.as_path()),
            Some(Shared::Redis { target, name }) => {
                fields.add("redis", self.target_name(*target));
                fields.add("name", name.as_str());
            }
            Some(Shared::Kafka { brokers, prefix, properties, name }) => {
                fields.add("kafka", shown_kafka(brokers, prefix, properties));
                fields.add("name", name.as_str());
            }
        }
        fields
    }

    fn target_name(&self, target: usize) -> &str {
        self.redis.get(target).map_or("", |target| target.name.as_str())
    }

    fn shown_mapping(&self, mapping: &Mapping) -> Fields {
        let mut fields = Fields::default();
        fields.add("table", mapping.table.as_str());
        if let Some(columns) = &mapping.when_changed {
            fields.add("when_changed", columns.iter().map(String::as_str).collect::<Shown>());
        }
        if let Some(when) = &mapping.when {
            let mut condition = Fields::default();
            condition.add("column", when.column.as_str());
            condition.add("in", when.any_of.iter().map(String::as_str).collect::<Shown>());
            let image = match when.image {
                Image::Before => "before",
                Image::After => "after",
                Image::Any => "any",
            };
            condition.add("image", image);
            fields.add("when", condition);
        }
        fields.add("keys", mapping.keys.iter().map(shown_rule).collect::<Shown>());
        match mapping.second_removal {
            SecondRemoval::WhenVisible => fields.add("second_removal", "when_visible"),
            SecondRemoval::Never => fields.add("second_removal", "never"),
            SecondRemoval::After(after) => {
                let mut fixed = Fields::default();
                fixed.add("after", show_duration(after));
                fields.add("second_removal", fixed);
            }
        }
        if mapping.second_removal == SecondRemoval::WhenVisible && !mapping.guarded {
            fields.add("fill_grace", show_duration(mapping.fill_grace));
        }
        fields.add("guarded", Shown::Bool(mapping.guarded));
        fields.number("keys_per_second", mapping.keys_per_second);
        // Written out, `flush` of a key that may be any is refused; left out, such a mapping halts when it comes to that.
        let any_key = mapping.keys.iter().any(|rule| rule.key.literal_prefix().is_empty());
        if !(any_key && mapping.on_ddl.flushes()) {
            let mut on_ddl = Fields::default();
            on_ddl.add("truncate", mapping.on_ddl.truncate.as_str());
            on_ddl.add("drop", mapping.on_ddl.drop.as_str());
            on_ddl.add("rename", mapping.on_ddl.rename.as_str());
            fields.add("on_ddl", on_ddl);
        }
        fields.add("on_schema", mapping.on_schema.as_str());
        fields.add("to", self.target_name(mapping.target));
        fields
    }
}

fn shown_target(target: &RedisTarget) -> Shown {
    let mut fields = Fields::default();
    let mut login = None;
    match &target.mode {
        RedisMode::Standalone { host, port } => {
            let scheme = if target.tls.is_some() { "rediss" } else { "redis" };
            let server = address(&(host.clone(), *port));
            fields.add("url", format!("{scheme}://{server}/{}", target.db));
            fields.add("mode", "standalone");
        }
        RedisMode::Cluster { nodes } => {
            fields.add("mode", "cluster");
            fields.add("nodes", nodes.iter().map(address).collect::<Shown>());
        }
        RedisMode::Sentinel { master, nodes, username, password, tls } => {
            fields.add("mode", "sentinel");
            fields.add("nodes", nodes.iter().map(address).collect::<Shown>());
            fields.add("master", master.as_str());
            fields.number("db", target.db.unsigned_abs());
            let mut own = Fields::default();
            own.username(username.as_ref());
            own.secret("password", password);
            own.tls(tls.as_ref());
            login = Some(own).filter(|own| !own.0.is_empty());
        }
    }
    fields.username(target.username.as_ref());
    fields.secret("password", &target.password);
    fields.tls(target.tls.as_ref());
    if let Some(login) = login {
        fields.add("sentinel", login);
    }
    if let Some(durability) = target.durability {
        let mut wait = Fields::default();
        wait.number("wait_replicas", durability.replicas);
        wait.add("timeout", show_duration(durability.timeout));
        fields.add("durability", wait);
    }
    fields.into()
}

fn shown_retry(retry: &Retry) -> Fields {
    let tiers = |policy: &RetryPolicy| -> Shown {
        let tier = |tier: super::Tier| {
            let mut fields = Fields::default();
            fields.add("delay", show_duration(tier.delay));
            fields.number("attempts", tier.attempts.into());
            fields
        };
        policy.tiers().map(tier).collect()
    };
    let mut fields = Fields::default();
    match retry {
        Retry::Disk { path, policy } => {
            let mut disk = Fields::default();
            disk.add("path", path.as_path());
            fields.add("disk", disk);
            fields.add("tiers", tiers(policy));
        }
        Retry::Kafka { brokers, prefix, properties, policy } => {
            fields.add("kafka", shown_kafka(brokers, prefix, properties));
            fields.add("tiers", tiers(policy));
        }
    }
    fields
}

fn shown_kafka(brokers: &[String], prefix: &str, properties: &Properties) -> Fields {
    let mut fields = Fields::default();
    fields.add("brokers", brokers.iter().map(String::as_str).collect::<Shown>());
    fields.add("prefix", prefix);
    let properties: Vec<_> =
        properties.shown().map(|(name, value)| (name.to_owned(), value.into())).collect();
    if !properties.is_empty() {
        fields.add("properties", Shown::Map(properties));
    }
    fields
}

fn shown_rule(rule: &KeyRule) -> Fields {
    let mut fields = Fields::default();
    let template = rule.key.source();
    match &rule.op {
        KeyOp::Unlink => {
            fields.add("key", template);
            fields.add("op", "unlink");
        }
        KeyOp::Hdel { field } => {
            fields.add("key", template);
            fields.add("op", "hdel");
            fields.add("field", field.source());
        }
        KeyOp::Prefix { alarm_above } => {
            fields.add("prefix", template);
            fields.number("alarm_above", *alarm_above);
        }
        KeyOp::MembersOf { members_prefix } => {
            fields.add("members_of", template);
            if !members_prefix.is_empty() {
                fields.add("members_prefix", members_prefix.iter().map(String::as_str).collect::<Shown>());
            }
        }
    }
    let events = rule.events;
    let events = [(events.insert, "insert"), (events.update, "update"), (events.delete, "delete")];
    fields.add("events", events.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect::<Shown>());
    fields
}

fn address((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A user in a URL: RFC 3986's unreserved characters stay.
fn encode(user: &str) -> String {
    let mut out = String::new();
    for byte in user.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl Shown {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Bool(value) => (*value).into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(entries) => entries.iter().map(|(k, v)| (k.clone(), v.to_json())).collect(),
        }
    }

    /// As YAML that [`super::parse`] takes: a literal `${` is written `$${`.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        self.block(0, &mut out);
        out
    }

    /// Whether it stands on the line of its name.
    fn scalar(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(scalar(&text.replace("${", "$${"))),
            Self::Number(number) => Some(number.to_string()),
            Self::Bool(value) => Some(value.to_string()),
            Self::List(items) if items.is_empty() => Some("[]".to_owned()),
            // Of words: on one line.
            Self::List(items) => {
                let words: Option<Vec<_>> = items
                    .iter()
                    .map(|item| item.scalar().filter(|_| !matches!(item, Self::List(_) | Self::Map(_))))
                    .collect();
                words.map(|words| format!("[{}]", words.join(", ")))
            }
            Self::Map(entries) if entries.is_empty() => Some("{}".to_owned()),
            Self::Map(_) => None,
        }
    }

    fn block(&self, indent: usize, out: &mut String) {
        let pad = " ".repeat(indent);
        match self {
            Self::Map(entries) => {
                for (name, value) in entries {
                    out.push_str(&format!("{pad}{}:", scalar(name)));
                    match value.scalar() {
                        Some(text) => out.push_str(&format!(" {text}\n")),
                        None => {
                            out.push('\n');
                            value.block(indent + 2, out);
                        }
                    }
                }
            }
            Self::List(items) => {
                for item in items {
                    let mut inner = String::new();
                    match item.scalar() {
                        Some(text) => inner = format!("{text}\n"),
                        None => item.block(indent + 2, &mut inner),
                    }
                    out.push_str(&format!("{pad}- {}", inner.trim_start()));
                }
            }
            _ => out.push_str(&format!("{pad}{}\n", self.scalar().unwrap_or_default())),
        }
    }
}

/// Bare where no YAML reader takes it for anything but this text, else in double quotes.
fn scalar(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.' | '-');
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let measure =
        number.len() < text.len() && matches!(number, "ms" | "s" | "m" | "h" | "B" | "KiB" | "MiB" | "GiB");
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(bare)
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "inf" | "infinity" | "nan"
        );
    if word || measure {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // What YAML reads as a line break or a mark of byte order, or a terminal as a command.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
