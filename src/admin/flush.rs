//! `POST /flush`, `GET /flush`, `POST /flush/cancel`: keyspaces that somebody wants gone.
//!
//! Guarantees: one at a time; only keys that a mapping can make. As with every flush a second pass comes once what was committed before
//! the first is visible everywhere and the fill grace is over, unless it was already. May depend on `invalidate`, `flush` and the state.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, extract,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::{
    Hub,
    error::{ApiError, Body},
    status::Status,
};
use crate::{
    checkpoint,
    config::{Config, KeyOp, KeyRule, Mapping, SecondRemoval},
    flush::{FlushStats, Plan, unflushable},
    invalidate::{flush::Keyspaces, sweep::Sweeper, target::Target},
    source::position::CommitSpan,
};

/// The one that runs, or ran last.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<Option<Arc<Job>>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Job {
    number: u64,
    asked: Asked,
    tables: Vec<String>,
    began: Instant,
    /// By target.
    stats: Vec<(String, Arc<FlushStats>)>,
    state: Mutex<State>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Waiting,
    Second,
    Done(Instant),
    Cancelled(Instant),
}

impl Job {
    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), State::Done(_) | State::Cancelled(_))
    }

    /// Unless it is over: a pass that ends while it is cancelled doesn't bring it back. Says whether it wasn't.
    fn set(&self, next: State) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = !matches!(*state, State::Done(_) | State::Cancelled(_));
        if goes_on {
            *state = next;
        }
        goes_on
    }

    fn json(&self) -> Value {
        let state = self.state();
        let (name, until) = match state {
            State::First => ("first pass", None),
            State::Waiting => ("waiting for visibility", None),
            State::Second => ("second pass", None),
            State::Done(at) => ("done", Some(at)),
            State::Cancelled(at) => ("cancelled", Some(at)),
        };
        let seconds = until.map_or_else(|| self.began.elapsed(), |until| until - self.began).as_secs_f64();
        let targets: Vec<Value> = self
            .stats
            .iter()
            .map(|(name, stats)| {
                let (removed, scanned) = stats.counts();
                let running = stats.snapshot().running;
                json!({
                    "name": name,
                    "removed": removed,
                    "scanned": scanned,
                    "to_scan": running.as_ref().and_then(|running| running.to_scan),
                    "scanned_before": running.as_ref().map(|running| running.scanned_before),
                    "held_by": running.and_then(|running| running.held_by),
                })
            })
            .collect();
        json!({
            "number": self.number,
            "state": name,
            "over": self.is_over(),
            "dry_run": self.asked.dry_run,
            "table": self.asked.table,
            "key": self.asked.key,
            "tables": self.tables,
            "seconds": seconds,
            "targets": targets,
        })
    }
}

/// What to flush.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    table: Option<String>,
    key: Option<String>,
    all: bool,
    dry_run: bool,
}

/// What is removed, by target.
type Plans = Vec<(usize, Plan)>;

/// What a flush of this table, this key, or everything, does: also for the command line without a daemon.
///
/// # Errors
/// A stable code, what is wrong, what to do.
pub fn plans(
    config: &Config,
    table: Option<&str>,
    key: Option<&str>,
    all: bool,
) -> Result<(Plans, Vec<String>), (&'static str, String, String)> {
    let chosen: Vec<usize> = match (table, key, all) {
        (Some(table), None, false) => {
            let Some((schema, name)) = table.split_once('.') else {
                let help = "write DB.TABLE, as in the mapping or as the database has it";
                return Err(("flush.table", format!("`{table}` is no table"), help.into()));
            };
            let takes = |at: &usize| {
                config.mappings.get(*at).is_some_and(|mapping| {
                    mapping.table == table
                        || mapping.schema_glob.is_match(schema) && mapping.table_glob.is_match(name)
                })
            };
            (0..config.mappings.len()).filter(takes).collect()
        }
        (None, Some(key), false) => {
            let makes = |at: &usize| {
                config.mappings.get(*at).is_some_and(|mapping| {
                    mapping.keys.iter().any(|rule| match rule.op {
                        KeyOp::Prefix { .. } => rule.key.could_begin(key.as_bytes()),
                        _ => rule.key.could_make(key.as_bytes()),
                    })
                })
            };
            (0..config.mappings.len()).filter(makes).collect()
        }
        (None, None, true) => (0..config.mappings.len()).collect(),
        _ => {
            let help = "say `table`, `key`, or `all`";
            return Err(("flush.what", "not exactly one of table, key and all".into(), help.into()));
        }
    };
    if chosen.is_empty() {
        let what = table.or(key).unwrap_or_default();
        return Err((
            "flush.unmapped",
            format!("no mapping makes keys of `{what}`"),
            "`rowbust check` lists the mappings; what none of them makes is never removed".into(),
        ));
    }
    let mappings = || chosen.iter().filter_map(|at| config.mappings.get(*at));
    if key.is_none()
        && let Some((mapping, rule)) = mappings().find_map(|m| unflushable(m).map(|rule| (m, rule)))
    {
        return Err((
            "flush.endless",
            format!(
                "the keys of {} can't be flushed, for `{}` (line {}) begins with a column and may be any key",
                mapping.table,
                rule.key.source(),
                rule.line
            ),
            "begin the key with a text of its own, such as \"product:{id}\"; or remove its keys by hand"
                .into(),
        ));
    }
    let mut plans = Plans::new();
    for target in 0..config.redis.len() {
        if !mappings().any(|mapping| mapping.target == target) {
            continue;
        }
        let plan = match key {
            Some(key) => one_key(key.as_bytes(), mappings().filter(|mapping| mapping.target == target)),
            None => Plan::new(mappings().filter(|mapping| mapping.target == target)),
        };
        plans.push((target, plan));
    }
    Ok((plans, mappings().map(|mapping| mapping.table.clone()).collect()))
}

/// A set of keys is left to its members: without it nobody knows them.
fn one_key<'a>(key: &[u8], mut mappings: impl Iterator<Item = &'a Mapping>) -> Plan {
    let is_set = mappings.any(|mapping| {
        let of_set = |rule: &&KeyRule| matches!(rule.op, KeyOp::MembersOf { .. });
        mapping.keys.iter().filter(of_set).any(|rule| rule.key.could_make(key))
    });
    let key = vec![key.to_vec()];
    let (keys, sets) = if is_set { (Vec::new(), key) } else { (key, Vec::new()) };
    Plan { keys, sets, hashes: Vec::new(), scans: Vec::new() }
}

pub(super) async fn state(extract::State(hub): extract::State<Hub>) -> Json<Value> {
    let job = hub.0.flushes.lock().as_ref().map(|job| job.json());
    Json(json!({ "schema_version": 1, "flush": job }))
}

pub(super) async fn cancel(extract::State(hub): extract::State<Hub>) -> Response {
    let job = hub.0.flushes.lock().clone();
    match job.filter(|job| !job.is_over()) {
        None => {
            ApiError::conflict("flush.none", "no flush runs", "GET /flush shows the last one").into_response()
        }
        Some(job) => {
            if job.set(State::Cancelled(Instant::now())) {
                tracing::warn!(number = job.number, "flush cancelled");
            }
            if let Some(task) = job.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
                task.abort();
            }
            Json(json!({ "schema_version": 1, "flush": job.json() })).into_response()
        }
    }
}

pub(super) async fn start(extract::State(hub): extract::State<Hub>, Body(asked): Body<Asked>) -> Response {
    let status = hub.status();
    let found = plans(&status.config, asked.table.as_deref(), asked.key.as_deref(), asked.all);
    let (plans, tables) = match found {
        Ok(found) => found,
        Err((code, message, help)) => return ApiError::bad(code, message, help).into_response(),
    };
    let job = {
        let mut last = hub.0.flushes.lock();
        if last.as_ref().is_some_and(|job| !job.is_over()) {
            let help = "wait for it (GET /flush), or POST /flush/cancel";
            return ApiError::conflict("flush.busy", "another flush runs", help).into_response();
        }
        let name =
            |at: &usize| status.targets.get(*at).map_or_else(String::new, |target| target.name().to_owned());
        let job = Arc::new(Job {
            number: last.as_ref().map_or(1, |job| job.number + 1),
            tables,
            began: Instant::now(),
            stats: plans.iter().map(|(target, _)| (name(target), Arc::default())).collect(),
            state: Mutex::new(State::First),
            task: Mutex::new(None),
            asked,
        });
        *last = Some(Arc::clone(&job));
        job
    };
    tracing::warn!(number = job.number, table = ?job.asked.table, all = job.asked.all, dry_run = job.asked.dry_run, "flush by request");
    {
        // Held, so that who cancels finds the task.
        let mut handle = job.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !job.is_over() {
            let task = tokio::spawn(run(hub.clone(), status, Arc::clone(&job), plans));
            *handle = Some(task.abort_handle());
        }
    }
    Json(json!({ "schema_version": 1, "flush": job.json() })).into_response()
}

/// A task that ends before its job does has failed, or was cancelled: another flush may begin.
struct Ended(Arc<Job>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set(State::Cancelled(Instant::now()));
    }
}

async fn run(hub: Hub, status: Arc<Status>, job: Arc<Job>, plans: Plans) {
    let _ended = Ended(Arc::clone(&job));
    let dry_run = job.asked.dry_run;
    // What is committed until now, as far as it was followed: the readers' view may be older.
    let saved = status.checkpoint.snapshot().saved;
    let span = saved
        .and_then(|saved| checkpoint::position(&saved).ok())
        .map(|position| CommitSpan::of_position(&position));
    let grace = longest_grace(&status.config);
    let first = Instant::now();
    pass(&status, &job, &plans).await;
    if !dry_run && let Some(span) = span {
        job.set(State::Waiting);
        let visible = loop {
            // Another life has another watermark.
            let mut watermark = hub.status().watermark.clone();
            match watermark.visible_since(&span) {
                Some(since) => break since,
                None => {
                    watermark.demand();
                    let _ = tokio::time::timeout(Duration::from_secs(1), watermark.changed()).await;
                }
            }
        };
        if visible + grace > first {
            tokio::time::sleep_until((visible + grace).into()).await;
            job.set(State::Second);
            pass(&hub.status(), &job, &plans).await;
        }
    }
    job.set(State::Done(Instant::now()));
}

fn longest_grace(config: &Config) -> Duration {
    let graces = config.mappings.iter().map(|mapping| match mapping.second_removal {
        SecondRemoval::WhenVisible => mapping.fill_grace,
        SecondRemoval::After(delay) => delay,
        SecondRemoval::Never => Duration::ZERO,
    });
    graces.max().unwrap_or_default()
}

async fn pass(status: &Status, job: &Job, plans: &Plans) {
    let sweeps = plans.iter().zip(&job.stats).filter_map(|((_, plan), (name, stats))| {
        let at = status.targets.iter().position(|target| target.name() == name)?;
        let target = status.targets.get(at)?;
        Some(sweep(target, at, &status.config, stats, plan, job.tables.clone(), job.asked.dry_run))
    });
    futures_util::future::join_all(sweeps).await;
}

/// One pass over a target, the one at `at` in the config.
pub async fn sweep(
    target: &Arc<Target>,
    at: usize,
    config: &Config,
    stats: &Arc<FlushStats>,
    plan: &Plan,
    tables: Vec<String>,
    dry_run: bool,
) {
    let sweeper = Sweeper::new(Arc::clone(target), at, config);
    let per_second = config.limits.flush_keys_per_second;
    let keyspaces = Keyspaces::new(Arc::clone(target), per_second, Arc::clone(stats), sweeper);
    let keyspaces = if dry_run { keyspaces.only_counting() } else { keyspaces };
    keyspaces.run(plan, tables, vec!["request".into()]).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_over_stays_over() {
        let job = || {
            Arc::new(Job {
                number: 1,
                asked: Asked::default(),
                tables: Vec::new(),
                began: Instant::now(),
                stats: Vec::new(),
                state: Mutex::new(State::First),
                task: Mutex::new(None),
            })
        };
        // The pass ends while it is cancelled.
        let cancelled = job();
        assert!(cancelled.set(State::Waiting) && cancelled.set(State::Cancelled(Instant::now())));
        assert!(!cancelled.set(State::Second) && !cancelled.set(State::Done(Instant::now())));
        assert!(matches!(cancelled.state(), State::Cancelled(_)));
        // A task that fails leaves nothing that the next flush would wait for; one that is done is done.
        let (failed, done) = (job(), job());
        done.set(State::Done(Instant::now()));
        for job in [&failed, &done] {
            drop(Ended(Arc::clone(job)));
        }
        assert!(matches!(failed.state(), State::Cancelled(_)) && matches!(done.state(), State::Done(_)));
    }

    #[test]
    fn what_is_asked_for_is_found_or_refused() {
        let text = r#"
source: { url: "mysql://u@h" }
redis: { main: "redis://h", other: "redis://h" }
mappings:
  - { table: shop.products, keys: ["product:{id}"], to: main }
  - { table: "shop_*.products", keys: ["p:{id}"], to: other }
  - { table: shop.odd, keys: ["{id}"], to: main }
"#;
        let config = crate::config::parse(text, Path::new("/x/y.yaml"), &|_| None).unwrap();
        let code = |table, key, all| plans(&config, table, key, all).map_or_else(|e| e.0, |_| "ok");
        assert_eq!(code(Some("shop.products"), None, false), "ok");
        assert_eq!(code(Some("shop_7.products"), None, false), "ok");
        assert_eq!(code(Some("shop_*.products"), None, false), "ok");
        assert_eq!(code(Some("shop.none"), None, false), "flush.unmapped");
        assert_eq!(code(Some("products"), None, false), "flush.table");
        assert_eq!(code(Some("shop.odd"), None, false), "flush.endless");
        assert_eq!(code(None, None, true), "flush.endless");
        assert_eq!(code(None, None, false), "flush.what");
        assert_eq!(code(Some("shop.products"), Some("k"), false), "flush.what");
        let (found, _) = plans(&config, None, Some("p:7"), false).unwrap();
        // Not `{id}`: a value's colon is escaped.
        assert_eq!(found.iter().map(|(target, _)| *target).collect::<Vec<_>>(), [1]);
        assert_eq!(found[0].1.keys, [b"p:7".to_vec()]);
        let (found, tables) = plans(&config, Some("shop_*.products"), None, false).unwrap();
        assert_eq!((found.len(), found[0].0, found[0].1.scans.len()), (1, 1, 1));
        assert_eq!(tables, ["shop_*.products"]);
    }
}
