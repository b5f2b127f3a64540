//! Processor time of decoding, on binlog files that the server has written.
//!
//! All three runs read the same file through the same buffer and walk the same event headers. *Draining* does no more.
//! *Unmapped* gives each event to the decoder, which checks its CRC32 and knows the table, but looks at no row. *One column of
//! ten* takes the key column out of every image. What a run costs is its processor time less that of draining, by rows
//! updated; an update has two images.

use std::{fs::File, hint::black_box, io::Read as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use rowbust_binlog::{Decoder, Event, Header, RawEvent};

use super::{
    Section,
    data::Backlog,
    env::{Bench, median, micros_per, own_time},
};

#[path = "../../../benches/first_column/mod.rs"]
mod first_column;
use first_column::FirstColumn;

pub(super) fn run(bench: &Bench) -> Result<Section> {
    let backlog = Backlog::open(bench)?;
    let (name, rows) = (backlog.db.name(), backlog.rows());
    let files = [("single-row events", backlog.singles()), ("multi-row events", backlog.multi())];
    // The files are all that is needed.
    backlog.db.stop()?;
    let mut section = Section::new("decode", bench, name);
    for (shape, file) in files {
        let mut times: [Vec<f64>; 3] = Default::default();
        let mut events = 0;
        let bytes = std::fs::metadata(&file)?.len();
        for _ in 0..bench.rounds() + 2 {
            for (run, times) in [Run::Drain, Run::Unmapped, Run::OneColumn].into_iter().zip(&mut times) {
                let (took, seen) = measure(&file, run)?;
                match run {
                    Run::Drain => events = seen,
                    Run::Unmapped => {}
                    Run::OneColumn if seen != u64::from(rows) => bail!("{seen} rows in {}", file.display()),
                    Run::OneColumn => {}
                }
                times.push(micros_per(took, rows));
            }
        }
        let [drain, unmapped, column] = times.map(median);
        section.at_most(
            format!("{shape}: one column of ten, above draining, per row"),
            column - drain,
            0.25,
            "µs",
        );
        section.at_most(
            format!("{shape}: unmapped table, above draining, per row"),
            unmapped - drain,
            0.05,
            "µs",
        );
        section.figure(format!("{shape}: draining, per row"), drain, "µs");
        #[allow(clippy::cast_precision_loss)]
        {
            section.figure(format!("{shape}: bytes per row"), bytes as f64 / f64::from(rows), "");
            section.figure(format!("{shape}: events per row"), events as f64 / f64::from(rows), "");
        }
    }
    section.note(format!(
        "{rows} updated rows, an image before and one after each; CRC32 checked in all but draining"
    ));
    Ok(section)
}

#[derive(Clone, Copy)]
enum Run {
    Drain,
    Unmapped,
    OneColumn,
}

/// Processor time of one pass over the file; for [`Run::OneColumn`] the rows, else the events.
fn measure(file: &Path, run: Run) -> Result<(Duration, u64)> {
    let mut walk = Walk::open(file)?;
    let mut seen = 0;
    let before = own_time()?;
    match run {
        Run::Drain => walk.each(|bytes| {
            black_box(Header::parse(bytes)?);
            seen += 1;
            Ok(())
        })?,
        Run::Unmapped => {
            let mut decoder = Decoder::new();
            walk.each(|bytes| {
                let raw = RawEvent::parse(bytes, decoder.checksummed())?;
                if let Event::Xid(_) = black_box(decoder.decode(&raw)?) {
                    decoder.end_transaction();
                }
                seen += 1;
                Ok(())
            })?;
        }
        Run::OneColumn => {
            let mut decoder = FirstColumn::new();
            walk.each(|bytes| {
                let raw = RawEvent::parse(bytes, decoder.checksummed())?;
                seen += decoder.event(&raw)?;
                Ok(())
            })?;
        }
    }
    Ok((own_time()?.saturating_sub(before), seen))
}

/// A binlog file, event by event, through a buffer.
pub(super) struct Walk {
    file: File,
    buffer: Vec<u8>,
    /// What of it was read and not yet walked over.
    filled: std::ops::Range<usize>,
}

impl Walk {
    pub(super) fn open(file: &Path) -> Result<Self> {
        let mut file = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)?;
        if magic != rowbust_binlog::file::MAGIC {
            bail!("not a binlog");
        }
        Ok(Self { file, buffer: vec![0; 256 << 10], filled: 0..0 })
    }

    /// Makes at least `wanted` bytes available; false at the end of the file.
    fn fill(&mut self, wanted: usize) -> Result<bool> {
        if self.filled.len() >= wanted {
            return Ok(true);
        }
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while self.filled.len() < wanted {
            match self.file.read(&mut self.buffer[self.filled.end..])? {
                0 => return Ok(false),
                n => self.filled.end += n,
            }
        }
        Ok(true)
    }

    /// Whole events, to the end of the file.
    pub(super) fn each(&mut self, mut event: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.fill(Header::LEN)? {
            let start = self.filled.start;
            let len = Header::parse(&self.buffer[start..self.filled.end])?.event_size as usize;
            if len < Header::LEN || !self.fill(len)? {
                bail!("an event of {len} bytes");
            }
            let start = self.filled.start;
            event(&self.buffer[start..start + len])?;
            self.filled.start += len;
        }
        Ok(())
    }
}
