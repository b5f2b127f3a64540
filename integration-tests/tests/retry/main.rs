//! Removals that fail: buffered in Kafka, retried, given up to the dead letters.

mod broker;
mod clock;
mod daemon;
mod kafka;
mod letters;
mod outages;
mod rights;
mod secured;
