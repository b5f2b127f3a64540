#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::config;

fn named(checkpoint: &str) -> String {
    let text = format!(
        "source: {{ url: \"mysql://u@db1\" }}\nredis: {{ main: \"redis://cache\" }}\n{checkpoint}\nmappings: [{{ table: a.b, keys: [\"k\"] }}]\n"
    );
    name(&config::parse(&text, Path::new("/etc/rowbust.yaml"), &|_| None).unwrap())
}

#[test]
fn a_lock_is_named_by_the_checkpoint() {
    assert_eq!(named("checkpoint: { redis: main }"), "rowbust:redis:db1:3306");
    assert_eq!(named("checkpoint: { redis: main, name: shop }"), "rowbust:redis:shop");
    let long = named(&format!("checkpoint: {{ redis: main, name: {} }}", "x".repeat(100)));
    assert!(long.len() <= LONGEST_NAME && long.starts_with("rowbust:redis:"), "{long}");
    let dir = tempfile::tempdir().unwrap();
    let file = |name| named(&format!("checkpoint: {{ path: {}/{name} }}", dir.path().display()));
    let (one, other) = (file("one"), file("other"));
    assert!(one.starts_with("rowbust:file:") && one != other && one.len() <= LONGEST_NAME, "{one} {other}");
    assert_eq!(one, file("one"));
}

#[tokio::test(start_paused = true)]
async fn a_gate_is_open_only_while_the_lease_was_heard_of() {
    let (heard, gate) = watch::channel(Some(Instant::now()));
    let gate = Gate(gate);
    assert!(gate.is_open());
    tokio::time::advance(TTL).await;
    assert!(!gate.is_open(), "nothing was heard for as long as the server waits");
    let waits = tokio::spawn({
        let gate = gate.clone();
        async move { gate.open().await }
    });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    heard.send_replace(Some(Instant::now()));
    waits.await.unwrap();
    heard.send_replace(None);
    assert!(!gate.is_open());
}
