//! The optional metadata behind a table map.
