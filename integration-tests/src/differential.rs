//! The decoder against decoders that aren't ours: every row of a binlog file, value by value.
//!
//! - `mariadb-binlog -v` and `mysqlbinlog -v`, the servers' own (`printed`): each row must be there, in the same order, with
//!   the same columns, and each value as the program prints it.
//! - the crate `mysql_cdc` (`cdc`), event by event, where it can decode at all.
//!
//! What is written in another way and yet the same, in full:
//!
//! | type | printed by the programs |
//! |---|---|
//! | integers | with a sign, and below zero the unsigned number behind it: neither program looks at the sign |
//! | FLOAT, DOUBLE | by C's `%-20g` and `%.20g` |
//! | DATE | `2024:02:29` |
//! | TIMESTAMP | seconds since 1970 |
//! | YEAR 0 | 1900 |
//! | ENUM, SET, BIT | the index; the bits, byte by byte as stored; the bits |
//! | strings | their bytes in quotes; MariaDB escapes only control characters, MySQL quotes and backslashes too |
//! | BINARY, UUID, INET4, INET6 | without trailing zero bytes |
//! | COMPRESSED (MariaDB) | as stored |
//! | differences of a JSON document | as calls of functions; their paths and values are compared, in order |
//! | VECTOR (MySQL) | each number by C's `%.5e` |
//! | GEOMETRY (MySQL) | not at all: the rest of the event is not printed |
//!
//! A comparison of nothing is an error.

mod cdc;
mod printed;
mod render;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rowbust_binlog::{
    ColumnType, Decoder, Event, FileEvents, Flavor, Inflater, Payload, PayloadReader, Projection, RawEvent,
    RowKind, RowSlots, Rows, TableMap, event_type,
};

pub use printed::Printed;

/// What was compared.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    /// Rows with every value the same as the server's program has it.
    pub rows: usize,
    /// Values by column type, NULL among them; what images leave out is not counted.
    pub values: BTreeMap<String, usize>,
    /// Rows that the server's program doesn't print, for it doesn't know a type of theirs.
    pub unprinted: usize,
    /// Row events that `mysql_cdc` decoded to the same values.
    pub cdc_events: usize,
    /// Values in them.
    pub cdc_values: usize,
    /// Why `mysql_cdc` couldn't decode a row event, or which kind of value it doesn't give in full, and how often.
    pub cdc_cannot: BTreeMap<String, usize>,
}

impl Compared {
    /// Adds another comparison's counts.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.unprinted += other.unprinted;
        self.cdc_events += other.cdc_events;
        self.cdc_values += other.cdc_values;
        for (into, from) in [(&mut self.values, other.values), (&mut self.cdc_cannot, other.cdc_cannot)] {
            from.into_iter().for_each(|(name, n)| *into.entry(name).or_default() += n);
        }
    }
}

/// One row change as our decoder has it, in the form in which the server's program prints it.
#[derive(Debug)]
struct Decoded {
    /// Index of the event in the file.
    event: usize,
    table: String,
    kind: RowKind,
    /// Column from 1, its type, the text.
    before: Vec<(usize, ColumnType, Vec<u8>)>,
    after: Vec<(usize, ColumnType, Vec<u8>)>,
}

/// Compares all row events of a file. `program` is the `mariadb-binlog` or `mysqlbinlog` of the server that wrote it.
///
/// # Errors
/// The first difference; that nothing was compared; that the file can't be decoded.
pub fn compare(program: &Path, file: &Path) -> Result<Compared> {
    let compared = compare_any(program, file)?;
    ensure!(compared.rows > 0, "{}: no row was compared", file.display());
    Ok(compared)
}

/// As [`compare`], for a file that may be without rows.
///
/// # Errors
/// The first difference; that the file can't be decoded.
pub fn compare_any(program: &Path, file: &Path) -> Result<Compared> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut compared = Compared::default();
    let mut decoded: Vec<Decoded> = Vec::new();
    let mut others = cdc::Events::open(file)?;
    walk(&bytes, |event, rows, map, flavor| {
        let projection = Projection::new(map, &(0..map.columns.len()).collect::<Vec<_>>())?;
        let mut cursor = rows.cursor(map, &projection)?;
        let mut other = others.rows_of(event, &mut compared)?;
        let mut slots = RowSlots::new();
        while cursor.next(&mut slots)? {
            let image = |values| render::image(values, map, flavor);
            decoded.push(Decoded {
                event,
                table: format!("{}.{}", map.schema, map.table),
                kind: rows.kind,
                before: image(&slots.before)?,
                after: image(&slots.after)?,
            });
            if let Some(other) = &mut other {
                other
                    .row(map, &slots, &mut compared)
                    .with_context(|| format!("mysql_cdc, event {event}, {}.{}", map.schema, map.table))?;
            }
        }
        if let Some(other) = other {
            other.end()?;
            compared.cdc_events += 1;
        }
        Ok(())
    })
    .with_context(|| file.display().to_string())?;

    let printed = printed::read(program, file)?;
    let mut ours = decoded.into_iter().peekable();
    for (n, theirs) in printed.iter().enumerate() {
        let Some(our) = ours.next() else { bail!("{}: row {n} is not decoded: {theirs}", file.display()) };
        same(&our, theirs, &mut compared)
            .with_context(|| format!("{}: row {n}, event {}, {}", file.display(), our.event, our.table))?;
        if theirs.broken {
            compared.unprinted += 1;
            while ours.next_if(|next| next.event == our.event).is_some() {
                compared.unprinted += 1;
            }
        } else {
            compared.rows += 1;
        }
    }
    ensure!(ours.next().is_none(), "{}: more rows than the {} printed ones", file.display(), printed.len());
    Ok(compared)
}

fn same(our: &Decoded, theirs: &Printed, compared: &mut Compared) -> Result<()> {
    ensure!(our.table == theirs.table && our.kind == theirs.kind, "{our:?} is not {theirs}");
    for (image, our, theirs) in
        [("before", &our.before, &theirs.before), ("after", &our.after, &theirs.after)]
    {
        let count = if our.len() > theirs.len() && self::broken(theirs) { theirs.len() } else { our.len() };
        for (at, (column, column_type, text)) in our.iter().take(count).enumerate() {
            let Some((number, printed)) = theirs.get(at) else {
                bail!("{image} image: column {column} is not printed");
            };
            ensure!(number == column, "{image} image: column {column} is printed as {number}");
            if printed.starts_with(printed::UNKNOWN_TYPE) {
                return Ok(());
            }
            ensure!(
                render::equal(*column_type, text, printed),
                "{image} image, column {column}, {column_type}: {} is printed as {}",
                shown(text),
                shown(printed)
            );
            *compared.values.entry(column_type.to_string()).or_default() += 1;
        }
        ensure!(count >= theirs.len(), "{image} image: {} columns, {} printed", count, theirs.len());
    }
    Ok(())
}

fn broken(image: &[(usize, Vec<u8>)]) -> bool {
    image.last().is_some_and(|(_, text)| text.starts_with(printed::UNKNOWN_TYPE))
}

fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(200)];
    cut.escape_ascii().to_string()
}

/// Hands every row event of a file, and of the compressed transactions in it, to `each`, with the index of the event in the
/// file.
///
/// # Errors
/// What can't be decoded; what `each` returns.
pub fn walk(
    file: &[u8],
    mut each: impl FnMut(usize, &Rows<'_>, &TableMap, Flavor) -> Result<()>,
) -> Result<()> {
    let mut decoder = Decoder::new();
    let (mut payloads, mut inflater) = (PayloadReader::new(), Inflater::new());
    let mut flavor = Flavor::MySql;
    for (index, raw) in FileEvents::new(file)?.enumerate() {
        let mut plain = |decoder: &mut Decoder, raw: &RawEvent<'_>| -> Result<()> {
            match decoder.decode(raw)? {
                Event::FormatDescription(description) => flavor = description.flavor,
                Event::Rows(rows) => each(index, &rows, decoder.table(rows.slot), flavor)?,
                Event::Unsupported { name, may_carry_rows: true, .. } => bail!("{name} is not decoded"),
                _ => {}
            }
            Ok(())
        };
        let one = || -> Result<()> {
            let raw = raw?;
            if raw.is_compressed() {
                let raw = inflater.inflate(&raw, &decoder)?;
                plain(&mut decoder, &raw)
            } else if raw.header.event_type == event_type::TRANSACTION_PAYLOAD {
                raw.verify_crc()?;
                let payload = Payload::of(&raw)?;
                payloads.open();
                while let Some(raw) = payloads.next(&payload)? {
                    plain(&mut decoder, &raw)?;
                }
                Ok(())
            } else {
                plain(&mut decoder, &raw)
            }
        };
        one().with_context(|| format!("event {index}"))?;
    }
    Ok(())
}
