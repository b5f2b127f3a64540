//! Processor time of reading one binlog file from a server, for `cargo xtask bench stream`: a process for each run, so that
//! nothing of another run is in its time.
//!
//! Arguments: what to do (`own`: the daemon's stream; `driver`: that of `mysql_async`; `key`: the daemon's stream, each event
//! decoded, its checksum compared, and the first column taken out of each row), the server's port on 127.0.0.1, the file, and the
//! number of row events after which to stop. Prints JSON: microseconds of this process, user and system, from the
//! first event on, and the number of events.
#![allow(missing_docs, reason = "a program")]

use std::{hint::black_box, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use rowbust::{
    config,
    source::{
        Source,
        connect::Connector,
        start::{FIRST_EVENT, Request},
        stream::{EventStream, READ_DEADLINE},
    },
};
use rowbust_binlog::event_type as t;

mod first_column;
use first_column::FirstColumn;

/// What a run has seen.
struct Seen {
    micros: i64,
    events: u64,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [what, port, file, rows] = args.as_slice() else {
        eprintln!("cargo xtask bench stream");
        return Ok(());
    };
    let (port, rows) = (port.parse()?, rows.parse()?);
    // One thread: its processor time is the run's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(async {
        match what.as_str() {
            "own" => own(port, file, rows).await,
            "key" => key(port, file, rows).await,
            "driver" => driver(port, file, rows).await,
            other => bail!("{other}?"),
        }
    })?;
    let Seen { micros, events } = seen;
    #[allow(clippy::print_stdout, reason = "the result")]
    {
        println!("{{\"micros\":{micros},\"events\":{events}}}");
    }
    Ok(())
}

fn is_rows(event_type: u8) -> bool {
    matches!(event_type, t::WRITE_ROWS_V1..=t::DELETE_ROWS_V1 | t::WRITE_ROWS_V2..=t::DELETE_ROWS_V2)
}

/// Processor time of this process, in microseconds.
fn time() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds())
}

async fn open(port: u16, file: &str) -> Result<EventStream> {
    let text = format!(
        "source: {{ url: \"mysql://root@127.0.0.1:{port}\", tls: disabled }}\nredis: {{ main: \"redis://localhost\" }}\n\
         mappings: [ {{ table: bench.products, keys: [\"product:{{id}}\"] }} ]\n"
    );
    let config =
        config::parse(&text, Path::new("/bench.yaml"), &|_| None).map_err(|e| anyhow::anyhow!("{e}"))?;
    let connector = Connector::new(&config.source);
    let server = Source::new(Arc::new(config)).preflight().await?;
    let request = Request::File { file: file.into(), skip_to: FIRST_EVENT };
    let mut stream = EventStream::open(connector.stream().await?, &server, &request).await?;
    stream.advance(READ_DEADLINE).await?;
    Ok(stream)
}

/// As the follower does: what is here first.
#[inline]
async fn next(stream: &mut EventStream) -> Result<()> {
    if !stream.try_advance()? {
        stream.advance(READ_DEADLINE).await?;
    }
    Ok(())
}

async fn own(port: u16, file: &str, rows: u64) -> Result<Seen> {
    let mut stream = open(port, file).await?;
    let before = time()?;
    let (mut events, mut seen) = (0, 0);
    while seen < rows {
        next(&mut stream).await?;
        let event = black_box(stream.current());
        events += 1;
        seen += u64::from(is_rows(event.header.event_type));
    }
    Ok(Seen { micros: time()? - before, events })
}

async fn key(port: u16, file: &str, rows: u64) -> Result<Seen> {
    let mut stream = open(port, file).await?;
    let mut decoder = FirstColumn::new();
    decoder.event(&stream.current())?;
    let before = time()?;
    let (mut events, mut seen) = (0, 0);
    while seen < rows {
        next(&mut stream).await?;
        events += 1;
        seen += decoder.event(&stream.current())?;
    }
    Ok(Seen { micros: time()? - before, events })
}

async fn driver(port: u16, file: &str, rows: u64) -> Result<Seen> {
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("root"))
        .prefer_socket(false)
        .tcp_nodelay(true)
        .max_allowed_packet(Some(1 << 30))
        .wait_timeout(Some(28_800));
    let conn = mysql_async::Conn::new(opts).await?;
    let request = mysql_async::BinlogStreamRequest::new(4_000_000_001)
        .with_pos(FIRST_EVENT)
        .with_filename(file.as_bytes());
    let mut stream = conn.get_binlog_stream(request).await?;
    let mut next = async || {
        let event = tokio::time::timeout(Duration::from_secs(30), stream.next()).await?;
        anyhow::Ok(event.context("the stream ended")??)
    };
    next().await?;
    let before = time()?;
    let (mut events, mut seen) = (0, 0);
    while seen < rows {
        let event = next().await?;
        events += 1;
        black_box(event.data());
        seen += u64::from(is_rows(event.header().event_type_raw()));
    }
    Ok(Seen { micros: time()? - before, events })
}
