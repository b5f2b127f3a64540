//! A record as a Kafka message: key = target and cache key, value = operation, all else in headers.
//!
//! Guarantees: what [`encode`] writes [`decode`] reads back; decoding never panics, whoever wrote the message. Row data is
//! in none of it. May depend on [`super::super::record`].

use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use serde::{Deserialize, Serialize};

use super::super::record::{Op, Origin, Record};

/// Version of the layout, in the header `rowbust-schema`: the oldest that can say it.
const SCHEMA: &str = "1";
/// Adds operations other than UNLINK and HDEL.
const SCHEMA_OPS: &str = "2";

const H_SCHEMA: &str = "rowbust-schema";
const H_TARGET: &str = "rowbust-target";
const H_SOURCE: &str = "rowbust-source";
const H_GTID: &str = "rowbust-gtid";
const H_POSITION: &str = "rowbust-position";
const H_ROW: &str = "rowbust-row";
const H_COMMIT_TIME: &str = "rowbust-commit-time";
const H_EPOCH: &str = "rowbust-epoch";
const H_VISIBLE: &str = "rowbust-visible";
const H_WHEN_VISIBLE: &str = "rowbust-when-visible";
const H_FILL_GRACE: &str = "rowbust-fill-grace-ms";
const H_NOT_BEFORE: &str = "rowbust-not-before";
const H_ATTEMPT: &str = "rowbust-attempt";
const H_FIRST_FAILED: &str = "rowbust-first-failed";
const H_ERROR: &str = "rowbust-error";
const H_PARKED: &str = "rowbust-parked";
const H_DEAD_TOPIC: &str = "rowbust-dead-topic";
const H_DEAD_PARTITION: &str = "rowbust-dead-partition";
const H_DEAD_OFFSET: &str = "rowbust-dead-offset";
const H_DEAD_TIME: &str = "rowbust-dead-time";
const H_DEAD_AT: &str = "rowbust-dead-at";
const H_DEAD_REASON: &str = "rowbust-dead-reason";

/// Why a message is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("header {0} is missing")]
    Missing(&'static str),
    #[error("header {0} can't be read")]
    Header(&'static str),
    #[error("schema version {0} is not known")]
    Schema(String),
    #[error("the message's key doesn't begin with its target")]
    Key,
    #[error("value is no operation: {0}")]
    Value(String),
    #[error("a header's name is not UTF-8")]
    HeaderName,
}

/// The value. A field that is not UTF-8 is written as hex.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Operation {
    Unlink,
    Hdel {
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        field_hex: Option<String>,
    },
    Prefix,
    MembersOf,
    Row {
        table: String,
    },
}

/// What is produced.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: OwnedHeaders,
}

/// Where a dead letter came from and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Unix time in milliseconds of the record that died; -1: none.
    pub(super) time_ms: i64,
    /// Unix time in milliseconds of its death.
    pub(super) died_ms: u64,
    pub(super) reason: String,
}

pub(super) fn encode(record: &Record) -> Outgoing {
    let mut key = Vec::with_capacity(record.target.len() + 1 + record.key.len());
    key.extend_from_slice(record.target.as_bytes());
    key.push(b':');
    key.extend_from_slice(&record.key);
    let (schema, operation) = match &record.op {
        Op::Unlink => (SCHEMA, Operation::Unlink),
        Op::Hdel { field } => match std::str::from_utf8(field) {
            Ok(text) => (SCHEMA, Operation::Hdel { field: Some(text.to_owned()), field_hex: None }),
            Err(_) => (SCHEMA, Operation::Hdel { field: None, field_hex: Some(to_hex(field)) }),
        },
        Op::Prefix => (SCHEMA_OPS, Operation::Prefix),
        Op::MembersOf => (SCHEMA_OPS, Operation::MembersOf),
        Op::Row { table } => (SCHEMA_OPS, Operation::Row { table: table.clone() }),
    };
    let origin = &record.origin;
    let headers = OwnedHeaders::new_with_capacity(16);
    let headers = text(headers, H_SCHEMA, schema);
    let headers = text(headers, H_TARGET, &record.target);
    let headers = text(headers, H_SOURCE, &origin.source);
    let headers = text(headers, H_GTID, &origin.gtid);
    let headers = text(headers, H_POSITION, &format!("{}:{}", origin.file, origin.position));
    let headers = text(headers, H_ROW, &origin.row.to_string());
    let headers = text(headers, H_COMMIT_TIME, &origin.commit_time.to_string());
    let headers = text(headers, H_EPOCH, &origin.epoch.to_string());
    let headers = text(headers, H_VISIBLE, &format!("{}:{}", origin.visible_file, origin.visible_position));
    let headers = text(headers, H_WHEN_VISIBLE, if record.when_visible { "1" } else { "0" });
    let headers = text(headers, H_FILL_GRACE, &record.fill_grace_ms.to_string());
    let headers = text(headers, H_NOT_BEFORE, &record.not_before_ms.to_string());
    let headers = text(headers, H_ATTEMPT, &record.attempt.to_string());
    let headers = text(headers, H_FIRST_FAILED, &record.first_failed_ms.to_string());
    let headers = text(headers, H_ERROR, &record.error_code);
    // Serializing this enum can't fail; an empty value would be refused by the reader, not lost.
    let value = serde_json::to_vec(&operation).unwrap_or_default();
    Outgoing { key: Some(key), value: Some(value), headers }
}

/// Adds when it was parked: Unix time in milliseconds.
pub(super) fn park(mut message: Outgoing, now_ms: u64) -> Outgoing {
    message.headers = text(message.headers, H_PARKED, &now_ms.to_string());
    message
}

/// When it was parked; 0: it isn't.
pub(super) fn parked_ms<M: Message>(message: &M) -> u64 {
    read_headers(message).ok().and_then(|headers| number(&headers, H_PARKED).ok()).unwrap_or(0)
}

/// Adds where it came from and why it died.
pub(super) fn bury(mut message: Outgoing, death: &Death) -> Outgoing {
    let headers = message.headers;
    let headers = text(headers, H_DEAD_TOPIC, &death.topic);
    let headers = text(headers, H_DEAD_PARTITION, &death.partition.to_string());
    let headers = text(headers, H_DEAD_OFFSET, &death.offset.to_string());
    let headers = text(headers, H_DEAD_TIME, &death.time_ms.to_string());
    let headers = text(headers, H_DEAD_AT, &death.died_ms.to_string());
    message.headers = text(headers, H_DEAD_REASON, &death.reason);
    message
}

/// The message as it is, to be produced again.
pub(super) fn copy<M: Message>(message: &M, headers: Option<OwnedHeaders>) -> Outgoing {
    Outgoing {
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}

pub(super) fn decode<M: Message>(message: &M) -> Result<Record, MessageError> {
    let headers = read_headers(message)?;
    let get = |name| find(&headers, name);
    let schema = get(H_SCHEMA)?;
    if schema != SCHEMA && schema != SCHEMA_OPS {
        return Err(MessageError::Schema(schema.chars().take(20).collect()));
    }
    let target = get(H_TARGET)?.to_owned();
    let key = message
        .key()
        .and_then(|key| key.strip_prefix(target.as_bytes()))
        .and_then(|key| key.strip_prefix(b":"));
    let key = key.ok_or(MessageError::Key)?.to_vec();
    let value = message.payload().ok_or_else(|| MessageError::Value("empty".into()))?;
    let op = match serde_json::from_slice(value).map_err(|error| MessageError::Value(error.to_string()))? {
        Operation::Unlink => Op::Unlink,
        Operation::Hdel { field: Some(field), field_hex: None } => Op::Hdel { field: field.into_bytes() },
        Operation::Hdel { field: None, field_hex: Some(hex) } => {
            let field = from_hex(&hex).ok_or_else(|| MessageError::Value("field_hex is no hex".into()))?;
            Op::Hdel { field }
        }
        Operation::Hdel { .. } => return Err(MessageError::Value("hdel needs one field".into())),
        Operation::Prefix => Op::Prefix,
        Operation::MembersOf => Op::MembersOf,
        Operation::Row { table } => Op::Row { table },
    };
    let (file, position) = place(get(H_POSITION)?).ok_or(MessageError::Header(H_POSITION))?;
    let (visible_file, visible_position) = place(get(H_VISIBLE)?).ok_or(MessageError::Header(H_VISIBLE))?;
    Ok(Record {
        target,
        key,
        op,
        origin: Origin {
            source: get(H_SOURCE)?.to_owned(),
            gtid: get(H_GTID)?.to_owned(),
            file,
            position,
            row: number(&headers, H_ROW)?,
            commit_time: number(&headers, H_COMMIT_TIME)?,
            epoch: number(&headers, H_EPOCH)?,
            visible_file,
            visible_position,
        },
        when_visible: match get(H_WHEN_VISIBLE)? {
            "1" => true,
            "0" => false,
            _ => return Err(MessageError::Header(H_WHEN_VISIBLE)),
        },
        fill_grace_ms: number(&headers, H_FILL_GRACE)?,
        attempt: number(&headers, H_ATTEMPT)?,
        not_before_ms: number(&headers, H_NOT_BEFORE)?,
        first_failed_ms: number(&headers, H_FIRST_FAILED)?,
        error_code: get(H_ERROR)?.to_owned(),
    })
}

/// What [`bury`] added; `None`: somebody else wrote it.
pub(super) fn death<M: Message>(message: &M) -> Option<Death> {
    let headers = read_headers(message).ok()?;
    Some(Death {
        topic: find(&headers, H_DEAD_TOPIC).ok()?.to_owned(),
        partition: number(&headers, H_DEAD_PARTITION).ok()?,
        offset: number(&headers, H_DEAD_OFFSET).ok()?,
        time_ms: number(&headers, H_DEAD_TIME).ok()?,
        died_ms: number(&headers, H_DEAD_AT).ok()?,
        reason: find(&headers, H_DEAD_REASON).ok()?.to_owned(),
    })
}

type Pairs<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

fn read_headers<M: Message>(message: &M) -> Result<Pairs<'_>, MessageError> {
    // rdkafka 0.39 unwraps a header's name as UTF-8 (`BorrowedHeaders::try_get`); a stranger's message must not end the consumer.
    let read = std::panic::AssertUnwindSafe(|| match message.headers() {
        Some(headers) => headers.iter().map(|header| (header.key, header.value)).collect(),
        None => Vec::new(),
    });
    std::panic::catch_unwind(read).map_err(|_| MessageError::HeaderName)
}

/// The newest header of that name: a letter that died twice carries two.
fn find<'a>(headers: &Pairs<'a>, name: &'static str) -> Result<&'a str, MessageError> {
    let (_, value) = headers.iter().rev().find(|(key, _)| *key == name).ok_or(MessageError::Missing(name))?;
    std::str::from_utf8(value.unwrap_or_default()).map_err(|_| MessageError::Header(name))
}

fn number<T: std::str::FromStr>(headers: &Pairs<'_>, name: &'static str) -> Result<T, MessageError> {
    find(headers, name)?.parse().map_err(|_| MessageError::Header(name))
}

fn place(text: &str) -> Option<(String, u64)> {
    let (file, position) = text.rsplit_once(':')?;
    Some((file.to_owned(), position.parse().ok()?))
}

fn text(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use rdkafka::{Timestamp, message::OwnedMessage};

    use super::{super::super::codec::tests::any_record, *};

    fn owned(message: Outgoing) -> OwnedMessage {
        let headers = Some(message.headers);
        OwnedMessage::new(message.value, message.key, "t".into(), Timestamp::NotAvailable, 0, 0, headers)
    }

    proptest! {
        #[test]
        fn round_trip(record in any_record()) {
            let message = owned(encode(&record));
            prop_assert_eq!(decode(&message).unwrap(), record);
            prop_assert!(death(&message).is_none());
        }

        #[test]
        fn a_letter_says_where_it_died(record in any_record(), partition: i32, offset: i64, time_ms: i64, died_ms: u64, reason in ".{0,40}") {
            let death_of = Death { topic: "p.retry.10s".into(), partition, offset, time_ms, died_ms, reason };
            let earlier = Death { topic: "earlier".into(), ..death_of.clone() };
            let message = owned(bury(bury(encode(&record), &earlier), &death_of));
            prop_assert_eq!(decode(&message).unwrap(), record);
            prop_assert_eq!(death(&message).unwrap(), death_of);
        }

        #[test]
        fn any_message_never_panics(
            key: Option<Vec<u8>>, value: Option<Vec<u8>>, which in 0usize..15, header: Vec<u8>, record in any_record(), cut: bool,
        ) {
            let mut message = encode(&record);
            let name = message.headers.get(which).key.to_owned();
            message.headers = message.headers.insert(Header { key: &name, value: Some(&header) });
            if cut {
                message.key = key;
                message.value = value;
            }
            let _ = decode(&owned(message));
        }
    }

    #[test]
    fn strangers_are_refused_with_the_reason() {
        let record = super::super::super::policy::tests::record("k");
        let bare = Outgoing { headers: OwnedHeaders::new(), ..encode(&record) };
        assert_eq!(decode(&owned(bare)), Err(MessageError::Missing(H_SCHEMA)));
        let newer = encode(&record);
        let newer = Outgoing { headers: text(newer.headers.clone(), H_SCHEMA, "3"), ..newer };
        assert_eq!(decode(&owned(newer)), Err(MessageError::Schema("3".into())));
        let other = Outgoing { key: Some(b"other:k".to_vec()), ..encode(&record) };
        assert_eq!(decode(&owned(other)), Err(MessageError::Key));
        let empty = Outgoing { value: None, ..encode(&record) };
        assert!(matches!(decode(&owned(empty)), Err(MessageError::Value(_))));
    }

    /// As the first release wrote them: UNLINK and HDEL are still written so.
    #[test]
    fn the_first_layout_stays() {
        let unlink = super::super::super::policy::tests::record("k");
        let hdel = Record { op: Op::Hdel { field: b"f".to_vec() }, ..unlink.clone() };
        for (record, value) in [(&unlink, r#"{"op":"unlink"}"#), (&hdel, r#"{"op":"hdel","field":"f"}"#)] {
            let message = encode(record);
            assert_eq!(message.value.as_deref(), Some(value.as_bytes()));
            let schema = message.headers.get(0);
            assert_eq!((schema.key, schema.value), (H_SCHEMA, Some(b"1".as_slice())));
        }
        for (op, value) in [
            (Op::Prefix, r#"{"op":"prefix"}"#),
            (Op::MembersOf, r#"{"op":"members_of"}"#),
            (Op::Row { table: "shop.products".into() }, r#"{"op":"row","table":"shop.products"}"#),
        ] {
            let message = encode(&Record { op, ..unlink.clone() });
            assert_eq!(message.value.as_deref(), Some(value.as_bytes()));
            assert_eq!(message.headers.get(0).value, Some(b"2".as_slice()));
        }
    }
}
