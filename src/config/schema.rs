//! The JSON Schema (draft 2020-12) of the config, made from the tables of [`super::fields`].
//!
//! Guarantees: it knows every field and no other. It is looser than [`super::parse`], never stricter: whatever `parse` takes
//! it takes too (a test holds both to the examples), so an editor marks no config that works. `${NAME}` may stand for any
//! single value.

use serde_json::{Map, Value, json};

use super::fields::{Default, Field, ROOT, SECTIONS, Section};

/// What a single value may be where any text is meant: YAML's numbers and booleans are taken as written.
fn text() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut root = section(&ROOT);
    let defs: Map<String, Value> =
        SECTIONS.iter().filter(|s| !s.path.is_empty()).map(|s| (definition(s.path), section(s))).collect();
    if let Value::Object(root) = &mut root {
        root.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".to_owned(), "rowbust.yaml".into());
        root.insert("$defs".to_owned(), defs.into());
    }
    root
}

/// The name of a section's definition: its path without what a URI fragment can't hold.
fn definition(path: &str) -> String {
    path.split(',').next().unwrap_or(path).replace("[]", ".item")
}

fn reference(path: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{}", definition(path)) })
}

fn section(section: &Section) -> Value {
    let fields = section.fields.iter();
    // Of free names.
    if let [field] = section.fields
        && field.name == "NAME"
    {
        return json!({
            "description": section.about, "type": "object", "minProperties": 1,
            "additionalProperties": described(section, field),
        });
    }
    let properties: Map<String, Value> =
        fields.clone().map(|field| (field.name.to_owned(), described(section, field))).collect();
    let required: Vec<&str> =
        fields.filter(|field| field.default == Default::Required).map(|field| field.name).collect();
    let mut schema = json!({
        "description": section.about, "type": "object",
        "properties": properties, "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// A field with its meaning and default.
fn described(section: &Section, field: &Field) -> Value {
    let mut schema = shape(section, field).unwrap_or_else(|| json!({}));
    let default = match field.default {
        Default::Required => String::new(),
        Default::Is(text) => format!(" Default: {text}."),
    };
    // Beside a reference too: since draft 2019-09 its neighbours count.
    schema["description"] = format!("{}{default}", field.about).into();
    schema
}

/// What a field takes, from the words of the table. `None`: the words aren't known here, which a test forbids.
fn shape(section: &Section, field: &Field) -> Option<Value> {
    let path = if section.path.is_empty() {
        field.name.to_owned()
    } else {
        format!("{}.{}", section.path, field.name)
    };
    let takes = field.takes;
    let within = |rest: &str| bounds(rest).map(|(min, max)| number(min, max));
    if field.name == "NAME" {
        return Some(json!({ "anyOf": [text(), reference("redis.NAME")] }));
    }
    // Names stand for sections elsewhere.
    if takes == "mapping as `retry.kafka`" {
        return Some(reference("retry.kafka"));
    }
    if takes.starts_with("as `source.tls`") {
        let tls = SECTIONS.iter().find(|s| s.path == "source")?.fields.iter().find(|f| f.name == "tls")?;
        return Some(json!({ "anyOf": [words(tls.takes), reference("source.tls")] }));
    }
    if field.name == "properties" {
        return Some(json!({ "type": "object", "additionalProperties": text() }));
    }
    if takes == "mapping" || takes.starts_with("mapping of names") {
        return SECTIONS.iter().any(|s| s.path == path).then(|| reference(&path));
    }
    if takes == "list, at least one entry" {
        let item = format!("{path}[]");
        let mut items = reference(&item);
        // A key is most often a template alone.
        if field.name == "keys" {
            items = json!({ "anyOf": [text(), items] });
        }
        return Some(json!({ "type": "array", "minItems": 1, "items": items }));
    }
    if takes == "list of one or two tiers" {
        let items = reference(&format!("{path}[]"));
        return Some(json!({ "type": "array", "minItems": 1, "maxItems": 2, "items": items }));
    }
    if takes == "text, or list of texts" {
        return Some(json!({ "anyOf": [text(), { "type": "array", "minItems": 1, "items": text() }] }));
    }
    if let Some(of) = takes.strip_prefix("list of ") {
        let items = match of {
            "`host:port`" | "columns" | "texts" => text(),
            _ if of.starts_with('`') => words(of),
            _ => return None,
        };
        return Some(json!({ "type": "array", "minItems": 1, "items": items }));
    }
    if takes.starts_with("duration") {
        return Some(measure("(ms|s|m|h)"));
    }
    if takes.starts_with("size") {
        return Some(measure("(B|KiB|MiB|GiB)"));
    }
    if let Some(rest) = ["number of keys", "number", "byte"].iter().find_map(|w| takes.strip_prefix(w)) {
        return within(rest);
    }
    let plain = ["text", "path", "template", "name", "URL", "`schema.table`", "`address:port`"];
    let url = takes.starts_with("`mysql://") || takes.starts_with("`redis://");
    if url || plain.iter().any(|word| takes.starts_with(word)) {
        return Some(text());
    }
    if !takes.starts_with('`') {
        return None;
    }
    // Words, and sometimes a mapping instead.
    if takes.contains("mapping") || takes.contains("{ ") {
        return SECTIONS
            .iter()
            .any(|s| definition(s.path) == definition(&path))
            .then(|| json!({ "anyOf": [words(takes), reference(&path)] }));
    }
    Some(words(takes))
}

/// A value from the environment.
fn variable() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{" })
}

/// The words between backticks, as YAML reads them with and without quotes.
fn words(takes: &str) -> Value {
    let words = takes.split('`').skip(1).step_by(2).filter(|word| !word.starts_with('{'));
    let values: Vec<Value> = words
        .flat_map(|word| {
            let typed = serde_json::from_str::<Value>(word).ok();
            [Some(Value::from(word)), typed].into_iter().flatten()
        })
        .collect();
    json!({ "anyOf": [{ "enum": values }, variable()] })
}

/// `, 1 to 9`, `, at least 1`, or nothing.
fn bounds(rest: &str) -> Option<(u64, Option<u64>)> {
    let rest = rest.trim_start_matches([',', ';', ' ']);
    if let Some(min) = rest.strip_prefix("at least ") {
        return Some((min.parse().ok()?, None));
    }
    match rest.split_once(" to ") {
        Some((min, max)) => Some((min.parse().ok()?, Some(max.parse().ok()?))),
        None if rest.is_empty() || rest.starts_with("`0`") => Some((0, None)),
        None => None,
    }
}

/// A whole number, in quotes too.
fn number(min: u64, max: Option<u64>) -> Value {
    let mut number = json!({ "type": "integer", "minimum": min });
    if let Some(max) = max {
        number["maximum"] = max.into();
    }
    json!({ "anyOf": [number, { "type": "string", "pattern": "^[0-9]+$" }, variable()] })
}

/// A whole number with its unit.
fn measure(units: &str) -> Value {
    json!({ "anyOf": [{ "type": "string", "pattern": format!("^[0-9]+{units}$") }, variable()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with words that aren't known here would take anything; a reference into nothing would take nothing.
    #[test]
    fn every_field_has_a_shape() {
        let schema = schema();
        let defs = schema["$defs"].as_object().expect("definitions");
        assert_eq!(defs.len(), SECTIONS.len() - 1, "two sections with one name");
        for section in SECTIONS {
            for field in section.fields {
                let shape = shape(section, field);
                let shape =
                    shape.unwrap_or_else(|| panic!("{}.{}: {}", section.path, field.name, field.takes));
                for reference in shape.to_string().split("#/$defs/").skip(1) {
                    let name = reference.split('"').next().unwrap_or_default();
                    assert!(defs.contains_key(name), "{name}");
                }
            }
        }
    }
}
