//! Decodes a binlog file with `rowbust-binlog` and with other libraries, in turns, and prints what each costs in processor time
//! per row: `rowbust-compare FILE COLUMNS ROWS ROUNDS`, with the number of the table's columns and of the file's rows.
//!
//! The file lies in memory, so that nothing but decoding is measured. All decode every event; the others have no way to leave
//! columns out, and give owned values. `rowbust-binlog` alone checks the CRC32 of each event. A library that finds another number
//! of rows than there are is listed with that number and without a time: it passed over rows, or stopped.

use std::{hint::black_box, io::Cursor, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use mysql_binlog_connector_rust::{
    binlog_parser::BinlogParser,
    event::{event_data::EventData as ConnectorEvent, event_header::EventHeader as ConnectorHeader},
};
use mysql_cdc::events::{
    binlog_event::BinlogEvent as CdcEvent, event_header::EventHeader as CdcHeader, event_parser::EventParser,
};
use mysql_common::binlog::{
    BinlogFile, EventStreamReader,
    consts::BinlogVersion,
    events::{Event as CommonEvent, EventData, TransactionPayloadEvent},
};
use nix::{
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeValLike as _,
};
use rowbust_binlog::{
    Decoder, Event, FileEvents, Inflater, PayloadReader, Projection, RawEvent, RowSlots, Rows,
};
use serde_json::json;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, columns, rows, rounds] = args.as_slice() else {
        bail!("usage: rowbust-compare FILE COLUMNS ROWS ROUNDS");
    };
    let (columns, rows, rounds): (usize, u64, usize) = (columns.parse()?, rows.parse()?, rounds.parse()?);
    let file = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let ours = |mapped: usize, text: bool| move |file: &[u8]| own(file, mapped, text);
    let mut runs: Vec<(&str, String, Box<dyn Fn(&[u8]) -> Result<u64>>)> = Vec::new();
    let mut mapped: Vec<usize> = [1, 3, columns].into_iter().filter(|n| *n <= columns).collect();
    mapped.dedup();
    for n in mapped {
        let name = if n == columns { "all".to_owned() } else { n.to_string() };
        runs.push(("rowbust", name, Box::new(ours(n, false))));
    }
    runs.push(("rowbust", "all, as text".to_owned(), Box::new(ours(columns, true))));
    runs.push(("mysql_cdc", "all".to_owned(), Box::new(cdc)));
    runs.push(("mysql_common", "all".to_owned(), Box::new(common)));
    runs.push(("mysql-binlog-connector-rust", "all".to_owned(), Box::new(connector)));

    let mut results: Vec<(Vec<f64>, Result<u64, String>)> =
        runs.iter().map(|_| (Vec::new(), Ok(0))).collect();
    for round in 0..=rounds {
        for ((_, _, decode), (times, seen)) in runs.iter().zip(&mut results) {
            if round > 0 && *seen != Ok(rows) {
                continue;
            }
            let before = own_time()?;
            *seen = decode(&file).map_err(|e| format!("{e:#}"));
            let took = own_time()?.saturating_sub(before);
            // The first round warms up.
            if round > 0 {
                times.push(took.as_secs_f64() * 1e9 / rows as f64);
            }
        }
    }
    let results: Vec<_> = runs
        .iter()
        .zip(&mut results)
        .map(|((library, mapped, _), (times, seen))| {
            times.sort_by(f64::total_cmp);
            let (found, error) = match seen {
                Ok(found) => (*found, None),
                Err(error) => (0, Some(error.clone())),
            };
            let nanos = times.get(times.len() / 2).filter(|_| found == rows);
            json!({"library": library, "mapped": mapped, "rows": found, "error": error, "nanos_per_row": nanos})
        })
        .collect();
    #[allow(clippy::print_stdout)]
    {
        println!("{}", serde_json::to_string(&results)?);
    }
    Ok(())
}

/// Processor time of this process.
fn own_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// Our decoder, its first `mapped` columns.
struct Own {
    decoder: Decoder,
    projection: Option<Projection>,
    slots: RowSlots<'static>,
    text: Option<Vec<u8>>,
    mapped: usize,
    rows: u64,
}

fn own(file: &[u8], mapped: usize, text: bool) -> Result<u64> {
    let mut own = Own {
        decoder: Decoder::new(),
        projection: None,
        slots: RowSlots::new(),
        text: text.then(Vec::new),
        mapped,
        rows: 0,
    };
    let (mut payloads, mut inflater) = (PayloadReader::new(), Inflater::new());
    for raw in FileEvents::new(file)? {
        let raw = raw?;
        if raw.is_compressed() {
            let plain = inflater.inflate(&raw, &own.decoder)?;
            own.event(&plain, &mut payloads)?;
        } else {
            own.event(&raw, &mut payloads)?;
        }
    }
    Ok(own.rows)
}

impl Own {
    fn event(&mut self, raw: &RawEvent<'_>, payloads: &mut PayloadReader) -> Result<()> {
        match self.decoder.decode(raw)? {
            Event::TableMap { slot, fresh: true } => {
                let columns: Vec<usize> = (0..self.mapped).collect();
                self.projection = Some(Projection::new(self.decoder.table(slot), &columns)?);
            }
            Event::Rows(rows) => self.rows(&rows)?,
            Event::Xid(_) => self.decoder.end_transaction(),
            Event::TransactionPayload(payload) => {
                payloads.open();
                let mut inner = std::mem::take(payloads);
                while let Some(raw) = inner.next(&payload)? {
                    self.event(&raw, &mut PayloadReader::new())?;
                }
                *payloads = inner;
            }
            _ => {}
        }
        Ok(())
    }

    fn rows(&mut self, rows: &Rows<'_>) -> Result<()> {
        let projection = self.projection.as_ref().context("rows without their table map")?;
        let map = self.decoder.table(rows.slot);
        let mut slots = std::mem::take(&mut self.slots).recycle();
        let mut cursor = rows.cursor(map, projection)?;
        while cursor.next(&mut slots)? {
            black_box((&slots.before, &slots.after));
            if let Some(text) = &mut self.text {
                for image in [&slots.before, &slots.after] {
                    for (value, column) in image.iter().zip(&map.columns) {
                        text.clear();
                        value.write_text(column, text)?;
                        black_box(&text);
                    }
                }
            }
            self.rows += 1;
        }
        self.slots = slots.recycle();
        Ok(())
    }
}

/// `mysql_cdc`: an unknown event is not an error there, so rows in compressed transactions are passed over.
fn cdc(file: &[u8]) -> Result<u64> {
    const HEADER: usize = 19;
    let mut parser = EventParser::new();
    let (mut rest, mut rows) = (file.get(4..).unwrap_or_default(), 0);
    while !rest.is_empty() {
        let header =
            CdcHeader::parse(rest.get(..HEADER).context("cut off")?).map_err(|e| anyhow!("{e:?}"))?;
        let (event, behind) = rest.split_at_checked(header.event_length as usize).context("cut off")?;
        rest = behind;
        match parser.parse_event(&header, &event[HEADER..]) {
            Ok(CdcEvent::UpdateRowsEvent(event)) => rows += black_box(event).rows.len() as u64,
            Ok(other) => drop(black_box(other)),
            // What it can't read of the file's head doesn't matter here.
            Err(_) if rows == 0 => {}
            Err(error) => bail!("{error:?}"),
        }
    }
    Ok(rows)
}

/// `mysql_common`, the decoder of `mysql_async`.
fn common(file: &[u8]) -> Result<u64> {
    let mut events = BinlogFile::new(BinlogVersion::Version4, file)?;
    let mut rows = 0;
    while let Some(event) = events.next() {
        let event = event?;
        match event.read_data()? {
            Some(EventData::TransactionPayloadEvent(payload)) => {
                rows += common_payload(&payload, events.reader_mut())?;
            }
            Some(data) => rows += common_rows(data, events.reader())?,
            None => {}
        }
    }
    Ok(rows)
}

fn common_payload(payload: &TransactionPayloadEvent<'_>, reader: &mut EventStreamReader) -> Result<u64> {
    let (mut inner, mut rows) = (payload.decompressed()?, 0);
    while let Some(event) = reader.read_decompressed(&mut inner)? {
        rows += common_data(&event, reader)?;
    }
    Ok(rows)
}

fn common_data(event: &CommonEvent, reader: &EventStreamReader) -> Result<u64> {
    event.read_data()?.map_or(Ok(0), |data| common_rows(data, reader))
}

fn common_rows(data: EventData<'_>, reader: &EventStreamReader) -> Result<u64> {
    let EventData::RowsEvent(event) = data else { return Ok(0) };
    let map = reader.get_tme(event.table_id()).context("rows without their table map")?;
    let mut rows = 0;
    for row in event.rows(map) {
        black_box(row?);
        rows += 1;
    }
    Ok(rows)
}

fn connector(file: &[u8]) -> Result<u64> {
    let mut parser =
        BinlogParser { checksum_length: 0, table_map_event_by_table_id: std::collections::HashMap::new() };
    let mut stream = Cursor::new(file);
    parser.check_magic(&mut stream)?;
    let mut rows = 0;
    while stream.position() < file.len() as u64 {
        let event = parser.next(&mut stream)?;
        rows += connector_rows(&event);
        black_box(event);
    }
    Ok(rows)
}

fn connector_rows((_, data): &(ConnectorHeader, ConnectorEvent)) -> u64 {
    match data {
        ConnectorEvent::UpdateRows(event) => event.rows.len() as u64,
        ConnectorEvent::TransactionPayload(payload) => {
            payload.uncompressed_events.iter().map(connector_rows).sum()
        }
        _ => 0,
    }
}
