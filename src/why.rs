//! Which mappings make a key, and of what row.
//!
//! Guarantees: names every rule that could make the key, by the code by which a flush finds keys ([`Template::could_make`]). May
//! depend on `config` and `rowbust-protocol`.

use rowbust_protocol::template::Template;
use serde_json::{Map, Value, json};

use crate::config::{Config, KeyOp, KeyRule};

/// One entry per rule that could make the key (of an HDEL the key that the field is in, of a set its key, of a prefix all that begin so), in the config's order.
pub fn makers(config: &Config, key: &[u8]) -> Vec<Value> {
    let mut makers = Vec::new();
    for mapping in &config.mappings {
        let target = config.redis.get(mapping.target).map_or("", |target| target.name.as_str());
        let makes = |rule: &&KeyRule| match rule.op {
            KeyOp::Prefix { .. } => rule.key.could_begin(key),
            _ => rule.key.could_make(key),
        };
        for rule in mapping.keys.iter().filter(makes) {
            let (op, field) = match &rule.op {
                KeyOp::Unlink => ("unlink", None),
                KeyOp::Hdel { field } => ("hdel", Some(field.source())),
                KeyOp::Prefix { .. } => ("prefix", None),
                KeyOp::MembersOf { .. } => ("members_of", None),
            };
            makers.push(json!({
                "table": mapping.table,
                "line": rule.line,
                "target": target,
                "template": rule.key.source(),
                "op": op,
                "field": field,
                "row": row(&rule.key, key),
            }));
        }
    }
    makers
}

/// The columns' values, where the key tells; `null`: it doesn't.
fn row(template: &Template, key: &[u8]) -> Value {
    let Some(values) = template.values_of(key) else { return Value::Null };
    let mut row = Map::new();
    for (column, value) in template.columns().iter().zip(values) {
        let mut name = String::new();
        match column.image {
            rowbust_protocol::template::ImageRef::Both => {}
            rowbust_protocol::template::ImageRef::Old => name.push_str("old."),
            rowbust_protocol::template::ImageRef::New => name.push_str("new."),
        }
        name.push_str(&column.name);
        if let Some(path) = &column.path {
            name.push_str(&format!("->{path}"));
        }
        row.insert(
            name,
            value.map_or(Value::Null, |value| String::from_utf8_lossy(&value).into_owned().into()),
        );
    }
    Value::Object(row)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_the_rules_and_the_row() {
        let text = r#"
source: { url: "mysql://u@h" }
redis: { main: "redis://h" }
mappings:
  - table: shop.products
    keys:
      - "product:{id}"
      - { key: "product:sku:{old.sku|lower}", events: [update] }
      - { key: "category:{category_id}:products", op: hdel, field: "{id}" }
  - { table: shop.orders, keys: ["product:{a}-{b}"] }
"#;
        let config = crate::config::parse(text, Path::new("/x/y.yaml"), &|_| None).unwrap();
        let found = makers(&config, b"product:4%3A2");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (&found[0]["table"], &found[0]["row"]),
            (&json!("shop.products"), &json!({ "id": "4:2" }))
        );
        let found = makers(&config, b"product:1-2");
        assert_eq!(found.len(), 2, "{found:?}");
        // `-` may be in either.
        assert_eq!(found[1]["row"], Value::Null);
        let found = makers(&config, b"category:7:products");
        assert_eq!((&found[0]["op"], &found[0]["row"]), (&json!("hdel"), &json!({ "category_id": "7" })));
        let found = makers(&config, b"product:sku:ab");
        assert_eq!(found[0]["row"], json!({ "old.sku": "ab" }));
        assert_eq!(makers(&config, b"elsewhere"), [] as [Value; 0]);
    }
}
