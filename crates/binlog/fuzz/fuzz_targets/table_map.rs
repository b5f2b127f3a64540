//! See `rowbust_binlog_fuzz::table_map`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rowbust_binlog_fuzz::table_map(data));
