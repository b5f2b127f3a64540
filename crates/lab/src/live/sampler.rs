//! Counts stale keys while a run goes on.
//!
//! Guarantees: a key is counted only if it certainly was stale when it was read: the database said the same before and after, and another
//! thing than the key.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    World,
    clock::Clock,
    db::Link,
    finals::{self, Cached},
    stage::Stage,
};
use crate::history::Nanos;

const INTERVAL: Duration = Duration::from_millis(250);

/// Until it is stopped. While a server can't be asked there is nothing.
pub(super) async fn sample(
    world: &World,
    stage: &Stage,
    clock: Clock,
    stop: &CancellationToken,
) -> Vec<(Nanos, u64)> {
    let link = Link::new(world.primary_opts());
    let mut raw = None;
    let mut samples = Vec::new();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return samples,
            _ = interval.tick() => {}
        }
        if raw.is_none() {
            raw = world.raw().await.ok();
        }
        let Some(connection) = raw.as_mut() else { continue };
        let at = clock.now();
        let looked = async {
            let before = finals::database(stage, &link).await?;
            let cached = finals::cached(stage, connection).await?;
            let after = finals::database(stage, &link).await?;
            Ok::<_, super::LiveError>((before, cached, after))
        };
        match looked.await {
            Ok((before, cached, after)) => {
                let is_stale = |(cell, cached): &(u32, Cached)| match (before.get(cell), after.get(cell)) {
                    (Some(before), Some(after)) if before == after => match cached {
                        Cached::Absent => false,
                        Cached::Value(val) => *val != before.1,
                        Cached::Null | Cached::Foreign => true,
                    },
                    _ => false,
                };
                samples.push((at, (0..).zip(cached).filter(is_stale).count() as u64));
            }
            Err(error) => {
                tracing::debug!(%error, "no sample");
                raw = None;
            }
        }
    }
}
