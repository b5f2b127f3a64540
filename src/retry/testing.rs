//! A handler by script, for the tests of both queues.
#![allow(clippy::unwrap_used)]

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Handler, Record, Verdict};

/// Answers by the script of a key's name, and notes each call. `down` holds for the target `main`.
#[derive(Default)]
pub(super) struct Script {
    pub(super) calls: Mutex<Vec<(String, u32, u64)>>,
    pub(super) down: AtomicBool,
    pub(super) up: tokio::sync::Notify,
    pub(super) asked: AtomicBool,
    pub(super) visible: AtomicBool,
    pub(super) stuck: AtomicBool,
}

impl Script {
    pub(super) fn count(&self, key: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(k, _, _)| k == key).count()
    }
}

impl Handler for Script {
    fn remove<'a>(
        &'a self,
        records: &'a [Record],
    ) -> Pin<Box<dyn Future<Output = Vec<Verdict>> + Send + 'a>> {
        Box::pin(async move {
            if records.iter().any(|record| record.key == b"stuck") {
                self.stuck.store(true, Ordering::Release);
                std::future::pending::<()>().await;
            }
            let verdict = |record: &Record| {
                let key = String::from_utf8(record.key.clone()).unwrap();
                self.calls.lock().unwrap().push((key.clone(), record.attempt, record.not_before_ms));
                if record.target == "main" && self.down.load(Ordering::Acquire) {
                    Verdict::TargetError("LOADING".into())
                } else if key.starts_with("bad") {
                    Verdict::KeyError("WRONGTYPE Operation against a key".into())
                } else if key.starts_with("soon") && !self.visible.load(Ordering::Acquire) {
                    Verdict::NotYet
                } else {
                    Verdict::Done
                }
            };
            records.iter().map(verdict).collect()
        })
    }

    fn ready<'a>(&'a self, target: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            self.asked.store(true, Ordering::Release);
            while target == "main" && self.down.load(Ordering::Acquire) {
                self.up.notified().await;
            }
        })
    }

    fn targets(&self) -> Vec<String> {
        vec!["main".into(), "other".into()]
    }
}

pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
