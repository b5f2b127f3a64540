//! See `rowbust_binlog_fuzz::row_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rowbust_binlog_fuzz::row_image(data));
