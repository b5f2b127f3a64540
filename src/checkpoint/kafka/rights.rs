//! Which of the rights that the checkpoint in Kafka needs are there.
//!
//! Guarantees: no record becomes visible, no topic is made, no offset is committed, and the checkpoint isn't taken over: the fence stays. An
//! active daemon's producer is replaced by asking for the transactional id, which its next save mends by itself ([`super::KafkaRecord::put`]).
//! May depend on its parent.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    producer::{FutureRecord, Producer},
};

use super::{ANSWER, KafkaRecord, Quiet, Settings, drop_elsewhere};
use crate::checkpoint::store::Fault;

/// How long a read that is allowed may take to come to the topic's end.
const READ_WAIT: Duration = Duration::from_secs(5);

/// One right, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// Kafka's name for it, such as `WRITE`.
    pub operation: &'static str,
    /// What it is on, such as `the topic rowbust.shop.checkpoint`.
    pub resource: String,
    /// What was found.
    pub state: RightState,
}

/// See [`Right::state`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightState {
    /// It was used, and worked.
    There,
    /// The brokers refuse: their words.
    Missing(String),
    /// It couldn't be asked for, and why.
    Unknown(String),
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.operation, self.resource)
    }
}

impl KafkaRecord {
    /// Tries each right.
    ///
    /// # Errors
    /// The brokers can't be reached, or refuse the login.
    pub(in crate::checkpoint) async fn rights(&self) -> Result<Vec<Right>, Fault> {
        let settings = std::sync::Arc::clone(&self.settings);
        super::blocking(&self.settings, move || Ok(Ok(settings.rights()?))).await
    }
}

fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
                | Code::ClusterAuthorizationFailed
        )
    )
}

fn judged<T>(outcome: &KafkaResult<T>) -> RightState {
    match outcome {
        Ok(_) => RightState::There,
        Err(error) if is_refusal(error) => RightState::Missing(error.to_string()),
        Err(error) => RightState::Unknown(error.to_string()),
    }
}

impl Settings {
    fn rights(&self) -> KafkaResult<Vec<Right>> {
        let topic = format!("the topic {}", self.topic);
        let right =
            |operation, resource: &str, state| Right { operation, resource: resource.to_owned(), state };
        let consumer: BaseConsumer<Quiet> = self.reader().create_with_context(Quiet)?;
        let described =
            consumer.fetch_metadata(Some(&self.topic), ANSWER).and_then(|found| self.found(&found));
        let there = match &described {
            Err(error) if !is_refusal(error) => return Err(error.clone()),
            described => described.as_ref().is_ok_and(|there| *there),
        };
        let mut rights = vec![right("DESCRIBE", &topic, judged(&described))];
        if there {
            rights.push(right("READ", &topic, judged(&self.read_end(&consumer))));
        } else if described.is_ok() {
            rights.push(right("CREATE", &topic, self.may_create()?));
            let later = || RightState::Unknown("it isn't there yet".to_owned());
            rights.extend(["READ", "WRITE"].map(|operation| right(operation, &topic, later())));
        }
        let id = format!("the transactional id {}", self.transactional_id());
        match self.producer() {
            Ok(producer) => {
                rights.push(right("WRITE", &id, RightState::There));
                if there {
                    rights.push(right("WRITE", &topic, self.may_write(&producer)));
                }
                drop_elsewhere(Some(producer));
            }
            Err(error) => {
                rights.push(right("WRITE", &id, judged::<()>(&Err(error))));
                if there {
                    let why = "it takes the transactional id to ask".to_owned();
                    rights.push(right("WRITE", &topic, RightState::Unknown(why)));
                }
            }
        }
        Ok(rights)
    }

    /// Reads at the end: a right that is missing shows at once.
    fn read_end(&self, consumer: &BaseConsumer<Quiet>) -> KafkaResult<()> {
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(&self.topic, 0, Offset::OffsetTail(1))?;
        consumer.assign(&place)?;
        let until = Instant::now() + READ_WAIT;
        let outcome = loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => break Ok(()),
                Some(Err(error)) if error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) => {
                    break Err(error);
                }
                // Of the group, on which no right is needed, too.
                _ if Instant::now() > until => {
                    break Err(KafkaError::MessageConsumption(Code::OperationTimedOut));
                }
                _ => {}
            }
        };
        consumer.unassign()?;
        outcome
    }

    /// The broker only checks whether it would.
    fn may_create(&self) -> KafkaResult<RightState> {
        let admin: AdminClient<Quiet> = self.client(&[]).create_with_context(Quiet)?;
        let topic = self.new_topic(1);
        let options = AdminOptions::new()
            .request_timeout(Some(ANSWER))
            .operation_timeout(Some(ANSWER))
            .validate_only(true);
        let handle = tokio::runtime::Handle::current();
        let answers = handle.block_on(admin.create_topics([&topic], &options))?;
        Ok(match answers.into_iter().find_map(Result::err) {
            None | Some((_, Code::TopicAlreadyExists)) => RightState::There,
            Some((_, code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed))) => {
                RightState::Missing(code.to_string())
            }
            Some((_, code)) => RightState::Unknown(code.to_string()),
        })
    }

    /// Sends what no compacted topic takes, a record without a key, in a transaction that is given up: the right is looked at before.
    fn may_write(&self, producer: &super::Transactions) -> RightState {
        let sent = producer.begin_transaction().and_then(|()| {
            let record: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(&self.topic).partition(0).payload(b"rowbust");
            producer.send_result(record).map_err(|(error, _)| error)
        });
        let delivery = match sent {
            Ok(delivery) => delivery,
            Err(error) => return RightState::Unknown(error.to_string()),
        };
        let handle = tokio::runtime::Handle::current();
        let answer = handle.block_on(async { tokio::time::timeout(ANSWER, delivery).await });
        let outcome = match answer {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err((error, _)))) => match error.rdkafka_error_code() {
                Some(Code::InvalidRecord) => Ok(()),
                Some(Code::TopicAuthorizationFailed) => Err(error),
                // Given up with the transaction, which knows why.
                _ => producer.commit_transaction(ANSWER),
            },
            Ok(Err(_)) | Err(_) => Err(KafkaError::MessageProduction(Code::OperationTimedOut)),
        };
        let _ = producer.abort_transaction(ANSWER);
        judged(&outcome)
    }
}
