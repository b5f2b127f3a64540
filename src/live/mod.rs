//! Asks every server of a config whether rowbust can work with it: `rowbust check --live`.
//!
//! Guarantees: nothing of anybody's is changed on any server (what is tried on Redis is tried on keys that nobody has; of these some of
//! `rowbust:*` are written, and gone after a second); each group of questions ends within [`LIMIT`], and what one server says or doesn't
//! say hides nothing of the others. The questions of different servers are asked at the same time. May depend on every part.

mod cascades;
mod checkpoint;
mod identity;
mod machine;
mod place;
mod redis;
mod redis_info;
mod redis_rights;
mod replicas;
mod report;
mod retry;
mod rights;
mod source;
mod tables;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{join_all, join4};

pub use self::report::{CODES, Group, Line, Mark, Report, Verdict};
use crate::config::Config;

/// All questions to one server together.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Which groups are still being asked, by their titles.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Vec<String>>);

impl Waiting {
    /// Their titles.
    pub fn titles(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(&self, title: &str) -> Named<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(title.to_owned());
        Named(self, title.to_owned())
    }
}

/// A title while it stands among those that are waited for.
struct Named<'w>(&'w Waiting, String);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        let mut titles = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = titles.iter().position(|title| *title == self.1) {
            titles.remove(at);
        }
    }
}

/// Fills a group within [`LIMIT`]; what was found before the time was up stays.
async fn within(
    waiting: &Waiting,
    mut group: Group,
    late: &'static str,
    probe: impl AsyncFnOnce(&mut Group),
) -> Group {
    let _named = waiting.begin(&group.title);
    if tokio::time::timeout(LIMIT, probe(&mut group)).await.is_err() {
        group.unreachable(
            late,
            format!("no answer within {} s: the rest is not tested", LIMIT.as_secs()),
            "the server is reached but does not answer: is it overloaded or stopped?",
        );
    }
    group
}

/// Asks all servers of the config.
pub async fn run(config: &Config, waiting: &Waiting) -> Report {
    let database = async {
        let (saved, (mut source, server)) =
            tokio::join!(checkpoint::look(config, waiting), source::look(config, waiting));
        let (tables, replicas, ()) = tokio::join!(
            tables::look(config, server.as_ref(), waiting),
            replicas::look(config, server.as_ref(), waiting),
            place::look(config, server.as_ref(), &saved, &mut source, waiting),
        );
        (source, tables, replicas, server, saved)
    };
    let targets = join_all((0..config.redis.len()).map(|at| redis::look(config, at, waiting)));
    let (database, targets, retry, mut machine) =
        join4(database, targets, retry::look(config, waiting), machine::look(config, waiting)).await;
    let (source, tables, replicas, server, saved) = database;

    machine.lines.splice(0..0, saved.lines);
    let mut clocks: Vec<(String, f64)> = Vec::new();
    if let Some(offset) = server.and_then(|server| server.clock) {
        clocks.push(("the database".into(), offset));
    }
    let mut groups = vec![source, tables];
    groups.extend(replicas);
    for (target, (group, offset)) in config.redis.iter().zip(targets) {
        clocks.extend(offset.map(|offset| (format!("redis {}", target.name), offset)));
        groups.push(group);
    }
    machine::clock(&mut machine, &clocks);
    groups.push(retry);
    groups.push(machine);
    Report { groups }
}
