//! See `rowbust_binlog_fuzz::gtid`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rowbust_binlog_fuzz::gtid(data));
