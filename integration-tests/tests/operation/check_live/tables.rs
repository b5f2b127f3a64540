//! Tables, columns, types, foreign keys.

use rowbust_integration_tests::on_both;

use super::*;

on_both!(names, cascades);

async fn names(flavor: Flavor) -> Result<()> {
    let name = format!("names_{}", flavor.name());
    let tables = [
        "CREATE TABLE products (id INT PRIMARY KEY, `odd name` VARCHAR(9), price DOUBLE, doc JSON, body LONGTEXT)",
        "CREATE VIEW seen AS SELECT id FROM products",
    ];
    let Some((servers, _)) = Servers::schema(flavor, &name, &tables).await? else { return Ok(()) };
    let of = |table: &str, keys: &str| format!("  - {{ table: \"{name}.{table}\", keys: [{keys}] }}\n");
    let mut site = servers.site("")?;
    for (table, keys, code, mark, text, help) in [
        ("products", "\"p:{id}\"", "tables.mapping", "ok", "products", ""),
        ("products", "\"p:{`odd name`}\"", "tables.columns", "ok", "odd name", ""),
        ("products", "\"p:{ID}\"", "tables.columns", "ok", "id", ""),
        ("product", "\"p:{id}\"", "tables.mapping", "error", "no table", "did you mean"),
        ("Products", "\"p:{id}\"", "tables.mapping", "error", "no table", "letter case"),
        ("nothing", "\"p:{id}\"", "tables.mapping", "error", "no table", "create"),
        ("n*", "\"p:{id}\"", "tables.mapping", "warning", "matches no table", "letter case"),
        ("p*", "\"p:{id}\"", "tables.mapping", "ok", "matches", ""),
        ("seen", "\"p:{id}\"", "tables.mapping", "error", "view", "made of"),
        ("products", "\"p:{idd}\"", "tables.columns", "error", "no column `idd`", "did you mean `id`"),
        ("products", "\"p:{price}\"", "tables.types", "warning", "price", "another column"),
        ("products", "\"p:{id->>$.a}\"", "tables.types", "error", "no JSON", "JSON or text"),
        ("products", "\"p:{body}\"", "tables.types", "warning", "64 KiB", "digest"),
    ] {
        site.mappings = of(table, keys);
        let checked = site.check()?;
        let line = checked.has(code, mark, text).with_context(|| format!("{table} {keys}"))?;
        ensure!(line.help.contains(help), "{line:?}");
        let exit = if mark == "error" { 78 } else { 0 };
        ensure!(checked.exit == exit, "{table} {keys}: {:#}", checked.value);
    }
    // With `on_schema: flush` the daemon goes on.
    site.mappings = format!("  - {{ table: {name}.products, on_schema: flush, keys: [\"p:{{idd}}\"] }}\n");
    let checked = site.check()?;
    checked.has("tables.columns", "warning", "on_schema: flush")?;
    ensure!(checked.exit == 0, "{:#}", checked.value);
    Ok(())
}

/// Rows that a foreign key changes: what is said to do makes them appear in the binlog, or maps them otherwise.
async fn cascades(flavor: Flavor) -> Result<()> {
    let name = format!("cascades_{}", flavor.name());
    let tables = [
        "CREATE TABLE parent (id INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, pid INT, FOREIGN KEY (pid) REFERENCES parent (id) ON DELETE CASCADE)",
        "CREATE TABLE plain (id INT PRIMARY KEY, pid INT, FOREIGN KEY (pid) REFERENCES parent (id))",
    ];
    let Some((servers, mut conn)) = Servers::schema(flavor, &name, &tables).await? else { return Ok(()) };
    let mut site = servers.site(&format!("  - {{ table: {name}.plain, keys: [\"plain:{{id}}\"] }}\n"))?;
    site.check()?.has("tables.cascades", "ok", "no foreign key")?;
    site.mappings = format!("  - {{ table: {name}.child, keys: [\"child:{{id}}\", \"of:{{pid}}\"] }}\n");
    let checked = site.check()?;
    if flavor == Flavor::MySql {
        checked.has("tables.cascades", "ok", "logs what foreign keys change")?;
    } else {
        let line = checked.has("tables.cascades", "warning", "ON DELETE CASCADE")?;
        let [map, trigger] = line.help.lines().collect::<Vec<_>>()[..] else {
            anyhow::bail!("{line:?}");
        };
        let mapping = map.split_once(": - ").context("no mapping")?.1;
        ensure!(mapping == format!("{{ table: \"{name}.parent\", keys: [\"of:{{id}}\"] }}"), "{mapping}");
        let trigger = trigger.split_once(": ").context("no trigger")?.1;
        run(&mut conn, &[trigger]).await?;
        // It is a mapping.
        site.mappings = format!("{}  - {mapping}\n", site.mappings);
        site.check()?.has("tables.mapping", "ok", &format!("{name}.parent"))?;
    }
    // Now the binlog shows the child's row.
    run(&mut conn, &["INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (7, 1)"]).await?;
    let (file, from) = servers.db.newest(&mut conn).await?;
    run(&mut conn, &["DELETE FROM parent WHERE id = 1"]).await?;
    let events: Vec<mysql_async::Row> =
        conn.query(format!("SHOW BINLOG EVENTS IN '{file}' FROM {from} LIMIT 30")).await?;
    let shown: Vec<String> = events.iter().filter_map(|row| row.get::<String, _>(5)).collect();
    ensure!(shown.iter().any(|info| info.contains(&format!("({name}.child)"))), "{shown:?}");
    let left: Option<u64> = conn.query_first("SELECT COUNT(*) FROM child").await?;
    ensure!(left == Some(0));
    Ok(())
}
