//! `mappings` and what stands in them.

use super::{Section, field, required};

/// `mappings[]`
pub(in crate::config) static MAPPING: Section = Section {
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
pub(in crate::config) static ON_DDL: Section = Section {
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
pub(in crate::config) static WHEN: Section = Section {
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
pub(in crate::config) static KEY: Section = Section {
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
pub(in crate::config) static SECOND_REMOVAL: Section = Section {
    path: "mappings[].second_removal",
    about: "As a mapping: a fixed time.",
    fields: &[required(
        "after",
        "duration, at most 10m",
        "Time after the first removal. Keys are held in memory for so long: reading waits when `limits.memory` is used up.",
    )],
    hints: &[("delay", "its name is `after`")],
};
