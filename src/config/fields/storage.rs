//! `retry`, `checkpoint`, `admin` and `limits`.

use super::{Section, field, required};

/// `retry`
pub(in crate::config) static RETRY: Section = Section {
    path: "retry",
    about: "Where removals that failed are kept: `kafka` or `disk`, not both.",
    fields: &[
        field("kafka", "mapping", "none", "Kafka topics. Needs the cargo feature `kafka` (on by default)."),
        field("disk", "mapping", "used when there is no `kafka`", "A local store."),
        field(
            "tiers",
            "list of one or two tiers",
            "`[{ delay: 10s, attempts: 5 }, { delay: 5m, attempts: 12 }]`",
            "Attempts before a removal becomes a dead letter. Failures of the target (down, loading) don't count.",
        ),
        field("attempts", "number, 1 to 1000", "`5`", "With `delay`: short for one tier alone."),
        field("delay", "duration, 10ms to 24h", "`10s`", "With `attempts`: short for one tier alone."),
    ],
    hints: &[
        ("max_attempts", "write `tiers: [{ delay: 10s, attempts: 5 }, …]`"),
        ("backoff", "write `tiers: [{ delay: 10s, attempts: 5 }, …]`"),
        ("path", "write `disk: { path: … }`"),
        ("brokers", "write `kafka: { brokers: […], prefix: … }`"),
        ("prefix", "write `kafka: { brokers: […], prefix: … }`"),
    ],
};

/// `retry.tiers[]`
pub(in crate::config) static TIER: Section = Section {
    path: "retry.tiers[]",
    about: "So many attempts, so far apart. The second tier begins where the first ends.",
    fields: &[
        required("delay", "duration, 10ms to 24h", "Time before each attempt."),
        required("attempts", "number, 1 to 1000", "Attempts in this tier."),
    ],
    hints: &[],
};

/// `retry.kafka`
pub(in crate::config) static KAFKA: Section = Section {
    path: "retry.kafka",
    about: "Topics `<prefix>.retry.10s` (the first tier), `<prefix>.retry.5m` (the second) and `<prefix>.dead`, whatever the tiers' delays are.",
    fields: &[
        required("brokers", "list of `host:port`", "Brokers to ask first."),
        required(
            "prefix",
            "text: letters, digits, `.`, `_`, `-`",
            "Prefix of the topics' names; one per deployment.",
        ),
        field(
            "properties",
            "mapping",
            "none",
            "More librdkafka properties, e.g. `security.protocol` or `sasl.password`. librdkafka checks them when the file is read. Those that rowbust's guarantees rest on are refused.",
        ),
    ],
    hints: &[("topic", "write `prefix`: the topics' names are made from it")],
};

/// `retry.disk`
pub(in crate::config) static DISK: Section = Section {
    path: "retry.disk",
    about: "The local store. Back it by a disk that survives the process.",
    fields: &[field("path", "path", "`retry` beside the checkpoint", "Folder of the store.")],
    hints: &[],
};

/// `checkpoint`
pub(in crate::config) static CHECKPOINT: Section = Section {
    path: "checkpoint",
    about: "Where the position to resume from is kept: one of `path`, `redis`, `kafka`. See [high availability](high-availability.md).",
    fields: &[
        field(
            "path",
            "path",
            "`rowbust-data/checkpoint` beside the config file",
            "The file; two generations and a temporary file stand beside it.",
        ),
        field(
            "redis",
            "name of a target",
            "none",
            "A key `rowbust:checkpoint:NAME` of this target instead of the file, for a standby on another host.",
        ),
        field(
            "kafka",
            "mapping as `retry.kafka`",
            "none",
            "A compacted topic `<prefix>.checkpoint` instead of the file, for a standby on another host.",
        ),
        field(
            "name",
            "text: letters, digits, `.`, `_`, `-`, `:`",
            "`HOST:PORT` of the source",
            "Of the deployment, with `redis` or `kafka`: daemons with the same one take turns. Two deployments on one source need two.",
        ),
    ],
    hints: &[("file", "its name is `path`"), ("target", "its name is `redis`")],
};

/// `admin`
pub(in crate::config) static ADMIN: Section = Section {
    path: "admin",
    about: "HTTP: `/livez`, `/readyz`, `/metrics`, `/status`, and what docs/admin-api.md lists.",
    fields: &[
        field("listen", "`address:port`", "`127.0.0.1:8321`", "Where to listen; port 0 takes a free one."),
        field(
            "token",
            "text, at least 16 characters",
            "none",
            "What changes anything (pause, reload, flush, requeue) needs it, and what shows keys does where `listen` isn't a loopback address. \
             Without one such requests are answered on a loopback address only. Usually `${VARIABLE}`.",
        ),
        field(
            "token_file",
            "path",
            "none",
            "File with the token, read again at each such request; its last line break is cut off.",
        ),
    ],
    hints: &[("port", "write `listen: 127.0.0.1:PORT`"), ("password", "its name is `token_file`")],
};

/// `limits`
pub(in crate::config) static LIMITS: Section = Section {
    path: "limits",
    about: "Bounds.",
    fields: &[
        field(
            "memory",
            "size, 1MiB to 64GiB",
            "`48MiB`",
            "What all queues of keys in flight may take together; reading waits when it is used up.",
        ),
        field(
            "keys_per_second",
            "number; `0`: unlimited",
            "`0`",
            "Removals a second, per target, of transactions with more than 10000 keys, so that the keys of small ones pass \
             them. They take at most half of `memory`: beyond that reading waits.",
        ),
        field(
            "flush_keys_per_second",
            "number; `0`: unlimited",
            "`20000`",
            "Removals a second, per target, while a keyspace is flushed. A key that is only looked at counts as a tenth.",
        ),
        field(
            "sweep_keys_per_second",
            "number; `0`: unlimited",
            "`50000`",
            "Removals a second, per target, of `prefix` and `members_of` together. A key that is only looked at counts as a tenth: \
             one pass of `prefix` over a database of 10 million keys takes 20 s.",
        ),
    ],
    hints: &[],
};
