//! Packets out of a byte stream: received bytes in, whole payloads out. Pure: it reads from nowhere.
//!
//! Guarantees: however the bytes are cut when they come in, the payloads are the same; a payload is handed on where it was
//! received, and only those of [`MAX_PART`] bytes and more, which come in several packets, are moved (by the four bytes of
//! each header in between); memory follows what was received, never what a length field says, and stays within
//! [`MAX_BUFFER`]; a packet out of order is an error. May depend on nothing.
//!
//! The layout: "MySQL Packets" in the servers' documentation of the client/server protocol. Each packet has 3 bytes of length, a
//! sequence number that counts up and wraps, and the payload; one of [`MAX_PART`] bytes is continued by the next, which
//! may be empty.

use std::ops::Range;

/// Length and sequence number.
const HEADER: usize = 4;

/// The most that one packet holds: 16 MiB − 1.
pub const MAX_PART: usize = 0xff_ffff;

/// The longest payload: an event of 1 GiB (the most that `max_allowed_packet` can be), and what the server adds to it
/// (`MAX_LOG_EVENT_HEADER` in the servers' `sql/log_event.h`).
pub const MAX_PAYLOAD: usize = (1 << 30) + (64 << 10);

/// The buffer as long as no payload is larger.
pub const BUFFER: usize = 256 << 10;

/// A buffer that has grown beyond this is given back when it isn't needed any more.
const KEEP: usize = 4 << 20;

/// Bound of the buffer.
pub const MAX_BUFFER: usize = MAX_PAYLOAD + BUFFER;

/// Room for one read at most: what came behind a header in between has to be moved.
const MAX_READ: usize = 1 << 20;

/// A rest of so few bytes is moved to the front before each read, so that the same memory is used again and again.
const CHEAP_TO_MOVE: usize = 4 << 10;

/// The bytes are no packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A packet is missing, or this is something else.
    #[error("packet number {got} came in place of {expected}")]
    OutOfOrder {
        /// The number that was due.
        expected: u8,
        /// The number found.
        got: u8,
    },
    /// Longer than [`MAX_PAYLOAD`].
    #[error("a payload of {0} bytes or more")]
    TooLong(usize),
}

/// Puts payloads together.
pub struct Packets {
    /// All of it initialised.
    buffer: Vec<u8>,
    /// The payload that is being received, or the header before it.
    start: usize,
    /// End of what was received.
    end: usize,
    /// Bytes of the payload in the packets before this one.
    joined: usize,
    /// Length of the packet that is being received; `None`: its header comes next.
    part: Option<usize>,
    sequence: u8,
}

impl std::fmt::Debug for Packets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { buffer, start, end, joined, part, sequence } = self;
        write!(f, "Packets {{ {start}..{end} of {}, {joined} + {part:?}, number {sequence} }}", buffer.len())
    }
}

impl Default for Packets {
    fn default() -> Self {
        Self::new()
    }
}

impl Packets {
    /// With an empty buffer; the first packet's number is 0.
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER], start: 0, end: 0, joined: 0, part: None, sequence: 0 }
    }

    /// The number of the next packet, of either side.
    pub fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Sets the number of the next packet: 0 before a command, behind one's own packets what follows them.
    pub fn set_sequence(&mut self, sequence: u8) {
        self.sequence = sequence;
    }

    /// Nothing was received that wasn't handed on.
    pub fn is_empty(&self) -> bool {
        self.start == self.end && self.part.is_none()
    }

    /// Bytes that the buffer takes.
    pub fn footprint(&self) -> usize {
        self.buffer.len()
    }

    /// Where received bytes go to; never empty. Payloads that were handed on are void.
    pub fn space(&mut self) -> &mut [u8] {
        let held = self.end - self.start;
        let needed = self.joined + self.part.unwrap_or(0);
        if self.buffer.len() > KEEP && held.max(needed) < BUFFER / 2 {
            let mut small = vec![0; BUFFER];
            small[..held].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = small;
            (self.start, self.end) = (0, held);
        }
        if self.start > 0 && (held <= CHEAP_TO_MOVE || self.buffer.len() - self.end < BUFFER / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        if self.buffer.len() - self.end < BUFFER / 2 {
            let longer = (self.buffer.len() * 2).min(MAX_BUFFER);
            self.buffer.resize(longer.max(self.end + 1), 0);
        }
        let room = self.buffer.len().min(self.end + MAX_READ);
        &mut self.buffer[self.end..room]
    }

    /// So many bytes were put at the front of [`Packets::space`].
    pub fn received(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buffer.len());
    }

    /// The next payload, if all of it is here; for [`Packets::bytes`], until [`Packets::space`] is called again.
    ///
    /// # Errors
    /// [`PacketError`]: what was received is no packet. The connection can't be used any more.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Range<usize>>, PacketError> {
        loop {
            match self.part {
                None => {
                    let at = self.start + self.joined;
                    let Some(&[a, b, c, got]) = self.buffer[at..self.end].first_chunk::<HEADER>() else {
                        return Ok(None);
                    };
                    if got != self.sequence {
                        return Err(PacketError::OutOfOrder { expected: self.sequence, got });
                    }
                    let len = u32::from_le_bytes([a, b, c, 0]) as usize;
                    if self.joined == 0 {
                        self.start += HEADER;
                    } else {
                        self.buffer.copy_within(at + HEADER..self.end, at);
                        self.end -= HEADER;
                        if self.joined + len > MAX_PAYLOAD {
                            return Err(PacketError::TooLong(self.joined + len));
                        }
                    }
                    self.sequence = got.wrapping_add(1);
                    self.part = Some(len);
                }
                Some(len) => {
                    if self.end - self.start < self.joined + len {
                        return Ok(None);
                    }
                    self.joined += len;
                    self.part = None;
                    if len < MAX_PART {
                        let payload = self.start..self.start + self.joined;
                        self.start = payload.end;
                        self.joined = 0;
                        return Ok(Some(payload));
                    }
                }
            }
        }
    }

    /// What [`Packets::pop`] gave.
    #[inline]
    pub fn bytes(&self, payload: &Range<usize>) -> &[u8] {
        self.buffer.get(payload.clone()).unwrap_or_default()
    }
}

/// A payload as packets, numbered from `sequence` on; returns the number behind the last.
pub(in crate::source) fn frame(payload: &[u8], mut sequence: u8, out: &mut Vec<u8>) -> u8 {
    let mut rest = payload;
    loop {
        let (part, more) = rest.split_at(rest.len().min(MAX_PART));
        let [a, b, c, ..] = u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&[a, b, c, sequence]);
        out.extend_from_slice(part);
        sequence = sequence.wrapping_add(1);
        rest = more;
        if part.len() < MAX_PART {
            return sequence;
        }
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
