//! Ends, restarts and takeovers: what happens when the daemon, or the host that it runs on, goes away.

mod crash;
mod full_disk;
mod ha;
mod ha_store;
mod life;
mod reload;
mod systemd;
