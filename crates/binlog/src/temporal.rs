//! Dates and times in rows.
