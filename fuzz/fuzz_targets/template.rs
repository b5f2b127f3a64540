//! Any text as a key template: it parses, renders any values within its bound, and says which keys are ambiguous.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rowbust_protocol::template::{MAX_KEY_BYTES, Rendered, SlotValue, Template};

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let (source, value) = data.split_at(split);
    let Ok(source) = std::str::from_utf8(source) else { return };
    let Ok(template) = Template::parse(source) else { return };
    assert_eq!(template.source(), source);
    let _ = template.ambiguity();
    let _ = template.is_constant();
    let (mut key, mut scratch) = (Vec::new(), Vec::new());
    // One column after the other takes a piece of the value, or is NULL.
    let rendered = template.render(&mut key, &mut scratch, |slot, out| {
        let piece = value.get(slot..).unwrap_or_default();
        out.extend_from_slice(piece);
        Ok::<_, ()>(if piece.len() % 7 == 6 { SlotValue::Null } else { SlotValue::Text })
    });
    match rendered {
        Ok(Rendered::Key { .. }) => assert!(key.len() <= MAX_KEY_BYTES),
        _ => assert!(key.is_empty()),
    }
});
