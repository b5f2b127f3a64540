//! Logging in on real servers: authentication plugins, TLS modes, client certificates, secrets that change while the daemon
//! runs. A case counts only if a row is followed, which takes both kinds of connections: queries and stream.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::support::{Db, Follow, until};
use mysql_async::prelude::Queryable;
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rowbust::{
    config::{ClientCertificate, Config, Password, Tls, TlsMode},
    source::{
        Source, SourceError,
        connect::{ConnectError, Connector},
    },
};
use rowbust_servers::Need;
use tempfile::TempDir;

/// A folder with an authority, and what it has signed.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Signs a certificate for these names: `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, names: &[&str]) -> ClientCertificate {
        self.sign_into(self.dir.path(), name, names)
    }

    /// The same, into another's folder.
    fn sign_into(&self, dir: &Path, name: &str, names: &[&str]) -> ClientCertificate {
        let mut params =
            CertificateParams::new(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let files = ClientCertificate {
            cert_file: dir.join(format!("{name}.pem")),
            key_file: dir.join(format!("{name}.key")),
        };
        fs::write(&files.cert_file, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.key_file, key.serialize_pem()).unwrap();
        files
    }

    /// A server with a certificate for 127.0.0.1, and a table.
    async fn server(&self, need: Need) -> Option<Db> {
        self.sign("server", &["127.0.0.1", "localhost"]);
        let option = |name: &str, file: &str| format!("--{name}={}", self.file(file).display());
        let args =
            [option("ssl-ca", "ca.pem"), option("ssl-cert", "server.pem"), option("ssl-key", "server.key")];
        let db = Db::start(need, &args.each_ref().map(String::as_str))?;
        db.run(&["CREATE DATABASE shop", TABLE]).await;
        Some(db)
    }
}

const TABLE: &str = "CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)";

/// A config for an account; each with an id of its own, so that followers can be there at once.
fn account(db: &Db, user: &str, password: &str, tls: Tls) -> Config {
    static IDS: AtomicU32 = AtomicU32::new(9000);
    let mut config = db.config();
    config.source.user = user.into();
    config.source.password = match password {
        "" => Password::Empty,
        text => Password::Value(text.to_owned().into()),
    };
    config.source.tls = tls;
    config.source.server_id = Some(IDS.fetch_add(1, Ordering::Relaxed));
    config
}

fn tls(mode: TlsMode, ca: Option<&Path>) -> Tls {
    Tls { ca_file: ca.map(Into::into), ..Tls::new(mode) }
}

/// Makes an account that may read the binlog. `identified` as behind its name in CREATE USER.
async fn create(db: &Db, user: &str, identified: &str) {
    let rights = if db.is_mysql() { "REPLICATION CLIENT" } else { "BINLOG MONITOR" };
    db.run(&[
        &format!("CREATE USER '{user}'@'%' {identified}"),
        &format!("GRANT REPLICATION SLAVE, {rights} ON *.* TO '{user}'@'%'"),
    ])
    .await;
}

async fn insert(db: &Db) {
    db.run(&["INSERT INTO shop.t VALUES (NULL)"]).await;
}

/// A row is followed.
async fn follows(db: &Db, config: Config) {
    let user = config.source.user.clone();
    let follow = Follow::try_ready(config).await.unwrap_or_else(|e| panic!("{user}: {e}"));
    insert(db).await;
    until("the row", || follow.rows().len() == 1).await;
    follow.stop().await.unwrap();
}

/// Neither kind of connection comes about; the error of the first.
async fn fails(config: Config) -> ConnectError {
    let by_stream = Connector::new(&config.source).stream().await.unwrap_err();
    let SourceError::Connect(by_query) = Source::new(config.clone().into()).preflight().await.unwrap_err()
    else {
        panic!("{by_stream}")
    };
    assert_eq!(by_query.to_string(), by_stream.to_string());
    let error = Follow::start(config, None).ended().await;
    assert_eq!(error.exit_code(), 78, "{error}");
    by_query
}

#[tokio::test]
async fn caching_sha2() {
    let authority = Authority::new();
    let Some(db) = authority.server(Need::MySql).await else { return };
    create(&db, "sha2", "IDENTIFIED WITH caching_sha2_password BY 'canary-5e7d'").await;
    for tls in [Tls::new(TlsMode::Disabled), tls(TlsMode::VerifyIdentity, Some(&authority.ca()))] {
        let config = account(&db, "sha2", "canary-5e7d", tls.clone());
        // The server knows the password's hash only after a full exchange, and forgets it here. Once for the stream's
        // login, which otherwise comes behind one for queries, then for that.
        db.run(&["FLUSH PRIVILEGES"]).await;
        Connector::new(&config.source).stream().await.unwrap();
        // Now it knows it: the fast exchange.
        Connector::new(&config.source).stream().await.unwrap();
        db.run(&["FLUSH PRIVILEGES"]).await;
        follows(&db, config).await;

        db.run(&["FLUSH PRIVILEGES"]).await;
        let error = fails(account(&db, "sha2", "canary-77aa", tls)).await;
        assert!(matches!(&error, ConnectError::Auth { .. }), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

async fn passwords(need: Need, plugins: &[(&str, &str)]) {
    let authority = Authority::new();
    let Some(db) = authority.server(need).await else { return };
    create(&db, "empty", "").await;
    for (user, identified) in plugins {
        if let Some(plugin) = identified.strip_prefix("INSTALL ") {
            db.run(&[&format!("INSTALL SONAME '{plugin}'")]).await;
        } else {
            create(&db, user, identified).await;
        }
    }
    for tls in [
        Tls::new(TlsMode::Disabled),
        Tls::new(TlsMode::Required),
        tls(TlsMode::VerifyCa, Some(&authority.ca())),
    ] {
        follows(&db, account(&db, "empty", "", tls.clone())).await;
        for (user, _) in plugins.iter().filter(|(user, _)| !user.is_empty()) {
            follows(&db, account(&db, user, "canary-5e7d", tls.clone())).await;
            let error = fails(account(&db, user, "canary-77aa", tls.clone())).await;
            assert!(
                matches!(&error, ConnectError::Auth { reason, .. } if reason.contains("denied")),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn passwords_on_mysql() {
    passwords(Need::MySql, &[("sha2", "IDENTIFIED WITH caching_sha2_password BY 'canary-5e7d'")]).await;
}

#[tokio::test]
async fn passwords_on_mariadb() {
    passwords(
        Need::MariaDb,
        &[("native", "IDENTIFIED VIA mysql_native_password USING PASSWORD('canary-5e7d')")],
    )
    .await;
}

/// Its plugins come with the server; those of 10.11 are in a package that isn't installed.
#[tokio::test]
async fn passwords_on_newer_mariadb() {
    passwords(
        Need::MariaDb118,
        &[
            ("", "INSTALL auth_ed25519"),
            ("", "INSTALL auth_parsec"),
            ("native", "IDENTIFIED VIA mysql_native_password USING PASSWORD('canary-5e7d')"),
            ("ed25519", "IDENTIFIED VIA ed25519 USING PASSWORD('canary-5e7d')"),
            ("parsec", "IDENTIFIED VIA parsec USING PASSWORD('canary-5e7d')"),
        ],
    )
    .await;
}

async fn modes(need: Need) {
    let authority = Authority::new();
    let Some(db) = authority.server(need).await else { return };
    create(&db, "u", "IDENTIFIED BY 'canary-5e7d'").await;
    let config = |tls: Tls| account(&db, "u", "canary-5e7d", tls);
    let ca = authority.ca();

    // Made before: no further one of these comes about.
    let mut root = db.conn().await;
    root.query_drop("SET GLOBAL require_secure_transport=ON").await.unwrap();
    for tls in [
        Tls::new(TlsMode::Required),
        tls(TlsMode::VerifyCa, Some(&ca)),
        tls(TlsMode::VerifyIdentity, Some(&ca)),
    ] {
        let follow = Follow::try_ready(config(tls)).await.unwrap();
        root.query_drop("INSERT INTO shop.t VALUES (NULL)").await.unwrap();
        until("the row", || follow.rows().len() == 1).await;
        follow.stop().await.unwrap();
    }
    let error = fails(config(Tls::new(TlsMode::Disabled))).await.to_string();
    assert!(error.contains("`source.tls`"), "{error}");
    root.query_drop("SET GLOBAL require_secure_transport=OFF").await.unwrap();

    // Another authority of the same name; the system's, which don't know it; no authority at all.
    let other = Authority::new();
    for mode in [TlsMode::VerifyCa, TlsMode::VerifyIdentity] {
        for file in [Some(other.ca()), None] {
            let error = fails(config(tls(mode, file.as_deref()))).await;
            assert!(
                matches!(&error, ConnectError::Tls { reason, .. } if reason.contains("`ca_file`")),
                "{error}"
            );
        }
        for (name, text) in [("none.pem", ""), ("key.pem", "-----BEGIN"), ("missing.pem", "")] {
            if name != "missing.pem" {
                fs::write(other.file(name), text).unwrap();
            }
            let error = fails(config(tls(mode, Some(&other.file(name))))).await;
            assert!(matches!(&error, ConnectError::TlsFile(e) if e.path.ends_with(name)), "{error}");
        }
    }

    // A certificate for another host, and one without names.
    for names in [&["db.example"][..], &[]] {
        authority.sign("server", names);
        db.run(&[if db.is_mysql() { "ALTER INSTANCE RELOAD TLS" } else { "FLUSH SSL" }]).await;
        let error = fails(config(tls(TlsMode::VerifyIdentity, Some(&ca)))).await;
        assert!(
            matches!(&error, ConnectError::Tls { reason, .. } if reason.contains("not valid for name")),
            "{error}"
        );
        follows(&db, config(tls(TlsMode::VerifyCa, Some(&ca)))).await;
        let error = fails(config(tls(TlsMode::VerifyCa, Some(&other.ca())))).await;
        assert!(matches!(&error, ConnectError::Tls { .. }), "{error}");
    }

    // The authority changes while the daemon runs.
    let trusted = other.file("trusted.pem");
    fs::copy(&ca, &trusted).unwrap();
    let follow = Follow::try_ready(config(tls(TlsMode::VerifyCa, Some(&trusted)))).await.unwrap();
    other.sign_into(authority.dir.path(), "server", &["127.0.0.1"]);
    fs::copy(other.ca(), &ca).unwrap();
    db.run(&[if db.is_mysql() { "ALTER INSTANCE RELOAD TLS" } else { "FLUSH SSL" }]).await;
    kill(&db, "u").await;
    until("it fails with the old authority", || follow.stats.reconnects() >= 2).await;
    fs::copy(other.ca(), &trusted).unwrap();
    insert(&db).await;
    until("the row", || follow.rows().len() == 1).await;
    follow.stop().await.unwrap();
}

#[tokio::test]
async fn modes_on_mysql() {
    modes(Need::MySql).await;
}

#[tokio::test]
async fn modes_on_mariadb() {
    modes(Need::MariaDb).await;
}

/// MySQL makes an authority and certificates when it has none. They have no names.
#[tokio::test]
async fn certificates_that_mysql_makes() {
    let Some(db) = Db::start(Need::MySql, &[]) else { return };
    db.run(&["CREATE DATABASE shop", TABLE]).await;
    let ca = db.data_dir().join("ca.pem");
    create(&db, "u", "IDENTIFIED BY 'canary-5e7d'").await;
    follows(&db, account(&db, "u", "canary-5e7d", tls(TlsMode::VerifyCa, Some(&ca)))).await;
    let error = fails(account(&db, "u", "canary-5e7d", tls(TlsMode::VerifyIdentity, Some(&ca)))).await;
    assert!(matches!(&error, ConnectError::Tls { reason, .. } if reason.contains("verify_ca")), "{error}");
}

#[tokio::test]
async fn a_server_without_tls() {
    let Some(db) = Db::start(Need::MariaDb, &["--skip-ssl"]) else { return };
    let error = fails(account(&db, "root", "", Tls::new(TlsMode::Required))).await;
    assert!(
        matches!(&error, ConnectError::Tls { reason, .. } if reason == "the server has no TLS"),
        "{error}"
    );
}

async fn client_certificates(need: Need) {
    let authority = Authority::new();
    let Some(db) = authority.server(need).await else { return };
    create(&db, "x509", "IDENTIFIED BY 'canary-5e7d' REQUIRE X509").await;
    let own = authority.sign("client", &[]);
    let with = |client: Option<ClientCertificate>| {
        let tls = Tls { client, ..tls(TlsMode::VerifyIdentity, Some(&authority.ca())) };
        account(&db, "x509", "canary-5e7d", tls)
    };
    follows(&db, with(Some(own.clone()))).await;
    let error = fails(with(None)).await;
    assert!(matches!(&error, ConnectError::Auth { reason, .. } if reason.contains("denied")), "{error}");

    // Files that don't belong together, or aren't there.
    let stranger = authority.sign("other", &[]);
    let mixed = ClientCertificate { key_file: stranger.key_file, ..own.clone() };
    assert!(matches!(fails(with(Some(mixed))).await, ConnectError::Tls { .. }));
    for client in [
        ClientCertificate { key_file: authority.file("missing.key"), ..own.clone() },
        ClientCertificate { key_file: own.cert_file.clone(), ..own.clone() },
        ClientCertificate { cert_file: own.key_file.clone(), ..own.clone() },
    ] {
        let error = fails(with(Some(client))).await;
        assert!(matches!(&error, ConnectError::TlsFile(_)), "{error}");
    }

    // Renewed while the daemon runs: what counts is what the files hold at the connect.
    let follow = Follow::try_ready(with(Some(own))).await.unwrap();
    authority.sign("client", &[]);
    kill(&db, "x509").await;
    insert(&db).await;
    until("the row", || follow.rows().len() == 1).await;
    assert!(follow.stats.reconnects() >= 1);
    follow.stop().await.unwrap();
}

#[tokio::test]
async fn client_certificates_on_mysql() {
    client_certificates(Need::MySql).await;
}

#[tokio::test]
async fn client_certificates_on_mariadb() {
    client_certificates(Need::MariaDb).await;
}

/// Ends every connection of an account.
async fn kill(db: &Db, user: &str) {
    let mut conn = db.conn().await;
    let ids: Vec<u64> = conn
        .query(format!("SELECT id FROM information_schema.processlist WHERE user='{user}'"))
        .await
        .unwrap();
    assert!(!ids.is_empty());
    for id in ids {
        // It may be gone by itself.
        _ = conn.query_drop(format!("KILL {id}")).await;
    }
}

async fn a_new_password(need: Need) {
    let authority = Authority::new();
    let Some(db) = authority.server(need).await else { return };
    create(&db, "u", "IDENTIFIED BY 'canary-5e7d'").await;
    for tls in [Tls::new(TlsMode::Disabled), tls(TlsMode::VerifyIdentity, Some(&authority.ca()))] {
        db.run(&["ALTER USER 'u'@'%' IDENTIFIED BY 'canary-5e7d'"]).await;
        let file = authority.file("password");
        fs::write(&file, "canary-5e7d\n").unwrap();
        let mut config = account(&db, "u", "", tls);
        config.source.password = Password::File(file.clone());
        let follow = Follow::try_ready(config).await.unwrap();
        insert(&db).await;
        until("the first row", || follow.rows().len() == 1).await;

        // The old one doesn't work any more, and the daemon goes on trying.
        db.run(&["ALTER USER 'u'@'%' IDENTIFIED BY 'canary-77aa'"]).await;
        kill(&db, "u").await;
        until("attempts with the old password", || follow.stats.reconnects() >= 2).await;
        fs::write(&file, "canary-77aa").unwrap();
        insert(&db).await;
        until("the second row", || follow.rows().len() == 2).await;
        follow.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_new_password_on_mysql() {
    a_new_password(Need::MySql).await;
}

#[tokio::test]
async fn a_new_password_on_mariadb() {
    a_new_password(Need::MariaDb).await;
}
