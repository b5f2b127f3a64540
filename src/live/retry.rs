//! The retry queue: the file, or the topics.
//!
//! May depend on `retry`.

#[cfg(feature = "kafka")]
use super::within;
use super::{Waiting, report::Group};
use crate::config::{Config, Retry};

pub(super) async fn look(config: &Config, waiting: &Waiting) -> Group {
    match &config.retry {
        Retry::Disk { path, .. } => {
            let mut group = Group::new("retry", format!("retry on disk, {}", path.display()));
            let file = path.join("queue.redb");
            match std::fs::metadata(&file) {
                Ok(found) => group.ok("retry.queue", format!("{} bytes", found.len())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    group.ok("retry.queue", "none yet, the daemon makes it");
                }
                Err(error) => group.error(
                    "retry.queue",
                    format!("{}: {error}", file.display()),
                    "let rowbust's user read and write it",
                ),
            }
            group
        }
        #[cfg(feature = "kafka")]
        Retry::Kafka { brokers, prefix, properties, .. } => {
            let group =
                Group::new("retry", format!("retry by kafka, {}, topics {prefix}.*", brokers.join(", ")));
            within(waiting, group, "retry.answer", async |group: &mut Group| {
                kafka(brokers, prefix, properties, group).await;
            })
            .await
        }
        #[cfg(not(feature = "kafka"))]
        Retry::Kafka { .. } => {
            let mut group = Group::new("retry", "retry by kafka");
            group.error(
                "retry.brokers",
                "this build has no Kafka",
                "use a build with the feature `kafka`, or `retry.disk`",
            );
            let _ = waiting;
            group
        }
    }
}

#[cfg(feature = "kafka")]
async fn kafka(brokers: &[String], prefix: &str, properties: &crate::config::Properties, group: &mut Group) {
    use crate::retry::{RetryError, kafka::inspect};

    let found = match inspect(brokers, prefix, properties).await {
        Ok(found) => found,
        Err(error @ RetryError::Unreachable { .. }) => {
            group.unreachable(
                "retry.brokers",
                error.to_string(),
                "do the brokers run, are the addresses right (also those that they advertise), does a firewall stand between?",
            );
            return;
        }
        Err(error) => {
            group.error(
                "retry.brokers",
                error.to_string(),
                "look at `retry.kafka.properties`: security.protocol, sasl.*, ssl.*; see docs/retry.md",
            );
            return;
        }
    };
    group.ok("retry.brokers", format!("{} in the cluster", found.brokers));
    for topic in &found.topics {
        if topic.problems.is_empty() {
            let kept = topic
                .retention
                .map_or("for ever".to_owned(), |kept| format!("for {}", crate::config::show_duration(kept)));
            group.ok(
                "retry.topic",
                format!(
                    "{}: {} partitions, {} replicas, kept {kept}",
                    topic.name, topic.partitions, topic.replication
                ),
            );
        }
        for problem in &topic.problems {
            let (what, help) = problem.split_once(": ").filter(|_| !topic.exists).map_or_else(
                || problem.split_once("; ").unwrap_or((problem.as_str(), "see docs/retry.md")),
                |(what, help)| (what, help),
            );
            let text = format!("{}: {what}", topic.name);
            if !topic.exists && !problem.contains("Authorization") {
                group.warning(
                    "retry.topic",
                    format!("{}: is not there yet ({what})", topic.name),
                    format!("nothing, where the daemon may create it at its start; else {help}"),
                );
            } else if !topic.exists || problem.contains("can't be read") {
                group.error("retry.topic", text, help);
            } else {
                group.warning("retry.topic", text, help);
            }
        }
    }
    // Its offsets are those of a tier's topics; the last one is that of the dead letters.
    let tiers = found.topics.split_last().map_or(&[][..], |(_, tiers)| tiers);
    match &found.group_error {
        None if !tiers.iter().any(|topic| topic.exists) => group.not_tested(
            "retry.group",
            format!("{}: may its offsets be read? There is no topic to ask for", found.group),
            "look again once the topics are there, and may be described",
        ),
        None => group.ok("retry.group", found.group.clone()),
        Some(error) => {
            let (what, help) = error.split_once("; ").unwrap_or((error.as_str(), "see docs/retry.md"));
            group.error("retry.group", format!("{}: {what}", found.group), help);
        }
    }
    group.not_tested(
        "retry.topic",
        "may they be written to? Kafka has no question for that",
        format!("the account needs WRITE on {prefix}.*, see docs/retry.md"),
    );
}
