//! What a strategy's steps hand on to each other, by way of the client. Public in the signatures of [`Strategy`](super::Strategy), whose
//! steps nobody else can call, and not to be named outside.

use rowbust_protocol::lease::Token;

use crate::{commands::Cached, lock::Guard, source::ReadSource};

/// What a first look at a key gave.
#[derive(Debug)]
pub enum Lookup {
    /// To be handed out.
    Hit(Found),
    /// May be handed out, and should be loaded anew by whoever gets the turn.
    Early(Found),
    /// Nothing.
    Miss,
}

/// What a key held.
#[derive(Debug)]
pub struct Found(pub(crate) Cached);

/// What a reader may do after a miss.
#[derive(Debug)]
pub enum Acquired {
    /// It was filled meanwhile.
    Hit(Found),
    /// Load, and fill with this.
    Turn(Ticket),
    /// Load, and don't fill.
    Busy,
}

/// The right to fill.
#[derive(Debug)]
pub struct Ticket {
    pub(super) right: Right,
    /// Where the load may read, if that was told with the right.
    source: Option<ReadSource>,
}

#[derive(Debug)]
pub(crate) enum Right {
    /// Anybody's.
    Plain,
    /// A lease at the key.
    Lease(Token),
    /// A lease before the key's value.
    Early(Token),
    /// A lock beside the key, and whether its fence is checked.
    Lock(Guard, bool),
    /// A rebuild lock beside the key.
    Rebuild(String, Token),
}

impl Ticket {
    pub(crate) fn new(right: Right) -> Self {
        Self { right, source: None }
    }

    pub(crate) fn plain() -> Self {
        Self::new(Right::Plain)
    }

    /// What was asked for *behind* the right, never before it.
    pub(crate) fn reading_from(self, source: Option<ReadSource>) -> Self {
        Self { source, ..self }
    }

    pub(crate) fn take_source(&mut self) -> Option<ReadSource> {
        self.source.take()
    }
}

/// Held from before an update until after it.
#[derive(Debug, Default)]
pub struct Prepared {
    pub(crate) locks: Vec<Guard>,
    pub(crate) owed: Vec<Vec<u8>>,
}
