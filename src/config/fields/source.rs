//! `source` and what stands in it.

use super::{Section, field, required};

/// `source`
pub(in crate::config) static SOURCE: Section = Section {
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
pub(in crate::config) static START: Section = Section {
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
pub(in crate::config) static TLS: Section = Section {
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
