//! What the people who run it use: commands, pages, files of `deploy/` and `docs/`, and what keeps it secure.

mod chart;
mod check_live;
mod commands;
mod compose;
mod docs;
mod init;
mod monitoring;
mod page;
mod security;
mod security_inputs;
