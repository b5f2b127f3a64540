//! Character sets of collations, and conversion to UTF-8 as the servers do it.

mod tables;

use std::borrow::Cow;

use crate::text::TextError;

/// A character set of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Charset {
    Binary,
    /// utf8mb3, utf8mb4 and ascii: UTF-8 already.
    Utf8,
    /// latin1 (cp1252) and all others with one byte per character, ASCII in the lower half.
    SingleByte(&'static SingleByte),
    /// ucs2 and utf16.
    Utf16Be,
    Utf16Le,
    Utf32,
    /// Multi-byte, converted by this encoding, which agrees with the servers.
    Encoding(&'static MultiByte),
    /// Known, but without a conversion.
    Unsupported(&'static str),
}

/// A single-byte character set.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SingleByte {
    name: &'static str,
    upper: [u16; 128],
}

/// A multi-byte character set.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct MultiByte {
    name: &'static str,
    encoding: &'static encoding_rs::Encoding,
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

// Compared with both servers for every two-byte code. big5, gb2312, gb18030, sjis, ujis and eucjpms map some codes
// to other characters than the encodings of the same name do.
static CP932: MultiByte = MultiByte { name: "cp932", encoding: encoding_rs::SHIFT_JIS };
static EUCKR: MultiByte = MultiByte { name: "euckr", encoding: encoding_rs::EUC_KR };
static GBK: MultiByte = MultiByte { name: "gbk", encoding: encoding_rs::GBK };

/// Collation id of `binary`.
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
            "big5" => Self::Unsupported("big5"),
            "cp932" => Self::Encoding(&CP932),
            "eucjpms" => Self::Unsupported("eucjpms"),
            "euckr" => Self::Encoding(&EUCKR),
            "gb18030" => Self::Unsupported("gb18030"),
            "gb2312" => Self::Unsupported("gb2312"),
            "gbk" => Self::Encoding(&GBK),
            "sjis" => Self::Unsupported("sjis"),
            "swe7" => Self::Unsupported("swe7"),
            "ujis" => Self::Unsupported("ujis"),
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
    pub fn decode<'a>(self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, TextError> {
        match self {
            Self::Binary => Ok(Cow::Borrowed(bytes)),
            Self::Utf8 => match std::str::from_utf8(bytes) {
                Ok(_) => Ok(Cow::Borrowed(bytes)),
                Err(_) => Err(TextError::Malformed("UTF-8")),
            },
            Self::SingleByte(set) => {
                if bytes.is_ascii() {
                    return Ok(Cow::Borrowed(bytes));
                }
                let text: String = bytes.iter().map(|&b| set.char(b)).collect();
                Ok(Cow::Owned(text.into_bytes()))
            }
            Self::Utf16Be => utf16(bytes, u16::from_be_bytes),
            Self::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Self::Utf32 => {
                let (chars, []) = bytes.as_chunks::<4>() else { return Err(TextError::Malformed("UTF-32")) };
                let text: Option<String> =
                    chars.iter().map(|c| char::from_u32(u32::from_be_bytes(*c))).collect();
                text.map(|t| Cow::Owned(t.into_bytes())).ok_or(TextError::Malformed("UTF-32"))
            }
            Self::Encoding(set) => {
                match set.encoding.decode_without_bom_handling_and_without_replacement(bytes) {
                    Some(text) if text.contains(is_disputed) => Err(TextError::Malformed(set.name)),
                    Some(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
                    Some(Cow::Owned(text)) => Ok(Cow::Owned(text.into_bytes())),
                    None => Err(TextError::Malformed(set.name)),
                }
            }
            Self::Unsupported(name) => Err(TextError::Charset(name.to_owned())),
        }
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

/// Characters that the encodings give where the servers have none, and print a question mark: user-defined ones.
fn is_disputed(c: char) -> bool {
    matches!(c, '\u{80}' | '\u{e000}'..='\u{f8ff}')
}

fn utf16<'a>(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'a, [u8]>, TextError> {
    let (units, []) = bytes.as_chunks::<2>() else { return Err(TextError::Malformed("UTF-16")) };
    match char::decode_utf16(units.iter().map(|u| unit(*u))).collect::<Result<String, _>>() {
        Ok(text) => Ok(Cow::Owned(text.into_bytes())),
        Err(_) => Err(TextError::Malformed("UTF-16")),
    }
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
        assert_eq!(text("big5", b"\xba\xba"), Err(TextError::Charset("big5".into())));
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
