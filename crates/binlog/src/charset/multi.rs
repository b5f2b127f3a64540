//! The multi-byte character sets of East Asia, as the servers convert them.
//!
//! Characters are told apart by the servers' own rules (`ismbchar_…` in `strings/ctype-*.c`); each is looked up in
//! `encoding_rs`, but for the codes in which the servers differ from it.

use super::multi_tables as t;

/// A multi-byte character set.
///
/// ```
/// use rowbust_binlog::charset::{Charset, MultiByte};
/// let Some(Charset::MultiByte(charset)) = Charset::from_name("gbk") else { unreachable!() };
/// let charset: &MultiByte = charset;
/// assert_eq!(charset.name(), "gbk");
/// ```
#[derive(Debug)]
pub struct MultiByte {
    name: &'static str,
    encoding: &'static encoding_rs::Encoding,
    /// How many bytes the character at the front has; 0 if there is none.
    len: fn(&[u8]) -> usize,
    /// Codes with another character than the encoding's, ascending.
    others: &'static [(u32, u16)],
    /// Ranges of codes that have no character.
    none: &'static [(u32, u32)],
    /// `eucjpms` and `ujis` have user-defined characters from row 0xF5 on.
    user_defined: bool,
}

pub(super) static BIG5: MultiByte = MultiByte {
    name: "big5",
    encoding: encoding_rs::BIG5,
    len: |b| pair(b, |h, t| matches!((h, t), (0xa1..=0xf9, 0x40..=0x7e | 0xa1..=0xfe))),
    others: t::BIG5_OTHERS,
    none: t::BIG5_NONE,
    user_defined: false,
};
pub(super) static GB2312: MultiByte = MultiByte {
    name: "gb2312",
    encoding: encoding_rs::GBK,
    len: |b| pair(b, |h, t| matches!((h, t), (0xa1..=0xf7, 0xa1..=0xfe))),
    others: t::GB2312_OTHERS,
    none: t::GB2312_NONE,
    user_defined: false,
};
pub(super) static GBK: MultiByte = MultiByte {
    name: "gbk",
    encoding: encoding_rs::GBK,
    len: |b| pair(b, |h, t| matches!((h, t), (0x81..=0xfe, 0x40..=0x7e | 0x80..=0xfe))),
    others: &[],
    none: t::GBK_NONE,
    user_defined: false,
};
pub(super) static GB18030: MultiByte = MultiByte {
    name: "gb18030",
    encoding: encoding_rs::GB18030,
    len: |b| match b {
        [0x81..=0xfe, 0x30..=0x39, 0x81..=0xfe, 0x30..=0x39, ..] => 4,
        _ => pair(b, |h, t| matches!((h, t), (0x81..=0xfe, 0x40..=0x7e | 0x80..=0xfe))),
    },
    others: t::GB18030_OTHERS,
    none: &[],
    user_defined: false,
};
pub(super) static SJIS: MultiByte = MultiByte {
    name: "sjis",
    encoding: encoding_rs::SHIFT_JIS,
    len: shift_jis_len,
    others: t::SJIS_OTHERS,
    none: t::SJIS_NONE,
    user_defined: false,
};
pub(super) static CP932: MultiByte = MultiByte {
    name: "cp932",
    encoding: encoding_rs::SHIFT_JIS,
    len: shift_jis_len,
    others: &[],
    none: &[],
    user_defined: false,
};
pub(super) static UJIS: MultiByte = MultiByte {
    name: "ujis",
    encoding: encoding_rs::EUC_JP,
    len: euc_jp_len,
    others: t::UJIS_OTHERS,
    none: t::UJIS_NONE,
    user_defined: true,
};
pub(super) static EUCJPMS: MultiByte = MultiByte {
    name: "eucjpms",
    encoding: encoding_rs::EUC_JP,
    len: euc_jp_len,
    others: t::EUCJPMS_OTHERS,
    none: &[],
    user_defined: true,
};
pub(super) static EUCKR: MultiByte = MultiByte {
    name: "euckr",
    encoding: encoding_rs::EUC_KR,
    len: |b| pair(b, |h, t| matches!((h, t), (0x81..=0xfe, 0x41..=0x5a | 0x61..=0x7a | 0x81..=0xfe))),
    others: &[],
    none: &[],
    user_defined: false,
};

/// There is one of each name.
impl PartialEq for MultiByte {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for MultiByte {}

impl std::hash::Hash for MultiByte {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn pair(bytes: &[u8], is_character: fn(u8, u8) -> bool) -> usize {
    match *bytes {
        [head, tail, ..] if is_character(head, tail) => 2,
        _ => 0,
    }
}

fn shift_jis_len(bytes: &[u8]) -> usize {
    match bytes {
        // Half-width katakana.
        [0xa1..=0xdf, ..] => 1,
        [0x81..=0x9f | 0xe0..=0xfc, 0x40..=0x7e | 0x80..=0xfc, ..] => 2,
        _ => 0,
    }
}

fn euc_jp_len(bytes: &[u8]) -> usize {
    match bytes {
        [0x8e, 0xa0..=0xdf, ..] | [0xa1..=0xfe, 0xa1..=0xfe, ..] => 2,
        [0x8f, 0xa1..=0xfe, 0xa1..=0xfe, ..] => 3,
        _ => 0,
    }
}

impl MultiByte {
    /// The name in `information_schema`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Appends `bytes` as UTF-8; false, and some of it may be appended, if one is no character.
    pub(super) fn append(&self, mut bytes: &[u8], out: &mut Vec<u8>) -> bool {
        loop {
            let ascii = bytes.iter().take_while(|b| b.is_ascii()).count();
            let (plain, rest) = bytes.split_at(ascii);
            out.extend_from_slice(plain);
            if rest.is_empty() {
                return true;
            }
            let Some((character, rest)) = rest.split_at_checked((self.len)(rest)) else { return false };
            if character.is_empty() || !self.character(character, out) {
                return false;
            }
            bytes = rest;
        }
    }

    fn character(&self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let code = bytes.iter().fold(0_u32, |n, &b| n << 8 | u32::from(b));
        let other = match *bytes {
            [row @ 0xf5..=0xff, cell] if self.user_defined => Some(user_defined(0xe000, row, cell)),
            [0x8f, row @ 0xf5..=0xff, cell] if self.user_defined => Some(user_defined(0xe3ac, row, cell)),
            _ => {
                let found = self.others.binary_search_by_key(&code, |&(code, _)| code).ok();
                found.and_then(|i| self.others.get(i)).map(|&(_, c)| u32::from(c))
            }
        };
        if let Some(c) = other.and_then(char::from_u32) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return true;
        }
        if self.none.iter().any(|&(first, last)| (first..=last).contains(&code)) {
            return false;
        }
        let mut text = [0; 16];
        let mut decoder = self.encoding.new_decoder_without_bom_handling();
        let (result, read, written) = decoder.decode_to_utf8_without_replacement(bytes, &mut text, true);
        let done = result == encoding_rs::DecoderResult::InputEmpty && read == bytes.len();
        match text.get(..written) {
            Some(text) if done => out.extend_from_slice(text),
            _ => return false,
        }
        true
    }
}

/// A character of the private use area: 94 to a row.
fn user_defined(base: u32, row: u8, cell: u8) -> u32 {
    base + u32::from(row - 0xf5) * 94 + u32::from(cell.saturating_sub(0xa1))
}
