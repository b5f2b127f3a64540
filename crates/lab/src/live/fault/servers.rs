//! Faults of the database.

use std::time::Duration;

use super::{Scene, Striking};
use crate::live::LiveError;

/// How long commits wait, and how long they don't between two such times.
const WITHHELD: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(250));
/// How long a replica stands, and how long it doesn't. Another period: side by side, the two come together now and apart then.
const STANDS: (Duration, Duration) = (Duration::from_millis(550), Duration::from_millis(300));

pub(super) async fn visibility_window(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    let (held, free) = WITHHELD;
    loop {
        let from = scene.clock.now();
        scene.world.withhold(true).await?;
        let goes_on = scene.pause(held).await;
        let waiting = scene.world.withheld().await;
        scene.world.withhold(false).await?;
        this.struck(waiting?);
        this.window(from, scene.clock.now());
        if !goes_on || !scene.pause(free).await {
            return Ok(());
        }
    }
}

pub(super) async fn replica_lag(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    let (held, free) = STANDS;
    loop {
        let from = scene.clock.now();
        scene.world.hold_replica(true).await?;
        let goes_on = scene.pause(held).await;
        scene.world.hold_replica(false).await?;
        this.window(from, scene.clock.now());
        if !goes_on || !scene.pause(free).await {
            return Ok(());
        }
    }
}
