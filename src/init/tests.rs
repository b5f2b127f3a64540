#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const FILE: &str = "/etc/rowbust/rowbust.yaml";

fn options() -> Options {
    Options {
        source: "mysql://rowbust@127.0.0.1:3306".into(),
        password: PasswordFrom::Environment("ROWBUST_TEST_NOT_SET".into()),
        output: FILE.into(),
        ..Options::default()
    }
}

fn table(schema: &str, name: &str, columns: &[&str], primary: usize) -> Table {
    Table {
        schema: schema.into(),
        name: name.into(),
        columns: columns.iter().map(|c| ((*c).to_owned(), "varchar".to_owned())).collect(),
        primary: columns.iter().take(primary).map(|c| (*c).to_owned()).collect(),
        ..Table::default()
    }
}

fn rendered(tables: &[Table]) -> Rendered {
    render(&head(&options(), " from a test", Some((7, "free"))), tables, FILE.as_ref()).unwrap()
}

/// With every guess taken, one after the other.
fn uncommented(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    (0..lines.len())
        .filter_map(|at| {
            let line = lines[at];
            let guess = line
                .trim_start()
                .strip_prefix("# - ")
                .filter(|guess| guess.starts_with('"'))
                .or_else(|| line.trim_start().strip_prefix("# when_changed"))?;
            let indent = line.len() - line.trim_start().len();
            let body = if line.contains("# when_changed") {
                format!("when_changed{guess}")
            } else {
                format!("- {guess}")
            };
            let taken = format!("{}{body}", " ".repeat(indent));
            let mut all: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
            all[at] = taken;
            Some(all.join("\n") + "\n")
        })
        .collect()
}

#[test]
fn a_shop() {
    let mut products = table("shop", "products", &["id", "sku", "name", "category_id", "updated_at"], 1);
    products.uniques = vec![("sku".into(), vec!["sku".into()], true)];
    products.foreign = vec![Foreign {
        columns: vec!["category_id".into()],
        schema: "shop".into(),
        table: "categories".into(),
        referenced: vec!["id".into()],
    }];
    products.rows = 1200;
    let mut tokens = table("shop", "tokens", &["hash", "user_id"], 0);
    tokens.columns[0].1 = "binary".into();
    tokens.uniques = vec![("by_hash".into(), vec!["hash".into()], true)];
    let mut log = table("shop", "request_log", &["at", "path"], 0);
    log.rows = 40_000_000;
    let tables = [table("shop", "categories", &["id", "name"], 1), products, tokens, log];
    let made = rendered(&tables);
    for line in [
        "# yaml-language-server: $schema=rowbust.schema.json",
        "  password: ${ROWBUST_TEST_NOT_SET}",
        "  server_id: 7  # free",
        "  # shop.products, about 1200 rows",
        "  - table: \"shop.products\"",
        "    # when_changed: [\"sku\", \"name\", \"category_id\"]  # without updated_at: if the cached value does not hold it",
        "      - \"products:{id}\"",
        "      # - \"products:sku:{sku}\"  # unique key sku",
        "      # - \"categories:{category_id}\"  # foreign key: if the cached value of shop.categories holds rows of this table",
        "      - \"tokens:{hash|hex}\"  # no primary key: by a unique key",
        "  #   columns: at, path",
    ] {
        assert!(made.text.lines().any(|found| found == line), "no {line:?} in\n{}", made.text);
    }
    assert_eq!(made.mapped, ["shop.categories", "shop.products", "shop.tokens"]);
    assert_eq!(made.left_out, ["shop.request_log"]);
    assert!(
        made.text.contains(
            "request_log, about 40000000 rows: left out, it has no primary key and looks like a log"
        )
    );
}

#[test]
fn one_name_in_two_schemas_gives_two_keys() {
    let text = rendered(&[table("a", "t", &["id"], 1), table("b", "t", &["id"], 1)]).text;
    assert!(text.contains("\"a:t:{id}\"") && text.contains("\"b:t:{id}\""), "{text}");
}

#[test]
fn without_any_key_nothing_is_written() {
    let tables = [table("shop", "t", &["id"], 0)];
    let made = render(&head(&options(), "", None), &tables, FILE.as_ref());
    assert!(matches!(made, Err(InitError::Nothing { .. })), "{made:?}");
}

#[test]
fn wrong_arguments_are_said_in_the_words_of_check() {
    for source in ["mysql://u:pw@h", "h:3306", "mysql://u@", "mysql://u@h/${X}\n"] {
        let options = Options { source: source.into(), ..options() };
        let text = format!("{}  - {{ table: a.b, keys: [a] }}\n", head(&options, "", None));
        assert!(parsed(&text, FILE.as_ref()).is_err(), "{source}");
    }
}

#[test]
fn odd_names() {
    let odd = [
        "a b",
        "a.b",
        "a`b",
        "a{b",
        "a}b",
        "${A}",
        "$${A}",
        "{",
        "}",
        "{{id}}",
        "a\"b",
        "a'b",
        "a\\b",
        "a#b",
        " # x",
        "*",
        "a?b",
        "[x]",
        "a|b",
        "a:b",
        "old.x",
        "old",
        "new",
        "null",
        "yes",
        "~",
        "größe",
        "表",
        "a\tb",
        "a\nb",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}x",
        "-",
        "- a",
        "a->>$.b",
        "1",
        "%",
        "a%sb",
        "!x",
        "&x",
        "@x",
    ];
    for name in odd {
        let mut odd_table = table(name, name, &[name, "b"], 1);
        odd_table.uniques = vec![(name.into(), vec!["b".into(), name.into()], false)];
        odd_table.foreign = vec![Foreign {
            columns: vec![name.into()],
            schema: name.into(),
            table: name.into(),
            referenced: vec![name.into()],
        }];
        let made = rendered(&[odd_table, table("shop", "plain", &["id"], 1)]);
        assert_eq!(made.mapped.len() + made.left_out.len(), 2, "{name:?}");
        // Templates hold no control characters.
        let unwritable = name.chars().any(char::is_control);
        assert_eq!(made.left_out.is_empty(), !unwritable, "{name:?}: {}", made.text);
        if unwritable {
            continue;
        }
        let config = parsed(&made.text, FILE.as_ref()).unwrap();
        assert!(
            config.mappings[0].schema_glob.is_match(name) && config.mappings[0].table_glob.is_match(name)
        );
        assert_eq!(&*config.mappings[0].keys[0].key.columns()[0].name, name);
        for taken in uncommented(&made.text) {
            parsed(&taken, FILE.as_ref()).unwrap_or_else(|e| panic!("{name:?}: {e:?}\n{taken}"));
        }
    }
}

/// What the servers take as an identifier: 1 to 64 characters of the basic plane but NUL.
fn identifier() -> impl Strategy<Value = String> {
    let any = proptest::char::range('\u{1}', '\u{fffd}');
    let sharp = proptest::sample::select("{}$`.\"'\\# :|*?[]!%-&~<>\n\t".chars().collect::<Vec<_>>());
    let plain = proptest::char::range('a', 'z');
    proptest::collection::vec(prop_oneof![any, sharp, plain], 1..=64)
        .prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #[test]
    fn whatever_the_names_the_config_is_valid(
        names in proptest::collection::vec((identifier(), identifier(), identifier(), identifier()), 1..4)
    ) {
        let mut tables: Vec<Table> = names.iter().map(|(schema, name, column, other)| {
            let mut odd = table(schema, name, &[column, other, "updated_at", "x"], 2);
            odd.uniques = vec![(other.clone(), vec![other.clone()], true)];
            odd.foreign = vec![Foreign {
                columns: vec![other.clone()],
                schema: column.clone(),
                table: schema.clone(),
                referenced: vec![name.clone()],
            }];
            odd
        }).collect();
        tables.push(table("shop", "plain", &["id"], 1));
        let made = rendered(&tables);
        let config = parsed(&made.text, FILE.as_ref()).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        prop_assert_eq!(config.mappings.len(), made.mapped.len());
        prop_assert_eq!(made.mapped.len() + made.left_out.len(), tables.len());
        for mapping in &config.mappings {
            prop_assert!(tables.iter().any(|t| mapping.schema_glob.is_match(&t.schema)
                && mapping.table_glob.is_match(&t.name)));
        }
        for guess in uncommented(&made.text) {
            prop_assert!(parsed(&guess, FILE.as_ref()).is_ok(), "{}", guess);
        }
    }

    #[test]
    fn a_quoted_text_reads_back(text in identifier()) {
        let head = head(&options(), "", None);
        let path = format!("/a/{text}");
        let yaml = head.replace("  password: ${ROWBUST_TEST_NOT_SET}", &format!("  password_file: {}", yaml::quoted(&path)));
        let config = parsed(&format!("{yaml}  - {{ table: a.b, keys: [a] }}\n"), FILE.as_ref());
        let config = config.map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        let crate::config::Password::File(found) = config.source.password else {
            return Err(TestCaseError::fail("no file"));
        };
        prop_assert_eq!(found, std::path::PathBuf::from(path));
    }
}
