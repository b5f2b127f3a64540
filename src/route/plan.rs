//! The compiled mappings of one table, and the making of keys.

use rowbust_binlog::{Projection, RowKind, RowSlots, TableMap, TextError};
use rowbust_protocol::template::{ImageRef, JsonPath, RenderError, Rendered, SlotValue};

use super::{
    Kind, RouteError, RouteErrorKind, RowImage,
    compile::{PlanMapping, PlanRule, PlanSlot, PlanTemplate, PlanWhen, column_uses, compile, project},
    error::{Place, Undecodable},
    values::{BinlogRow, ImageValues, Presence, Slot, SlotPath},
};
use crate::config::{Image, Mapping};

/// The mappings of one version of one table, compiled. Made by [`super::Router::plan`].
#[derive(Debug, Clone)]
pub struct Plan {
    projection: Projection,
    slots: Vec<Slot>,
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
    /// What it stands for.
    pub kind: Kind,
    /// The key, or what keys begin with. One mapping never gives a row's key twice for the same rule.
    pub key: &'a [u8],
    /// The hash field of an HDEL.
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
    /// The value in this slot is NULL in this image (or nothing stands at the template's path into it), and the template has
    /// no `default` for it.
    Null {
        /// Position among the plan's slots.
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
        let (mut slots, mut names) = (Vec::<Slot>::new(), Vec::new());
        // `project` has looked every name up already.
        let find = |slots: &[Slot], name: &str, path: Option<&JsonPath>| {
            let position =
                map.column_index(name).and_then(|i| projection.columns().binary_search(&i).ok())?;
            let path = path.map(SlotPath::new);
            let found = slots.iter().position(|slot| slot.position == position && slot.path == path);
            Some((position, path, found))
        };
        for used in mappings.iter().flat_map(|(_, mapping)| column_uses(mapping)) {
            if let Some((position, path, None)) = find(&slots, used.name, used.path)
                && let Some(column) = projection.columns().get(position).and_then(|&i| map.columns.get(i))
            {
                names.push(used.label(column.name.as_deref().unwrap_or_default()));
                slots.push(Slot { position, column: column.clone(), path });
            }
        }
        let slot_of = |name: &str, path: Option<&JsonPath>| {
            find(&slots, name, path).and_then(|(_, _, found)| found).unwrap_or(usize::MAX)
        };
        let compiled = mappings.iter().map(|(index, mapping)| compile(*index, mapping, &slot_of)).collect();
        let rules = Rules { table: format!("{}.{}", map.schema, map.table), names, mappings: compiled };
        Ok(Self { projection, slots, rules })
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
        self.rules.route(kind, &BinlogRow { row, slots: &self.slots }, scratch, sink)
    }
}

fn has(kind: RowKind, image: RowImage) -> bool {
    match image {
        RowImage::Before => kind != RowKind::Write,
        RowImage::After => kind != RowKind::Delete,
    }
}

/// Appends the value that a key needs. An update's after image leaves out columns that the statement didn't set
/// (`binlog_row_image` MINIMAL, NOBLOB, FULL_NODUP): then it stands in the before image. The reverse doesn't hold:
/// MINIMAL's before image has the primary key alone.
fn look_up(
    kind: RowKind,
    values: &impl ImageValues,
    image: RowImage,
    slot: usize,
    out: &mut Vec<u8>,
) -> Result<Presence, TextError> {
    let presence = if has(kind, image) { values.write(image, slot, out)? } else { Presence::Absent };
    if presence == Presence::Absent && image == RowImage::After && kind == RowKind::Update {
        return values.write(RowImage::Before, slot, out);
    }
    Ok(presence)
}

/// Whether the after image of an update surely gives the same text as the before image.
fn gives_same(values: &impl ImageValues, slot: usize) -> bool {
    !values.has(RowImage::After, slot) || is_unchanged(values, slot)
}

/// Whether an update surely left the slot as it was: both images hold it, with the same value. A column that the
/// after image leaves out may well have changed: seen with MINIMAL on MariaDB 10.11 for virtual columns, for what
/// REPLACE sets to its default, and for what a trigger sets in INSERT ... ON DUPLICATE KEY UPDATE.
fn is_unchanged(values: &impl ImageValues, slot: usize) -> bool {
    values.has(RowImage::After, slot) && values.has(RowImage::Before, slot) && values.same(slot)
}

/// Whether a value was escaped; or the slot and image of the NULL for which there is no key.
type Made = Result<bool, (usize, RowImage)>;

/// A value that can't be had.
struct Failure {
    slot: usize,
    image: RowImage,
    why: Undecodable,
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
            if has(kind, image) && self.holds(mapping, when, image, values, scratch)? {
                return Ok(None);
            }
        }
        Ok(Some(SkipReason::When))
    }

    fn holds(
        &self,
        mapping: &PlanMapping,
        when: &PlanWhen,
        image: RowImage,
        values: &impl ImageValues,
        scratch: &mut Scratch,
    ) -> Result<bool, RouteError> {
        // `filtered` asks for images only that the change has.
        scratch.work.clear();
        match values.write(image, when.slot, &mut scratch.work) {
            Ok(Presence::Absent) => Ok(true),
            Ok(Presence::Null) => Ok(false),
            Ok(Presence::Value) => Ok(when.any_of.contains(&scratch.work)),
            Err(why) => {
                let failure = Failure { slot: when.slot, image, why: Undecodable::Text(why) };
                Err(self.error(mapping, mapping.line, "when", failure))
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
                kind: rule.kind,
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
        let column = self.names.get(failure.slot).cloned().unwrap_or_default();
        let kind = RouteErrorKind::Undecodable { column, image: failure.image, why: failure.why };
        self.error_of(mapping, line, part, kind)
    }

    fn error_of(&self, mapping: &PlanMapping, line: usize, part: &str, kind: RouteErrorKind) -> RouteError {
        let place = Place { mapping: mapping.index, line, part: part.to_owned() };
        RouteError { table: self.table.clone(), place: Some(Box::new(place)), kind }
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
        match look_up(kind, values, image, slot, buffer) {
            Ok(Presence::Absent) => Err(Failure { slot, image, why: Undecodable::Absent }),
            Ok(Presence::Null) => Ok(SlotValue::Null),
            Ok(Presence::Value) => Ok(SlotValue::Text),
            Err(why) => Err(Failure { slot, image, why: Undecodable::Text(why) }),
        }
    })
}
