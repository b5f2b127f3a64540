//! The compiled mappings of one table, and the making of keys.

use rowbust_binlog::{Column, Projection, RowKind, RowSlots, TableMap, TextError};
use rowbust_protocol::template::{ImageRef, RenderError, Rendered, SlotValue};

use super::{
    RouteError, RouteErrorKind, RowImage,
    compile::{PlanMapping, PlanRule, PlanSlot, PlanTemplate, PlanWhen, compile, project},
    error::Place,
    values::{BinlogRow, ImageValues, Presence},
};
use crate::config::{Image, Mapping};

/// The mappings of one version of one table, compiled. Made by [`super::Router::plan`].
#[derive(Debug, Clone)]
pub struct Plan {
    projection: Projection,
    /// By slot: position in the projection.
    columns: Vec<Column>,
    rules: Rules,
}

/// What is independent of where the values come from.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// `schema.table`, for errors.
    pub(super) table: String,
    /// Names of the slots, for errors.
    pub(super) names: Vec<String>,
    pub(super) mappings: Vec<PlanMapping>,
}

/// A key that a row change makes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutedKey<'a> {
    /// Index into [`crate::config::Config::mappings`].
    pub mapping: usize,
    /// Index into the mapping's `keys`.
    pub rule: usize,
    /// The key. One mapping never gives a row's key twice for the same rule.
    pub key: &'a [u8],
    /// The hash field of an HDEL; `None`: UNLINK.
    pub field: Option<&'a [u8]>,
    /// The image that it was made from; `None` where it isn't made from one: `{old.a}:{new.a}`, or no column at all.
    pub image: Option<RowImage>,
    /// A value had to be escaped.
    pub escaped: bool,
}

/// Why a mapping, a rule or an image of a row gives no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// Index into [`crate::config::Config::mappings`].
    pub mapping: usize,
    /// Index into the mapping's `keys`; `None`: the whole mapping.
    pub rule: Option<usize>,
    /// Why.
    pub reason: SkipReason,
}

/// See [`Skipped`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The update surely changed none of `when_changed`.
    WhenChanged,
    /// No image that `when` looks at has one of its values.
    When,
    /// `events` leaves this kind of change out.
    Events,
    /// The rule uses `{old.x}` or `{new.x}`, and the change has no such image.
    NoImage(RowImage),
    /// The value in this slot is NULL in this image, and the template has no `default` for it.
    Null {
        /// Position among the plan's columns.
        slot: usize,
        /// The image.
        image: RowImage,
    },
    /// The row after the change gives the same key as the row before.
    SameKey,
}

/// Takes a row's keys. Any `FnMut(RoutedKey<'_>)` is one.
pub trait Sink {
    /// A key.
    fn key(&mut self, key: RoutedKey<'_>);

    /// No key, and why.
    fn skipped(&mut self, skipped: Skipped) {
        let _ = skipped;
    }
}

impl<F: FnMut(RoutedKey<'_>)> Sink for F {
    fn key(&mut self, key: RoutedKey<'_>) {
        self(key);
    }
}

/// Counted since the last [`Scratch::take_counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys given to the sink.
    pub keys: u64,
    /// Keys in which a value had to be escaped: an application that doesn't escape uses another key.
    pub escaped: u64,
    /// Images that gave no key, as a column without `default` was NULL.
    pub null: u64,
    /// Row changes left out by `when` or `when_changed`, per mapping.
    pub filtered: u64,
}

/// Buffers and counters, kept from row to row.
#[derive(Debug, Default)]
pub struct Scratch {
    key: Vec<u8>,
    field: Vec<u8>,
    work: Vec<u8>,
    counts: Counts,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }
}

impl Plan {
    pub(super) fn new(mappings: &[(usize, &Mapping)], map: &TableMap) -> Result<Self, RouteError> {
        let projection = project(mappings, map)?;
        let taken = projection.columns();
        let columns: Vec<_> = taken.iter().map(|&index| map.columns[index].clone()).collect();
        // `project` has looked every name up already.
        let slot_of = |name: &str| {
            map.column_index(name).and_then(|index| taken.binary_search(&index).ok()).unwrap_or(usize::MAX)
        };
        let compiled = mappings.iter().map(|(index, mapping)| compile(*index, mapping, &slot_of)).collect();
        let rules = Rules {
            table: format!("{}.{}", map.schema, map.table),
            names: columns.iter().map(|column| column.name.clone().unwrap_or_default()).collect(),
            mappings: compiled,
        };
        Ok(Self { projection, columns, rules })
    }

    /// What to decode of the table's rows.
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Indices of the columns to decode, ascending.
    pub fn columns(&self) -> &[usize] {
        self.projection.columns()
    }

    /// Gives `sink` every key that the row change makes wrong. `row` was decoded by [`Plan::projection`].
    ///
    /// # Errors
    /// The row can't be turned into keys: see [`RouteErrorKind`]. The sink may have got some of its keys.
    pub fn route(
        &self,
        kind: RowKind,
        row: &RowSlots<'_>,
        scratch: &mut Scratch,
        sink: &mut impl Sink,
    ) -> Result<(), RouteError> {
        self.rules.route(kind, &BinlogRow { slots: row, columns: &self.columns }, scratch, sink)
    }
}

fn has(kind: RowKind, image: RowImage) -> bool {
    match image {
        RowImage::Before => kind != RowKind::Write,
        RowImage::After => kind != RowKind::Delete,
    }
}

/// Where the value stands that a key needs. An update's after image leaves out columns that the statement didn't set
/// (`binlog_row_image` MINIMAL, NOBLOB, FULL_NODUP): then it stands in the before image. The reverse doesn't hold:
/// MINIMAL's before image has the primary key alone.
fn look_up(kind: RowKind, values: &impl ImageValues, image: RowImage, slot: usize) -> (Presence, RowImage) {
    let presence = presence(kind, values, image, slot);
    if presence == Presence::Absent && image == RowImage::After && kind == RowKind::Update {
        return (values.presence(RowImage::Before, slot), RowImage::Before);
    }
    (presence, image)
}

fn presence(kind: RowKind, values: &impl ImageValues, image: RowImage, slot: usize) -> Presence {
    if has(kind, image) { values.presence(image, slot) } else { Presence::Absent }
}

/// Whether the after image of an update surely gives the same text as the before image.
fn gives_same(values: &impl ImageValues, slot: usize) -> bool {
    values.presence(RowImage::After, slot) == Presence::Absent || is_unchanged(values, slot)
}

/// Whether an update surely left the slot as it was: both images hold it, with the same value. A column that the
/// after image leaves out may well have changed: seen with MINIMAL on MariaDB 10.11 for virtual columns, for what
/// REPLACE sets to its default, and for what a trigger sets in INSERT ... ON DUPLICATE KEY UPDATE.
fn is_unchanged(values: &impl ImageValues, slot: usize) -> bool {
    values.presence(RowImage::After, slot) != Presence::Absent
        && values.presence(RowImage::Before, slot) != Presence::Absent
        && values.same(slot)
}

/// Whether a value was escaped; or the slot and image of the NULL for which there is no key.
type Made = Result<bool, (usize, RowImage)>;

/// Why a value can't be had.
enum Failure {
    Missing { slot: usize, image: RowImage },
    Text { slot: usize, source: TextError },
}

impl Rules {
    pub(super) fn route(
        &self,
        kind: RowKind,
        values: &impl ImageValues,
        scratch: &mut Scratch,
        sink: &mut impl Sink,
    ) -> Result<(), RouteError> {
        for mapping in &self.mappings {
            if let Some(reason) = self.filtered(mapping, kind, values, scratch)? {
                scratch.counts.filtered += 1;
                sink.skipped(Skipped { mapping: mapping.index, rule: None, reason });
                continue;
            }
            for index in 0..mapping.rules.len() {
                self.apply(mapping, index, kind, values, scratch, sink)?;
            }
        }
        Ok(())
    }

    /// Whether `when_changed` or `when` leaves the change out. What the images don't tell counts as a match.
    fn filtered(
        &self,
        mapping: &PlanMapping,
        kind: RowKind,
        values: &impl ImageValues,
        scratch: &mut Scratch,
    ) -> Result<Option<SkipReason>, RouteError> {
        if let Some(slots) = &mapping.when_changed
            && kind == RowKind::Update
            && slots.iter().all(|&slot| is_unchanged(values, slot))
        {
            return Ok(Some(SkipReason::WhenChanged));
        }
        let Some(when) = &mapping.when else { return Ok(None) };
        let images: &[RowImage] = match when.image {
            Image::Before => &[RowImage::Before],
            Image::After => &[RowImage::After],
            Image::Any => &[RowImage::Before, RowImage::After],
        };
        for &image in images {
            if has(kind, image) && self.holds(mapping, when, kind, image, values, scratch)? {
                return Ok(None);
            }
        }
        Ok(Some(SkipReason::When))
    }

    fn holds(
        &self,
        mapping: &PlanMapping,
        when: &PlanWhen,
        kind: RowKind,
        image: RowImage,
        values: &impl ImageValues,
        scratch: &mut Scratch,
    ) -> Result<bool, RouteError> {
        match presence(kind, values, image, when.slot) {
            Presence::Absent => Ok(true),
            Presence::Null => Ok(false),
            Presence::Value => {
                scratch.work.clear();
                values.write_text(image, when.slot, &mut scratch.work).map_err(|source| {
                    self.error(mapping, mapping.line, "when", Failure::Text { slot: when.slot, source })
                })?;
                Ok(when.any_of.contains(&scratch.work))
            }
        }
    }

    fn apply(
        &self,
        mapping: &PlanMapping,
        index: usize,
        kind: RowKind,
        values: &impl ImageValues,
        scratch: &mut Scratch,
        sink: &mut impl Sink,
    ) -> Result<(), RouteError> {
        let rule = &mapping.rules[index];
        let skip = |sink: &mut _, reason| {
            Sink::skipped(sink, Skipped { mapping: mapping.index, rule: Some(index), reason });
        };
        if !rule.wants(kind) {
            skip(sink, SkipReason::Events);
            return Ok(());
        }
        for (needed, image) in [(rule.needs_before, RowImage::Before), (rule.needs_after, RowImage::After)] {
            if needed && !has(kind, image) {
                skip(sink, SkipReason::NoImage(image));
                return Ok(());
            }
        }
        let follows_images = !rule.plain.is_empty();
        let images: &[RowImage] = match kind {
            RowKind::Update if follows_images => &[RowImage::Before, RowImage::After],
            RowKind::Write => &[RowImage::After],
            _ => &[RowImage::Before],
        };

        scratch.key.clear();
        scratch.field.clear();
        let mut first: Option<(usize, usize)> = None;
        for (nth, &image) in images.iter().enumerate() {
            // Saves making the same key twice, the usual case of an update.
            if nth > 0 && rule.plain.iter().all(|&slot| gives_same(values, slot)) {
                skip(sink, SkipReason::SameKey);
                break;
            }
            let (key_start, field_start) = (scratch.key.len(), scratch.field.len());
            let escaped = match self.render(mapping, rule, image, kind, values, scratch)? {
                Ok(escaped) => escaped,
                Err((slot, image)) => {
                    // The key may have been made before its field turned out to be NULL.
                    scratch.key.truncate(key_start);
                    scratch.field.truncate(field_start);
                    scratch.counts.null += 1;
                    skip(sink, SkipReason::Null { slot, image });
                    continue;
                }
            };
            let (key, field) = (&scratch.key[key_start..], &scratch.field[field_start..]);
            if let Some((key_end, field_end)) = first
                && *key == scratch.key[..key_end]
                && *field == scratch.field[..field_end]
            {
                skip(sink, SkipReason::SameKey);
                break;
            }
            scratch.counts.keys += 1;
            scratch.counts.escaped += u64::from(escaped);
            sink.key(RoutedKey {
                mapping: mapping.index,
                rule: index,
                key,
                field: rule.field.as_ref().map(|_| field),
                image: match (follows_images, rule.needs_before, rule.needs_after) {
                    (true, _, _) => Some(image),
                    (false, true, false) => Some(RowImage::Before),
                    (false, false, true) => Some(RowImage::After),
                    (false, _, _) => None,
                },
                escaped,
            });
            first = Some((scratch.key.len(), scratch.field.len()));
        }
        Ok(())
    }

    /// Appends key and field to the buffers: whether a value was escaped, or the slot and image of a NULL.
    fn render(
        &self,
        mapping: &PlanMapping,
        rule: &PlanRule,
        image: RowImage,
        kind: RowKind,
        values: &impl ImageValues,
        scratch: &mut Scratch,
    ) -> Result<Made, RouteError> {
        let Scratch { key, field, work, .. } = scratch;
        let mut escaped = false;
        for (template, out) in std::iter::once((&rule.key, key)).chain(rule.field.as_ref().zip(Some(field))) {
            match render_template(template, image, kind, values, out, work) {
                Ok(Rendered::Key { escaped: one }) => escaped |= one,
                Ok(Rendered::Null { slot }) => {
                    let found = template.slots[slot];
                    return Ok(Err((found.slot, image_of(found.image, image))));
                }
                Err(RenderError::Value(failure)) => {
                    return Err(self.error(mapping, rule.line, template.template.source(), failure));
                }
                Err(RenderError::TooLong) => {
                    let part = template.template.source();
                    return Err(self.error_of(mapping, rule.line, part, RouteErrorKind::TooLong));
                }
            }
        }
        Ok(Ok(escaped))
    }

    fn error(&self, mapping: &PlanMapping, line: usize, part: &str, failure: Failure) -> RouteError {
        let name = |slot: usize| self.names.get(slot).cloned().unwrap_or_default();
        let kind = match failure {
            Failure::Missing { slot, image } => RouteErrorKind::MissingColumn { column: name(slot), image },
            Failure::Text { slot, source } => RouteErrorKind::Text { column: name(slot), source },
        };
        self.error_of(mapping, line, part, kind)
    }

    fn error_of(&self, mapping: &PlanMapping, line: usize, part: &str, kind: RouteErrorKind) -> RouteError {
        let place = Place { mapping: mapping.index, line, part: part.to_owned() };
        RouteError { table: self.table.clone(), place: Some(place), kind }
    }
}

fn image_of(of: ImageRef, current: RowImage) -> RowImage {
    match of {
        ImageRef::Both => current,
        ImageRef::Old => RowImage::Before,
        ImageRef::New => RowImage::After,
    }
}

fn render_template(
    template: &PlanTemplate,
    image: RowImage,
    kind: RowKind,
    values: &impl ImageValues,
    out: &mut Vec<u8>,
    work: &mut Vec<u8>,
) -> Result<Rendered, RenderError<Failure>> {
    template.template.render(out, work, |index, buffer| {
        let PlanSlot { slot, image: of } = template.slots[index];
        let image = image_of(of, image);
        match look_up(kind, values, image, slot) {
            (Presence::Absent, _) => Err(Failure::Missing { slot, image }),
            (Presence::Null, _) => Ok(SlotValue::Null),
            (Presence::Value, found) => match values.write_text(found, slot, buffer) {
                Ok(()) => Ok(SlotValue::Text),
                Err(source) => Err(Failure::Text { slot, source }),
            },
        }
    })
}
