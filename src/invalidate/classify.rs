//! Whose fault an error of Redis is, in one place.
//!
//! Guarantees: every error has a class; what isn't known is the target's fault, since that loses nothing: it uses up no attempt.
//! May depend on nothing of ours.

use redis::{ErrorKind, RedisError, ServerError};

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The server's: down, loading, read-only, no rights… The breaker opens and no attempt is used up.
    Target,
    /// The key's: trying again may not help. Uses up an attempt.
    Key,
}

/// A failed removal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Whose fault.
    pub class: Class,
    /// As Redis spells it (`READONLY`), or `IO`, `TIMEOUT`, `PROTOCOL`, `BREAKER`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// The breaker is open: nothing was sent.
    pub fn breaker() -> Self {
        Self::target("BREAKER", "the breaker is open")
    }

    /// The target's fault.
    pub fn target(code: &str, message: impl Into<String>) -> Self {
        Self { class: Class::Target, code: code.to_owned(), message: message.into() }
    }

    /// Whether a cluster says that another server has the key, or soon will: no failure of the one that says so.
    pub fn is_redirect(&self) -> bool {
        matches!(self.code.as_str(), "MOVED" | "ASK" | "TRYAGAIN")
    }

    /// Whether it shows, as the answer to a command that removes nothing, that the server fails for removals too. A right that is
    /// missing doesn't, nor does a redirect.
    pub fn is_outage(&self) -> bool {
        self.class == Class::Target && self.code != "NOPERM" && !self.is_redirect()
    }
}

/// Codes that belong to the key. `ERR` is here: a removal that the server can't make sense of (an ACL or a proxy that knows no
/// UNLINK, an oversized key) doesn't heal by waiting. Codes: Redis' source, `shared.*err` in `server.c`.
const KEY_CODES: &[&str] = &["WRONGTYPE", "CROSSSLOT", "ERR", "EXECABORT", "NOPROTO"];

fn class_of(code: &str, message: &str) -> Class {
    // "ERR max number of clients reached" comes before any command is looked at; proxies answer ERR for a lost backend.
    let of_target =
        ["max number of clients", "unreachable", "timeout", "timed out", "refused", "not connected"];
    if code == "ERR" && of_target.iter().any(|text| message.to_ascii_lowercase().contains(text)) {
        return Class::Target;
    }
    // Rights on commands are the target's, rights on keys the key's. Texts of Redis 7 and 6: `acl.c`.
    let about_keys = ["access a key", "access one of the keys"];
    if code == "NOPERM" && about_keys.iter().any(|text| message.contains(text)) {
        return Class::Key;
    }
    if KEY_CODES.contains(&code) { Class::Key } else { Class::Target }
}

/// Classifies an error reply within a pipeline.
pub fn reply(error: &ServerError) -> Failure {
    let message = error.details().unwrap_or_default();
    // Codes that redis-rs doesn't know come as they are; known ones as their code.
    Failure {
        class: class_of(error.code(), message),
        code: error.code().to_owned(),
        message: message.to_owned(),
    }
}

/// Classifies an error of a whole command or connection.
pub fn error(error: &RedisError) -> Failure {
    let message = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    if error.is_timeout() {
        return Failure { class: Class::Target, code: "TIMEOUT".into(), message };
    }
    if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() {
        return Failure { class: Class::Target, code: "IO".into(), message };
    }
    if let Some(code) = error.code() {
        return Failure { class: class_of(code, &message), code: code.to_owned(), message };
    }
    let code = match error.kind() {
        ErrorKind::AuthenticationFailed => "WRONGPASS",
        _ => "PROTOCOL",
    };
    Failure { class: Class::Target, code: code.into(), message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    /// Replies as Redis 7 and 8 send them, and whose fault each is.
    const REPLIES: &[(&str, &str, Class)] = &[
        ("-LOADING Redis is loading the dataset in memory", "LOADING", Class::Target),
        ("-READONLY You can't write against a read only replica.", "READONLY", Class::Target),
        ("-NOAUTH Authentication required.", "NOAUTH", Class::Target),
        ("-WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS", Class::Target),
        ("-NOPERM User app has no permissions to run the 'unlink' command", "NOPERM", Class::Target),
        ("-NOPERM No permissions to access a key", "NOPERM", Class::Key),
        (
            "-NOPERM this user has no permissions to access one of the keys used as arguments",
            "NOPERM",
            Class::Key,
        ),
        ("-ERR Connection refused", "ERR", Class::Target),
        ("-ERR Connection timed out", "ERR", Class::Target),
        (
            "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable",
            "MISCONF",
            Class::Target,
        ),
        ("-BUSY Redis is busy running a script.", "BUSY", Class::Target),
        ("-NOREPLICAS Not enough good replicas to write.", "NOREPLICAS", Class::Target),
        ("-OOM command not allowed when used memory > 'maxmemory'.", "OOM", Class::Target),
        ("-MASTERDOWN Link with MASTER is down", "MASTERDOWN", Class::Target),
        ("-CLUSTERDOWN The cluster is down", "CLUSTERDOWN", Class::Target),
        ("-MOVED 3999 127.0.0.1:6381", "MOVED", Class::Target),
        ("-ASK 3999 127.0.0.1:6381", "ASK", Class::Target),
        ("-TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", Class::Target),
        ("-UNKILLABLE Sorry the script already executed write commands", "UNKILLABLE", Class::Target),
        ("-ERR max number of clients reached", "ERR", Class::Target),
        ("-WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE", Class::Key),
        ("-CROSSSLOT Keys in request don't hash to the same slot", "CROSSSLOT", Class::Key),
        ("-ERR unknown command 'UNLINK', with args beginning with: 'k'", "ERR", Class::Key),
    ];

    #[test]
    fn every_reply_has_its_class() {
        for (text, code, class) in REPLIES {
            let value = parse_redis_value(format!("{text}\r\n").as_bytes()).unwrap();
            let Value::ServerError(server) = value else { panic!("{text} is no error reply") };
            let failure = reply(&server);
            assert_eq!((failure.code.as_str(), failure.class), (*code, *class), "{text}");
            // The same error as a command's result.
            let failure = error(&RedisError::from(server));
            assert_eq!((failure.code.as_str(), failure.class), (*code, *class), "{text} as a result");
        }
    }

    #[test]
    fn a_lost_connection_is_the_targets_fault() {
        let io = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!((error(&io).class, error(&io).code.as_str()), (Class::Target, "IO"));
    }
}
