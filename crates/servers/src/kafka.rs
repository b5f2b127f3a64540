//! Apache Kafka: class path and instances (KRaft, one node that is broker and controller), with a login, TLS and ACLs where asked for.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::install::{Need, at_least, ensure, find_program, output_of, run, version_after};
use crate::instance::{Command, Instance, Kind, Place, StartOptions, deref_to_instance};
use crate::ports::free_port;
use crate::{cache, wire};

/// The release that is fetched. 4.4.0 can't be: its `kafka-tools-api` was not published.
const VERSION: &str = "4.3.1";
/// Binds Kafka's slf4j to the log4j it brings; the Maven artifact leaves that to its user.
const LOG4J: &str = "2.25.4";
/// By its full name, so that it is the same everywhere and an error tells its cause.
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// Kafka's class path and the Java runtime.
#[derive(Debug, Clone)]
pub struct KafkaPrograms {
    /// `java`, 17 or newer.
    pub java: PathBuf,
    /// The folder of jars.
    pub libs: PathBuf,
    /// Such as `4.3.1`.
    pub version: String,
}

impl KafkaPrograms {
    /// Java in `PATH` and the jars in the cache.
    #[must_use]
    pub fn find() -> Option<Self> {
        let libs = libs().ok().filter(|d| d.is_dir())?;
        let java = find_program("java")?;
        let version = version_after(&output_of(&java, "-version")?, "version")?;
        at_least(&version, 17, 0).then_some(())?;
        Some(Self { java, libs, version: VERSION.into() })
    }

    fn class_path(&self) -> String {
        format!("{}/*", self.libs.display())
    }
}

fn libs() -> Result<PathBuf> {
    Ok(cache::dir()?.join("servers").join(format!("kafka-{VERSION}")))
}

/// Fetches Kafka's jars with Maven; the caller holds the installation lock.
pub(crate) fn fetch() -> Result<()> {
    let start = Instant::now();
    let mvn = find_program("mvn").context("no mvn: please install maven")?;
    eprintln!("fetching Kafka {VERSION} with Maven (about 70 MB)");
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>rowbust</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{}{}</dependencies></project>\n",
        dependency("org.apache.kafka", "kafka_2.13", VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
    );
    let place = libs()?;
    let parent = place.parent().context("no parent")?;
    fs::create_dir_all(parent)?;
    let work = tempfile::Builder::new().prefix(".mvn-").tempdir_in(parent)?;
    let pom_path = work.path().join("pom.xml");
    fs::write(&pom_path, pom)?;
    cache::fill(&place, |new| {
        run(process::Command::new(&mvn)
            .args(["-q", "-B", "-f"])
            .arg(&pom_path)
            .args([COPY_DEPENDENCIES, "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", new.display())))
        .map(|_| ())
    })
    .context("cannot fetch Kafka; Maven's own settings (~/.m2/settings.xml) say from where")?;
    eprintln!("Kafka {VERSION}: in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// How clients of [`Kafka::start_secured`] log in: SASL_SSL with PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
#[derive(Debug, Clone)]
pub struct Security {
    /// PEM file of the broker's key (PKCS#8) and certificate, which is for `127.0.0.1`.
    pub pem_file: PathBuf,
    /// Names and passwords, letters and digits.
    pub users: Vec<(String, String)>,
    /// Whether users need rights: [`Kafka::allow`].
    pub authorize: bool,
}

/// What a right is on. Names are of the thing itself; the cluster has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A topic.
    Topic(&'a str),
    /// A consumer group.
    Group(&'a str),
    /// A transactional id.
    TransactionalId(&'a str),
    /// The cluster.
    Cluster,
}

/// What a user may do. The codes of `AclOperation.java`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
#[repr(u8)]
pub enum Right {
    Read = 3,
    Write = 4,
    Create = 5,
    Describe = 8,
    DescribeConfigs = 10,
    IdempotentWrite = 12,
}

/// A Kafka broker, plain text, topics only made when asked for, 384 MB of heap.
#[derive(Debug)]
pub struct Kafka(Instance<KafkaKind>);
deref_to_instance!(Kafka, KafkaKind);

impl Kafka {
    /// Starts a broker, fetching Kafka if it is missing; returns when it answers.
    ///
    /// # Errors
    /// When it can't be fetched or doesn't come up.
    pub fn start(options: StartOptions) -> Result<Self> {
        let programs = ensure(&[Need::Kafka])?.kafka;
        Instance::start(options, || {
            let programs = programs.clone().ok_or_else(|| Need::Kafka.missing())?;
            Ok(KafkaKind { programs, controller_port: free_port()?, secured: None })
        })
        .map(Self)
    }

    /// As [`Kafka::start`], but clients have to log in at [`Kafka::brokers`].
    ///
    /// # Errors
    /// When it can't be fetched or doesn't come up.
    pub fn start_secured(options: StartOptions, security: &Security) -> Result<Self> {
        let programs = ensure(&[Need::Kafka])?.kafka;
        Instance::start(options, || {
            let programs = programs.clone().ok_or_else(|| Need::Kafka.missing())?;
            let secured = Secured { security: security.clone(), internal_port: free_port()? };
            Ok(KafkaKind { programs, controller_port: free_port()?, secured: Some(secured) })
        })
        .map(Self)
    }

    /// Gives a user rights on one thing. Returns when the broker has acknowledged it; it holds a moment later.
    ///
    /// # Errors
    /// When it isn't a broker with [`Security::authorize`], or it refuses.
    pub fn allow(&self, user: &str, resource: Resource<'_>, rights: &[Right]) -> Result<()> {
        let secured = self.kind.secured.as_ref().context("this broker has no users")?;
        rights.iter().try_for_each(|right| create_acl(secured.internal_port, user, resource, *right))
    }

    /// Where a broker of [`Kafka::start_secured`] answers in plain text and refuses nothing.
    #[must_use]
    pub fn internal(&self) -> Option<String> {
        self.kind.secured.as_ref().map(|secured| format!("127.0.0.1:{}", secured.internal_port))
    }

    /// The class path and Java.
    #[must_use]
    pub fn programs(&self) -> &KafkaPrograms {
        &self.kind.programs
    }

    /// `127.0.0.1:PORT`, for `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.url()
    }
}

#[derive(Debug)]
#[doc(hidden)]
pub struct KafkaKind {
    programs: KafkaPrograms,
    controller_port: u16,
    secured: Option<Secured>,
}

#[derive(Debug)]
struct Secured {
    security: Security,
    /// Plain text, for the broker itself and for what the tests do as its master.
    internal_port: u16,
}

impl Secured {
    fn properties(&self, broker: u16, controller: u16) -> String {
        let Self { security: Security { pem_file, users, authorize }, internal_port: internal } = self;
        let plain: String =
            users.iter().map(|(name, password)| format!(" user_{name}=\"{password}\"")).collect();
        let listeners = format!(
            "CLIENT://127.0.0.1:{broker},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}"
        );
        let mut out = format!(
            "listeners={listeners}\n\
             advertised.listeners={listeners}\n\
             listener.security.protocol.map=CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=INTERNAL\n\
             listener.name.client.ssl.keystore.type=PEM\n\
             listener.name.client.ssl.keystore.location={pem}\n\
             listener.name.client.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.client.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required{plain};\n\
             listener.name.client.scram-sha-256.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.client.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n",
            pem = pem_file.display(),
        );
        if *authorize {
            out += "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                    super.users=User:ANONYMOUS\n";
        }
        out
    }

    fn format_args(&self) -> Vec<String> {
        let mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
        let user = |(name, password): &(String, String)| {
            mechanisms.map(|m| ["--add-scram".to_owned(), format!("{m}=[name={name},password={password}]")])
        };
        self.security.users.iter().flat_map(user).flatten().collect()
    }
}

impl KafkaKind {
    fn properties(&self, place: &Place, extra: &[String]) -> String {
        let (broker, controller, data) = (place.port, self.controller_port, place.data());
        // A later line wins: java.util.Properties.
        format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             # One node: internal topics have one replica, and few partitions keep the start short.\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             {}\n",
            data.display(),
            self.secured
                .iter()
                .map(|s| s.properties(broker, controller))
                .chain(extra.iter().cloned())
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    fn java(&self, heap: &str) -> Vec<String> {
        [
            heap,
            "-Dlog4j2.level=INFO",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            &self.programs.class_path(),
        ]
        .map(String::from)
        .to_vec()
    }
}

impl Kind for KafkaKind {
    const NAME: &'static str = "kafka";

    fn version(&self) -> &str {
        &self.programs.version
    }

    fn prepare(&self, place: &Place, args: &[String]) -> Result<()> {
        let config = place.dir.join("server.properties");
        fs::write(&config, self.properties(place, args)).context("cannot write server.properties")?;
        if !place.data().join("meta.properties").exists() {
            // Any 16 bytes in URL-safe base64 do as a cluster id.
            run(process::Command::new(&self.programs.java)
                .args(self.java("-Xmx128m"))
                .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", "cm93YnVzdC1zZXJ2ZXJzMA"])
                .arg("-c")
                .arg(&config)
                .args(self.secured.iter().flat_map(Secured::format_args)))?;
        }
        Ok(())
    }

    fn command(&self, place: &Place, _extra: &[String]) -> Command {
        let mut args = self.java("-Xmx384m");
        args.extend(["kafka.Kafka".into(), place.dir.join("server.properties").display().to_string()]);
        Command { program: self.programs.java.clone(), args, env: Vec::new() }
    }

    fn answers(&self, place: &Place) -> bool {
        let port = self.secured.as_ref().map_or(place.port, |secured| secured.internal_port);
        answers_api_versions(port).unwrap_or(false)
    }

    fn url(&self, port: u16) -> String {
        format!("127.0.0.1:{port}")
    }
}

/// Sends ApiVersions (key 18, version 0), which a broker answers once it has started, and compares the correlation
/// id: <https://kafka.apache.org/protocol>.
fn answers_api_versions(port: u16) -> std::io::Result<bool> {
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let mut stream = wire::connect(port)?;
    stream.write_all(&REQUEST)?;
    let mut head = [0; 10];
    stream.read_exact(&mut head)?;
    // length, correlation id, error code
    Ok(head[4..] == [0, 0, 0, 7, 0, 0])
}

/// Sends CreateAcls (key 30, version 1): <https://kafka.apache.org/protocol#The_Messages_CreateAcls>.
fn create_acl(port: u16, user: &str, resource: Resource<'_>, right: Right) -> Result<()> {
    let (kind, name) = match resource {
        Resource::Topic(name) => (2, name),
        Resource::Group(name) => (3, name),
        // The name by which Kafka calls every cluster.
        Resource::Cluster => (4, "kafka-cluster"),
        Resource::TransactionalId(name) => (5, name),
    };
    let mut body = Vec::new();
    let text = |body: &mut Vec<u8>, text: &str| -> Result<()> {
        body.extend(i16::try_from(text.len())?.to_be_bytes());
        body.extend(text.as_bytes());
        Ok(())
    };
    // Key, version, correlation id, no client id; one entry.
    body.extend([0, 30, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 0, 0, 0, 1, kind]);
    text(&mut body, name)?;
    body.push(3); // literal
    text(&mut body, &format!("User:{user}"))?;
    text(&mut body, "*")?;
    body.extend([right as u8, 3]); // allow
    let mut stream = wire::connect(port)?;
    stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
    stream.write_all(&body)?;
    // Length, correlation id, throttle time, number of results, the first one's error.
    let mut head = [0; 18];
    stream.read_exact(&mut head)?;
    anyhow::ensure!(head[4..8] == [0, 0, 0, 9] && head[12..] == [0, 0, 0, 1, 0, 0], "CreateAcls: {head:?}");
    Ok(())
}
