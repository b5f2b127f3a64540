//! A Kafka broker that asks for a login over TLS and gives no right that wasn't granted; and what its master does to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rowbust_servers::{Kafka, Resource, Right, Security, StartOptions};
use tempfile::TempDir;

/// Of every user.
pub const PASSWORD: &str = "secret4711";

/// The rights on the topics that the documentation asks for.
pub const TOPIC_RIGHTS: [Right; 5] =
    [Right::Read, Right::Write, Right::Create, Right::Describe, Right::DescribeConfigs];

/// A broker with the users `alice` and `bob`, who have no rights yet.
#[derive(Debug)]
pub struct Broker {
    /// The broker.
    pub kafka: Kafka,
    dir: TempDir,
}

impl Broker {
    /// Starts one, its data in `data` where that is given.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn start(data: Option<&Path>) -> Result<Self> {
        let data = data.map(Path::to_owned);
        tokio::task::spawn_blocking(move || Self::started(data)).await?
    }

    fn started(data: Option<PathBuf>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key)?.pem())?;
        // Of the same name, and nobody's.
        let stranger = KeyPair::generate()?;
        fs::write(dir.path().join("other.pem"), params.self_signed(&stranger)?.pem())?;
        let issuer = Issuer::new(params, key);
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let own_key = KeyPair::generate()?;
        let certificate = own.signed_by(&own_key, &issuer)?.pem();
        fs::write(dir.path().join("broker.pem"), own_key.serialize_pem() + &certificate)?;
        let security = Security {
            pem_file: dir.path().join("broker.pem"),
            users: ["alice", "bob"].map(|name| (name.to_owned(), PASSWORD.to_owned())).to_vec(),
            authorize: true,
        };
        let data = data.unwrap_or_else(|| dir.path().join("kafka"));
        let kafka = Kafka::start_secured(StartOptions::new(data), &security)?;
        Ok(Self { kafka, dir })
    }

    /// A file of its folder: `ca.pem`, and `other.pem` of a stranger.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `kafka:` of a config, for `alice`.
    #[must_use]
    pub fn config(&self, prefix: &str) -> String {
        format!(
            "kafka: {{ brokers: [\"{}\"], prefix: {prefix}, properties: {{ security.protocol: sasl_ssl, sasl.mechanism: SCRAM-SHA-512, \
             sasl.username: alice, sasl.password: {PASSWORD}, ssl.ca.location: \"{}\", reconnect.backoff.max.ms: 500, \
             topic.metadata.refresh.interval.ms: 1000 }} }}",
            self.kafka.brokers(),
            self.file("ca.pem").display(),
        )
    }

    /// The rights that docs/retry.md asks for.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn allow_queue(&self, prefix: &str) -> Result<()> {
        for topic in ["retry.10s", "retry.5m", "dead"] {
            self.kafka.allow("alice", Resource::Topic(&format!("{prefix}.{topic}")), &TOPIC_RIGHTS)?;
        }
        for group in ["rowbust", "rowbust.requeue"] {
            self.kafka.allow("alice", Resource::Group(&format!("{prefix}.{group}")), &[Right::Read])?;
        }
        Ok(())
    }

    /// Settings of a client that needs no login and may do everything.
    ///
    /// # Errors
    /// Never, for a broker of this kind.
    pub fn master(&self) -> Result<ClientConfig> {
        let address = self.kafka.internal().context("no internal listener")?;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", address);
        Ok(config)
    }

    /// Gives a topic these settings, and takes all others away.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn set(&self, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.master()?.create()?;
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            change = change.set(name, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let answers = admin.alter_configs([&change], &options).await?;
        ensure!(answers.iter().all(Result::is_ok), "{answers:?}");
        Ok(())
    }
}
