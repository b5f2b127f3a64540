//! What `rowbust check --live` says about the topics.
//!
//! Guarantees: changes nothing on the brokers, and isn't a member of the consumer group. May depend on its siblings.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    consumer::Consumer,
    error::{KafkaError, KafkaResult},
};

use super::{
    super::RetryError,
    client::{ANSWER, Context, PARTITIONS, Reader, Settings, kept_of, off_runtime, refused},
};
use crate::config::Properties;

/// How long a read that is allowed may take to come to a partition's end.
const READ_WAIT: Duration = Duration::from_secs(5);

/// The brokers and topics of a queue as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Brokers of the cluster.
    pub brokers: usize,
    /// The retry tiers' topics, then that of the dead letters.
    pub topics: Vec<TopicReport>,
    /// Name of the consumer group.
    pub group: String,
    /// Why the group's offsets can't be read (no READ right on the group); `None`: they can.
    pub group_error: Option<String>,
}

impl Inspection {
    /// Whether nothing is to be done.
    pub fn is_good(&self) -> bool {
        self.group_error.is_none() && self.topics.iter().all(|topic| topic.problems.is_empty())
    }
}

/// One topic. Whether it may be written to isn't known before the first write: Kafka has no question for that which librdkafka could ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// Its name.
    pub name: String,
    /// Whether it is there, and may be described.
    pub exists: bool,
    /// Its partitions.
    pub partitions: usize,
    /// Replicas of the partition that has the fewest.
    pub replication: usize,
    /// `min.insync.replicas`; `None`: its configuration may not be described.
    pub min_insync: Option<u32>,
    /// `retention.ms`; `None`: kept for ever, or its configuration may not be described.
    pub retention: Option<Duration>,
    /// What is wrong, and what to do, in words.
    pub problems: Vec<String>,
}

/// Looks at the topics, and at the rights on them.
///
/// # Errors
/// The brokers can't be reached, or refuse the login or the settings.
pub async fn inspect(
    brokers: &[String],
    prefix: &str,
    properties: &Properties,
) -> Result<Inspection, RetryError> {
    let settings = Settings::new(brokers, prefix, properties);
    look(&settings).await.map_err(|error| settings.error(&error))
}

async fn look(settings: &Settings) -> KafkaResult<Inspection> {
    let (known, kept) = (settings.clone(), settings.clone());
    let (brokers, mut topics, group_error) = off_runtime(move || shapes(&known)).await?;
    let admin: AdminClient<Context> =
        kept.with_properties(kept.base(), &[]).create_with_context(Context::default())?;
    let admin = Arc::new(admin);
    for topic in topics.iter_mut().filter(|topic| topic.exists) {
        configuration(&admin, &kept, topic).await;
    }
    Ok(Inspection { brokers, topics, group: settings.group.clone(), group_error })
}

fn shapes(settings: &Settings) -> KafkaResult<(usize, Vec<TopicReport>, Option<String>)> {
    let consumer: Reader = settings.reader(&settings.group).create_with_context(Context::default())?;
    let all = consumer.fetch_metadata(None, ANSWER)?;
    let brokers = all.brokers().len();
    let mut topics = Vec::new();
    let mut group_error = None;
    for name in settings.topics() {
        let metadata = consumer.fetch_metadata(Some(name), ANSWER)?;
        let found = metadata.topics().first();
        let mut report = TopicReport {
            name: name.to_owned(),
            exists: false,
            partitions: found.map_or(0, |topic| topic.partitions().len()),
            replication: 0,
            min_insync: None,
            retention: None,
            problems: Vec::new(),
        };
        match found.and_then(|topic| topic.error()) {
            Some(error) => {
                let code = KafkaError::MetadataFetch(error.into());
                report.problems.push(if refused(&code) && report.partitions == 0 {
                    format!(
                        "{code}: create it with {PARTITIONS} partitions and retention.ms={}, or grant DESCRIBE on it",
                        kept_of(settings, name).as_millis()
                    )
                } else {
                    code.to_string()
                });
            }
            None => {
                report.exists = report.partitions > 0;
                report.replication = found
                    .and_then(|topic| topic.partitions().iter().map(|p| p.replicas().len()).min())
                    .unwrap_or(0);
                shape(&mut report, brokers);
                if let Err(error) = read(&consumer, name) {
                    report.problems.push(format!("can't be read: {error}; grant READ on it"));
                }
                if name != settings.dead
                    && let Err(error) = committed(&consumer, name)
                {
                    let group = &settings.group;
                    group_error =
                        Some(format!("its offsets can't be read: {error}; grant READ on the group {group}"));
                }
            }
        }
        topics.push(report);
    }
    Ok((brokers, topics, group_error))
}

fn shape(report: &mut TopicReport, brokers: usize) {
    if i32::try_from(report.partitions) != Ok(PARTITIONS) {
        let found = report.partitions;
        report.problems.push(format!("has {found} partitions, not {PARTITIONS}: keys spread otherwise, which is harmless unless it changes"));
    }
    if report.replication < brokers.min(3) {
        let (found, wanted) = (report.replication, brokers.min(3));
        report.problems.push(format!(
            "has {found} replicas: a broker that is lost takes owed removals with it; reassign it to {wanted}"
        ));
    }
}

fn committed(consumer: &Reader, name: &str) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition(name, 0);
    let list = consumer.committed_offsets(list, ANSWER)?;
    list.elements().iter().try_for_each(|element| element.error())
}

/// Reads at the end of a partition: a right that is missing shows at once.
fn read(consumer: &Reader, name: &str) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(name, 0, Offset::OffsetTail(1))?;
    consumer.assign(&list)?;
    let deadline = std::time::Instant::now() + READ_WAIT;
    let mut outcome = Ok(());
    while std::time::Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) if refused(&error) => {
                outcome = Err(error);
                break;
            }
            _ => {}
        }
    }
    consumer.unassign()?;
    outcome
}

async fn configuration(admin: &AdminClient<Context>, settings: &Settings, report: &mut TopicReport) {
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let asked = admin.describe_configs([&ResourceSpecifier::Topic(&report.name)], &options).await;
    let config = match asked.map(|mut found| found.pop()) {
        Ok(Some(Ok(config))) => config,
        Ok(Some(Err(code))) => {
            report
                .problems
                .push(format!("its configuration can't be read: {code}; grant DESCRIBE_CONFIGS on it"));
            return;
        }
        Ok(None) => return,
        Err(error) => {
            report.problems.push(format!("its configuration can't be read: {error}"));
            return;
        }
    };
    let value = |name: &str| config.get(name).and_then(|entry| entry.value.clone());
    let number = |name: &str| value(name).and_then(|text| text.parse::<i64>().ok());
    report.min_insync = number("min.insync.replicas").and_then(|n| u32::try_from(n).ok());
    report.retention =
        number("retention.ms").and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let wanted = kept_of(settings, &report.name);
    if let Some(kept) = report.retention
        && kept < wanted
    {
        report.problems.push(format!(
            "keeps records for {} h: what waits longer is lost; set retention.ms={}",
            kept.as_secs() / 3600,
            wanted.as_millis()
        ));
    }
    if value("cleanup.policy").is_some_and(|policy| policy != "delete") {
        report.problems.push("is compacted: records of one key may vanish; set cleanup.policy=delete".into());
    }
    if number("retention.bytes").is_some_and(|bytes| bytes >= 0) {
        report
            .problems
            .push("has retention.bytes: records may vanish before their time; set it to -1".into());
    }
    if report.replication >= 3 && report.min_insync.is_some_and(|least| least < 2) {
        report.problems.push("acknowledges with one replica: set min.insync.replicas=2".into());
    }
}
