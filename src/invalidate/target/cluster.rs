//! A Redis cluster: who serves which slot, and the removal of keys by it.
//!
//! Guarantees: a removal counts as done only when the server that has the key at that moment said so: `MOVED`, `ASK` and `TRYAGAIN` are
//! followed, each key for itself. One master that fails takes only its own keys to the queue; those of the others go on. Its place
//! is taken by whom the cluster promotes. May depend on `config`, `pipeline::batch` and the rest of this folder.
//!
//! Our own slot map over one multiplexed connection per master, rather than redis-rs' `cluster_async`: that sends a pipeline to one
//! server, gives a command over several slots one result for all, and doesn't say on which connection a `WAIT` would run.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::future::join_all;
use redis::Value;
use tokio::sync::Notify;

use super::{
    super::{
        LONGEST_PAUSE, backoff,
        breaker::Breaker,
        classify::{self, Class, Failure},
    },
    connect::{ConnectError, Connector},
    link::Link,
    lots::{Due, Lot, To},
    slots::{self, SLOTS},
};
use crate::{pipeline::batch::Removal, telemetry};

/// How often one removal is sent elsewhere before it fails. While a slot moves it is once or twice.
pub(super) const REDIRECTS: usize = 8;
/// Pause before the third try and each further one.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the breakers are looked at when nobody asks for it.
const WATCH: Duration = Duration::from_secs(1);
/// Hash tags known for each master. One of their slots may be on its way while rowbust's own key is written.
const TAGS: usize = 4;
/// No owner.
const NOBODY: u16 = u16::MAX;

/// A cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<(String, u16)>,
    map: RwLock<Arc<Map>>,
    /// Asks for a look at who serves what.
    stale: Notify,
    /// Open while no master works.
    whole: Arc<Breaker>,
}

#[derive(Debug)]
struct Map {
    /// By slot: a place in `links`, or [`NOBODY`].
    owners: Box<[u16]>,
    links: Vec<Arc<Link>>,
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Arc<Link>> {
        self.links.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    fn find(&self, address: &(String, u16)) -> Option<usize> {
        self.links.iter().position(|link| link.address() == *address)
    }

    /// Those that serve slots.
    fn masters(&self) -> impl Iterator<Item = &Arc<Link>> {
        let mut serves = vec![false; self.links.len()];
        for owner in &self.owners {
            if let Some(serves) = serves.get_mut(usize::from(*owner)) {
                *serves = true;
            }
        }
        self.links.iter().zip(serves).filter_map(|(link, serves)| serves.then_some(link))
    }
}

impl Cluster {
    pub(super) fn new(seeds: &[(String, u16)], whole: Arc<Breaker>) -> Self {
        let map = Map { owners: vec![NOBODY; usize::from(SLOTS)].into(), links: Vec::new() };
        Self { seeds: seeds.to_vec(), map: RwLock::new(Arc::new(map)), stale: Notify::new(), whole }
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every master known, with its breaker.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.map().masters().cloned().collect()
    }

    /// Asks who serves what and connects to the masters. One that can't be reached has its breaker opened.
    pub(super) async fn connect(&self, connector: &Connector) -> Result<(), ConnectError> {
        self.refresh(connector).await?;
        self.judge_whole("IO");
        Ok(())
    }

    /// Opens the breaker of the whole if all its masters' are.
    fn judge_whole(&self, code: &str) {
        let links = self.links();
        if links.iter().all(|link| link.breaker.is_open()) && self.whole.trip(code) {
            tracing::warn!(masters = links.len(), code, "no master of the redis cluster works");
        }
    }

    /// Asks one node after the other, those that work first, until one says who serves what.
    async fn refresh(&self, connector: &Connector) -> Result<(), ConnectError> {
        let known = self.map();
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let mut refused = None;
        for link in known.links.iter().filter(|link| !link.breaker.is_open()) {
            let ((host, port), Ok(mut connection)) = (link.address(), link.ready()) else { continue };
            let reply: Result<Value, _> = command.query_async(&mut connection).await;
            match reply.map_err(|error| classify::error(&error)).and_then(|reply| read(&reply, &host)) {
                Ok(ranges) => return self.accept(connector, &ranges).await,
                Err(failure) => refused = Some(connector.failed(&host, port, failure)),
            }
        }
        let others = known.links.iter().filter(|link| link.breaker.is_open()).map(|link| link.address());
        let mut asked: Vec<(String, u16)> = Vec::new();
        for (host, port) in self.seeds.iter().cloned().chain(others) {
            if asked.contains(&(host.clone(), port)) {
                continue;
            }
            let answer = async {
                let mut connection = connector.open(&host, port).await?;
                let reply: Result<Value, _> = command.query_async(&mut connection).await;
                reply
                    .map_err(|error| classify::error(&error))
                    .and_then(|reply| read(&reply, &host))
                    .map_err(|failure| connector.failed(&host, port, failure))
            };
            match answer.await {
                Ok(ranges) => return self.accept(connector, &ranges).await,
                Err(error) => refused = Some(error),
            }
            asked.push((host, port));
        }
        Err(refused
            .unwrap_or_else(|| connector.failed("", 0, Failure::target("IO", "no node is configured"))))
    }

    /// Takes over who serves what. Links that are still wanted are kept, new ones connected.
    async fn accept(&self, connector: &Connector, ranges: &[slots::Range]) -> Result<(), ConnectError> {
        let known = self.map();
        let mut map = Map { owners: vec![NOBODY; usize::from(SLOTS)].into(), links: Vec::new() };
        for range in ranges {
            let place = match map.find(&range.master) {
                Some(place) => place,
                None => {
                    let link = known.find(&range.master).and_then(|at| known.links.get(at)).cloned();
                    map.links.push(link.unwrap_or_else(|| new_link(connector, &range.master)));
                    map.links.len() - 1
                }
            };
            if let Some(owners) = map.owners.get_mut(usize::from(range.first)..=usize::from(range.last)) {
                owners.fill(u16::try_from(place).unwrap_or(NOBODY));
            }
        }
        for (place, link) in map.links.iter().enumerate() {
            let is_own =
                |slot: u16| map.owners.get(usize::from(slot)).is_some_and(|o| usize::from(*o) == place);
            link.set_least_tag(slots::tags(is_own, 1).pop());
            // They stay while their slots do.
            let tags = link.tags();
            if tags.is_empty() || !tags.iter().all(|tag| is_own(slots::slot(tag.as_bytes()))) {
                link.set_tags(slots::tags(is_own, TAGS));
            }
        }
        let links = map.links.clone();
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
        // A failure opens the link's breaker, and is none of the whole.
        join_all(links.iter().map(|link| link.ensure_connected(connector))).await;
        Ok(())
    }

    /// The link to this address; made and connected if there is none.
    pub(super) async fn link_at(
        &self,
        connector: &Connector,
        address: &(String, u16),
    ) -> Result<Arc<Link>, Failure> {
        let link = {
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            match map.find(address).and_then(|at| map.links.get(at)) {
                Some(link) => Arc::clone(link),
                None => {
                    let link = new_link(connector, address);
                    let mut links = map.links.clone();
                    links.push(Arc::clone(&link));
                    *map = Arc::new(Map { owners: map.owners.clone(), links });
                    link
                }
            }
        };
        link.ensure_connected(connector).await?;
        Ok(link)
    }

    /// `MOVED`: this slot has another owner from now on.
    fn moved(&self, slot: u16, to: &Arc<Link>) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = map.links.iter().position(|link| Arc::ptr_eq(link, to)) else { return };
        let Ok(place) = u16::try_from(place) else { return };
        let mut owners = map.owners.clone();
        if let Some(owner) = owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
        *map = Arc::new(Map { owners, links: map.links.clone() });
    }

    /// Who serves this key.
    pub(super) fn owner(&self, key: &[u8]) -> Result<Arc<Link>, Failure> {
        let slot = slots::slot(key);
        self.map().owner(slot).cloned().ok_or_else(|| nobody(slot))
    }

    /// Where a redirect points, connected. After `TRYAGAIN` it is the one that answered.
    pub(super) async fn follow(
        &self,
        connector: &Connector,
        failure: &Failure,
        asked: &Arc<Link>,
    ) -> Result<Arc<Link>, Failure> {
        if failure.code == "TRYAGAIN" {
            self.stale.notify_one();
            tokio::time::sleep(PAUSE).await;
            return Ok(Arc::clone(asked));
        }
        let Some((slot, address)) = slots::redirect(&failure.message, &asked.address().0) else {
            return Err(Failure::target("PROTOCOL", format!("redirect to {:?}", failure.message)));
        };
        let link = self.link_at(connector, &address).await?;
        if failure.code == "MOVED" {
            self.moved(slot, &link);
            self.stale.notify_one();
        }
        Ok(link)
    }

    /// All masters, as of now. That a slot has none is an error: its keys would be left out.
    pub(super) async fn masters(&self, connector: &Connector) -> Result<Vec<Arc<Link>>, Failure> {
        self.refresh(connector).await.map_err(ConnectError::into_failure)?;
        let map = self.map();
        match map.owners.iter().position(|owner| *owner == NOBODY) {
            Some(slot) => Err(nobody(u16::try_from(slot).unwrap_or(0))),
            None => Ok(map.masters().cloned().collect()),
        }
    }

    /// Removes keys and fields; says which failed, by place, and why.
    pub(super) async fn remove(
        &self,
        connector: &Connector,
        removals: &[Removal<'_>],
    ) -> Vec<(usize, Failure)> {
        let new = |(at, removal): (usize, &Removal<'_>)| Due {
            at,
            slot: slots::slot(removal.key),
            to: To::Owner,
            alone: removal.field.is_some(),
        };
        let mut due: Vec<Due> = removals.iter().enumerate().map(new).collect();
        let mut failed: Vec<(usize, Failure)> = Vec::new();
        for round in 0..=REDIRECTS {
            if round > 1 && !due.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            let lots = self.lots(std::mem::take(&mut due), &mut failed);
            let sent = join_all(lots.into_iter().map(|lot| lot.send(removals))).await;
            for (link, results) in sent {
                for (group, result) in results {
                    let Err(failure) = result else { continue };
                    self.again(connector, &link, group, failure, &mut due, &mut failed).await;
                }
            }
            if due.is_empty() {
                break;
            }
        }
        let lost = Failure::target("MOVED", format!("redirected more than {REDIRECTS} times"));
        failed.extend(due.iter().map(|one| (one.at, lost.clone())));
        if let Some((_, failure)) = failed.iter().find(|(_, failure)| failure.class == Class::Target) {
            self.judge_whole(&failure.code);
            self.stale.notify_one();
        }
        failed
    }

    /// Sorts removals by the servers that they go to.
    fn lots(&self, due: Vec<Due>, failed: &mut Vec<(usize, Failure)>) -> Vec<Lot> {
        let map = self.map();
        let mut lots: Vec<Lot> = Vec::new();
        for one in due {
            let link = match &one.to {
                To::At(link) | To::Ask(link) => link,
                To::Owner => match map.owner(one.slot) {
                    Some(link) => link,
                    None => {
                        failed.push((one.at, nobody(one.slot)));
                        continue;
                    }
                },
            };
            match lots.iter_mut().find(|lot| Arc::ptr_eq(&lot.link, link)) {
                Some(lot) => lot.due.push(one),
                None => lots.push(Lot { link: Arc::clone(link), due: vec![one] }),
            }
        }
        lots
    }

    /// What becomes of removals that were refused: another way, or a failure.
    async fn again(
        &self,
        connector: &Connector,
        link: &Arc<Link>,
        group: Vec<Due>,
        failure: Failure,
        due: &mut Vec<Due>,
        failed: &mut Vec<(usize, Failure)>,
    ) {
        if failure.is_redirect() {
            let code = failure.code.clone();
            metrics::counter!(telemetry::REDIRECTS, "target" => connector.config.name.clone(), "code" => code)
                .increment(group.len() as u64);
            let to = match (failure.code.as_str(), self.follow(connector, &failure, link).await) {
                ("ASK", Ok(to)) => To::Ask(to),
                ("MOVED", Ok(to)) => To::At(to),
                // The same way once more, each key by itself.
                (_, Ok(_)) => {
                    due.extend(group.into_iter().map(|one| Due { alone: true, ..one }));
                    return;
                }
                (_, Err(failure)) => {
                    failed.extend(group.iter().map(|one| (one.at, failure.clone())));
                    return;
                }
            };
            let alone = matches!(to, To::Ask(_));
            due.extend(group.into_iter().map(|one| Due { to: to.clone(), alone: alone || one.alone, ..one }));
        } else if failure.class == Class::Key && group.len() > 1 {
            // One of them is at fault: which one, they say by themselves.
            due.extend(group.into_iter().map(|one| Due { alone: true, ..one }));
        } else {
            failed.extend(group.iter().map(|one| (one.at, failure.clone())));
        }
    }

    /// Connects anew what fails, follows the cluster to new masters, until `shutdown`.
    pub(super) async fn heal(&self, connector: &Connector) {
        loop {
            tokio::select! {
                () = self.stale.notified() => {}
                () = tokio::time::sleep(WATCH) => if self.is_well() { continue },
            }
            let mut pauses = backoff(LONGEST_PAUSE);
            while !self.mend(connector).await {
                pauses.wait().await;
            }
        }
    }

    fn is_well(&self) -> bool {
        let map = self.map();
        !self.whole.is_open()
            && map.links.iter().all(|link| !link.breaker.is_open())
            && !map.owners.contains(&NOBODY)
    }

    /// Looks once. Says whether all is well.
    async fn mend(&self, connector: &Connector) -> bool {
        if let Err(error) = self.refresh(connector).await {
            tracing::debug!(%error, "no node says who serves what");
            self.judge_whole("IO");
            return false;
        }
        let probes =
            self.map().links.iter().filter(|link| link.breaker.is_open()).cloned().collect::<Vec<_>>();
        join_all(probes.iter().map(|link| async move {
            let failure = match link.connect(connector).await {
                Ok(()) => link.writable().await.err(),
                Err(error) => Some(error.into_failure()),
            };
            let (host, port) = link.address();
            match failure {
                None => {
                    let after_ms = link.breaker.since().map_or(0, |(since, _)| since.elapsed().as_millis());
                    link.breaker.close();
                    tracing::info!(target = connector.config.name, host, port, after_ms,
                        "redis works again, breaker closed");
                }
                Some(failure) => {
                    tracing::debug!(target = connector.config.name, host, port, code = %failure.code, "probe failed");
                }
            }
        }))
        .await;
        if self.links().iter().any(|link| !link.breaker.is_open()) && self.whole.is_open() {
            self.whole.close();
            tracing::info!(target = connector.config.name, "the redis cluster takes removals again");
        }
        self.is_well()
    }
}

fn new_link(connector: &Connector, address: &(String, u16)) -> Arc<Link> {
    Arc::new(Link::new(connector, address.clone(), Arc::default()))
}

fn nobody(slot: u16) -> Failure {
    Failure::target("CLUSTERDOWN", format!("slot {slot} is served by nobody"))
}

fn read(reply: &Value, asked: &str) -> Result<Vec<slots::Range>, Failure> {
    match slots::ranges(reply, asked) {
        Ok(ranges) if ranges.is_empty() => {
            Err(Failure::target("CLUSTERDOWN", "the cluster serves no slot yet"))
        }
        Ok(ranges) => Ok(ranges),
        Err(why) => Err(Failure::target("PROTOCOL", why)),
    }
}
