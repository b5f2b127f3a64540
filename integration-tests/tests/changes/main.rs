//! What servers write into the binlog, and which keys rowbust makes of it: every kind of change, type and statement, on every server.

mod ddl;
mod differential;
mod kinds;
mod matrix;
mod matrix_large;
mod matrix_servers;
mod values;
mod xa;
