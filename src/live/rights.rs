//! Names and statements as they stand in what is to be run by hand.
//!
//! May depend on `source::preflight`.

use rowbust_binlog::Flavor;

use super::source::Server;
use crate::source::preflight;

/// A name in backticks.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `schema`.`table` in backticks.
pub(crate) fn quoted_table(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// Asks whether the server is a replica, and how it does. The old name went with MySQL 8.4.
pub(super) fn replica_status(server: &Server) -> &'static str {
    if server.flavor == Flavor::MySql && preflight::version_number(&server.version) >= (8, 0, 22) {
        "SHOW REPLICA STATUS"
    } else {
        "SHOW SLAVE STATUS"
    }
}

/// `GRANT SELECT` on what a mapping's `schema.table` means. In the schema of a right on a whole schema, `_` and `%` are wildcards,
/// unless the server revokes partially (MySQL's manual, GRANT, "Database Privileges").
pub(super) fn grant_select(schema: &str, table: &str, server: &Server) -> String {
    let account = preflight::quote_account(&server.account);
    if is_literal(schema) && is_literal(table) {
        return format!("GRANT SELECT ON {} TO {account};", quoted_table(schema, table));
    }
    let escape = |text: &str| {
        if server.var("partial_revokes") == "ON" {
            text.to_owned()
        } else {
            text.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%")
        }
    };
    let on = if is_literal(schema) {
        format!("{}.*", quoted(&escape(schema)))
    } else if !schema.contains(['[', '{']) && server.var("partial_revokes") != "ON" {
        format!("{}.*", quoted(&escape(schema).replace('*', "%").replace('?', "_")))
    } else {
        "*.*".to_owned()
    };
    format!("GRANT SELECT ON {on} TO {account};")
}

/// Whether a part of a mapping's `table` means itself alone.
pub(super) fn is_literal(part: &str) -> bool {
    !part.contains(['*', '?', '[', ']', '{', '}', '!'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_no_wider_than_the_mapping() {
        let mut server = Server {
            flavor: Flavor::MySql,
            version: "8.4.3".into(),
            account: "row'bust@10.%".into(),
            id: 1,
            vars: Default::default(),
            clock: None,
        };
        for (schema, table, on) in [
            ("shop", "t", "`shop`.`t`"),
            ("sh`op", "a_b", "`sh``op`.`a_b`"),
            ("shop_1", "t*", "`shop\\_1`.*"),
            ("shop_*", "t", "`shop\\_%`.*"),
            ("shop{1,2}", "t", "*.*"),
        ] {
            let expected = format!("GRANT SELECT ON {on} TO 'row''bust'@'10.%';");
            assert_eq!(grant_select(schema, table, &server), expected);
        }
        server.vars.insert("partial_revokes".into(), "ON".into());
        assert!(grant_select("shop_1", "*", &server).contains("`shop_1`.*"));
    }
}
