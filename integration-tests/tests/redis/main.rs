//! Redis in every form, and every kind of removal, under faults too.

mod faults;
mod flush;
mod modes;
mod ops;
mod ops_cluster;
mod ops_faults;
mod rollback;
mod rollback_modes;
mod targets;
