//! `source`, and what it has in common with `redis`: users, passwords, TLS, addresses.

use std::{ops::Range, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{
    ClientCertificate, Driver, Password, Policies, Policy, Source, Start, Tls, TlsMode,
    codes::Code,
    fields,
    node::{Node, Value},
    url::{self, Url},
    walk::{Object, Walk, first_line},
};

impl Walk<'_> {
    pub(super) fn source(&mut self, node: &Node, at: Range<usize>) -> Option<Source> {
        let object = self.object(node, at, &fields::SOURCE)?;
        let url = object.get("url").and_then(|n| self.mysql_url(n));
        let password = self.password(&object);
        let replicas = match object.get("replicas") {
            Some(node) => self.addresses(node, "`replicas`", "[\"db2:3306\"]", Some(3306)),
            None => Some(Vec::new()),
        };
        let replica_timeout = match object.get("replica_timeout") {
            Some(node) if self.shown(&node.span) == "never" => Some(None),
            Some(node) => {
                let (least, most) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
                self.duration(node, "`replica_timeout`", least, most).map(Some)
            }
            None => Some(None),
        };
        let name = match object.get("name") {
            Some(node) => self.source_name(node),
            None => Some("main".to_owned()),
        };
        let loopback = url.as_ref().is_some_and(|(host, ..)| url::is_loopback(host));
        let tls = match object.get("tls") {
            Some(node) => self.tls(node, object.key_span("tls")),
            None if loopback => Some(Tls::new(TlsMode::Disabled)),
            None => Some(Tls::new(TlsMode::VerifyIdentity)),
        };
        let server_id = match object.get("server_id") {
            Some(node) => {
                let id = self.number(node, "server id", 1..=u64::from(u32::MAX));
                id.map(|id| u32::try_from(id).ok())
            }
            None => Some(None),
        };
        let driver = match object.get("driver") {
            Some(node) => self.driver(node, tls.as_ref()),
            None => Some(Driver::Native),
        };
        let on_gap = self.policy(&object, "on_gap");
        let on_undecodable = self.policy(&object, "on_undecodable");
        let on_statement = self.policy(&object, "on_statement");
        let lossless = match object.get("lossless") {
            Some(node) => {
                let words = vec![("true", true), ("false", false)];
                self.choice(node, "lossless", words)
            }
            None => Some(false),
        };
        let start = match object.get("start") {
            Some(node) => self.start(node, object.key_span("start")),
            None => Some(Start::Latest),
        };
        let heartbeat = match object.get("heartbeat") {
            Some(node) => self.schema_and_table(node).map(Some),
            None => Some(None),
        };
        let (host, port, user) = url?;
        Some(Source {
            host,
            port,
            user,
            password: password?,
            replicas: replicas?,
            replica_timeout: replica_timeout?,
            name: name?,
            tls: tls?,
            server_id: server_id?,
            start: start?,
            heartbeat: heartbeat?,
            policies: Policies {
                on_gap: on_gap?,
                on_undecodable: on_undecodable?,
                on_statement: on_statement?,
                lossless: lossless?,
            },
            driver: driver?,
        })
    }

    /// `halt` or `flush`.
    pub(super) fn policy(&mut self, object: &Object<'_>, name: &'static str) -> Option<Policy> {
        let Some(node) = object.get(name) else { return Some(Policy::default()) };
        let words = vec![("halt", Policy::Halt), ("flush", Policy::Flush)];
        self.choice(node, name, words)
    }

    /// Without TLS only: the crate has none.
    fn source_name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a name")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !text.value.is_empty() && text.value.len() <= 64 && text.value.chars().all(plain) {
            return Some(text.value);
        }
        let help = "use letters, digits, `_`, `-` and `.`, at most 64";
        self.report(Code::BadName, node.span.clone(), "this can't be the name of a source", help);
        None
    }

    fn driver(&mut self, node: &Node, tls: Option<&Tls>) -> Option<Driver> {
        let names = vec![("native", Driver::Native), ("mysql_cdc", Driver::MysqlCdc)];
        let driver = self.choice(node, "driver", names)?;
        if driver == Driver::MysqlCdc && !cfg!(feature = "mysql-cdc") {
            let help =
                "build with `cargo build --release --features mysql-cdc`, or write `native`, the default";
            self.report(
                Code::NotInThisBuild,
                node.span.clone(),
                "this binary was built without mysql_cdc",
                help,
            );
            return None;
        }
        if driver == Driver::MysqlCdc && tls.is_some_and(|tls| tls.mode != TlsMode::Disabled) {
            let help =
                "write `driver: native`, the default, or `tls: disabled` if the way to the server is safe";
            self.report(Code::Conflict, node.span.clone(), "the driver `mysql_cdc` has no TLS", help);
            return None;
        }
        Some(driver)
    }

    fn mysql_url(&mut self, node: &Node) -> Option<(String, u16, String)> {
        const HELP: &str = "write mysql://USER@HOST:PORT";
        let url = self.url(node, HELP, &["mysql", "mariadb"])?;
        let wrong = if url.user.is_empty() {
            Some("no user in the URL")
        } else if !matches!(url.path.as_str(), "" | "/") {
            Some("the URL names a database")
        } else if url.has_query {
            Some("the URL has options behind `?`")
        } else {
            None
        };
        if let Some(message) = wrong {
            let help = format!("{HELP}; schemas stand in `mappings`, everything else in fields of `source`");
            self.report(Code::BadUrl, first_line(self.text, &node.span), message, help);
            return None;
        }
        Some((url.host, url.port.unwrap_or(3306), url.user))
    }

    /// A URL of one of the schemes, without a password.
    pub(super) fn url(&mut self, node: &Node, help: &str, schemes: &[&str]) -> Option<Url> {
        let text = self.text(node, "a URL")?;
        let span = first_line(self.text, &node.span);
        match url::parse(&text.value) {
            Err(why) => self.report(Code::BadUrl, span, format!("not a URL: {why}"), help),
            Ok(url) if !schemes.contains(&url.scheme.as_str()) => {
                self.report(
                    Code::BadUrl,
                    span,
                    format!("the URL's scheme isn't {}", schemes.join(" or ")),
                    help,
                );
            }
            Ok(url) if url.has_password => {
                let help = "remove `:PASSWORD` from the URL and write `password_file: PATH` or `password: ${VARIABLE}`";
                self.report(Code::PasswordInUrl, span, "the URL holds a password", help);
            }
            Ok(url) => return Some(url),
        }
        None
    }

    pub(super) fn password(&mut self, object: &Object<'_>) -> Option<Password> {
        let value = object.get("password");
        let file = object.get("password_file");
        if value.is_some() && file.is_some() {
            let span = object.key_span("password_file");
            self.report(Code::Conflict, span, "both `password` and `password_file`", "keep one of them");
            return None;
        }
        if let Some(node) = file {
            return self.path(node, "`password_file`").map(Password::File);
        }
        let Some(node) = value else { return Some(Password::Empty) };
        self.text(node, "a password").map(|t| Password::Value(SecretString::from(t.value)))
    }

    pub(super) fn tls(&mut self, node: &Node, at: Range<usize>) -> Option<Tls> {
        if !matches!(node.value, Value::Map(_)) {
            return self.tls_mode(node).map(Tls::new);
        }
        let object = self.object(node, at, &fields::TLS)?;
        let mode = match object.get("mode") {
            Some(node) => self.tls_mode(node),
            None => Some(TlsMode::VerifyIdentity),
        };
        let ca_file: Option<Option<PathBuf>> = match object.get("ca_file") {
            Some(node) => self.path(node, "`ca_file`").map(Some),
            None => Some(None),
        };
        let mut useless = |name: &str, modes: &[TlsMode], help: &str| {
            let useless = object.get(name).is_some() && mode.is_some_and(|mode| modes.contains(&mode));
            if useless {
                let message = format!("`{name}` has no effect with this mode");
                self.report(Code::Conflict, object.key_span(name), message, help);
            }
            useless
        };
        let help = "write `mode: verify_identity`, or remove `ca_file`";
        let mut wrong = useless("ca_file", &[TlsMode::Disabled, TlsMode::Required], help);
        for name in ["cert_file", "key_file"] {
            wrong |= useless(name, &[TlsMode::Disabled], "write `mode: verify_identity`, or remove it");
        }
        let client = self.client_certificate(&object);
        if wrong {
            return None;
        }
        Some(Tls { mode: mode?, ca_file: ca_file?, client: client? })
    }

    fn client_certificate(&mut self, object: &Object<'_>) -> Option<Option<ClientCertificate>> {
        let (cert, key) = (object.get("cert_file"), object.get("key_file"));
        let (there, missing) = match (cert, key) {
            (None, None) => return Some(None),
            (Some(cert), Some(key)) => {
                let (cert_file, key_file) = (self.path(cert, "`cert_file`"), self.path(key, "`key_file`"));
                return Some(Some(ClientCertificate { cert_file: cert_file?, key_file: key_file? }));
            }
            (Some(_), None) => ("cert_file", "key_file"),
            (None, Some(_)) => ("key_file", "cert_file"),
        };
        let message = format!("`{there}` without `{missing}`");
        let help = "a client certificate has two files: write both, or neither";
        self.report(Code::MissingField, object.key_span(there), message, help);
        None
    }

    fn tls_mode(&mut self, node: &Node) -> Option<TlsMode> {
        let modes = vec![
            ("disabled", TlsMode::Disabled),
            ("required", TlsMode::Required),
            ("verify_ca", TlsMode::VerifyCa),
            ("verify_identity", TlsMode::VerifyIdentity),
        ];
        self.choice(node, "TLS mode", modes)
    }

    fn start(&mut self, node: &Node, at: Range<usize>) -> Option<Start> {
        if !matches!(node.value, Value::Map(_)) {
            let words = vec![("latest", Start::Latest), ("earliest", Start::Earliest)];
            return self.choice(node, "start", words);
        }
        let object = self.object(node, at, &fields::START)?;
        let position =
            object.get("position").map(|n| self.number(n, "position in a binlog file", 4..=u64::MAX));
        match (object.get("gtid"), object.get("file")) {
            (Some(gtid), None) if position.is_none() => self.gtid(gtid).map(Start::Gtid),
            (None, Some(file)) => {
                let text = self.text(file, "the name of a binlog file")?;
                if text.value.is_empty() || text.value.contains(['/', '\0']) {
                    let help = "write the name as in SHOW BINARY LOGS, e.g. binlog.000042";
                    self.report(Code::BadName, file.span.clone(), "not the name of a binlog file", help);
                    return None;
                }
                Some(Start::Position { file: text.value, position: position.unwrap_or(Some(4))? })
            }
            (None, None) => {
                let help = "write `{ gtid: \"…\" }` or `{ file: \"binlog.000042\", position: 4 }`";
                self.report(Code::MissingField, object.span, "`start` has neither `gtid` nor `file`", help);
                None
            }
            _ => {
                let help = "keep either `gtid`, or `file` with `position`";
                self.report(
                    Code::Conflict,
                    object.key_span("gtid"),
                    "`gtid` beside `file` or `position`",
                    help,
                );
                None
            }
        }
    }

    fn gtid(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a GTID set")?;
        let gtid: String = text.value.split_whitespace().collect();
        if !gtid.is_empty() && gtid.split(',').all(|p| is_mysql_gtid(p) || is_mariadb_gtid(p)) {
            return Some(gtid);
        }
        let help = "MySQL: \"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77\" (gtid_executed); \
                    MariaDB: \"0-1-42\" (gtid_binlog_pos); several are separated by commas";
        let message = format!("`{}` is no GTID set", self.shown(&node.span));
        self.report(Code::BadGtid, first_line(self.text, &node.span), message, help);
        None
    }

    /// A list of `host:port`; without a default, the port is required.
    pub(super) fn addresses(
        &mut self,
        node: &Node,
        what: &str,
        example: &str,
        default: Option<u16>,
    ) -> Option<Vec<(String, u16)>> {
        let mut out = Vec::new();
        let mut ok = true;
        for item in self.list(node, what, example)? {
            let Some(text) = self.text(item, "`host:port`") else {
                ok = false;
                continue;
            };
            let parsed = url::host_port(&text.value)
                .and_then(|(host, port)| Ok((host, port.or(default).ok_or("no port")?)));
            match parsed {
                Ok(address) => out.push(address),
                Err(why) => {
                    ok = false;
                    let message = format!("`{}` is no `host:port`: {why}", self.shown(&item.span));
                    self.report(Code::BadAddress, item.span.clone(), message, format!("write {example}"));
                }
            }
        }
        ok.then_some(out)
    }

    /// An exact `schema.table`.
    fn schema_and_table(&mut self, node: &Node) -> Option<(String, String)> {
        let text = self.text(node, "`schema.table`")?;
        let plain =
            |s: &str| !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | '-'));
        match text.value.split_once('.') {
            Some((schema, table)) if plain(schema) && plain(table) => Some((schema.into(), table.into())),
            _ => {
                let message = format!("`{}` is no `schema.table`", self.shown(&node.span));
                self.report(Code::BadTable, node.span.clone(), message, "write e.g. rowbust.heartbeat");
                None
            }
        }
    }
}

/// `UUID:1-5:7`, with MySQL 8.3's tags (`UUID:tag:1-5`): `GTID Sets` in the MySQL manual.
fn is_mysql_gtid(part: &str) -> bool {
    let mut fields = part.split(':');
    let uuid = fields.next().unwrap_or("");
    let shape: Vec<usize> = uuid.split('-').map(str::len).collect();
    let hex = uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let interval = |f: &str| f.split('-').count() <= 2 && f.split('-').all(is_number);
    let tag = |f: &str| {
        f.len() <= 32
            && f.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && f.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let rest: Vec<&str> = fields.collect();
    hex && shape == [8, 4, 4, 4, 12]
        && rest.last().is_some_and(|f| interval(f))
        && rest.iter().all(|f| interval(f) || tag(f))
}

/// `domain-server-sequence`
fn is_mariadb_gtid(part: &str) -> bool {
    let fields: Vec<&str> = part.split('-').collect();
    fields.len() == 3 && fields.iter().all(|f| is_number(f))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit())
}
