//! Character sets of collations, and conversion to UTF-8.
