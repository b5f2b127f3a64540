//! Every field of the config contract: one table for the validator, its suggestions, and `docs/config.md`.

/// A mapping of the file.
#[derive(Debug)]
pub struct Section {
    /// Where it stands, with `[]` for entries of a list and `NAME` for free names; empty for the file itself.
    pub path: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// Help for names that people try here: what they write, what to write instead.
    pub hints: &'static [(&'static str, &'static str)],
}

/// A field of a [`Section`].
#[derive(Debug)]
pub struct Field {
    /// As written.
    pub name: &'static str,
    /// What may stand there, with unit.
    pub takes: &'static str,
    /// What holds when it isn't there.
    pub default: Default,
    /// What it means.
    pub about: &'static str,
}

/// What holds when a field isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It has to be there.
    Required,
    /// In words or as a value.
    Is(&'static str),
}

const fn required(name: &'static str, takes: &'static str, about: &'static str) -> Field {
    Field { name, takes, default: Default::Required, about }
}

const fn field(name: &'static str, takes: &'static str, default: &'static str, about: &'static str) -> Field {
    Field { name, takes, default: Default::Is(default), about }
}

/// All sections, in the order of the documentation.
pub const SECTIONS: &[&Section] = &[
    &ROOT,
    &SOURCE,
    &START,
    &TLS,
    &REDIS,
    &TARGET,
    &SENTINEL,
    &DURABILITY,
    &RETRY,
    &TIER,
    &KAFKA,
    &DISK,
    &CHECKPOINT,
    &ADMIN,
    &LIMITS,
    &MAPPING,
    &ON_DDL,
    &WHEN,
    &KEY,
    &SECOND_REMOVAL,
];

/// The file itself.
pub(super) static ROOT: Section = Section {
    path: "",
    about: "The file.",
    fields: &[
        field("version", "`1`", "`1`", "Version of this format."),
        required("source", "mapping", "The MySQL or MariaDB server whose binlog is followed."),
        required("redis", "mapping of names to targets", "Where keys are removed."),
        field("retry", "mapping", "the local store", "Where removals that failed are kept until they work."),
        field("checkpoint", "mapping", "see below", "Where the position to resume from is kept."),
        field("admin", "mapping", "see below", "The HTTP server for health, metrics and status."),
        field("limits", "mapping", "see below", "Bounds."),
        required("mappings", "list, at least one entry", "Which tables' rows make which keys wrong."),
    ],
    hints: &[
        ("mysql", "the server stands under `source`"),
        ("database", "the server stands under `source`"),
        ("tables", "tables stand in `mappings`, one entry each with `table`"),
        (
            "kafka",
            "Kafka stands under `retry`: `retry: { kafka: { brokers: [\"host:9092\"], prefix: NAME } }`",
        ),
    ],
};

/// `source`
pub(super) static SOURCE: Section = Section {
    path: "source",
    about: "The server whose binlog is followed, and how.",
    fields: &[
        required(
            "url",
            "`mysql://USER@HOST[:PORT]`",
            "Host, port (3306) and user. No password, no database.",
        ),
        field("password", "text", "none", "The user's password, usually `${VARIABLE}`."),
        field(
            "password_file",
            "path",
            "none",
            "File with the password, read again at each connect; its last line break is cut off.",
        ),
        field(
            "replicas",
            "list of `host:port`",
            "none: only the primary",
            "Every further server that cache fills read from: the second removal waits until all of them show the commit.",
        ),
        field(
            "replica_timeout",
            "duration, or `never`",
            "`never`",
            "How long one of `replicas` may hold up second removals, because it lags or can't be reached, before it stops counting. `never`: removals wait for it (and in the end reading does), and it is for the alarm on `rowbust_visibility_held_seconds` to call somebody. With a time, it leaves the published pool first, and guarded readers (which look there) stay right; but fills of plain keys that still read from it may then put old values back for good. It joins again by itself.",
        ),
        field(
            "name",
            "text",
            "`main`",
            "Under this name clients find the pool of read sources and the frontier in Redis: `rowbust:pool:NAME`, `rowbust:frontier:NAME`. Daemons with different sources that share a Redis need different names.",
        ),
        field(
            "tls",
            "`disabled`, `required`, `verify_ca`, `verify_identity`, or a mapping",
            "`verify_identity`; `disabled` on a loopback host",
            "How the connection is protected. There is no \"preferred\".",
        ),
        field(
            "server_id",
            "number, 1 to 4294967295",
            "derived from host name and config path",
            "The replica's id; unique among the server's replicas.",
        ),
        field(
            "driver",
            "`native`, `mysql_cdc`",
            "`native`",
            "What reads and decodes the binlog. `mysql_cdc`, the crate of that name, needs `tls: disabled` and can't read everything: `rowbust check` lists what; where rows would be missed the daemon doesn't start, or stops.",
        ),
        field(
            "start",
            "`latest`, `earliest`, or a mapping",
            "`latest`",
            "Where to begin when there is no checkpoint.",
        ),
        field(
            "heartbeat",
            "`schema.table`",
            "none",
            "Table whose row is updated to see when commits become visible; columns `id` (primary key) and `beat`; needs INSERT and DELETE on it.",
        ),
        field(
            "on_gap",
            "`halt`, `flush`",
            "`halt`",
            "What to do when the binlog behind the checkpoint is gone, or is another one. `flush`: take the newest position, remove every key that the mappings could make, go on from there.",
        ),
        field(
            "lossless",
            "`true`, `false`",
            "`false`",
            "Whether failovers and crashes of the server never lose a commit that readers saw (semi-synchronous replication with AFTER_SYNC and without a timeout, storage that loses nothing). `false`: another server behind the address, or a crash of one with sync_binlog or innodb_flush_log_at_trx_commit other than 1, is a gap: readers may have cached what is lost.",
        ),
        field(
            "on_undecodable",
            "`halt`, `flush`",
            "`halt`",
            "What to do about an event that may carry rows and can't be decoded, an incident, an XA COMMIT whose PREPARE wasn't read, a row whose key no image tells. `flush`: remove every key of the tables in question.",
        ),
        field(
            "on_statement",
            "`halt`, `flush`",
            "`halt`",
            "What to do about a change that was logged as a statement. It may touch more tables than it names (triggers, functions, views), so `flush` removes every key of every mapping.",
        ),
    ],
    hints: &[
        ("host", "write it in `url: mysql://USER@HOST:PORT`"),
        ("port", "write it in `url: mysql://USER@HOST:PORT`"),
        ("user", "write it in `url: mysql://USER@HOST:PORT`"),
        ("username", "write it in `url: mysql://USER@HOST:PORT`"),
        ("database", "not needed: `mappings` name their schemas"),
        ("ca_file", "write `tls: { mode: verify_identity, ca_file: PATH }`"),
        ("cert_file", "write `tls: { cert_file: PATH, key_file: PATH }`"),
        ("key_file", "write `tls: { cert_file: PATH, key_file: PATH }`"),
        ("gtid", "write `start: { gtid: \"…\" }`"),
    ],
};

/// `source.start` as a mapping
pub(super) static START: Section = Section {
    path: "source.start",
    about: "As a mapping: either `gtid`, or `file` and `position`. Only used without a checkpoint.",
    fields: &[
        field(
            "gtid",
            "text",
            "none",
            "GTID set (MySQL) or GTID position (MariaDB); the stream begins behind it.",
        ),
        field("file", "text", "none", "Binlog file as in `SHOW BINARY LOGS`."),
        field("position", "byte, at least 4", "`4`", "Where in the file an event begins."),
    ],
    hints: &[("offset", "its name is `position`"), ("pos", "its name is `position`")],
};

/// `tls` as a mapping
pub(super) static TLS: Section = Section {
    path: "source.tls, redis.NAME.tls",
    about: "As a mapping, where a certificate authority or a certificate of your own is needed.",
    fields: &[
        field(
            "mode",
            "`disabled`, `required`, `verify_ca`, `verify_identity`",
            "`verify_identity`",
            "`required`: encrypted, nothing verified. `verify_ca`: the chain is verified, also where the certificate has no name (those that MySQL makes itself). `verify_identity`: chain and host name.",
        ),
        field(
            "ca_file",
            "path of a PEM file",
            "the system's roots",
            "Certificates of the authorities to trust; read again at each connect.",
        ),
        field(
            "cert_file",
            "path of a PEM file, with `key_file`",
            "none",
            "The daemon's own certificate (and those up to its authority), where the server asks for one; read again at each connect.",
        ),
        field(
            "key_file",
            "path of a PEM file, with `cert_file`",
            "none",
            "Private key of `cert_file`, without a password.",
        ),
    ],
    hints: &[
        ("ca", "its name is `ca_file`"),
        ("ca_cert", "its name is `ca_file`"),
        ("cert", "its name is `cert_file`"),
        ("key", "its name is `key_file`"),
    ],
};

/// `redis`
pub(super) static REDIS: Section = Section {
    path: "redis",
    about: "Targets by name, e.g. `main`. A target is a mapping, or only its URL.",
    fields: &[required(
        "NAME",
        "URL or mapping, at least one",
        "A target; letters, digits, `_` and `-`. Mappings name it in `to`.",
    )],
    hints: &[],
};

/// `redis.NAME`
pub(super) static TARGET: Section = Section {
    path: "redis.NAME",
    about: "One Redis target.",
    fields: &[
        field(
            "url",
            "`redis://HOST[:PORT][/DB]`, `rediss://…` for TLS",
            "required with `mode: standalone`",
            "Host, port (6379), database (0). No password.",
        ),
        field(
            "mode",
            "`standalone`, `cluster`, `sentinel`",
            "`standalone`",
            "`standalone`: one server, by `url`. `cluster`: a Redis cluster, by `nodes`. `sentinel`: one master that sentinels watch, by `nodes` and `master`.",
        ),
        field(
            "nodes",
            "list of `host:port`",
            "required with `cluster` and `sentinel`",
            "Some of the cluster's nodes, to ask who serves which slots (port 6379); or the sentinels, best all of them (port 26379).",
        ),
        field(
            "master",
            "text",
            "required with `sentinel`",
            "The name by which the sentinels watch the master.",
        ),
        field("db", "number", "`0`", "With `sentinel`: the database. Otherwise it stands in `url`."),
        field("username", "text", "none", "ACL user."),
        field("password", "text", "none", "Its password, usually `${VARIABLE}`."),
        field(
            "password_file",
            "path",
            "none",
            "File with the password, read again at each connect; its last line break is cut off.",
        ),
        field(
            "tls",
            "as `source.tls`; without `disabled` beside `url`",
            "`verify_identity` with `rediss://`, else none",
            "How the servers' certificates are verified. Beside `url` only with `rediss://`; with `nodes` it turns TLS on.",
        ),
        field(
            "sentinel",
            "mapping",
            "none: no login, no TLS",
            "With `sentinel`: the login at the sentinels themselves, and their TLS.",
        ),
        field(
            "durability",
            "mapping",
            "none: the master's word is enough",
            "A removal counts only once replicas have it too: see below.",
        ),
    ],
    hints: &[
        ("host", "write it in `url: redis://HOST:PORT/DB`"),
        ("port", "write it in `url: redis://HOST:PORT/DB`"),
        ("user", "its name is `username`"),
        ("sentinels", "write `mode: sentinel` and the sentinels in `nodes`"),
        ("master_name", "its name is `master`"),
        ("wait_replicas", "write `durability: { wait_replicas: 1 }`"),
        ("ca_file", "write `tls: { mode: verify_identity, ca_file: PATH }`"),
        ("cert_file", "write `tls: { cert_file: PATH, key_file: PATH }`"),
        ("key_file", "write `tls: { cert_file: PATH, key_file: PATH }`"),
    ],
};

/// `redis.NAME.sentinel`
pub(super) static SENTINEL: Section = Section {
    path: "redis.NAME.sentinel",
    about: "The login at the sentinels, where it differs from none. The servers' own login stands beside `nodes`.",
    fields: &[
        field("username", "text", "none", "ACL user."),
        field("password", "text", "none", "Its password, usually `${VARIABLE}`."),
        field(
            "password_file",
            "path",
            "none",
            "File with the password, read again at each connect; its last line break is cut off.",
        ),
        field(
            "tls",
            "as `source.tls`",
            "none",
            "TLS to the sentinels, and how their certificates are verified.",
        ),
    ],
    hints: &[
        ("master", "it stands beside `nodes`, in `redis.NAME`"),
        ("nodes", "they stand in `redis.NAME`"),
        ("user", "its name is `username`"),
    ],
};

/// `redis.NAME.durability`
pub(super) static DURABILITY: Section = Section {
    path: "redis.NAME.durability",
    about: "Redis acknowledges a removal before its replicas have it: what a failover to one of them brings back is a stale value. With this,             `WAIT` follows every batch of removals on the same connection, and fewer replicas than asked make the batch fail as             `NOREPLICAS`: it goes to the retry queue. It protects from the loss of the master if the replica that is promoted is             among those that answered: with as many as there are replicas it is.",
    fields: &[
        required(
            "wait_replicas",
            "number, 1 to 100",
            "How many replicas (of a cluster: of each master) must have acknowledged.",
        ),
        field(
            "timeout",
            "duration, 10ms to 60s",
            "`1s`",
            "How long to wait for them. While it lasts, further removals on the connection wait behind it.",
        ),
    ],
    hints: &[("replicas", "its name is `wait_replicas`")],
};

/// `retry`
pub(super) static RETRY: Section = Section {
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
pub(super) static TIER: Section = Section {
    path: "retry.tiers[]",
    about: "So many attempts, so far apart. The second tier begins where the first ends.",
    fields: &[
        required("delay", "duration, 10ms to 24h", "Time before each attempt."),
        required("attempts", "number, 1 to 1000", "Attempts in this tier."),
    ],
    hints: &[],
};

/// `retry.kafka`
pub(super) static KAFKA: Section = Section {
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
pub(super) static DISK: Section = Section {
    path: "retry.disk",
    about: "The local store. Back it by a disk that survives the process.",
    fields: &[field("path", "path", "`retry` beside the checkpoint", "Folder of the store.")],
    hints: &[],
};

/// `checkpoint`
pub(super) static CHECKPOINT: Section = Section {
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
pub(super) static ADMIN: Section = Section {
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
pub(super) static LIMITS: Section = Section {
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

/// `mappings[]`
pub(super) static MAPPING: Section = Section {
    path: "mappings[]",
    about: "One table, or several by a glob, and the keys that its rows make wrong. A row may match several mappings: all apply.",
    fields: &[
        required(
            "table",
            "`schema.table`",
            "Exact, or with globs: `*`, `?`, `[ab]`, e.g. `\"shop_*.products\"`.",
        ),
        field(
            "when_changed",
            "list of columns",
            "every change",
            "Ignore updates that touch none of these. Inserts and deletes always count.",
        ),
        field("when", "mapping", "every row", "Only rows whose column has one of the given values."),
        required("keys", "list, at least one entry", "What to remove: templates or mappings."),
        field(
            "second_removal",
            "`when_visible`, `never`, or `{ after: DURATION }`",
            "`when_visible`",
            "When the second removal runs. `when_visible`: once every read source shows the commit, plus `fill_grace`.",
        ),
        field(
            "fill_grace",
            "duration, at most 10m",
            "`1s`",
            "How long a reader may take from its database read to its cache write. Only with `when_visible`.",
        ),
        field(
            "guarded",
            "`true`, `false`",
            "`false`",
            "The keys are filled under leases: the second removal comes when the commit is visible, without `fill_grace`. Not for `hdel`.",
        ),
        field(
            "keys_per_second",
            "number; `0`: only the target's",
            "`0`",
            "As `limits.keys_per_second`, for this mapping alone; both hold. It also paces what the mapping's `prefix` and `members_of` remove. \
             Keys of small transactions always pass.",
        ),
        field(
            "on_ddl",
            "mapping",
            "see below",
            "What TRUNCATE, DROP and RENAME of the table do to its keys.",
        ),
        field(
            "on_schema",
            "`halt`, `flush`",
            "`halt`",
            "What to do when a column that the mapping names was dropped or renamed, or the names of the columns can't be known. `flush`: remove every key of the table at each transaction that changes it.",
        ),
        field(
            "to",
            "name of a target",
            "the only target; required when there are several",
            "Where the keys are.",
        ),
    ],
    hints: &[
        ("key", "its name is `keys`, a list: `keys: [\"product:{id}\"]`"),
        ("schema", "write `table: SCHEMA.TABLE`"),
        ("database", "write `table: SCHEMA.TABLE`"),
        ("columns", "its name is `when_changed`"),
        ("target", "its name is `to`"),
        ("redis", "its name is `to`"),
    ],
};

/// `mappings[].on_ddl`
pub(super) static ON_DDL: Section = Section {
    path: "mappings[].on_ddl",
    about: "`flush` removes every key that the mapping could make; `keep` removes nothing; `halt` stops the daemon.",
    fields: &[
        field(
            "truncate",
            "`flush`, `keep`, `halt`",
            "`flush`",
            "TRUNCATE TABLE, and ALTER TABLE that exchanges, truncates, imports or discards a partition or tablespace.",
        ),
        field(
            "drop",
            "`flush`, `keep`, `halt`",
            "`flush`",
            "DROP TABLE, DROP DATABASE, DROP PARTITION, CREATE OR REPLACE TABLE.",
        ),
        field(
            "rename",
            "`keep`, `flush`, `halt`",
            "`keep`",
            "RENAME that takes the table away or puts another in its place. The swap of an online schema change (gh-ost, pt-online-schema-change) never flushes; a swap that brings in other rows needs `flush`.",
        ),
    ],
    hints: &[
        ("exchange", "it counts as `truncate`"),
        ("alter", "its name is `on_schema`, a field of the mapping"),
    ],
};

/// `mappings[].when`
pub(super) static WHEN: Section = Section {
    path: "mappings[].when",
    about: "A condition on one column.",
    fields: &[
        required("column", "name", "The column."),
        required("in", "list of texts", "Text forms that match, as in key templates."),
        field("image", "`before`, `after`, `any`", "`any`", "Which image of the row is looked at."),
    ],
    hints: &[
        ("equals", "write `in: [VALUE]`"),
        ("value", "write `in: [VALUE]`"),
        ("is", "write `in: [VALUE]`"),
    ],
};

/// `mappings[].keys[]` as a mapping
pub(super) static KEY: Section = Section {
    path: "mappings[].keys[]",
    about: "A key: a template, or a mapping with one of `key`, `prefix`, `members_of`.",
    fields: &[
        field(
            "key",
            "template",
            "none",
            "The key, e.g. `\"product:{id}\"`: made from both images of a row, duplicates dropped.",
        ),
        field("op", "`unlink`, `hdel`", "`unlink`", "`unlink` removes the key, `hdel` one field of a hash."),
        field("field", "template", "none", "The hash's field; required with `hdel`."),
        field("events", "list of `insert`, `update`, `delete`", "all", "Which kinds of change."),
        field(
            "prefix",
            "template that begins with a text",
            "none",
            "Every key that begins so, e.g. `\"feed:{category_id}:\"`: found by SCAN over the whole database, in slices.",
        ),
        field(
            "alarm_above",
            "number of keys, at least 1",
            "`10000`",
            "With `prefix`: when more keys than this begin so, that is logged with the place in the binlog, and counted. All of them are removed.",
        ),
        field(
            "members_of",
            "template",
            "none",
            "The key of a set of keys, e.g. `\"tag:{category_id}\"`: its members are removed, as keys and from the set, which is gone with its last one.",
        ),
        field(
            "members_prefix",
            "text, or list of texts",
            "none: all members",
            "With `members_of`: only members that begin so are removed. Others stay, in the set too, and are counted.",
        ),
    ],
    hints: &[("template", "its name is `key`"), ("on", "its name is `events`")],
};

/// `mappings[].second_removal` as a mapping
pub(super) static SECOND_REMOVAL: Section = Section {
    path: "mappings[].second_removal",
    about: "As a mapping: a fixed time.",
    fields: &[required(
        "after",
        "duration, at most 10m",
        "Time after the first removal. Keys are held in memory for so long: reading waits when `limits.memory` is used up.",
    )],
    hints: &[("delay", "its name is `after`")],
};

/// The tables of `docs/config.md`.
pub fn fields_markdown() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let title = if section.path.is_empty() { "The file" } else { section.path };
        let title = if section.path.is_empty() { title.to_owned() } else { format!("`{title}`") };
        out.push_str(&format!("### {title}\n\n{}\n\n", section.about));
        out.push_str("| field | takes | default | meaning |\n|---|---|---|---|\n");
        for f in section.fields {
            let default = match f.default {
                Default::Required => "**required**",
                Default::Is(text) => text,
            };
            out.push_str(&format!("| `{}` | {} | {default} | {} |\n", f.name, f.takes, f.about));
        }
        out.push('\n');
    }
    out
}

/// The table of codes of `docs/config.md`.
pub fn codes_markdown() -> String {
    let mut out = String::from("| code | meaning |\n|---|---|\n");
    for code in super::Code::ALL {
        out.push_str(&format!("| `{}` | {} |\n", code.name(), code.about().trim().replace('|', "\\|")));
    }
    out
}
