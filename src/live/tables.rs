//! The tables and columns that mappings name, as they are in the database now.
//!
//! Guarantees: no row is read. May depend on `config`, `route` and its siblings.

use std::collections::{BTreeMap, HashMap};

use mysql_async::{Conn, prelude::Queryable as _};
use rowbust_binlog::Flavor;

use super::{
    Waiting, cascades,
    report::Group,
    rights,
    source::{Server, lost},
    within,
};
use crate::{
    config::{Config, Mapping, Policy, nearest},
    route::column_uses,
    source::{SourceError, connect::Connector, preflight::version_number},
};

/// Names in a line, at most.
const NAMED: usize = 5;

const SYSTEM: &str = "('mysql','sys','information_schema','performance_schema')";

/// `schema`, `table`.
pub(super) type Name = (String, String);

struct Table {
    name: Name,
    view: bool,
}

/// A column as `information_schema` has it.
struct Column {
    name: String,
    data_type: String,
    column_type: String,
    generated: bool,
}

pub(super) async fn look(config: &Config, server: Option<&Server>, waiting: &Waiting) -> Group {
    let count = config.mappings.len();
    let mut group =
        Group::new("tables", format!("tables of {count} mapping{}", if count == 1 { "" } else { "s" }));
    let Some(server) = server else {
        group.not_tested(
            "tables.answer",
            "tables, columns, foreign keys",
            "mend the connection to the source first",
        );
        return group;
    };
    within(waiting, group, "tables.answer", async |group: &mut Group| {
        if let Err(error) = questions(config, server, group).await {
            lost(group, "tables.answer", &error);
        }
    })
    .await
}

async fn questions(config: &Config, server: &Server, group: &mut Group) -> Result<(), SourceError> {
    let mut conn = Connector::new(&config.source).primary().await?;
    let rows: Vec<(String, String, String)> = conn
        .query(format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN {SYSTEM} ORDER BY 1, 2"
        ))
        .await?;
    let all: Vec<Table> = rows
        .into_iter()
        .map(|(schema, table, kind)| Table { name: (schema, table), view: kind.contains("VIEW") })
        .collect();
    let mut columns: HashMap<String, BTreeMap<String, Vec<Column>>> = HashMap::new();
    for mapping in &config.mappings {
        let matches =
            |name: &Name| mapping.schema_glob.is_match(&name.0) && mapping.table_glob.is_match(&name.1);
        let matching: Vec<&Table> = all.iter().filter(|table| matches(&table.name)).collect();
        let tables: Vec<&Name> =
            matching.iter().filter(|table| !table.view).map(|table| &table.name).collect();
        if tables.is_empty() {
            missing(&mut conn, group, server, mapping, &matching, &all).await?;
            continue;
        }
        let line = mapping.line;
        match &tables[..] {
            [(schema, table)] if is_exact(mapping) => {
                group.ok("tables.mapping", format!("line {line}: {schema}.{table}"));
            }
            _ => group.ok(
                "tables.mapping",
                format!(
                    "line {line}: {} matches {}",
                    mapping.table,
                    few(tables.iter().map(|name| dotted(name)))
                ),
            ),
        }
        for (schema, _) in &tables {
            if !columns.contains_key(schema) {
                columns.insert(schema.clone(), columns_of(&mut conn, schema).await?);
            }
        }
        let of = |name: &Name| {
            columns.get(&name.0).and_then(|tables| tables.get(&name.1)).map_or(&[][..], Vec::as_slice)
        };
        check_columns(group, server, mapping, &tables, &of);
    }
    let mapped: Vec<&Name> = all
        .iter()
        .map(|table| &table.name)
        .filter(|name| {
            let is_of = |m: &Mapping| m.schema_glob.is_match(&name.0) && m.table_glob.is_match(&name.1);
            config.mappings.iter().any(is_of)
        })
        .collect();
    cascades::look(config, server, &mut conn, group, &mapped).await?;
    conn.disconnect().await.ok();
    Ok(())
}

pub(super) fn dotted((schema, table): &Name) -> String {
    format!("{schema}.{table}")
}

/// `a, b and 7 more`
pub(super) fn few(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn parts(mapping: &Mapping) -> (&str, &str) {
    mapping.table.split_once('.').unwrap_or((&mapping.table, ""))
}

fn is_exact(mapping: &Mapping) -> bool {
    let (schema, table) = parts(mapping);
    rights::is_literal(schema) && rights::is_literal(table)
}

/// No table that the account can see.
async fn missing(
    conn: &mut Conn,
    group: &mut Group,
    server: &Server,
    mapping: &Mapping,
    matching: &[&Table],
    all: &[Table],
) -> Result<(), SourceError> {
    let (line, code) = (mapping.line, "tables.mapping");
    let (schema, table) = parts(mapping);
    if let [view, ..] = matching {
        group.error(
            code,
            format!(
                "line {line}: {} is a view, which has no rows of its own in the binlog",
                dotted(&view.name)
            ),
            "map the tables that it is made of",
        );
        return Ok(());
    }
    let grant = rights::grant_select(schema, table, server);
    if !is_exact(mapping) {
        group.warning(
            code,
            format!("line {line}: {} matches no table that this account can see", mapping.table),
            format!("look at the name, letter case included; or let the account see them: {grant}"),
        );
        return Ok(());
    }
    let asked =
        conn.query_drop(format!("SELECT 1 FROM {} LIMIT 0", rights::quoted_table(schema, table))).await;
    let denied = match asked {
        Ok(()) => false,
        Err(mysql_async::Error::Server(error)) => matches!(error.code, 1142 | 1044),
        Err(error) => return Err(error.into()),
    };
    if denied {
        let text =
            format!("line {line}: the account may not see {schema}.{table}, or there is no such table");
        // With full metadata only what the binlog doesn't tell even so is missing.
        if server.var("binlog_row_metadata") == "FULL" {
            group.warning("tables.grants", format!("{text}; names of columns come with the events"), grant);
        } else {
            group.error("tables.grants", text, grant);
        }
        return Ok(());
    }
    let names = || all.iter().map(|table| &table.name);
    let other_case = names().find(|name| {
        name.0.to_lowercase() == schema.to_lowercase() && name.1.to_lowercase() == table.to_lowercase()
    });
    let near = other_case.map(dotted).or_else(|| {
        nearest(table, names().filter(|name| name.0 == schema).map(|name| name.1.as_str()))
            .map(|near| format!("{schema}.{near}"))
    });
    let near = near.or_else(|| {
        let elsewhere = names().find(|name| name.1 == table)?;
        Some(dotted(elsewhere))
    });
    let help = match near {
        Some(near) => format!("did you mean {near}? (letter case counts)"),
        None => "create the table, or look at the name".to_owned(),
    };
    group.error(code, format!("line {line}: there is no table {schema}.{table}"), help);
    Ok(())
}

async fn columns_of(conn: &mut Conn, schema: &str) -> Result<BTreeMap<String, Vec<Column>>, SourceError> {
    let rows: Vec<(String, String, String, String, String, String)> = conn
        .exec(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, EXTRA FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? ORDER BY TABLE_NAME, ORDINAL_POSITION",
            (schema,),
        )
        .await?;
    let mut tables: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    // The comparison there ignores letter case.
    for (_, table, name, data_type, column_type, extra) in rows.into_iter().filter(|row| row.0 == schema) {
        let generated = extra.to_uppercase().split_whitespace().any(|word| word == "GENERATED")
            && !extra.to_uppercase().contains("DEFAULT_GENERATED");
        let data_type = data_type.to_ascii_lowercase();
        tables.entry(table).or_default().push(Column { name, data_type, column_type, generated });
    }
    Ok(tables)
}

fn check_columns<'c>(
    group: &mut Group,
    server: &Server,
    mapping: &Mapping,
    tables: &[&Name],
    of: &dyn Fn(&Name) -> &'c [Column],
) {
    // By what is wrong: the tables that it is wrong in.
    let mut wrong: Vec<(&'static str, bool, String, String, Vec<String>)> = Vec::new();
    let mut note = |code, fatal, what: String, help: String, table: &Name| match wrong
        .iter_mut()
        .find(|(c, _, w, h, _)| (*c, w.as_str(), h.as_str()) == (code, what.as_str(), help.as_str()))
    {
        Some((.., tables)) => tables.push(dotted(table)),
        None => wrong.push((code, fatal, what, help, vec![dotted(table)])),
    };
    let mut used: Vec<String> = Vec::new();
    for table in tables {
        let columns = of(table);
        for usage in column_uses(mapping) {
            let found = columns.iter().find(|column| column.name.to_lowercase() == usage.name.to_lowercase());
            let at = format!("line {}, {}", usage.line, usage.part);
            let Some(column) = found else {
                let near = nearest(usage.name, columns.iter().map(|column| column.name.as_str()));
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("columns: {}", few(columns.iter().map(|column| column.name.clone()))),
                };
                note("tables.columns", true, format!("{at}: no column `{}`", usage.name), help, table);
                continue;
            };
            let shown = format!("{} {}", column.name, column.column_type);
            if !used.contains(&shown) {
                used.push(shown);
            }
            if !usage.text {
                continue;
            }
            if let Some((fatal, what, help)) = odd_type(server, column, usage.path.is_some()) {
                note("tables.types", fatal, format!("{at}: `{}` is {what}", column.name), help, table);
            }
        }
    }
    if !wrong.iter().any(|(code, ..)| *code == "tables.columns") {
        let text = if used.is_empty() { "no column is used".to_owned() } else { few(used.into_iter()) };
        group.ok("tables.columns", format!("line {}: {text}", mapping.line));
    }
    for (code, fatal, what, help, tables) in wrong {
        let text = format!("{what} ({})", few(tables.into_iter()));
        if fatal && mapping.on_schema == Policy::Halt {
            group.error(code, text, help);
        } else if fatal {
            group.warning(
                code,
                format!("{text}; `on_schema: flush` removes all keys of the table at each change"),
                help,
            );
        } else {
            group.warning(code, text, help);
        }
    }
}

/// Types whose text makes a poor key, or none: whether it is an error, what it is, what to do. See docs/mappings.md.
fn odd_type(server: &Server, column: &Column, path: bool) -> Option<(bool, String, String)> {
    let data_type = column.data_type.as_str();
    let text = matches!(data_type, "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext");
    let json = data_type == "json";
    if path {
        return match server.flavor {
            _ if json => None,
            Flavor::MariaDb if text => None,
            Flavor::MySql if text => Some((
                true,
                format!("{}, in which MySQL finds no path as it is written", column.column_type),
                "make it a JSON column, or put a generated column in the key".into(),
            )),
            _ => Some((
                true,
                format!("{}, which is no JSON", column.column_type),
                "write the path behind a JSON or text column".into(),
            )),
        };
    }
    let (what, help) = match data_type {
        "float" | "double" => (
            "whose text differs from one library to the next",
            "make the key of another column, or of a DECIMAL",
        ),
        "json" => ("a whole document", "take a value out of it: {column->>$.path}"),
        "mediumtext" | "longtext" | "mediumblob" | "longblob" => (
            "which can be longer than a key may be (64 KiB): such a row goes by `source.on_undecodable`",
            "make the key of a shorter column, such as a digest",
        ),
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" | "vector" | "bit" => {
            ("bytes, not text", "write {column|hex}, or make the key of another column")
        }
        _ if column.generated
            && server.flavor == Flavor::MariaDb
            && version_number(&server.version) >= (11, 8, 0) =>
        {
            (
                "generated, and MariaDB leaves it out of the row images of updates and deletes",
                "make the key of the columns that it is made of",
            )
        }
        _ => return None,
    };
    Some((
        false,
        format!("{}, {what}", column.column_type),
        help.replace("{column", &format!("{{{}", column.name)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many() {
        let names = |n: usize| (0..n).map(|i| i.to_string());
        assert_eq!(few(names(2)), "0, 1");
        assert_eq!(few(names(7)), "0, 1, 2, 3, 4 and 2 more");
    }

    #[test]
    fn types_of_keys() {
        let mut server = Server {
            flavor: Flavor::MySql,
            version: "9.7.4".into(),
            account: String::new(),
            id: 1,
            vars: HashMap::new(),
            clock: None,
        };
        let column = |data_type: &str, generated| Column {
            name: "c".into(),
            data_type: data_type.into(),
            column_type: data_type.to_uppercase(),
            generated,
        };
        let fatal = |server: &Server, data_type, path| {
            odd_type(server, &column(data_type, false), path).map(|(fatal, ..)| fatal)
        };
        assert_eq!(fatal(&server, "int", false), None);
        assert_eq!(fatal(&server, "int", true), Some(true));
        assert_eq!(fatal(&server, "double", false), Some(false));
        assert_eq!(fatal(&server, "json", true), None);
        assert_eq!(fatal(&server, "json", false), Some(false));
        assert_eq!(fatal(&server, "varchar", true), Some(true));
        let (_, _, help) = odd_type(&server, &column("json", false), false).unwrap_or_default();
        assert_eq!(help, "take a value out of it: {c->>$.path}");
        server.flavor = Flavor::MariaDb;
        server.version = "11.8.9-MariaDB".into();
        assert_eq!(fatal(&server, "longtext", true), None);
        assert!(odd_type(&server, &column("int", true), false).is_some());
        server.version = "10.11.19-MariaDB".into();
        assert!(odd_type(&server, &column("int", true), false).is_none());
    }
}
