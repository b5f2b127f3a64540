//! Workloads, histories, a checker and a model for cache strategies. **Nothing is here yet.**
//!
//! Planned: `rowbust lab model | run | compare | report`, which runs every strategy of the client against real servers, and against every
//! interleaving of a model, and shows what each of them really gives.
//!
//! May depend on `rowbust-client`, `rowbust-protocol` and `rowbust-servers`.
