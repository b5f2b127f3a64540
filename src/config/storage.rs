//! `retry`, `checkpoint`, `admin`, `limits`.

use std::{net::SocketAddr, ops::Range, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    Admin, Checkpoint, KeyOp, KeyRule, Limits, MIN_TOKEN, Mapping, Password, Properties, RedisTarget, Retry,
    RetryPolicy, Shared, Source, Tier,
    codes::Code,
    fields,
    node::{Node, Value},
    units,
    walk::{Object, Walk},
};

/// librdkafka properties that rowbust sets itself: durability, ordering and offsets rest on them.
pub const RESERVED_PROPERTIES: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

impl Walk<'_> {
    pub(super) fn checkpoint(
        &mut self,
        found: Option<(&Node, Range<usize>)>,
        source: Option<&Source>,
        redis: Option<&[RedisTarget]>,
    ) -> Option<Checkpoint> {
        let default = || self.base.join("rowbust-data").join("checkpoint");
        let Some((node, at)) = found else { return Some(Checkpoint::file(default())) };
        let default = default();
        let object = self.object(node, at, &fields::CHECKPOINT)?;
        let path = match object.get("path") {
            Some(node) => self.path(node, "`checkpoint.path`")?,
            None => default,
        };
        if path.file_name().is_none() {
            let help = "write the path of a file, e.g. /var/lib/rowbust/checkpoint";
            self.report(Code::BadName, object.key_span("path"), "`checkpoint.path` names no file", help);
            return None;
        }
        let places: Vec<_> =
            ["path", "redis", "kafka"].into_iter().filter(|name| object.get(name).is_some()).collect();
        if let [one, other, ..] = places[..] {
            let message = format!("both `{one}` and `{other}`");
            self.report(Code::Conflict, object.key_span(other), message, "keep one of them");
            return None;
        }
        let shared = match (object.get("redis"), object.get("kafka")) {
            (Some(node), _) => Some((Some(self.checkpoint_target(node, redis?)?), None)),
            (None, Some(node)) => Some((None, Some(self.kafka(node, object.key_span("kafka"))?))),
            (None, None) => None,
        };
        let Some(shared) = shared else {
            if object.get("name").is_some() {
                let help = "remove it: a file is named by its path";
                self.report(
                    Code::Conflict,
                    object.key_span("name"),
                    "`name` has no effect with a file",
                    help,
                );
                return None;
            }
            return Some(Checkpoint::file(path));
        };
        let name = match object.get("name") {
            Some(node) => self.checkpoint_name(node)?,
            None => format!("{}:{}", source?.host, source?.port),
        };
        let shared = match shared {
            (Some(target), _) => Shared::Redis { target, name },
            (None, kafka) => {
                let (brokers, prefix, properties) = kafka?;
                Shared::Kafka { brokers, prefix, properties, name }
            }
        };
        Some(Checkpoint { path, shared: Some(shared) })
    }

    fn checkpoint_target(&mut self, node: &Node, targets: &[RedisTarget]) -> Option<usize> {
        let text = self.text(node, "the name of a target")?;
        let found = targets.iter().position(|target| target.name == text.value);
        if found.is_none() {
            let names: Vec<_> = targets.iter().map(|target| format!("`{}`", target.name)).collect();
            let message = format!("`redis` has no target `{}`", self.shown(&node.span));
            self.report(
                Code::UnknownTarget,
                node.span.clone(),
                message,
                format!("targets: {}", names.join(", ")),
            );
        }
        found
    }

    fn checkpoint_name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "the deployment's name")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if !text.value.is_empty() && text.value.len() <= 100 && text.value.chars().all(plain) {
            return Some(text.value);
        }
        let message = format!("`{}` can't be the name of a checkpoint", self.shown(&node.span));
        let help = "use letters, digits, `.`, `_`, `-` and `:`, at most 100, e.g. shop";
        self.report(Code::BadName, node.span.clone(), message, help);
        None
    }

    /// A flush of a mapping that could make the checkpoint's key would remove it.
    pub(super) fn checkpoint_apart(
        &mut self,
        checkpoint: &Checkpoint,
        found: Option<(&Node, Range<usize>)>,
        mappings: &[Mapping],
    ) {
        let (Some(Shared::Redis { target, name }), Some((_, at))) = (&checkpoint.shared, found) else {
            return;
        };
        let key = Shared::redis_key(name);
        let (key_bytes, begins) = (key.as_bytes(), 1..=key.len());
        let reaches = |rule: &KeyRule| match rule.op {
            KeyOp::Prefix { .. } => {
                begins.clone().any(|end| key_bytes.get(..end).is_some_and(|part| rule.key.could_make(part)))
            }
            KeyOp::Unlink | KeyOp::Hdel { .. } | KeyOp::MembersOf { .. } => rule.key.could_make(key_bytes),
        };
        let makes = |mapping: &&Mapping| mapping.target == *target && mapping.keys.iter().any(reaches);
        if let Some(mapping) = mappings.iter().find(makes) {
            let message = format!(
                "the checkpoint's key `{key}` could be made by the mapping of {} (line {}), which would remove it",
                mapping.table, mapping.line
            );
            self.report(
                Code::Conflict,
                at,
                message,
                "keep the checkpoint in another target, or begin the template with a text of its own",
            );
        }
    }

    pub(super) fn retry(
        &mut self,
        found: Option<(&Node, Range<usize>)>,
        checkpoint: Option<&Checkpoint>,
    ) -> Option<Retry> {
        let beside = checkpoint.and_then(|c| c.path.parent()).map_or(self.base.clone(), PathBuf::from);
        let default = beside.join("retry");
        let Some((node, at)) = found else {
            return Some(Retry::Disk { path: default, policy: RetryPolicy::default() });
        };
        let object = self.object(node, at, &fields::RETRY)?;
        let policy = self.retry_policy(&object);
        let disk = object.get("disk").map(|node| {
            let object = self.object(node, object.key_span("disk"), &fields::DISK)?;
            match object.get("path") {
                Some(node) => self.path(node, "`retry.disk.path`"),
                None => Some(default.clone()),
            }
        });
        let kafka = object.get("kafka").map(|node| self.kafka(node, object.key_span("kafka")));
        let policy = policy?;
        match (kafka, disk) {
            (Some(_), Some(_)) => {
                let span = object.key_span("disk");
                self.report(Code::Conflict, span, "both `kafka` and `disk`", "keep one of them");
                None
            }
            (Some(kafka), None) => {
                let (brokers, prefix, properties) = kafka?;
                Some(Retry::Kafka { brokers, prefix, properties, policy })
            }
            (None, disk) => Some(Retry::Disk { path: disk.unwrap_or(Some(default))?, policy }),
        }
    }

    fn retry_policy(&mut self, object: &Object<'_>) -> Option<RetryPolicy> {
        let delay = object.get("delay").map(|node| self.tier_delay(node, "`retry.delay`"));
        let attempts = object.get("attempts").map(|node| self.tier_attempts(node));
        let Some(node) = object.get("tiers") else {
            let RetryPolicy { first, .. } = RetryPolicy::default();
            return match (delay, attempts) {
                (None, None) => Some(RetryPolicy::default()),
                (delay, attempts) => Some(RetryPolicy::one(
                    delay.unwrap_or(Some(first.delay))?,
                    attempts.unwrap_or(Some(first.attempts))?,
                )),
            };
        };
        for name in ["delay", "attempts"] {
            if object.get(name).is_some() {
                let help = "write it in the tier: `tiers: [{ delay: 10s, attempts: 5 }]`";
                self.report(Code::Conflict, object.key_span(name), format!("`{name}` beside `tiers`"), help);
            }
        }
        let example = "[{ delay: 10s, attempts: 5 }, { delay: 5m, attempts: 12 }]";
        let nodes = self.list(node, "`retry.tiers`", example)?;
        if !(1..=2).contains(&nodes.len()) {
            let message = format!("`retry.tiers` has {} entries", nodes.len());
            self.report(Code::BadNumber, object.key_span("tiers"), message, "write one or two tiers");
            return None;
        }
        let tiers: Vec<Option<Tier>> = nodes.iter().map(|node| self.tier(node)).collect();
        let mut tiers = tiers.into_iter();
        let first = tiers.next().flatten();
        let second = tiers.next();
        Some(RetryPolicy { first: first?, second: second.map_or(Some(None), |tier| tier.map(Some))? })
    }

    fn tier(&mut self, node: &Node) -> Option<Tier> {
        let object = self.object(node, node.span.clone(), &fields::TIER)?;
        let delay = object.get("delay").and_then(|node| self.tier_delay(node, "`delay`"));
        let attempts = object.get("attempts").and_then(|node| self.tier_attempts(node));
        Some(Tier { delay: delay?, attempts: attempts? })
    }

    fn tier_delay(&mut self, node: &Node, what: &str) -> Option<Duration> {
        self.duration(node, what, Duration::from_millis(10), Duration::from_secs(24 * 3600))
    }

    fn tier_attempts(&mut self, node: &Node) -> Option<u32> {
        u32::try_from(self.number(node, "number of attempts", 1..=1000)?).ok()
    }

    fn kafka(&mut self, node: &Node, at: Range<usize>) -> Option<(Vec<String>, String, Properties)> {
        if !cfg!(feature = "kafka") {
            let help = "build with `cargo build --release --features kafka`, or keep failed removals on disk: \
                        `retry: { disk: { path: PATH } }`";
            self.report(Code::NotInThisBuild, at.clone(), "this binary was built without Kafka", help);
        }
        let object = self.object(node, at, &fields::KAFKA)?;
        let brokers =
            object.get("brokers").and_then(|n| self.addresses(n, "`brokers`", "[\"kafka:9092\"]", None));
        let prefix = object.get("prefix").and_then(|n| self.topic_prefix(n));
        let properties = match object.get("properties") {
            Some(node) => self.properties(node),
            None => Some(Properties::default()),
        };
        let join = |(host, port): (String, u16)| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        Some((brokers?.into_iter().map(join).collect(), prefix?, properties?))
    }

    fn topic_prefix(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "the prefix of the topics' names")?;
        // Kafka's own rule for topic names, less what is appended (`Topic.java`: 249 characters).
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !text.value.is_empty() && text.value.len() <= 200 && text.value.chars().all(plain) {
            return Some(text.value);
        }
        let message = format!("`{}` can't begin the name of a topic", self.shown(&node.span));
        let help = "use letters, digits, `.`, `_` and `-`, at most 200, e.g. rowbust.shop";
        self.report(Code::BadName, node.span.clone(), message, help);
        None
    }

    fn properties(&mut self, node: &Node) -> Option<Properties> {
        let mut out = Vec::new();
        let mut ok = true;
        let entries = self.entries(node, "`properties`")?;
        for (name, key, value) in &entries {
            if RESERVED_PROPERTIES.contains(name) {
                let message = format!("rowbust sets `{name}` itself");
                self.report(Code::ReservedProperty, key.span.clone(), message, "remove it");
                ok = false;
                continue;
            }
            let Some(text) = self.text(value, "the property's value") else {
                ok = false;
                continue;
            };
            ok &= self.property(name, key, &text.value, value);
            out.push(((*name).to_owned(), text.value));
        }
        // librdkafka only logs it, and sends everything in plain text.
        let protocol =
            out.iter().find(|(name, _)| name == "security.protocol").map(|(_, value)| value.as_str());
        for (name, key, _) in &entries {
            // One stands for all; and only where nothing else is wrong.
            if !ok {
                break;
            }
            let kind = name.split('.').next().unwrap_or_default();
            let has_effect = match kind {
                "sasl" => protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().starts_with("sasl_")),
                "ssl" => protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().ends_with("ssl")),
                _ => true,
            };
            if !has_effect {
                let message = format!("`{name}` has no effect without its `security.protocol`");
                let help = "add `security.protocol: sasl_ssl` (or ssl, or sasl_plaintext)";
                self.report(Code::Conflict, key.span.clone(), message, help);
                ok = false;
            }
        }
        ok.then_some(out.into())
    }

    #[cfg(feature = "kafka")]
    fn property(&mut self, name: &str, key: &Node, value: &str, at: &Node) -> bool {
        use crate::retry::kafka::properties::{PropertyError, check};
        let (span, message, help) = match check(name, value, super::mask::is_secret_field(name)) {
            Ok(()) => return true,
            Err(PropertyError::Unknown { nearest }) => {
                let help = nearest.map_or_else(
                    || "see CONFIGURATION.md of librdkafka for the names that there are".to_owned(),
                    |name| format!("did you mean `{name}`?"),
                );
                let name = super::mask::printable(name);
                (key.span.clone(), format!("librdkafka has no property `{name}`"), help)
            }
            // Where the value came from the environment, it is not to be shown.
            Err(PropertyError::Invalid(_)) if self.shown(&at.span).contains("${") => (
                at.span.clone(),
                format!("librdkafka refuses the value of `{name}`"),
                "see CONFIGURATION.md of librdkafka".to_owned(),
            ),
            Err(PropertyError::Invalid(why)) => (
                at.span.clone(),
                super::mask::printable(&why),
                "see CONFIGURATION.md of librdkafka".to_owned(),
            ),
        };
        self.report(Code::BadProperty, span, message, help);
        false
    }

    #[cfg(not(feature = "kafka"))]
    fn property(&mut self, _: &str, _: &Node, _: &str, _: &Node) -> bool {
        true
    }

    pub(super) fn admin(&mut self, found: Option<(&Node, Range<usize>)>) -> Option<Admin> {
        let default = Admin { listen: SocketAddr::from(([127, 0, 0, 1], 8321)), token: Password::Empty };
        let Some((node, at)) = found else { return Some(default) };
        let object = self.object(node, at, &fields::ADMIN)?;
        let token = self.token(&object);
        let Some(node) = object.get("listen") else { return Some(Admin { token: token?, ..default }) };
        let text = self.text(node, "`address:port`")?;
        let Ok(listen) = text.value.parse() else {
            let message = format!("`{}` is no `address:port`", self.shown(&node.span));
            let help = "write an IP address and a port, e.g. 127.0.0.1:8321 or [::1]:8321";
            self.report(Code::BadAddress, node.span.clone(), message, help);
            return None;
        };
        Some(Admin { listen, token: token? })
    }

    fn token(&mut self, object: &Object<'_>) -> Option<Password> {
        let (value, file) = (object.get("token"), object.get("token_file"));
        if value.is_some() && file.is_some() {
            let span = object.key_span("token_file");
            self.report(Code::Conflict, span, "both `token` and `token_file`", "keep one of them");
            return None;
        }
        if let Some(node) = file {
            return self.path(node, "`token_file`").map(Password::File);
        }
        let Some(node) = value else { return Some(Password::Empty) };
        let text = self.text(node, "a token")?;
        if text.value.len() < MIN_TOKEN || !text.value.bytes().all(|b| b.is_ascii_graphic()) {
            let message =
                format!("a token has at least {MIN_TOKEN} printable ASCII characters, and no blank");
            let help = "make one with `openssl rand -hex 32` and write `token_file: PATH`";
            self.report(Code::BadName, node.span.clone(), message, help);
            return None;
        }
        Some(Password::Value(SecretString::from(text.value)))
    }

    pub(super) fn limits(&mut self, found: Option<(&Node, Range<usize>)>) -> Option<Limits> {
        let mut limits = Limits {
            memory: 48 << 20,
            keys_per_second: 0,
            flush_keys_per_second: 20_000,
            sweep_keys_per_second: 50_000,
        };
        let Some((node, at)) = found else { return Some(limits) };
        let object = self.object(node, at, &fields::LIMITS)?;
        for (name, limit) in [
            ("keys_per_second", &mut limits.keys_per_second),
            ("flush_keys_per_second", &mut limits.flush_keys_per_second),
            ("sweep_keys_per_second", &mut limits.sweep_keys_per_second),
        ] {
            if let Some(node) = object.get(name) {
                *limit = self.number(node, "number of keys per second", 0..=1_000_000_000)?;
            }
        }
        if let Some(node) = object.get("memory") {
            limits.memory = self.size(node, "`limits.memory`", 1 << 20, 64 << 30)?;
        }
        Some(limits)
    }

    fn size(&mut self, node: &Node, what: &str, min: u64, max: u64) -> Option<u64> {
        let text = self.text(node, what)?;
        let shown = self.shown(&node.span);
        match units::size(&text.value) {
            Err((why, help)) => {
                self.report(Code::BadSize, node.span.clone(), format!("`{shown}`: {why}"), help)
            }
            Ok(bytes) if bytes < min || bytes > max => {
                let help = format!("write {} to {}", units::show_size(min), units::show_size(max));
                self.report(
                    Code::BadSize,
                    node.span.clone(),
                    format!("`{shown}` is out of bounds for {what}"),
                    help,
                );
            }
            Ok(bytes) => return Some(bytes),
        }
        None
    }

    /// `version`: only 1 so far.
    pub(super) fn version(&mut self, node: &Node) {
        let Some(text) = self.text(node, "`version`") else { return };
        if text.value != "1" || !matches!(node.value, Value::Scalar(_)) {
            let message =
                format!("version `{}` of the format is unknown to this build", self.shown(&node.span));
            self.report(Code::BadVersion, node.span.clone(), message, "write `version: 1`");
        }
    }
}
