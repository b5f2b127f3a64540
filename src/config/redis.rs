//! `redis`: targets in their modes, their users and TLS.

use std::{ops::Range, time::Duration};

use super::{
    Durability, Password, RedisMode, RedisTarget, Tls, TlsMode,
    codes::Code,
    fields,
    node::{Node, Value},
    url::Url,
    walk::{Object, Walk, first_line},
};

/// Without the fields that only one of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Standalone,
    Cluster,
    Sentinel,
}

/// The port of Redis, and that of its sentinels.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl Walk<'_> {
    pub(super) fn redis(&mut self, node: &Node, at: Range<usize>) -> Option<Vec<RedisTarget>> {
        let entries = self.entries(node, "`redis`")?;
        if entries.is_empty() {
            let help = "write `main: { url: \"redis://HOST:6379/0\" }`";
            self.report(Code::MissingField, at, "`redis` has no target", help);
            return None;
        }
        let looks_like_target = |name: &str| fields::TARGET.fields.iter().any(|f| f.name == name);
        if let Some((name, key, _)) = entries.iter().find(|(n, ..)| looks_like_target(n)) {
            let help = "targets have names: `redis: { main: { url: \"redis://HOST:6379/0\" } }`";
            let message = format!("`{name}` stands where the name of a target belongs");
            self.report(Code::UnknownField, key.span.clone(), message, help);
            return None;
        }
        let targets: Vec<_> =
            entries.iter().map(|(name, key, value)| self.target(name, key, value)).collect();
        targets.into_iter().collect()
    }

    fn target(&mut self, name: &str, key: &Node, node: &Node) -> Option<RedisTarget> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let named = !name.is_empty() && name.len() <= 64 && name.chars().all(plain);
        if !named {
            let help = "use letters, digits, `_` and `-`, at most 64";
            self.report(Code::BadName, key.span.clone(), "this can't be the name of a target", help);
        }
        if matches!(node.value, Value::Scalar(_)) {
            let (url, db) = self.redis_url(node)?;
            let tls = (url.scheme == "rediss").then_some(Tls::new(TlsMode::VerifyIdentity));
            let username = (!url.user.is_empty()).then_some(url.user);
            let mode = RedisMode::Standalone { host: url.host, port: url.port.unwrap_or(PORT) };
            let password = Password::Empty;
            let target =
                RedisTarget { name: name.into(), mode, db, username, password, tls, durability: None };
            return named.then_some(target);
        }
        let object = self.object(node, key.span.clone(), &fields::TARGET)?;
        let mode = match object.get("mode") {
            Some(node) => self.choice(
                node,
                "mode",
                vec![
                    ("standalone", Mode::Standalone),
                    ("cluster", Mode::Cluster),
                    ("sentinel", Mode::Sentinel),
                ],
            ),
            None => Some(Mode::Standalone),
        };
        let username = self.username(&object);
        let password = self.password(&object);
        let durability = match object.get("durability") {
            Some(node) => self.durability(node, object.key_span("durability")).map(Some),
            None => Some(None),
        };
        let place = match mode {
            None => None,
            Some(Mode::Standalone) => self.standalone(&object),
            Some(mode) => self.nodes(&object, mode),
        };
        let (mode, db, user_in_url, tls) = place?;
        let mut username = username?;
        if user_in_url.is_some() {
            if username.is_some() {
                let span = object.key_span("username");
                self.report(Code::Conflict, span, "`username` beside a user in the URL", "keep one of them");
                return None;
            }
            username = user_in_url;
        }
        let (password, durability) = (password?, durability?);
        named.then_some(RedisTarget { name: name.into(), mode, db, username, password, tls, durability })
    }

    fn username(&mut self, object: &Object<'_>) -> Option<Option<String>> {
        match object.get("username") {
            Some(node) => self.text(node, "a user name").map(|t| Some(t.value)),
            None => Some(None),
        }
    }

    /// Reports fields that the mode doesn't know. The target is good for finding further mistakes all the same.
    fn foreign(&mut self, object: &Object<'_>, mode: &str, names: &[(&str, &str)]) -> bool {
        let mut found = false;
        for (name, help) in names {
            if object.get(name).is_some() {
                found = true;
                let message = format!("`{name}` has no meaning with `mode: {mode}`");
                self.report(Code::Conflict, object.key_span(name), message, *help);
            }
        }
        found
    }

    /// `url`, and what stands in it.
    fn standalone(&mut self, object: &Object<'_>) -> Option<(RedisMode, i64, Option<String>, Option<Tls>)> {
        const NODES: &str = "write `mode: cluster` or `mode: sentinel`, or one `url`";
        const SENTINEL: &str = "write `mode: sentinel`, or remove it";
        let foreign = [
            ("nodes", NODES),
            ("master", SENTINEL),
            ("sentinel", SENTINEL),
            ("db", "write it in `url: redis://HOST:PORT/DB`"),
        ];
        let foreign = self.foreign(object, "standalone", &foreign);
        let tls = match object.get("tls") {
            Some(node) => self.tls(node, object.key_span("tls")).map(Some),
            None => Some(None),
        };
        let Some(url) = object.get("url") else {
            // Said already where `nodes` stands in its place.
            if !foreign {
                let help =
                    "add `url: redis://HOST:6379/0`, or `mode: cluster` or `mode: sentinel` with `nodes`";
                self.report(
                    Code::MissingField,
                    object.span.clone(),
                    "`url` is missing in `redis.NAME`",
                    help,
                );
            }
            return None;
        };
        let (url, db) = self.redis_url(url)?;
        let tls = tls?;
        let encrypted = url.scheme == "rediss";
        let asked = tls.as_ref().map(|t| t.mode != TlsMode::Disabled);
        if asked.is_some_and(|asked| asked != encrypted) {
            let (message, help) = if encrypted {
                ("`tls: disabled` beside a rediss:// URL", "write redis:// in the URL, or remove `tls`")
            } else {
                ("`tls` beside a redis:// URL, which is not encrypted", "write rediss:// in the URL")
            };
            self.report(Code::Conflict, object.key_span("tls"), message, help);
            return None;
        }
        let tls = encrypted.then(|| tls.unwrap_or(Tls::new(TlsMode::VerifyIdentity)));
        let user = (!url.user.is_empty()).then_some(url.user);
        Some((RedisMode::Standalone { host: url.host, port: url.port.unwrap_or(PORT) }, db, user, tls))
    }

    /// `nodes`, and with sentinels `master` and their own login.
    fn nodes(
        &mut self,
        object: &Object<'_>,
        mode: Mode,
    ) -> Option<(RedisMode, i64, Option<String>, Option<Tls>)> {
        let (word, port, example) = match mode {
            Mode::Sentinel => ("sentinel", SENTINEL_PORT, "[\"sentinel1:26379\", \"sentinel2:26379\"]"),
            Mode::Cluster | Mode::Standalone => ("cluster", PORT, "[\"redis1:6379\", \"redis2:6379\"]"),
        };
        let url = ("url", "write the addresses in `nodes`, and `tls` where they are encrypted");
        let foreign = if mode == Mode::Sentinel {
            self.foreign(object, word, &[url])
        } else {
            let help = "remove it";
            let own = [
                url,
                ("db", "a cluster has only database 0: remove it"),
                ("master", help),
                ("sentinel", help),
            ];
            self.foreign(object, word, &own)
        };
        let nodes = match object.get("nodes") {
            Some(node) => {
                let nodes = self.addresses(node, "`nodes`", example, Some(port));
                if nodes.as_ref().is_some_and(Vec::is_empty) {
                    self.report(
                        Code::MissingField,
                        object.key_span("nodes"),
                        "`nodes` is empty",
                        format!("write {example}"),
                    );
                    return None;
                }
                nodes
            }
            None => {
                if !foreign {
                    let message = format!("`nodes` is missing with `mode: {word}`");
                    self.report(
                        Code::MissingField,
                        object.span.clone(),
                        message,
                        format!("add `nodes: {example}`"),
                    );
                }
                None
            }
        };
        let tls = self.encrypted(object);
        if mode != Mode::Sentinel {
            let (nodes, tls) = (nodes?, tls?);
            return Some((RedisMode::Cluster { nodes }, 0, None, tls));
        }
        let db = match object.get("db") {
            Some(node) => self.number(node, "number of a database", 0..=u64::from(u32::MAX >> 1)),
            None => Some(0),
        };
        let master = match object.get("master") {
            Some(node) => self.text(node, "the master's name").map(|text| text.value),
            None => {
                let help =
                    "add `master`: the name that the sentinels watch it by, as in `sentinel monitor NAME …`";
                let message = "`master` is missing with `mode: sentinel`";
                self.report(Code::MissingField, object.span.clone(), message, help);
                None
            }
        };
        let login = match object.get("sentinel") {
            Some(node) => match self.object(node, object.key_span("sentinel"), &fields::SENTINEL) {
                Some(own) => {
                    let (username, password, tls) =
                        (self.username(&own), self.password(&own), self.encrypted(&own));
                    username
                        .zip(password)
                        .zip(tls)
                        .map(|((username, password), tls)| (username, password, tls))
                }
                None => None,
            },
            None => Some((None, Password::Empty, None)),
        };
        let (username, password, sentinel_tls) = login?;
        let mode =
            RedisMode::Sentinel { master: master?, nodes: nodes?, username, password, tls: sentinel_tls };
        let (db, tls) = (i64::try_from(db?).ok()?, tls?);
        Some((mode, db, None, tls))
    }

    /// `tls` where no URL says whether there is any. `disabled`: as if it weren't there.
    fn encrypted(&mut self, object: &Object<'_>) -> Option<Option<Tls>> {
        let Some(node) = object.get("tls") else { return Some(None) };
        let tls = self.tls(node, object.key_span("tls"))?;
        Some((tls.mode != TlsMode::Disabled).then_some(tls))
    }

    fn durability(&mut self, node: &Node, at: Range<usize>) -> Option<Durability> {
        let object = self.object(node, at, &fields::DURABILITY)?;
        let replicas = object.get("wait_replicas").map(|n| self.number(n, "number of replicas", 1..=100));
        let timeout = match object.get("timeout") {
            Some(node) => self.duration(node, "timeout", Duration::from_millis(10), Duration::from_secs(60)),
            None => Some(Duration::from_secs(1)),
        };
        Some(Durability { replicas: replicas??, timeout: timeout? })
    }

    fn redis_url(&mut self, node: &Node) -> Option<(Url, i64)> {
        const HELP: &str = "write redis://HOST:6379/0, or rediss:// for TLS";
        let url = self.url(node, HELP, &["redis", "rediss"])?;
        let db = match url.path.trim_start_matches('/') {
            "" => Some(0),
            // Redis' own bound on `databases` is that of an int.
            db => db.parse::<i32>().ok().filter(|n| *n >= 0).map(i64::from),
        };
        let wrong = match db {
            None => "the URL's path isn't the number of a database",
            Some(_) if url.has_query => "the URL has options behind `?` or `#`",
            Some(db) => return Some((url, db)),
        };
        self.report(Code::BadUrl, first_line(self.text, &node.span), wrong, HELP);
        None
    }
}
