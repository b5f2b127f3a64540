//! `redis`: targets.

use super::{Section, field, required};

/// `redis`
pub(in crate::config) static REDIS: Section = Section {
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
pub(in crate::config) static TARGET: Section = Section {
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
pub(in crate::config) static SENTINEL: Section = Section {
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
pub(in crate::config) static DURABILITY: Section = Section {
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
