//! The events of a binlog file image in memory.

use crate::error::{DecodeError, DecodeErrorKind};
use crate::header::{Header, RawEvent, event_type};

/// What every binlog file starts with.
///
/// ```
/// use rowbust_binlog::{FileEvents, file::MAGIC};
/// // A file without events.
/// assert_eq!(FileEvents::new(&MAGIC).unwrap().count(), 0);
/// ```
pub const MAGIC: [u8; 4] = *b"\xfebin";

/// What an encrypted file of MySQL starts with (`binlog_encryption`, `Rpl_encryption_header` in `sql/rpl_log_encryption.h`).
const ENCRYPTED_MAGIC: [u8; 4] = *b"\xfdbin";

/// Iterates over the events of a whole file, or of its beginning. Ends behind an error.
///
/// ```
/// use rowbust_binlog::{FileEvents, event_type};
/// let file = std::fs::read("tests/fixtures/mysql-9.7.full.binlog")?;
/// let mut events = FileEvents::new(&file)?;
/// let first = events.next().ok_or("no event")??;
/// assert_eq!(first.header.event_type, event_type::FORMAT_DESCRIPTION);
/// // Where `mysqlbinlog` says that the second one is.
/// assert_eq!(events.position(), u64::from(first.header.log_pos));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct FileEvents<'a> {
    file: &'a [u8],
    rest: &'a [u8],
    checksummed: bool,
}

impl<'a> FileEvents<'a> {
    /// Checks the magic number of `file`.
    ///
    /// # Errors
    /// No binlog, or [`DecodeErrorKind::Encrypted`] (MySQL; MariaDB's files say so behind their first event).
    pub fn new(file: &'a [u8]) -> Result<Self, DecodeError> {
        match file.split_first_chunk::<4>() {
            Some((magic, rest)) if *magic == MAGIC => Ok(Self { file, rest, checksummed: false }),
            Some((magic, _)) if *magic == ENCRYPTED_MAGIC => {
                Err(DecodeError::new(0, 0, DecodeErrorKind::Encrypted { position: 0 }))
            }
            _ => Err(DecodeError::new(
                0,
                0,
                DecodeErrorKind::Invalid {
                    what: "magic number",
                    got: file.first_chunk::<4>().map_or(0, |m| u32::from_be_bytes(*m).into()),
                },
            )),
        }
    }

    fn event(&mut self) -> Result<RawEvent<'a>, DecodeError> {
        let header = Header::parse(self.rest)?;
        let len = header.event_size as usize;
        let Some((bytes, rest)) = self.rest.split_at_checked(len).filter(|_| len >= Header::LEN) else {
            return Err(DecodeError::new(
                header.event_type,
                0,
                DecodeErrorKind::Truncated { what: "event", needed: len as u64, left: self.rest.len() },
            ));
        };
        let event = RawEvent::parse(bytes, self.checksummed)?;
        if header.event_type == event_type::FORMAT_DESCRIPTION {
            self.checksummed = crate::decoder::fde_enables_checksums(event.body);
        }
        if header.event_type == event_type::MARIA_START_ENCRYPTION {
            let position = (self.file.len() - rest.len()) as u64;
            let kind = DecodeErrorKind::Encrypted { position };
            return Err(DecodeError::new(header.event_type, len, kind));
        }
        self.rest = rest;
        Ok(event)
    }

    /// Offset in the file of the next event.
    pub fn position(&self) -> u64 {
        (self.file.len() - self.rest.len()) as u64
    }
}

impl<'a> Iterator for FileEvents<'a> {
    type Item = Result<RawEvent<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.event();
        if event.is_err() {
            self.rest = &[];
        }
        Some(event)
    }
}
