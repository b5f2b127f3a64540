//! Removals that fail: buffered in Kafka, retried, given up to the dead letters.

mod broker;
mod clock;
mod daemon;
mod kafka;
mod letters;
mod outages;
mod rights;
mod secured;

/// With `RUST_LOG` set the queues of these tests log, to the test's stderr.
fn log() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if std::env::var_os("RUST_LOG").is_some() {
        ONCE.call_once(rowbust::telemetry::install_log);
    }
}
