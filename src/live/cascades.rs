//! Foreign keys whose cascades change mapped rows without an event in the binlog.
//!
//! InnoDB does what `ON DELETE CASCADE` and its like ask for by itself, beneath the binlog. MySQL does it above since 9.6, and logs it, unless
//! `innodb_native_foreign_keys` is on (its manual, "FOREIGN KEY Constraints"). Triggers aren't fired by a cascade, but what a trigger changes
//! is logged.
//! May depend on its siblings.

use std::collections::{BTreeMap, HashMap};

use mysql_async::{Conn, prelude::Queryable as _};
use rowbust_binlog::Flavor;
use rowbust_protocol::template::ImageRef;

use super::{
    report::Group,
    rights::{quoted, quoted_table},
    source::Server,
    tables::{Name, dotted},
};
use crate::{
    config::{Config, KeyOp},
    source::{SourceError, preflight::version_number},
};

/// A constraint of a mapped table that changes its rows when the parent's change.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Cascade {
    child: Name,
    parent: Name,
    /// The child's columns, and the parent's.
    columns: Vec<(String, String)>,
    /// `CASCADE`, `SET NULL`, or what changes nothing.
    on_delete: String,
    on_update: String,
}

impl Cascade {
    fn changes(rule: &str) -> bool {
        matches!(rule, "CASCADE" | "SET NULL" | "SET DEFAULT")
    }

    fn rules(&self) -> String {
        let rules = [("ON DELETE", &self.on_delete), ("ON UPDATE", &self.on_update)];
        let rules =
            rules.iter().filter(|(_, rule)| Self::changes(rule)).map(|(on, rule)| format!("{on} {rule}"));
        rules.collect::<Vec<_>>().join(" ")
    }
}

pub(super) async fn look(
    config: &Config,
    server: &Server,
    conn: &mut Conn,
    group: &mut Group,
    mapped: &[&Name],
) -> Result<(), SourceError> {
    let code = "tables.cascades";
    if mapped.is_empty() {
        return Ok(());
    }
    let cascades = find(conn, mapped).await?;
    if cascades.is_empty() {
        group.ok(code, "no foreign key changes rows of mapped tables");
        return Ok(());
    }
    if are_logged(server) {
        let children = super::tables::few(cascades.iter().map(|cascade| dotted(&cascade.child)));
        group.ok(code, format!("this server logs what foreign keys change in {children}"));
        return Ok(());
    }
    for cascade in &cascades {
        let Cascade { child, parent, .. } = cascade;
        group.warning(
            code,
            format!(
                "{}: {} of its foreign key to {} changes rows that the binlog does not show; their keys stay stale",
                dotted(child),
                cascade.rules(),
                dotted(parent)
            ),
            remedy(config, cascade),
        );
    }
    Ok(())
}

fn are_logged(server: &Server) -> bool {
    server.flavor == Flavor::MySql
        && version_number(&server.version) >= (9, 6, 0)
        && server.var("innodb_native_foreign_keys") != "ON"
}

async fn find(conn: &mut Conn, mapped: &[&Name]) -> Result<Vec<Cascade>, SourceError> {
    type Key = (String, String, String);
    type Row = (String, String, String, String, String, String, String);
    let rows: Vec<Row> = conn
        .query(
            "SELECT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA, REFERENCED_TABLE_NAME, \
             REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL \
             ORDER BY 1, 2, 3, ORDINAL_POSITION",
        )
        .await?;
    let mut found: BTreeMap<Key, Cascade> = BTreeMap::new();
    for (schema, table, constraint, column, parent_schema, parent, parent_column) in rows {
        if !mapped.iter().any(|name| name.0 == schema && name.1 == table) {
            continue;
        }
        let cascade = found.entry((schema.clone(), table.clone(), constraint)).or_insert_with(|| Cascade {
            child: (schema, table),
            parent: (parent_schema, parent),
            ..Cascade::default()
        });
        cascade.columns.push((column, parent_column));
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let rules: Vec<(String, String, String, String, String)> = conn
        .query(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, DELETE_RULE, UPDATE_RULE \
             FROM information_schema.REFERENTIAL_CONSTRAINTS",
        )
        .await?;
    let rules: HashMap<Key, (String, String)> = rules
        .into_iter()
        .map(|(schema, table, constraint, delete, update)| ((schema, table, constraint), (delete, update)))
        .collect();
    for (key, cascade) in &mut found {
        (cascade.on_delete, cascade.on_update) = match rules.get(key) {
            Some(rules) => rules.clone(),
            // MariaDB shows rules only to who may do more than SELECT; the table's definition tells them too.
            None => {
                let shown: Result<Option<(String, String)>, _> =
                    conn.query_first(format!("SHOW CREATE TABLE {}", quoted_table(&key.0, &key.1))).await;
                match shown {
                    Ok(shown) => rules_of(&shown.unwrap_or_default().1, &key.2),
                    Err(mysql_async::Error::Server(_)) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
        };
    }
    let changes = |c: &Cascade| Cascade::changes(&c.on_delete) || Cascade::changes(&c.on_update);
    Ok(found.into_values().filter(changes).collect())
}

/// What `SHOW CREATE TABLE` says of a constraint: `ON DELETE`, `ON UPDATE`.
fn rules_of(definition: &str, constraint: &str) -> (String, String) {
    let begin = format!("CONSTRAINT {} FOREIGN KEY", quoted(constraint));
    let line = definition.lines().map(str::trim).find(|line| line.starts_with(&begin)).unwrap_or_default();
    let rules = line.rsplit_once(')').map_or("", |(_, rules)| rules).trim_end_matches(',');
    let rule = |of: &str| {
        let after = rules.split_once(of).map_or("", |(_, after)| after).trim_start();
        let names = ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"];
        names.into_iter().find(|name| after.starts_with(name)).unwrap_or_default().to_owned()
    };
    (rule("ON DELETE"), rule("ON UPDATE"))
}

/// The child's keys from the parent's rows where they are made of the columns that both have; else a trigger, whose own changes are
/// logged.
fn remedy(config: &Config, cascade: &Cascade) -> String {
    let Cascade { child, parent, columns, .. } = cascade;
    let mut derived: Vec<String> = Vec::new();
    let mut underived = false;
    for mapping in &config.mappings {
        if !mapping.schema_glob.is_match(&child.0) || !mapping.table_glob.is_match(&child.1) {
            continue;
        }
        for rule in &mapping.keys {
            let simple = rule.key.columns().iter().all(|used| {
                used.path.is_none()
                    && used.image == ImageRef::Both
                    && columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(&used.name))
            });
            if rule.key.is_constant() || !simple || matches!(rule.op, KeyOp::Hdel { .. }) {
                underived = true;
                continue;
            }
            let mut template = rule.key.source().to_owned();
            for (column, of_parent) in columns {
                for end in ["}", "|"] {
                    template = template.replace(&format!("{{{column}{end}"), &format!("{{{of_parent}{end}"));
                }
            }
            derived.push(match rule.op {
                KeyOp::Prefix { .. } => format!("{{ prefix: {template:?} }}"),
                KeyOp::MembersOf { .. } => format!("{{ members_of: {template:?} }}"),
                _ => format!("{template:?}"),
            });
        }
    }
    let mut help = Vec::new();
    if !derived.is_empty() {
        derived.dedup();
        help.push(format!(
            "map the parent too: - {{ table: \"{}\", keys: [{}] }}",
            dotted(parent),
            derived.join(", ")
        ));
    }
    if underived || derived.is_empty() {
        let same = |row: &str| {
            let parts = columns.iter().map(|(own, of)| format!("{} = {row}.{}", quoted(own), quoted(of)));
            parts.collect::<Vec<_>>().join(" AND ")
        };
        let (on_child, on_parent) = (quoted_table(&child.0, &child.1), quoted_table(&parent.0, &parent.1));
        let trigger = quoted_table(&parent.0, &format!("{:.40}_cascade_logged", child.1));
        let set_null = || {
            let parts = columns.iter().map(|(own, _)| format!("{} = NULL", quoted(own)));
            parts.collect::<Vec<_>>().join(", ")
        };
        match cascade.on_delete.as_str() {
            "CASCADE" => help.push(format!(
                "let a statement change the children, which is logged: CREATE TRIGGER {trigger} BEFORE DELETE ON {on_parent} FOR EACH ROW \
                 DELETE FROM {on_child} WHERE {};",
                same("OLD")
            )),
            "SET NULL" => help.push(format!(
                "let a statement change the children, which is logged: CREATE TRIGGER {trigger} BEFORE DELETE ON {on_parent} FOR EACH ROW \
                 UPDATE {on_child} SET {} WHERE {};",
                set_null(),
                same("OLD")
            )),
            _ => {}
        }
        if Cascade::changes(&cascade.on_update) {
            help.push(format!(
                "leave {} of {} as it is: an update of it changes the children unseen",
                columns.iter().map(|(_, of)| of.as_str()).collect::<Vec<_>>().join(", "),
                dotted(parent)
            ));
        }
    }
    help.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config;

    fn config(keys: &str) -> Config {
        let text = format!(
            "source: {{ url: \"mysql://u@127.0.0.1\" }}\nredis: {{ main: \"redis://c\" }}\nmappings: [{{ table: shop.child, keys: {keys} }}]\n"
        );
        config::parse(&text, "t.yaml".as_ref(), &|_| None).unwrap()
    }

    fn cascade(on_delete: &str, on_update: &str) -> Cascade {
        Cascade {
            child: ("shop".into(), "child".into()),
            parent: ("shop".into(), "parent".into()),
            columns: vec![("pid".into(), "id".into())],
            on_delete: on_delete.into(),
            on_update: on_update.into(),
        }
    }

    #[test]
    fn rules_are_read_from_the_definition() {
        let text = "CREATE TABLE `c` (\n  `id` int,\n  CONSTRAINT `a``b` FOREIGN KEY (`x)`) REFERENCES `p` (`id`) ON DELETE CASCADE ON UPDATE SET NULL,\n  \
                    CONSTRAINT `n` FOREIGN KEY (`x`) REFERENCES `p` (`id`)\n) ENGINE=InnoDB";
        assert_eq!(rules_of(text, "a`b"), ("CASCADE".into(), "SET NULL".into()));
        assert_eq!(rules_of(text, "n"), (String::new(), String::new()));
        assert_eq!(rules_of(text, "other"), (String::new(), String::new()));
    }

    #[test]
    fn the_childs_keys_come_from_the_parent_where_they_can() {
        let help =
            remedy(&config("[\"of:{pid|lower}:list\", { prefix: \"p:{pid}:\" }]"), &cascade("CASCADE", ""));
        assert_eq!(
            help,
            "map the parent too: - { table: \"shop.parent\", keys: [\"of:{id|lower}:list\", { prefix: \"p:{id}:\" }] }"
        );
        let help = remedy(&config("[\"child:{id}\", \"of:{pid}\"]"), &cascade("SET NULL", "CASCADE"));
        let lines: Vec<&str> = help.lines().collect();
        assert!(lines[0].contains("keys: [\"of:{id}\"]"), "{help}");
        assert!(lines[1].contains("SET `pid` = NULL WHERE `pid` = OLD.`id`;"), "{help}");
        assert!(lines[2].contains("leave id of shop.parent"), "{help}");
    }
}
