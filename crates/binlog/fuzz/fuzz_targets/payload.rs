//! See `rowbust_binlog_fuzz::payload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rowbust_binlog_fuzz::payload(data));
