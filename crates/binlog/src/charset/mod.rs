//! Character sets of collations, and conversion to UTF-8 as the servers do it.

mod multi;
mod multi_tables;
mod tables;

use std::borrow::Cow;

pub use multi::MultiByte;

use crate::text::TextError;

/// A character set of the servers.
///
/// ```
/// use rowbust_binlog::charset::Charset;
/// let latin1 = Charset::from_name("latin1").unwrap();
/// assert_eq!(&*latin1.decode(b"caf\xe9")?, "café".as_bytes());
/// # Ok::<(), rowbust_binlog::TextError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Charset {
    Binary,
    /// utf8mb3, utf8mb4 and ascii: UTF-8 already.
    Utf8,
    /// latin1 (cp1252) and all others with one byte per character, ASCII in the lower half.
    SingleByte(&'static SingleByte),
    /// swe7: ASCII but for ten characters.
    Swe7,
    /// ucs2 and utf16.
    Utf16Be,
    Utf16Le,
    Utf32,
    /// One to four bytes per character.
    MultiByte(&'static MultiByte),
}

/// A single-byte character set.
///
/// ```
/// use rowbust_binlog::charset::{Charset, SingleByte};
/// let Some(Charset::SingleByte(charset)) = Charset::from_name("koi8r") else { unreachable!() };
/// let charset: &SingleByte = charset;
/// assert_eq!(charset.name(), "koi8r");
/// ```
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SingleByte {
    name: &'static str,
    upper: [u16; 128],
}

macro_rules! single_byte {
    ($($table:ident: $name:literal,)*) => {
        $(static $table: SingleByte = SingleByte { name: $name, upper: tables::$table };)*
        fn single_byte(name: &str) -> Option<&'static SingleByte> {
            match name {
                $($name => Some(&$table),)*
                _ => None,
            }
        }
    };
}

single_byte! {
    ARMSCII8: "armscii8", CP1250: "cp1250", CP1251: "cp1251", CP1256: "cp1256", CP1257: "cp1257",
    CP850: "cp850", CP852: "cp852", CP866: "cp866", DEC8: "dec8", GEOSTD8: "geostd8", GREEK: "greek",
    HEBREW: "hebrew", HP8: "hp8", KEYBCS2: "keybcs2", KOI8R: "koi8r", KOI8U: "koi8u", LATIN1: "latin1",
    LATIN2: "latin2", LATIN5: "latin5", LATIN7: "latin7", MACCE: "macce", MACROMAN: "macroman",
    TIS620: "tis620",
}

/// Collation id of `binary`.
///
/// ```
/// use rowbust_binlog::charset::{BINARY_COLLATION, Charset};
/// assert_eq!(Charset::from_collation(BINARY_COLLATION), Some(Charset::Binary));
/// ```
pub const BINARY_COLLATION: u16 = 63;

impl Charset {
    /// By its name in `information_schema`; `None` if unknown.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "binary" => Self::Binary,
            "utf8" | "utf8mb3" | "utf8mb4" | "ascii" => Self::Utf8,
            "ucs2" | "utf16" => Self::Utf16Be,
            "utf16le" => Self::Utf16Le,
            "utf32" => Self::Utf32,
            "swe7" => Self::Swe7,
            "big5" => Self::MultiByte(&multi::BIG5),
            "cp932" => Self::MultiByte(&multi::CP932),
            "eucjpms" => Self::MultiByte(&multi::EUCJPMS),
            "euckr" => Self::MultiByte(&multi::EUCKR),
            "gb18030" => Self::MultiByte(&multi::GB18030),
            "gb2312" => Self::MultiByte(&multi::GB2312),
            "gbk" => Self::MultiByte(&multi::GBK),
            "sjis" => Self::MultiByte(&multi::SJIS),
            "ujis" => Self::MultiByte(&multi::UJIS),
            _ => return single_byte(name).map(Self::SingleByte),
        })
    }

    /// The character set of a collation, by the ids of `information_schema.COLLATIONS` (MySQL 5.5 to 9.7, MariaDB
    /// 10.11 to 11.8); `None` if unknown.
    pub fn from_collation(id: u16) -> Option<Self> {
        Self::from_name(charset_name(id)?)
    }

    /// Some collation of this character set; only good to find the character set again.
    pub(crate) fn collation_of(name: &str) -> Option<u16> {
        let name = if name == "utf8" { "utf8mb3" } else { name };
        (0..=u8::MAX).map(u16::from).find(|&id| charset_name(id) == Some(name))
    }

    /// `bytes` of this character set as UTF-8.
    ///
    /// # Errors
    /// [`TextError::Malformed`] if they are no text of this character set, or hold a code for which the servers have no
    /// character (and print a question mark).
    pub fn decode<'a>(self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, TextError> {
        let as_it_is = match self {
            Self::Binary | Self::Utf8 => true,
            Self::SingleByte(_) | Self::MultiByte(_) => bytes.is_ascii(),
            Self::Swe7 | Self::Utf16Be | Self::Utf16Le | Self::Utf32 => false,
        };
        if as_it_is && self != Self::Utf8 {
            return Ok(Cow::Borrowed(bytes));
        }
        if as_it_is {
            return match std::str::from_utf8(bytes) {
                Ok(_) => Ok(Cow::Borrowed(bytes)),
                Err(_) => Err(TextError::Malformed("UTF-8")),
            };
        }
        let mut out = Vec::new();
        self.append(bytes, &mut out)?;
        Ok(Cow::Owned(out))
    }

    /// Appends `bytes` of this character set as UTF-8; nothing on an error, which is that of [`Charset::decode`].
    pub fn append(self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TextError> {
        let start = out.len();
        let (ok, name) = match self {
            Self::Binary | Self::Utf8 => {
                out.extend_from_slice(bytes);
                (self == Self::Binary || std::str::from_utf8(bytes).is_ok(), "UTF-8")
            }
            Self::SingleByte(set) => {
                bytes.iter().for_each(|&byte| push(set.char(byte), out));
                (true, set.name)
            }
            Self::Swe7 => {
                bytes.iter().for_each(|&byte| push(swe7(byte), out));
                (bytes.iter().all(|byte| *byte < 0x7f), "swe7")
            }
            Self::MultiByte(set) => (set.append(bytes, out), set.name()),
            Self::Utf16Be => (utf16(bytes, u16::from_be_bytes, out), "UTF-16"),
            Self::Utf16Le => (utf16(bytes, u16::from_le_bytes, out), "UTF-16"),
            Self::Utf32 => {
                let (chars, rest) = bytes.as_chunks::<4>();
                let mut chars = chars.iter().map(|c| char::from_u32(u32::from_be_bytes(*c)));
                (
                    rest.is_empty()
                        && chars.all(|c| {
                            c.is_some_and(|c| {
                                push(c, out);
                                true
                            })
                        }),
                    "UTF-32",
                )
            }
        };
        if ok {
            return Ok(());
        }
        out.truncate(start);
        Err(TextError::Malformed(name))
    }
}

impl SingleByte {
    fn char(&self, byte: u8) -> char {
        match self.upper.get(usize::from(byte).wrapping_sub(128)) {
            Some(&unit) => char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
            None => char::from(byte),
        }
    }

    /// The name in `information_schema`.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// `to_uni_swe7` in `strings/ctype-extra.c`.
fn swe7(byte: u8) -> char {
    match byte {
        0x40 => 'É',
        0x5b => 'Ä',
        0x5c => 'Ö',
        0x5d => 'Å',
        0x5e => 'Ü',
        0x60 => 'é',
        0x7b => 'ä',
        0x7c => 'ö',
        0x7d => 'å',
        0x7e => 'ü',
        other => char::from(other),
    }
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16, out: &mut Vec<u8>) -> bool {
    let (units, rest) = bytes.as_chunks::<2>();
    let mut chars = char::decode_utf16(units.iter().map(|u| unit(*u)));
    rest.is_empty() && chars.all(|c| c.map(|c| push(c, out)).is_ok())
}

/// Collation ids from both servers' `information_schema`. MariaDB's `_nopad_` variants are 1024 above their base;
/// its uca1400 collations come in blocks of 256 per character set from 2048 on.
fn charset_name(id: u16) -> Option<&'static str> {
    Some(match id {
        1 | 84 => "big5",
        3 | 69 => "dec8",
        4 | 80 => "cp850",
        6 | 72 => "hp8",
        7 | 74 => "koi8r",
        5 | 8 | 15 | 31 | 47..=49 | 94 => "latin1",
        2 | 9 | 21 | 27 | 77 => "latin2",
        10 | 82 => "swe7",
        11 | 65 => "ascii",
        12 | 91 => "ujis",
        13 | 88 => "sjis",
        14 | 23 | 50..=52 => "cp1251",
        16 | 71 => "hebrew",
        18 | 89 => "tis620",
        19 | 85 => "euckr",
        20 | 41..=42 | 79 => "latin7",
        22 | 75 => "koi8u",
        24 | 86 => "gb2312",
        25 | 70 => "greek",
        26 | 34 | 44 | 66 | 99 => "cp1250",
        28 | 87 => "gbk",
        29 | 58..=59 => "cp1257",
        30 | 78 => "latin5",
        32 | 64 => "armscii8",
        33 | 76 | 83 | 192..=223 | 576..=607 | 2048..=2303 => "utf8mb3",
        35 | 90 | 128..=159 | 640..=671 | 2560..=2815 => "ucs2",
        36 | 68 => "cp866",
        37 | 73 => "keybcs2",
        38 | 43 => "macce",
        39 | 53 => "macroman",
        40 | 81 => "cp852",
        45..=46 | 224..=247 | 255..=323 | 608..=638 | 2304..=2559 => "utf8mb4",
        54..=55 | 101..=124 | 672..=703 | 2816..=3071 => "utf16",
        56 | 62 => "utf16le",
        57 | 67 => "cp1256",
        60..=61 | 160..=183 | 736..=767 | 3072..=3327 => "utf32",
        63 => "binary",
        92..=93 => "geostd8",
        95..=96 => "cp932",
        97..=98 => "eucjpms",
        248..=250 => "gb18030",
        1025..=1343 => return charset_name(id - 1024),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn converts_as_the_servers_do() {
        let text = |charset: &str, bytes: &[u8]| {
            let text = Charset::from_name(charset).unwrap().decode(bytes)?.into_owned();
            Ok::<_, TextError>(String::from_utf8(text).unwrap())
        };
        assert_eq!(text("latin1", b"\x80\xe9\x81").unwrap(), "€é\u{81}");
        assert_eq!(text("cp1251", b"\xcf\xf0").unwrap(), "Пр");
        assert_eq!(text("utf16", b"\xd8\x3d\xde\x00").unwrap(), "😀");
        assert_eq!(text("utf32", b"\0\x01\xf6\0").unwrap(), "😀");
        assert_eq!(text("gbk", b"\xba\xba").unwrap(), "汉");
        assert_eq!(text("utf8mb4", b"\xff"), Err(TextError::Malformed("UTF-8")));
        assert_eq!(text("utf16", b"\xd8\x3d"), Err(TextError::Malformed("UTF-16")));
        assert_eq!(text("gbk", b"\xaa\xa1"), Err(TextError::Malformed("gbk")));
        assert_eq!(text("big5", b"a\xba\x7e").unwrap(), "a漢");
        assert_eq!(text("big5", b"\xa1\xe3").unwrap(), "\u{223c}");
        assert_eq!(text("ujis", b"\x8e\xb1\xa1\xc0\x8f\xf5\xa1").unwrap(), "ｱ\\\u{e3ac}");
        assert_eq!(text("sjis", b"\xb1\x81\x5f").unwrap(), "ｱ\\");
        assert_eq!(text("gb18030", b"\x94\x39\xda\x33").unwrap(), "💩");
        assert_eq!(text("swe7", b"a[").unwrap(), "aÄ");
        assert_eq!(text("swe7", b"\x80"), Err(TextError::Malformed("swe7")));
        for cut in [&b"\xba"[..], b"\x80", b"\xba\x20", b"\xa3\xc0"] {
            assert_eq!(text("big5", cut), Err(TextError::Malformed("big5")));
        }
    }

    #[test]
    fn every_collation_has_a_character_set_that_exists() {
        for id in 0..=u16::MAX {
            if let Some(name) = charset_name(id) {
                assert!(Charset::from_name(name).is_some(), "{id} {name}");
                assert_eq!(charset_name(Charset::collation_of(name).unwrap()), Some(name));
            }
        }
        // utf8mb4_0900_ai_ci, MariaDB's utf8mb4_uca1400_ai_ci and latin1_swedish_nopad_ci.
        for (id, name) in [(255, "utf8mb4"), (2304, "utf8mb4"), (1032, "latin1")] {
            assert_eq!(charset_name(id), Some(name));
        }
    }
}
