//! Faults of the database.

use std::time::Duration;

use super::{Scene, Striking};
use crate::live::LiveError;

/// How long commits wait, or a replica stands.
const HELD: Duration = Duration::from_millis(400);
/// Between two such times.
const FREE: Duration = Duration::from_millis(250);

pub(super) async fn visibility_window(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    loop {
        let from = scene.clock.now();
        scene.world.withhold(true).await?;
        let goes_on = scene.pause(HELD).await;
        let waiting = scene.world.withheld().await;
        scene.world.withhold(false).await?;
        this.struck(waiting?);
        this.window(from, scene.clock.now());
        if !goes_on || !scene.pause(FREE).await {
            return Ok(());
        }
    }
}

pub(super) async fn replica_lag(this: &Striking, scene: Scene<'_>) -> Result<(), LiveError> {
    loop {
        let from = scene.clock.now();
        scene.world.hold_replica(true).await?;
        let goes_on = scene.pause(HELD).await;
        scene.world.hold_replica(false).await?;
        this.window(from, scene.clock.now());
        if !goes_on || !scene.pause(FREE).await {
            return Ok(());
        }
    }
}
