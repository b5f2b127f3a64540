//! DECIMAL's binary form.
