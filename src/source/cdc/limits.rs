//! What the crate mysql_cdc 0.2.1 can't do.
//!
//! Guarantees: where it is known beforehand that rows couldn't be followed, the daemon doesn't start; the rest stops it at its
//! place ([`super`]). May depend on `preflight`'s way to ask.

use mysql_async::{Conn, prelude::Queryable};

use crate::source::{
    error::{Refusal, SourceError},
    preflight::global_variables,
};

/// In words, for `rowbust check`.
pub const LIMITS: &[&str] = &[
    "no TLS: refused by the config",
    "accounts with a password, by caching_sha2_password or mysql_native_password, one of which must be the server's default plugin; others are refused at the start",
    "no event of 16 MiB or more: the daemon stops there",
    "no BINARY, VARBINARY, VECTOR, UUID, INET4, INET6 and COMPRESSED columns in mapped tables: refused at the start, and where an ALTER brings one the daemon stops there",
    "no CHAR, VARCHAR, ENUM and SET in mapped tables in another character set than utf8mb4, utf8mb3 and ascii: the same",
    "no negative TIME in mapped tables: the daemon stops there",
    "TIME, DATETIME and TIMESTAMP to the millisecond: a key made of finer ones stops the daemon",
    "no compressed transactions or events, no partial JSON: refused at the start, and where a session turns them on the daemon stops there",
    "in place of stopping, `on_undecodable: flush` removes the keys that may be concerned",
];

/// Refuses a server whose settings make the crate skip rows in silence.
///
/// # Errors
/// [`SourceError::Refused`] naming the setting; that the server doesn't answer.
pub(crate) async fn refuse_settings(conn: &mut Conn) -> Result<(), SourceError> {
    // Name, what its value holds where rows are skipped, and what to do.
    let wrong = [
        ("binlog_transaction_compression", "ON", "SET GLOBAL binlog_transaction_compression=OFF"),
        ("binlog_row_value_options", "PARTIAL_JSON", "SET GLOBAL binlog_row_value_options=''"),
        ("log_bin_compress", "ON", "SET GLOBAL log_bin_compress=OFF"),
    ];
    let found = global_variables(conn, &wrong.map(|(name, ..)| name)).await?;
    for (name, skipped, remedy) in wrong {
        if let Some(value) = found.get(name).filter(|value| value.contains(skipped)) {
            return Err(Refusal::new(
                "source.driver",
                format!("the server has {name}={value}, whose events mysql_cdc skips in silence"),
                format!("use `driver: native`, or {remedy}"),
            )
            .into());
        }
    }
    Ok(())
}

/// A column that makes the rows of its table undecodable.
#[derive(Debug)]
pub(in crate::source) struct UndecodableColumn {
    schema: String,
    table: String,
    column: String,
    /// Its type, and its character set where that is why.
    why: String,
}

/// All columns that the crate can't decode. Only what the account may see of `information_schema` is there; for the rest the
/// daemon stops at the first row.
///
/// # Errors
/// That the server doesn't answer.
pub(in crate::source) async fn undecodable_columns(
    conn: &mut Conn,
) -> Result<Vec<UndecodableColumn>, SourceError> {
    let rows: Vec<(String, String, String, String, Option<String>)> = conn
        .query(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, CHARACTER_SET_NAME \
             FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA NOT IN ('mysql','sys','information_schema','performance_schema') \
             AND (DATA_TYPE IN ('binary','varbinary','vector','uuid','inet4','inet6') \
             OR COLUMN_TYPE LIKE '%COMPRESSED%' \
             OR (DATA_TYPE IN ('char','varchar','enum','set') \
             AND CHARACTER_SET_NAME NOT IN ('utf8mb4','utf8mb3','utf8','ascii'))) \
             ORDER BY 1, 2, ORDINAL_POSITION",
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|(schema, table, column, data_type, charset)| {
            let charset = charset.map_or(String::new(), |c| format!(" in {c}"));
            UndecodableColumn { schema, table, column, why: format!("{data_type}{charset}") }
        })
        .collect())
}

/// Refuses those of mapped tables.
///
/// # Errors
/// Names the columns.
pub(in crate::source) fn refuse(
    columns: Vec<UndecodableColumn>,
    is_mapped: impl Fn(&str, &str) -> bool,
) -> Result<(), Refusal> {
    let columns: Vec<String> = columns
        .into_iter()
        .filter(|c| is_mapped(&c.schema, &c.table))
        .map(|c| format!("{}.{}.{} ({})", c.schema, c.table, c.column, c.why))
        .collect();
    if columns.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        "source.driver",
        format!("mysql_cdc can't decode the rows of tables with these columns: {}", columns.join(", ")),
        "use `driver: native`, the default",
    ))
}
