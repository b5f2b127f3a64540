//! `retry`, `checkpoint`, `admin`, `limits`.

use std::{net::SocketAddr, ops::Range, path::PathBuf, time::Duration};

use super::{
    Admin, Checkpoint, Limits, Mapping, RedisTarget, Retry, RetryPolicy, Shared, Source,
    codes::Code,
    fields,
    node::{Node, Value},
    units,
    walk::Walk,
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
        let makes = |mapping: &&Mapping| {
            mapping.target == *target && mapping.keys.iter().any(|rule| rule.key.could_make(key.as_bytes()))
        };
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
        let mut policy = RetryPolicy { delay: Duration::from_secs(10), attempts: 5 };
        let Some((node, at)) = found else { return Some(Retry::Disk { path: default, policy }) };
        let object = self.object(node, at, &fields::RETRY)?;
        let delay = object.get("delay").map(|n| {
            self.duration(n, "`retry.delay`", Duration::from_millis(10), Duration::from_secs(24 * 3600))
        });
        let attempts = object.get("attempts").map(|n| self.number(n, "number of attempts", 1..=1000));
        let disk = object.get("disk").map(|node| {
            let object = self.object(node, object.key_span("disk"), &fields::DISK)?;
            match object.get("path") {
                Some(node) => self.path(node, "`retry.disk.path`"),
                None => Some(default.clone()),
            }
        });
        let kafka = object.get("kafka").map(|node| self.kafka(node, object.key_span("kafka")));
        if let Some(delay) = delay {
            policy.delay = delay?;
        }
        if let Some(attempts) = attempts {
            policy.attempts = u32::try_from(attempts?).ok()?;
        }
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

    #[allow(clippy::type_complexity)]
    fn kafka(
        &mut self,
        node: &Node,
        at: Range<usize>,
    ) -> Option<(Vec<String>, String, Vec<(String, String)>)> {
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
            None => Some(Vec::new()),
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

    fn properties(&mut self, node: &Node) -> Option<Vec<(String, String)>> {
        let mut out = Vec::new();
        let mut ok = true;
        for (name, key, value) in self.entries(node, "`properties`")? {
            if RESERVED_PROPERTIES.contains(&name) {
                let message = format!("rowbust sets `{name}` itself");
                self.report(Code::ReservedProperty, key.span.clone(), message, "remove it");
                ok = false;
                continue;
            }
            match self.text(value, "the property's value") {
                Some(text) => out.push((name.to_owned(), text.value)),
                None => ok = false,
            }
        }
        ok.then_some(out)
    }

    pub(super) fn admin(&mut self, found: Option<(&Node, Range<usize>)>) -> Option<Admin> {
        let default = Admin { listen: SocketAddr::from(([127, 0, 0, 1], 8321)) };
        let Some((node, at)) = found else { return Some(default) };
        let object = self.object(node, at, &fields::ADMIN)?;
        let Some(node) = object.get("listen") else { return Some(default) };
        let text = self.text(node, "`address:port`")?;
        let Ok(listen) = text.value.parse() else {
            let message = format!("`{}` is no `address:port`", self.shown(&node.span));
            let help = "write an IP address and a port, e.g. 127.0.0.1:8321 or [::1]:8321";
            self.report(Code::BadAddress, node.span.clone(), message, help);
            return None;
        };
        Some(Admin { listen })
    }

    pub(super) fn limits(&mut self, found: Option<(&Node, Range<usize>)>) -> Option<Limits> {
        let mut limits = Limits { memory: 48 << 20, keys_per_second: 0, flush_keys_per_second: 20_000 };
        let Some((node, at)) = found else { return Some(limits) };
        let object = self.object(node, at, &fields::LIMITS)?;
        for (name, limit) in [
            ("keys_per_second", &mut limits.keys_per_second),
            ("flush_keys_per_second", &mut limits.flush_keys_per_second),
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
