//! The thread that owns the disk queue's file.
//!
//! Guarantees: changes that arrive while one commit runs share the next one; a caller is answered only behind it. May depend on `store`
//! and `shelf`.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, PoisonError, atomic::Ordering},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::super::{
    Counters, Listed, RetryError, Swept, Which,
    filter::Matcher,
    shelf::{Place, Shelf},
    store::{Change, Page, Store, StoreError, Sweep},
    tables::Level,
};

/// Changes that share one commit; more wait for the next.
const GROUP: usize = 16_384;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Call {
    Commit(Vec<Change>, Reply<()>),
    Due(Arc<Shelf>, u64, usize, HashSet<Place>, Reply<Page>),
    List(Which, Box<Matcher>, usize, Reply<Vec<Listed>>),
    Sweep(Box<Matcher>, Sweep, usize, Reply<Swept>),
}

pub(super) type Shelves = BTreeSet<Arc<Shelf>>;

/// The thread: ends when every sender is gone.
pub(super) fn serve(
    mut store: Store,
    mut inbox: mpsc::Receiver<Call>,
    known: &watch::Sender<Shelves>,
    counters: &Counters,
) {
    let publish = |level: Level| {
        let oldest = level.pending.values().map(|(_, oldest)| *oldest).min();
        counters.pending.store(level.pending.values().map(|(count, _)| count).sum(), Ordering::Relaxed);
        counters.oldest_ms.store(oldest.unwrap_or(0), Ordering::Relaxed);
        counters.letters.store(level.dead, Ordering::Relaxed);
        *counters.by_target.lock().unwrap_or_else(PoisonError::into_inner) = level.pending;
    };
    let mut waiting = None;
    while let Some(call) = waiting.take().or_else(|| inbox.blocking_recv()) {
        match call {
            Call::Commit(mut changes, reply) => {
                let mut replies = vec![reply];
                while changes.len() < GROUP {
                    match inbox.try_recv() {
                        Ok(Call::Commit(more, reply)) => {
                            changes.extend(more);
                            replies.push(reply);
                        }
                        Ok(other) => {
                            waiting = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                // A new shelf has its consumer before anybody relies on the record in it.
                let outcome = store.commit(&changes).map(publish);
                share(&store, known);
                for reply in replies {
                    let _ = reply.send(match &outcome {
                        Ok(()) => Ok(()),
                        Err(StoreError::Unavailable(detail)) => Err(StoreError::Unavailable(detail.clone())),
                        Err(StoreError::Fatal(error)) => Err(StoreError::Fatal(copy(error))),
                    });
                }
            }
            Call::Due(shelf, now_ms, limit, skip, reply) => {
                let _ = reply.send(store.due(&shelf, now_ms, limit, &skip));
            }
            Call::List(which, matcher, limit, reply) => {
                let _ = reply.send(match which {
                    Which::Pending => store.pending(&matcher, limit),
                    Which::Dead => store.dead(&matcher, limit),
                });
            }
            Call::Sweep(matcher, sweep, limit, reply) => {
                let _ = reply.send(store.sweep(&matcher, sweep, limit).map(|(letters, more, level)| {
                    publish(level);
                    Swept { letters, more }
                }));
                share(&store, known);
            }
        }
    }
}

fn share(store: &Store, known: &watch::Sender<Shelves>) {
    known.send_if_modified(|known| {
        let grown = known.len() != store.shelves().len();
        if grown {
            known.clone_from(store.shelves());
        }
        grown
    });
}

/// One error for each of the callers that shared a commit. Only damage is fatal once the file is open.
fn copy(error: &RetryError) -> RetryError {
    match error {
        RetryError::Corrupt { path, detail } => {
            RetryError::Corrupt { path: path.clone(), detail: detail.clone() }
        }
        _ => RetryError::Closed,
    }
}
