//! librdkafka properties, checked before anything connects.
//!
//! Guarantees: no message holds the value of a property that looks like a secret. May depend on nothing of ours: the config's validation
//! calls it.

use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaConfRes};

/// Why a property can't be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// librdkafka has no property of this name.
    #[error("librdkafka has no property of this name")]
    Unknown {
        /// A known name that is alike.
        nearest: Option<&'static str>,
    },
    /// It has, but not with this value.
    #[error("{0}")]
    Invalid(String),
}

/// What is usually set: security, connections, sizes. Only for suggestions; librdkafka itself knows which names there are.
/// <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>
const USUAL: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "broker.address.family",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "debug",
    "enable.ssl.certificate.verification",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.wait.max.ms",
    "group.instance.id",
    "heartbeat.interval.ms",
    "linger.ms",
    "log.connection.close",
    "max.poll.interval.ms",
    "message.max.bytes",
    "metadata.max.age.ms",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.keytab",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "topic.metadata.refresh.interval.ms",
];

/// Whether librdkafka takes this property. Nothing is connected and no file is opened.
///
/// # Errors
/// It doesn't.
pub fn check(name: &str, value: &str, is_secret: bool) -> Result<(), PropertyError> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            let far = name.len().clamp(2, 12) / 2;
            let nearest = USUAL
                .iter()
                .map(|known| (strsim::damerau_levenshtein(name, known), *known))
                .min()
                .filter(|(distance, _)| *distance <= far)
                .map(|(_, known)| known);
            Err(PropertyError::Unknown { nearest })
        }
        Err(KafkaError::ClientConfig(_, what, ..)) if !is_secret => Err(PropertyError::Invalid(what)),
        Err(_) => Err(PropertyError::Invalid("librdkafka refuses the value".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_librdkafkas() {
        for name in USUAL {
            // What the name's type is doesn't matter here: it is known.
            assert!(!matches!(check(name, "1", false), Err(PropertyError::Unknown { .. })), "{name}");
        }
        assert_eq!(check("security.protocol", "sasl_ssl", false), Ok(()));
        assert_eq!(check("sasl.password", "x", true), Ok(()));
        // By the feature `ssl`.
        assert_eq!(check("ssl.ca.location", "/nowhere.pem", false), Ok(()));
        assert_eq!(
            check("sasl.pasword", "x", true),
            Err(PropertyError::Unknown { nearest: Some("sasl.password") })
        );
        assert_eq!(check("whatever.this.may.be", "x", false), Err(PropertyError::Unknown { nearest: None }));
        let Err(PropertyError::Invalid(why)) = check("security.protocol", "tls", false) else {
            panic!("an invalid value")
        };
        assert!(why.contains("security.protocol"), "{why}");
        let Err(PropertyError::Invalid(why)) = check("socket.timeout.ms", "hunter2", true) else {
            panic!("an invalid value")
        };
        assert!(!why.contains("hunter2"), "{why}");
    }
}
