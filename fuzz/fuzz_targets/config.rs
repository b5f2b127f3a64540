//! Any text as a config: a config, or mistakes that can be shown.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| (name.len() % 2 == 0).then(|| name.to_lowercase());
    if let Err(report) = rowbust::config::parse(text, Path::new("rowbust.yaml"), &env) {
        assert!(!report.to_string().is_empty());
    }
});
