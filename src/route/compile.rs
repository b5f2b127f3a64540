//! Mappings of the config to compiled rules whose columns are slots.

use std::collections::BTreeSet;

use rowbust_binlog::{Column, ColumnType, Flavor, Projection, RowKind, TableMap};
use rowbust_protocol::template::{ImageRef, JsonPath, Template};

use super::{Kind, RouteError, RouteErrorKind, error::Place};
use crate::config::{Events, Image, KeyOp, Mapping};

/// A mapping, compiled.
#[derive(Debug, Clone)]
pub(super) struct PlanMapping {
    /// Index into [`crate::config::Config::mappings`].
    pub(super) index: usize,
    /// Its line in the config.
    pub(super) line: usize,
    pub(super) when_changed: Option<Vec<usize>>,
    pub(super) when: Option<PlanWhen>,
    pub(super) rules: Vec<PlanRule>,
}

#[derive(Debug, Clone)]
pub(super) struct PlanWhen {
    pub(super) slot: usize,
    pub(super) any_of: Vec<Vec<u8>>,
    pub(super) image: Image,
}

#[derive(Debug, Clone)]
pub(super) struct PlanRule {
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) key: PlanTemplate,
    /// With a field it is an HDEL.
    pub(super) field: Option<PlanTemplate>,
    pub(super) events: Events,
    /// Uses `{old.x}`.
    pub(super) needs_before: bool,
    /// Uses `{new.x}`.
    pub(super) needs_after: bool,
    /// Slots of the plain `{x}`: with at least one, each image gives a key.
    pub(super) plain: Vec<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct PlanTemplate {
    pub(super) template: Template,
    /// By slot of the template.
    pub(super) slots: Vec<PlanSlot>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PlanSlot {
    /// By position in the plan's slots.
    pub(super) slot: usize,
    pub(super) image: ImageRef,
}

impl PlanRule {
    pub(super) fn wants(&self, kind: RowKind) -> bool {
        match kind {
            RowKind::Write => self.events.insert,
            RowKind::Update => self.events.update,
            RowKind::Delete => self.events.delete,
        }
    }
}

/// A column that a mapping uses, and where.
pub(crate) struct ColumnUse<'a> {
    pub(crate) name: &'a str,
    /// What is taken out of its JSON document.
    pub(crate) path: Option<&'a JsonPath>,
    /// `when`, `when_changed`, or the template.
    pub(crate) part: &'a str,
    /// Its text is needed, not only whether it changed.
    pub(crate) text: bool,
    pub(crate) line: usize,
}

impl ColumnUse<'_> {
    /// For errors: the column as in the template.
    pub(super) fn label(&self, column: &str) -> String {
        self.path.map_or_else(|| column.to_owned(), |path| format!("{column}{path}"))
    }
}

/// Every use of a column in a mapping, in the order of the config.
pub(crate) fn column_uses(mapping: &Mapping) -> Vec<ColumnUse<'_>> {
    let line = mapping.line;
    let mut uses = Vec::new();
    for name in mapping.when_changed.iter().flatten() {
        uses.push(ColumnUse { name, path: None, part: "when_changed", text: false, line });
    }
    if let Some(when) = &mapping.when {
        uses.push(ColumnUse { name: &when.column, path: None, part: "when", text: true, line });
    }
    for rule in &mapping.keys {
        let field = match &rule.op {
            KeyOp::Hdel { field } => Some(field),
            KeyOp::Unlink | KeyOp::Prefix { .. } | KeyOp::MembersOf { .. } => None,
        };
        for template in std::iter::once(&rule.key).chain(field) {
            uses.extend(template.columns().iter().map(|column| ColumnUse {
                name: &column.name,
                path: column.path.as_ref(),
                part: template.source(),
                text: true,
                line: rule.line,
            }));
        }
    }
    uses
}

/// Compiles a mapping; `slot_of` knows every name and path of its [`column_uses`].
pub(super) fn compile(
    index: usize,
    mapping: &Mapping,
    slot_of: &dyn Fn(&str, Option<&JsonPath>) -> usize,
) -> PlanMapping {
    let template = |template: &Template| PlanTemplate {
        template: template.clone(),
        slots: template
            .columns()
            .iter()
            .map(|c| PlanSlot { slot: slot_of(&c.name, c.path.as_ref()), image: c.image })
            .collect(),
    };
    let rules = mapping.keys.iter().map(|rule| {
        let key = template(&rule.key);
        let field = match &rule.op {
            KeyOp::Hdel { field } => Some(template(field)),
            KeyOp::Unlink | KeyOp::Prefix { .. } | KeyOp::MembersOf { .. } => None,
        };
        let slots = || key.slots.iter().chain(field.iter().flat_map(|f| &f.slots));
        PlanRule {
            line: rule.line,
            kind: Kind::from(&rule.op),
            events: rule.events,
            needs_before: slots().any(|s| s.image == ImageRef::Old),
            needs_after: slots().any(|s| s.image == ImageRef::New),
            plain: slots().filter(|s| s.image == ImageRef::Both).map(|s| s.slot).collect(),
            key,
            field,
        }
    });
    PlanMapping {
        index,
        line: mapping.line,
        when_changed: mapping
            .when_changed
            .as_ref()
            .map(|names| names.iter().map(|n| slot_of(n, None)).collect()),
        when: mapping.when.as_ref().map(|when| PlanWhen {
            slot: slot_of(&when.column, None),
            any_of: when.any_of.iter().map(|text| text.clone().into_bytes()).collect(),
            image: when.image,
        }),
        rules: rules.collect(),
    }
}

/// Takes the columns that the mappings use out of the table's rows.
pub(super) fn project(mappings: &[(usize, &Mapping)], map: &TableMap) -> Result<Projection, RouteError> {
    let table = || format!("{}.{}", map.schema, map.table);
    let mut indices = BTreeSet::new();
    // Also of columns that nobody asks for: what is behind them must be found.
    if !map.columns.iter().all(|column| column.has_length()) {
        return Err(RouteError { table: table(), place: None, kind: RouteErrorKind::NeedsSchema });
    }
    for &(mapping, config) in mappings {
        for used in column_uses(config) {
            let fail = |kind| {
                let place = Place { mapping, line: used.line, part: used.part.to_owned() };
                Err(RouteError { table: table(), place: Some(Box::new(place)), kind })
            };
            let Some(index) = map.column_index(used.name) else {
                if map.columns.iter().any(|c| c.name.is_none()) {
                    return Err(RouteError {
                        table: table(),
                        place: None,
                        kind: RouteErrorKind::NeedsSchema,
                    });
                }
                return fail(RouteErrorKind::UnknownColumn {
                    column: used.name.to_owned(),
                    similar: similar(used.name, map),
                });
            };
            let column = &map.columns[index];
            if used.text && !column.is_complete() {
                return Err(RouteError { table: table(), place: None, kind: RouteErrorKind::NeedsSchema });
            }
            if used.path.is_some() && !may_be_json(column) {
                let column_type = column.column_type;
                return fail(RouteErrorKind::NotJson { column: used.name.to_owned(), column_type });
            }
            // MariaDB gives a value as it is written. MySQL reads the text into a document first: other numbers, other members.
            if used.path.is_some() && map.flavor == Flavor::MySql && column.column_type != ColumnType::Json {
                return fail(RouteErrorKind::TextPath { column: used.name.to_owned() });
            }
            indices.insert(index);
        }
    }
    let indices: Vec<usize> = indices.into_iter().collect();
    Projection::new(map, &indices).map_err(|error| RouteError {
        table: table(),
        place: None,
        kind: RouteErrorKind::Projection(error),
    })
}

/// MySQL's JSON, or text: MariaDB's JSON is LONGTEXT.
fn may_be_json(column: &Column) -> bool {
    column.column_type == ColumnType::Json || column.is_binary() == Some(false)
}

fn similar(name: &str, map: &TableMap) -> Option<String> {
    let distance =
        |candidate: &String| strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
    let names = map.columns.iter().filter_map(|column| column.name.as_ref());
    names.map(|n| (distance(n), n)).filter(|(d, _)| *d <= 2).min().map(|(_, n)| n.clone())
}
