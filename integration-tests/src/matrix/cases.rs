//! What a binlog can hold beside column types, by the statements that make a server write it.

use super::{ALL, CONNECT, MARIA, MARIA118, MYSQL};
use crate::db::Server;

/// Statements, and the keys that they make wrong.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name and its table's.
    pub name: &'static str,
    /// Servers that can write it.
    pub on: &'static [Server],
    /// The table's columns, or with their closing parenthesis the engine too; empty: `run` makes the table.
    pub table: &'static str,
    /// The key's template, behind `name:`.
    pub key: &'static str,
    /// Run before the daemon starts.
    pub before: &'static [&'static str],
    /// Run while it follows, on a connection of their own.
    pub run: &'static [&'static str],
    /// What must be removed, behind `name:`.
    pub keys: &'static [&'static str],
    /// What may be removed too: rows of changes that were rolled back.
    pub also: &'static [&'static str],
}

const fn case(name: &'static str, on: &'static [Server], run: &'static [&'static str]) -> Case {
    Case {
        name,
        on,
        table: "id INT PRIMARY KEY, v VARCHAR(2000)",
        key: "{id}",
        before: &[],
        run,
        keys: &[],
        also: &[],
    }
}

impl Case {
    const fn table(mut self, columns: &'static str) -> Self {
        self.table = columns;
        self
    }

    const fn key(mut self, template: &'static str) -> Self {
        self.key = template;
        self
    }

    const fn before(mut self, statements: &'static [&'static str]) -> Self {
        self.before = statements;
        self
    }

    const fn keys(mut self, keys: &'static [&'static str]) -> Self {
        self.keys = keys;
        self
    }

    const fn also(mut self, keys: &'static [&'static str]) -> Self {
        self.also = keys;
        self
    }
}

const JSON: &str = "id INT PRIMARY KEY, v JSON, w JSON";

/// All of them that need no server option and no policy.
pub const CASES: &[Case] = &[
    // Compression.
    case(
        "payload_session",
        MYSQL,
        &[
            "SET SESSION binlog_transaction_compression=ON",
            "INSERT INTO payload_session VALUES (1,'a'),(2,repeat('b',1000))",
            "BEGIN",
            "UPDATE payload_session SET v='c' WHERE id=1",
            "INSERT INTO payload_session VALUES (3,'d')",
            "DELETE FROM payload_session WHERE id=2",
            "COMMIT",
            "SET SESSION binlog_transaction_compression=OFF",
            "INSERT INTO payload_session VALUES (4,'plain')",
        ],
    )
    .keys(&["1", "2", "3", "4"]),
    case(
        "payload_global",
        MYSQL,
        &[
            "SET GLOBAL binlog_transaction_compression=ON",
            CONNECT,
            "INSERT INTO payload_global VALUES (1,repeat('a',2000)),(2,repeat('b',1000))",
            "UPDATE payload_global SET id=id+10",
            "SET GLOBAL binlog_transaction_compression=OFF",
        ],
    )
    .keys(&["1", "2", "11", "12"]),
    case(
        "compressed_events",
        MARIA,
        &[
            "SET GLOBAL log_bin_compress=ON",
            "SET GLOBAL log_bin_compress_min_len=10",
            "INSERT INTO compressed_events VALUES (1,repeat('a',2000)),(2,repeat('b',1000))",
            "ALTER TABLE compressed_events ADD COLUMN w VARCHAR(60) DEFAULT 'a default that is long enough' FIRST",
            "UPDATE compressed_events SET id=id+10",
            "DELETE FROM compressed_events WHERE id=11",
            "SET GLOBAL log_bin_compress=OFF",
            "INSERT INTO compressed_events (id) VALUES (3)",
        ],
    )
    .keys(&["1", "2", "3", "11", "12"]),
    // Row images.
    case(
        "partial_json",
        MYSQL,
        &[
            "SET SESSION binlog_row_value_options=PARTIAL_JSON",
            "UPDATE partial_json SET v=JSON_SET(v,'$.a',2) WHERE id=1",
            "UPDATE partial_json SET v=JSON_REMOVE(v,'$.b[1]'), w=JSON_REPLACE(w,'$.x','long enough') WHERE id=2",
            "UPDATE partial_json SET v=JSON_ARRAY_APPEND(v,'$.b',3), id=33 WHERE id=3",
            "SET SESSION binlog_row_value_options=''",
        ],
    )
    .table(JSON)
    .before(&[
        r#"INSERT INTO partial_json VALUES (1,'{"a":1,"b":[1,2]}','{}'),(2,'{"a":1,"b":[1,2]}','{"x":"some text"}'),(3,'{"b":[]}',NULL)"#,
    ])
    .keys(&["1", "2", "3", "33"]),
    case(
        "partial_json_global",
        MYSQL,
        &[
            "SET GLOBAL binlog_row_value_options=PARTIAL_JSON",
            CONNECT,
            "SET SESSION binlog_row_image=MINIMAL",
            "UPDATE partial_json_global SET v=JSON_SET(v,'$.a',2)",
            "SET GLOBAL binlog_row_value_options=''",
        ],
    )
    .table(JSON)
    .before(&[r#"INSERT INTO partial_json_global VALUES (1,'{"a":1}','{}'),(2,'{"a":1,"b":[1,2]}',NULL)"#])
    .keys(&["1", "2"]),
    case(
        "partial_json_path",
        MYSQL,
        &[
            "SET SESSION binlog_row_value_options=PARTIAL_JSON",
            "UPDATE partial_json_path SET v=JSON_SET(v,'$.a',2) WHERE id=1",
            "SET SESSION binlog_row_value_options=''",
        ],
    )
    .table(JSON)
    .key("{id}:{v->>$.a}")
    .before(&[r#"INSERT INTO partial_json_path VALUES (1,'{"a":1,"b":[1,2]}','{}'),(2,'{"a":1}','{}')"#])
    .keys(&["1:1", "1:2"]),
    case(
        "json_path",
        ALL,
        &[
            r#"UPDATE json_path SET v='{"a":{"b":"new"},"c":[1]}' WHERE id=1"#,
            "DELETE FROM json_path WHERE id=2",
            "UPDATE json_path SET v=NULL WHERE id=3",
        ],
    )
    .table("id INT PRIMARY KEY, v JSON")
    .key("{id}:{v->>$.a.b}")
    .before(&[
        r#"INSERT INTO json_path VALUES (1,'{"c":[],"a":{"b":"old"}}'),(2,'{"a":{"b":7}}'),(3,'{"a":{"b":true}}'),(4,'{}')"#,
    ])
    .keys(&["1:old", "1:new", "2:7", "3:true"]),
    case(
        "image_minimal",
        ALL,
        &[
            "SET SESSION binlog_row_image=MINIMAL",
            "UPDATE image_minimal SET v='b' WHERE id=1",
            "UPDATE image_minimal SET id=22 WHERE id=2",
            "DELETE FROM image_minimal WHERE id=3",
            "INSERT INTO image_minimal (id) VALUES (4)",
        ],
    )
    .before(&["INSERT INTO image_minimal VALUES (1,'a'),(2,'a'),(3,'a')"])
    .keys(&["1", "2", "22", "3", "4"]),
    case(
        "image_noblob",
        ALL,
        &[
            "SET SESSION binlog_row_image=NOBLOB",
            "UPDATE image_noblob SET n=5 WHERE id=1",
            "UPDATE image_noblob SET v='new' WHERE id=2",
            "DELETE FROM image_noblob WHERE id=3",
        ],
    )
    .table("id INT PRIMARY KEY, v TEXT, n INT")
    .key("{id}:{n}")
    .before(&["INSERT INTO image_noblob VALUES (1,'a',1),(2,'a',2),(3,'a',3)"])
    .keys(&["1:1", "1:5", "2:2", "3:3"]),
    case(
        "image_nodup",
        MARIA118,
        &[
            "SET SESSION binlog_row_image=FULL_NODUP",
            "UPDATE image_nodup SET v='new' WHERE id=1",
            "UPDATE image_nodup SET id=22 WHERE id=2",
        ],
    )
    .before(&["INSERT INTO image_nodup VALUES (1,'a'),(2,'a')"])
    .keys(&["1", "2", "22"]),
    // GTIDs.
    case(
        "gtid_tagged",
        MYSQL,
        &[
            "SET gtid_next='AUTOMATIC:orders'",
            "INSERT INTO gtid_tagged VALUES (1,'a')",
            "SET gtid_next='AUTOMATIC:stock_2'",
            "INSERT INTO gtid_tagged VALUES (2,'a')",
            "SET gtid_next='AUTOMATIC'",
            "FLUSH BINARY LOGS",
            "INSERT INTO gtid_tagged VALUES (3,'a')",
        ],
    )
    .keys(&["1", "2", "3"]),
    case(
        "gtid_domains",
        MARIA,
        &[
            "SET SESSION gtid_domain_id=3",
            "INSERT INTO gtid_domains VALUES (1,'a')",
            "SET SESSION gtid_domain_id=4294967295",
            "SET SESSION server_id=77",
            "INSERT INTO gtid_domains VALUES (2,'a')",
            "FLUSH BINARY LOGS",
            "SET SESSION gtid_domain_id=0",
            "INSERT INTO gtid_domains VALUES (3,'a')",
        ],
    )
    .keys(&["1", "2", "3"]),
    // Tables.
    case(
        "no_primary_key",
        ALL,
        &["UPDATE no_primary_key SET v='b' WHERE id=1", "DELETE FROM no_primary_key WHERE id=2"],
    )
    .table("id INT, v TEXT")
    .before(&["INSERT INTO no_primary_key VALUES (1,'a'),(1,'c'),(2,'a'),(3,NULL)"])
    .keys(&["1", "2"]),
    // MariaDB 11.8 leaves them out of the images that a DELETE or UPDATE of a table with a primary key has, also with
    // `binlog_row_image=FULL`: see `generated_columns_left_out`.
    case(
        "generated_columns",
        &[Server::MariaDb, Server::MySql],
        &["UPDATE generated_columns SET v=5 WHERE id=1", "INSERT INTO generated_columns (id,v) VALUES (2,7)"],
    )
    .table("id INT PRIMARY KEY, g INT AS (v*2) VIRTUAL, v INT, s INT AS (v*3) STORED, KEY (g)")
    .key("{id}:{s}")
    .before(&["INSERT INTO generated_columns (id,v) VALUES (1,1)"])
    .keys(&["1:3", "1:15", "2:21"]),
    case(
        "generated_columns_left_out",
        MARIA118,
        &[
            "UPDATE generated_columns_left_out SET v=5 WHERE id=1",
            "DELETE FROM generated_columns_left_out WHERE id=2",
        ],
    )
    .table("id INT PRIMARY KEY, g INT AS (v*2) VIRTUAL, v INT, s INT AS (v*3) STORED, KEY (g)")
    .key("{id}:{v}")
    .before(&["INSERT INTO generated_columns_left_out (id,v) VALUES (1,1),(2,2)"])
    .keys(&["1:1", "1:5", "2:2"]),
    case(
        "invisible_columns",
        ALL,
        &["UPDATE invisible_columns SET v=5 WHERE id=1", "UPDATE invisible_columns SET h=9 WHERE id=2"],
    )
    .table("h INT INVISIBLE DEFAULT 4, id INT PRIMARY KEY, v INT")
    .key("{id}:{h}")
    .before(&["INSERT INTO invisible_columns VALUES (1,1),(2,1)"])
    .keys(&["1:4", "2:4", "2:9"]),
    case("created_by_select", ALL, &["CREATE TABLE created_by_select AS SELECT 7 AS id UNION SELECT 8"])
        .table("")
        .keys(&["7", "8"]),
    case(
        "engine_without_transactions",
        ALL,
        &[
            "BEGIN",
            "INSERT INTO engine_without_transactions VALUES (1,'a')",
            "INSERT INTO engine_without_transactions VALUES (2,'a')",
            "ROLLBACK",
            "DELETE FROM engine_without_transactions WHERE id=1",
        ],
    )
    .table("id INT PRIMARY KEY, v TEXT) ENGINE=MyISAM")
    .keys(&["1", "2"]),
    case(
        "load_data",
        ALL,
        &[
            "SELECT 1,'a' UNION SELECT 2,'b' INTO OUTFILE '{dir}/load_data'",
            "LOAD DATA INFILE '{dir}/load_data' INTO TABLE load_data",
        ],
    )
    .keys(&["1", "2"]),
    // Transactions.
    case(
        "savepoints",
        ALL,
        &[
            "BEGIN",
            "INSERT INTO savepoints VALUES (1,'a')",
            "SAVEPOINT one",
            "INSERT INTO savepoints VALUES (2,'a')",
            "SAVEPOINT two",
            "INSERT INTO savepoints VALUES (3,'a')",
            "ROLLBACK TO SAVEPOINT one",
            "INSERT INTO savepoints VALUES (4,'a')",
            "RELEASE SAVEPOINT one",
            "COMMIT",
        ],
    )
    .keys(&["1", "4"])
    .also(&["2", "3"]),
    case(
        "xa_commit",
        ALL,
        &[
            "XA START 'commit','branch',7",
            "INSERT INTO xa_commit VALUES (1,'a')",
            "UPDATE xa_commit SET id=2",
            "XA END 'commit','branch',7",
            "XA PREPARE 'commit','branch',7",
            "XA COMMIT 'commit','branch',7",
            "XA START 'one phase'",
            "INSERT INTO xa_commit VALUES (3,'a')",
            "XA END 'one phase'",
            "XA COMMIT 'one phase' ONE PHASE",
        ],
    )
    .keys(&["1", "2", "3"]),
    case(
        "xa_rollback",
        ALL,
        &[
            "XA START 'rollback'",
            "INSERT INTO xa_rollback VALUES (1,'a')",
            "XA END 'rollback'",
            "XA PREPARE 'rollback'",
            "XA ROLLBACK 'rollback'",
            "XA START 'never prepared'",
            "INSERT INTO xa_rollback VALUES (2,'a')",
            "XA END 'never prepared'",
            "XA ROLLBACK 'never prepared'",
            "INSERT INTO xa_rollback VALUES (3,'a')",
        ],
    )
    .keys(&["3"])
    .also(&["1"]),
    case(
        "xa_between_others",
        ALL,
        &[
            "XA START 'between'",
            "INSERT INTO xa_between_others VALUES (1,'a')",
            "XA END 'between'",
            "XA PREPARE 'between'",
            CONNECT,
            "INSERT INTO xa_between_others VALUES (2,'a')",
            "FLUSH BINARY LOGS",
            "XA COMMIT 'between'",
            "INSERT INTO xa_between_others VALUES (3,'a')",
        ],
    )
    .keys(&["1", "2", "3"]),
    case(
        "rotation_in_a_group",
        ALL,
        &[
            "SET GLOBAL max_binlog_size=4096",
            "BEGIN",
            "INSERT INTO rotation_in_a_group VALUES (1,repeat('a',2000)),(2,repeat('a',2000)),(3,repeat('a',2000))",
            "UPDATE rotation_in_a_group SET v=repeat('b',2000)",
            "INSERT INTO rotation_in_a_group VALUES (4,repeat('a',2000))",
            "COMMIT",
            "INSERT INTO rotation_in_a_group VALUES (5,repeat('a',2000)),(6,repeat('a',2000)),(7,repeat('a',2000))",
            "INSERT INTO rotation_in_a_group VALUES (8,'a')",
            "SET GLOBAL max_binlog_size=1073741824",
        ],
    )
    .keys(&["1", "2", "3", "4", "5", "6", "7", "8"]),
];
