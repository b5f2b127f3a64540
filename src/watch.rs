//! Following without doing anything: `rowbust watch` and `rowbust run --dry-run`.
//!
//! Guarantees: nothing is written, neither to Redis nor to a checkpoint, a queue, a history or the database; the account is the daemon's,
//! the server id is not, so that a running daemon is left alone. Keys are made by the code of the live path. May depend on `source`,
//! `route` and `config`.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::Arc,
};

use globset::GlobMatcher;
use rowbust_binlog::{RowKind, RowSlots, Rows, TableMap, XidBuf};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    flush,
    route::{Kind, Plans, RoutedKey, Router, Scratch, unreadable_rows},
    source::{
        self, Prepared, Refusal, Resume, Source, SourceError,
        position::{Anchor, Coordinates, Position},
    },
};

/// What is shown of what is read.
#[derive(Debug, Clone, Default)]
pub struct Only {
    /// Tables, as `schema.table`; `None`: all that are mapped.
    pub table: Option<GlobMatcher>,
    /// A key; with `*` behind it, all that begin so. `None`: every key.
    pub key: Option<String>,
}

impl Only {
    fn takes_table(&self, schema: &str, table: &str) -> bool {
        self.table.as_ref().is_none_or(|glob| glob.is_match(format!("{schema}.{table}")))
    }

    fn takes_key(&self, kind: Kind, key: &[u8]) -> bool {
        let Some(only) = &self.key else { return true };
        let (only, begins) = match only.strip_suffix('*') {
            Some(prefix) => (prefix.as_bytes(), true),
            None => (only.as_bytes(), false),
        };
        // A prefix stands for all keys that begin with it.
        (kind == Kind::Prefix && only.starts_with(key))
            || if begins { key.starts_with(only) } else { key == only }
    }
}

/// What was read, at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Transactions read to their end.
    pub transactions: u64,
    /// By table, as the log names it.
    pub tables: BTreeMap<String, Counts>,
    /// Keys by target, duplicates included.
    pub targets: BTreeMap<String, u64>,
    /// Times that whole keyspaces were to be flushed.
    pub flushes: u64,
}

/// Of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub rows: u64,
    /// Keys that they make wrong, duplicates included.
    pub keys: u64,
}

impl Summary {
    /// For `--json`.
    pub fn json(&self) -> Value {
        json!({
            "schema_version": 1,
            "type": "summary",
            "transactions": self.transactions,
            "tables": self.tables.iter().map(|(table, counts)| {
                (table.clone(), json!({ "rows": counts.rows, "keys": counts.keys }))
            }).collect::<serde_json::Map<_, _>>(),
            "targets": self.targets,
            "flushes": self.flushes,
        })
    }
}

/// Follows until `stop`. `show` gets one value per row change that is shown, and says whether it wants more. `resume`: where to begin;
/// without it at the newest place. `strict`: what the daemon would halt or flush for is no less here.
///
/// # Errors
/// See [`SourceError`].
pub async fn follow(
    config: &Config,
    resume: Option<Resume>,
    strict: bool,
    only: Only,
    stop: CancellationToken,
    show: impl FnMut(&[Value]) -> bool + Send,
) -> Result<Summary, SourceError> {
    let mut sink = Shown {
        router: Router::new(config),
        targets: config.redis.iter().map(|target| target.name.clone()).collect(),
        plans: Plans::default(),
        slots: RowSlots::new(),
        scratch: Scratch::new(),
        only,
        strict,
        gtid: None,
        commit_micros: 0,
        file: "".into(),
        prepared: HashSet::new(),
        waiting: Vec::new(),
        summary: Summary::default(),
        show,
        stop: stop.clone(),
    };
    let source = Source::new(Arc::new(config.clone()));
    source.run(resume, &mut sink, &stop, |_| {}).await?;
    sink.hand_on();
    Ok(sink.summary)
}

/// A server id of its own for a follower beside the daemon.
pub fn server_id(config: &Config) -> u32 {
    let pid = u64::from(std::process::id());
    let mixed = (config.fingerprint ^ pid.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The upper half: ids that people choose are small.
    u32::try_from(mixed >> 32).unwrap_or(u32::MAX) | 0x8000_0000
}

struct Shown<F> {
    router: Router,
    targets: Vec<String>,
    plans: Plans,
    slots: RowSlots<'static>,
    scratch: Scratch,
    only: Only,
    strict: bool,
    gtid: Option<String>,
    commit_micros: u64,
    file: Arc<str>,
    prepared: HashSet<XidBuf>,
    /// To be shown.
    waiting: Vec<Value>,
    summary: Summary,
    show: F,
    stop: CancellationToken,
}

/// Values that are handed on together, at most.
const TOGETHER: usize = 256;

impl<F: FnMut(&[Value]) -> bool> Shown<F> {
    fn hand_on(&mut self) {
        if !self.waiting.is_empty() && !(self.show)(&self.waiting) {
            self.stop.cancel();
        }
        self.waiting.clear();
    }
}

/// As mappings name it.
fn op(kind: Kind, has_field: bool) -> &'static str {
    match kind {
        Kind::Prefix => "prefix",
        Kind::MembersOf => "members_of",
        Kind::Exact if has_field => "hdel",
        Kind::Exact => "unlink",
    }
}

impl<F: FnMut(&[Value]) -> bool + Send> source::Sink for Shown<F> {
    type Error = Infallible;

    fn started(&mut self, position: &Position) {
        self.plans.clear();
        self.file = Arc::clone(&position.at.file);
    }

    fn begin(&mut self, transaction: source::Transaction<'_>) {
        self.gtid = transaction.gtid.map(|gtid| gtid.to_string());
        self.commit_micros = transaction.commit_micros;
        self.file = Arc::clone(&transaction.at.file);
    }

    fn is_mapped(&self, schema: &str, table: &str) -> bool {
        self.router.is_mapped(schema, table) && self.only.takes_table(schema, table)
    }

    fn is_schema_mapped(&self, schema: &str) -> bool {
        self.router.is_schema_mapped(schema)
    }

    fn table(&mut self, slot: usize, table: &TableMap) -> Result<(), Refusal> {
        self.plans.set(slot, &self.router, table)
    }

    fn rows(&mut self, rows: &Rows<'_>, table: &TableMap, end: u64) -> Result<(), Refusal> {
        let plan = self.plans.get(rows.slot, table)?;
        let mut slots = std::mem::take(&mut self.slots).recycle();
        let mut cursor = rows.cursor(table, plan.projection()).map_err(|e| unreadable_rows(&e, table))?;
        let name = format!("{}.{}", table.schema, table.table);
        let change = match rows.kind {
            RowKind::Write => "insert",
            RowKind::Update => "update",
            RowKind::Delete => "delete",
        };
        let mut row: u64 = 0;
        let mut counts = Counts::default();
        while cursor.next(&mut slots).map_err(|e| unreadable_rows(&e, table))? {
            let mut keys = Vec::new();
            let mut wanted = false;
            let (router, only, targets) = (&self.router, &self.only, &self.targets);
            let summary = &mut self.summary;
            plan.route(rows.kind, &slots, &mut self.scratch, &mut |key: RoutedKey<'_>| {
                let target = router.mapping(key.mapping).and_then(|mapping| targets.get(mapping.target));
                let target = target.map_or("", String::as_str);
                counts.keys += 1;
                *summary.targets.entry(target.to_owned()).or_default() += 1;
                wanted |= only.takes_key(key.kind, key.key);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                keys.push(json!({
                    "target": target,
                    "op": op(key.kind, key.field.is_some()),
                    "key": text(key.key),
                    "field": key.field.map(text),
                }));
            })
            .map_err(|error| Refusal::new("route.row", format!("row {row}: {error}"), error.help()))?;
            if wanted || (keys.is_empty() && self.only.key.is_none()) {
                self.waiting.push(json!({
                    "schema_version": 1,
                    "type": "row",
                    "table": name,
                    "change": change,
                    "gtid": self.gtid,
                    "file": *self.file,
                    "position": end,
                    "row": row,
                    "commit_ms": self.commit_micros / 1000,
                    "keys": keys,
                }));
                if self.waiting.len() >= TOGETHER && !(self.show)(&std::mem::take(&mut self.waiting)) {
                    self.stop.cancel();
                }
            }
            row += 1;
        }
        counts.rows = row;
        self.slots = slots.recycle();
        let of_table = self.summary.tables.entry(name).or_default();
        of_table.rows += counts.rows;
        of_table.keys += counts.keys;
        Ok(())
    }

    fn widen(&mut self, scope: &source::Scope, cause: &str) -> Result<(), Refusal> {
        let touched = self.router.touched(scope);
        if touched.is_empty() {
            return Ok(());
        }
        self.summary.flushes += 1;
        let tables: Vec<&str> = touched
            .iter()
            .filter_map(|at| self.router.mapping(*at))
            .map(|mapping| mapping.table.as_str())
            .collect();
        let unflushable = touched
            .iter()
            .filter_map(|at| self.router.mapping(*at).and_then(flush::unflushable))
            .map(|rule| rule.key.source().to_owned())
            .next();
        self.waiting.push(json!({
            "schema_version": 1,
            "type": "flush",
            "scope": scope.to_string(),
            "cause": cause,
            "mappings": tables,
            "gtid": self.gtid,
            "file": *self.file,
            "halts_for": unflushable,
        }));
        Ok(())
    }

    fn commit(&mut self, _end: &Coordinates, _anchor: Option<Anchor>) {
        self.summary.transactions += 1;
        self.gtid = None;
    }

    fn xa_prepared(&mut self, xid: &XidBuf) {
        // Its keys were shown with its rows.
        self.prepared.insert(xid.clone());
    }

    fn xa_finished(&mut self, xid: &XidBuf, _committed: bool) -> Prepared {
        if self.prepared.remove(xid) || !self.strict { Prepared::Known } else { Prepared::Unknown }
    }

    fn moved(&mut self, _position: &Position, _identity: &str) {}

    fn gap(&mut self, _position: &Position, _identity: &str, cause: &str) -> Result<(), Refusal> {
        self.widen(&source::Scope::All, &format!("gap: {cause}"))
    }

    fn abandon(&mut self) {}

    fn wants_flush(&self) -> bool {
        false
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        self.hand_on();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_shown() {
        let only = |key: &str| Only { table: None, key: Some(key.into()) };
        for (asked, kind, key, shown) in [
            ("k:42", Kind::Exact, "k:42", true),
            ("k:42", Kind::Exact, "k:4", false),
            ("k:4*", Kind::Exact, "k:42", true),
            ("k:4*", Kind::Exact, "k:5", false),
            ("k:42", Kind::Prefix, "k:", true),
            ("k:42", Kind::Prefix, "l:", false),
            ("k:*", Kind::Prefix, "k:42:", true),
            ("k:42*", Kind::Prefix, "k:", true),
            ("k:42", Kind::MembersOf, "k:", false),
        ] {
            assert_eq!(only(asked).takes_key(kind, key.as_bytes()), shown, "{asked} {kind:?} {key}");
        }
        assert!(Only::default().takes_key(Kind::Exact, b"x"));
    }
}
