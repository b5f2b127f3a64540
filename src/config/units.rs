//! Durations (`500ms`, `1s`, `2m`, `1h`) and sizes (`48MiB`).

use std::time::Duration;

/// Why a text is no duration or size: message and help.
pub(super) type UnitError = (&'static str, String);

/// A whole number directly followed by a unit: `ms`, `s`, `m` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text);
    let shown = if number.is_empty() || number.len() > 6 { "1" } else { number };
    let help = format!("write a whole number with a unit: `{shown}ms`, `{shown}s`, `{shown}m` or `{shown}h`");
    if number.is_empty() {
        return Err(("not a duration", help));
    }
    let Ok(n) = number.parse::<u64>() else { return Err(("number too large for a duration", help)) };
    let millis = match unit {
        "ms" => Some(n),
        "s" => n.checked_mul(1_000),
        "m" => n.checked_mul(60_000),
        "h" => n.checked_mul(3_600_000),
        "" => return Err(("duration without a unit", help)),
        _ => return Err(("unknown unit of a duration", help)),
    };
    millis.map(Duration::from_millis).ok_or(("number too large for a duration", help))
}

/// A whole number directly followed by a unit: `B`, `KiB`, `MiB` or `GiB`. Result in bytes.
pub(super) fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text);
    let shown = if number.is_empty() || number.len() > 6 { "48" } else { number };
    let help = format!("write a whole number with a unit: `{shown}KiB`, `{shown}MiB` or `{shown}GiB`");
    if number.is_empty() {
        return Err(("not a size", help));
    }
    let Ok(n) = number.parse::<u64>() else { return Err(("number too large for a size", help)) };
    let bytes = match unit {
        "B" => Some(n),
        "KiB" => n.checked_mul(1 << 10),
        "MiB" => n.checked_mul(1 << 20),
        "GiB" => n.checked_mul(1 << 30),
        "" => return Err(("size without a unit", help)),
        _ => return Err(("unknown unit of a size", help)),
    };
    bytes.ok_or(("number too large for a size", help))
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The shortest exact text of a duration, for `check`.
pub(crate) fn show_duration(d: Duration) -> String {
    match d.as_millis() {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// The shortest exact text of a size, for `check`.
pub(crate) fn show_size(bytes: u64) -> String {
    match bytes {
        b if b > 0 && b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b > 0 && b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b > 0 && b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => format!("{b}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in
            ["", "1", "1.5s", "s", "-1s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_duration(Duration::from_millis(90_000)), "90s");
    }

    #[test]
    fn sizes() {
        assert_eq!(size("48MiB"), Ok(48 << 20));
        for wrong in ["", "48", "48MB", "MiB", "1.5GiB", "18446744073709551615KiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_size(48 << 20), "48MiB");
    }
}
