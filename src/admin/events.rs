//! `GET /events`: what happens, as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! Guarantees: bounded for each client and for all ([`CLIENTS`]); one that doesn't keep up is told and dropped, one that doesn't read
//! at all loses its connection, and so does one that may no longer see keys. While nobody listens nothing is computed and nobody asked. May depend on `journal`, `recent`,
//! `source::behind` and the state.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{FutureExt as _, stream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Hub, access::Need, error::ApiError, status::Status};
use crate::{
    journal::{BUCKETS, Counts, Latency, Listener, Quantiles},
    recent,
    source::{
        behind::{Behind, Logs},
        connect::Connector,
    },
};

/// Clients at once.
pub(super) const CLIENTS: usize = 16;

/// Time between two `rates`.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn events(State(hub): State<Hub>, headers: HeaderMap) -> Response {
    let status = hub.status();
    let Some(listener) = status.control.journal.feed().listen(CLIENTS) else {
        return ApiError::unavailable(
            "events.full",
            format!("{CLIENTS} clients listen already"),
            "close one of them, or ask /status now and then",
        )
        .into_response();
    };
    let rights = Rights::new(hub, headers).await;
    let keys = rights.keys;
    let hello = json!({
        "schema_version": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "keys": keys,
        "interval_seconds": EVERY.as_secs_f64(),
    });
    let state = Client { listener, rights, hello: Some(hello), dropped: false };
    let stream = stream::unfold(state, |mut client| async {
        let event = client.next().await?;
        Some((Ok::<_, Infallible>(event), client))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

/// Whether a client may see keys.
struct Rights {
    hub: Hub,
    headers: HeaderMap,
    keys: bool,
    /// Under which config, and when, it was looked at.
    checked: (Weak<Status>, Instant),
}

impl Rights {
    async fn new(hub: Hub, headers: HeaderMap) -> Self {
        let checked = (Arc::downgrade(&hub.status()), Instant::now());
        let keys = hub.access().check(Need::Keys, &headers).await.is_ok();
        Self { hub, headers, keys, checked }
    }

    /// Whether what was given still holds: asked again under a new config, and each second, for a token's file may be another one.
    async fn hold(&mut self) -> bool {
        let now = Arc::downgrade(&self.hub.status());
        let (of, at) = &self.checked;
        if !self.keys || (of.ptr_eq(&now) && at.elapsed() < EVERY) {
            return true;
        }
        self.checked = (now, Instant::now());
        self.hub.access().check(Need::Keys, &self.headers).await.is_ok()
    }
}

struct Client {
    listener: Listener,
    rights: Rights,
    hello: Option<Value>,
    dropped: bool,
}

impl Client {
    async fn next(&mut self) -> Option<Event> {
        if self.dropped {
            return None;
        }
        if let Some(hello) = self.hello.take() {
            return Some(event("hello", &hello));
        }
        loop {
            let next = self.listener.next().await?;
            if !self.rights.hold().await {
                // It may ask again, and is told what it may see then.
                return None;
            }
            match next {
                Ok(said) if said.has_keys && !self.rights.keys => {}
                Ok(said) => return Some(event(said.kind, &said.data)),
                Err(missed) => {
                    self.dropped = true;
                    return Some(event("dropped", &json!({ "missed": missed })));
                }
            }
        }
    }
}

fn event(kind: &str, data: &Value) -> Event {
    // JSON has no line breaks but escaped ones.
    Event::default().event(kind).data(data.to_string())
}

/// Tells listeners once a second what has happened since.
pub(super) async fn tell(hub: Hub) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<Seen> = None;
    let mut newest = Newest::default();
    loop {
        tick.tick().await;
        let status = hub.status();
        let feed = status.control.journal.feed();
        if !feed.is_heard() {
            (before, newest) = (None, Newest::default());
            continue;
        }
        newest.ask(&status);
        let now = Seen::new(&status);
        if let Some(before) = &before {
            for line in recent::since(before.newest_line) {
                // Values may be keys.
                feed.say("log", line.json(false), false);
            }
            now.changes(before, |kind, data| feed.say(kind, data, false));
            feed.say("rates", now.rates(before, &status, newest.behind(&status)), false);
        }
        before = Some(now);
    }
}

/// Time between two looks at how far the server's log reaches.
const LOOK: Duration = Duration::from_secs(3);

/// Where the server's log ends, as it was said last.
#[derive(Default)]
struct Newest {
    logs: Option<Logs>,
    asked: Option<Instant>,
    asking: Option<JoinHandle<Option<Logs>>>,
}

impl Newest {
    /// Takes the answer if it is there, and asks again if it is time to.
    fn ask(&mut self, status: &Status) {
        if let Some(asking) = &mut self.asking {
            let Some(answered) = asking.now_or_never() else { return };
            (self.logs, self.asking) = (answered.ok().flatten(), None);
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= LOOK) {
            let connector = Connector::new(&status.config.source);
            self.asked = Some(Instant::now());
            // The follower says itself why the server can't be asked.
            self.asking = Some(tokio::spawn(async move { Logs::sample(&connector).await.ok() }));
        }
    }

    fn behind(&self, status: &Status) -> Option<Behind> {
        let saved = status.checkpoint.snapshot().saved?;
        self.logs.as_ref()?.behind(&saved.file, saved.position)
    }
}

impl Drop for Newest {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

/// What is counted, at one moment.
struct Seen {
    at: Instant,
    newest_line: u64,
    /// Name, value.
    counts: [(&'static str, u64); 6],
    targets: BTreeMap<String, Target>,
    held: bool,
    connected: bool,
}

struct Target {
    counts: Counts,
    breaker: Option<String>,
    opened: u64,
    receipt: [u64; BUCKETS],
    commit: [u64; BUCKETS],
}

impl Seen {
    fn new(status: &Status) -> Self {
        let targets = status.targets.iter().map(|target| {
            let journal = status.control.journal.target(target.name());
            let seen = Target {
                counts: journal.counts(),
                breaker: target.breaker.since().map(|(_, code)| code),
                opened: target.breaker.times_opened(),
                receipt: journal.receipt().counts(),
                commit: journal.commit().counts(),
            };
            (target.name().to_owned(), seen)
        });
        Self {
            at: Instant::now(),
            newest_line: recent::newest(),
            counts: [
                ("events", status.source.events()),
                ("bytes", status.source.bytes()),
                ("transactions", status.source.transactions()),
                ("rows", status.route.rows.load(Relaxed)),
                ("keys", status.route.keys.load(Relaxed)),
                ("dead_letters", status.queue.stats().dead),
            ],
            targets: targets.collect(),
            held: status.control.pause.is_held(),
            connected: status.source.is_connected(),
        }
    }

    fn changes(&self, before: &Self, mut say: impl FnMut(&'static str, Value)) {
        for (name, target) in &self.targets {
            let Some(was) = before.targets.get(name) else { continue };
            if target.opened != was.opened || target.breaker.is_some() != was.breaker.is_some() {
                let state = if target.breaker.is_some() { "open" } else { "closed" };
                say(
                    "breaker",
                    json!({ "target": name, "breaker": state, "error": target.breaker, "times_opened": target.opened }),
                );
            }
        }
        if self.held != before.held {
            say("paused", json!({ "paused": self.held }));
        }
        if self.connected != before.connected {
            say("source", json!({ "connected": self.connected }));
        }
    }

    fn rates(&self, before: &Self, status: &Status, behind: Option<Behind>) -> Value {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        // A daemon that began anew counts from 0 again.
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let counts = self.counts.iter().zip(&before.counts);
        let per_second: serde_json::Map<_, _> =
            counts.map(|((name, now), (_, then))| ((*name).to_owned(), rate(*now, *then).into())).collect();
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|(name, now)| {
                let none = Counts::default();
                let was = before.targets.get(name);
                let then = was.map_or(none, |was| was.counts);
                let latency = |now: &[u64; BUCKETS], then: Option<&[u64; BUCKETS]>| {
                    Latency::between(then.unwrap_or(&[0; BUCKETS]), now).map(seconds_of)
                };
                json!({
                    "name": name,
                    "breaker": if now.breaker.is_some() { "open" } else { "closed" },
                    "error": now.breaker,
                    "per_second": {
                        "first": rate(now.counts.first, then.first),
                        "last": rate(now.counts.last, then.last),
                        "queued": rate(now.counts.queued, then.queued),
                        "retried": rate(now.counts.retried, then.retried),
                    },
                    "receipt_to_removal_seconds": latency(&now.receipt, was.map(|was| &was.receipt)),
                    "commit_to_removal_seconds": latency(&now.commit, was.map(|was| &was.commit)),
                })
            })
            .collect();
        let queue = status.queue.stats();
        json!({
            "seconds": seconds,
            "per_second": per_second,
            "targets": targets,
            "lag_seconds": status.lag_seconds(),
            "behind": behind.map(|behind| json!({ "files": behind.files, "bytes": behind.bytes })),
            "caught_up": status.caught_up(),
            "not_ready": status.not_ready(),
            "in_flight_bytes": status.budget.used(),
            "open_segments": status.frontier.stats().open,
            "queue": { "pending": queue.pending, "oldest_seconds": queue.oldest_age.map(|age| age.as_secs_f64()) },
        })
    }
}

fn seconds_of(quantiles: Quantiles) -> Value {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 microseconds")]
    let seconds = |micros: u64| micros as f64 / 1e6;
    json!({
        "batches": quantiles.count,
        "p50": seconds(quantiles.p50),
        "p99": seconds(quantiles.p99),
        "max": seconds(quantiles.max),
    })
}
