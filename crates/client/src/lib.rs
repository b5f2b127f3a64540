//! What an application links to read and write its cache. **Nothing is here yet.**
//!
//! Planned: one interface (`get_or_load`, `get_many`, `write`, `invalidate`) and behind it the strategies of the field, each a type of
//! its own with the race that it leaves, from plain cache-aside to guarded keys, which can't keep a stale value. Until then
//! an application fills and reads its keys as it likes, and the daemon removes them: see `docs/guarantees.md` for what that gives.
//!
//! May depend on `rowbust-protocol`; never on Kafka, a MySQL driver or openssl.
