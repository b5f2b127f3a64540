//! The servers of a target that take writes, one by one: for iterations, and for what is kept on each of them.
//!
//! Guarantees: a [`Master`] is one connection; when that breaks it fails, and another one never takes its place in silence (a cursor of
//! SCAN means nothing there). May depend on the rest of this folder.

use std::{collections::BTreeSet, sync::Arc};

use redis::{Cmd, aio::MultiplexedConnection};

use super::{
    super::classify::{self, Failure},
    Kind, Target,
    link::Link,
    slots,
};

/// One Redis server that takes writes: the only one (standalone, sentinel), or one master of a cluster.
#[derive(Debug)]
pub struct Master {
    link: Arc<Link>,
    connection: MultiplexedConnection,
    address: String,
    tag: Option<String>,
    least_tag: Option<String>,
    /// A slot is on its way to this server: without `ASKING` it sends back to the one before.
    asking: bool,
}

/// Which slots each master says it serves, and which are on their way. Equal ones, of before and after: nothing has moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// Each master's own line of `CLUSTER NODES`: its id and slots. Empty where there is no cluster.
    masters: BTreeSet<String>,
    /// Where slots are on their way to.
    goals: BTreeSet<(String, u16)>,
}

impl Layout {
    /// Whether slots are on their way: `[93-<-node]`, `[93->-node]`.
    pub(crate) fn is_moving(&self) -> bool {
        self.masters.iter().any(|line| line.contains('['))
    }
}

/// Iterations over all keys of all servers: one, and another if slots moved meanwhile, for a key may have been where nobody looked. A key
/// that moves once is met in one of the two: where it came from in the first, or where it went to in the second.
#[derive(Debug)]
pub(crate) struct Rounds<'a> {
    target: &'a Target,
    before: Option<Layout>,
    done: usize,
}

impl<'a> Rounds<'a> {
    pub(crate) fn of(target: &'a Target) -> Self {
        Self { target, before: None, done: 0 }
    }

    /// The servers to look at now, one after the other; `None`: all is seen.
    ///
    /// # Errors
    /// As [`Target::masters`]: what was seen counts for nothing, begin anew.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Master>>, Failure> {
        let Kind::Cluster(cluster) = &self.target.kind else {
            self.done += 1;
            return if self.done == 1 { self.target.masters().await.map(Some) } else { Ok(None) };
        };
        if self.done == 2 {
            return Ok(None);
        }
        let layout = self.target.layout().await?;
        if self.before.as_ref().is_some_and(|before| *before == layout && !layout.is_moving()) {
            return Ok(None);
        }
        if self.done == 1 {
            tracing::info!(
                target = self.target.name(),
                "slots moved meanwhile, all masters are scanned again"
            );
        }
        let mut masters = self.target.masters().await?;
        // A server that is to get its first slot serves none, and has keys of it already.
        for goal in &layout.goals {
            let link = cluster.link_at(&self.target.connector, goal).await?;
            if !masters.iter().any(|master| Arc::ptr_eq(&master.link, &link)) {
                masters.push(Master::new(&link)?);
            }
        }
        self.done += 1;
        self.before = Some(layout);
        Ok(Some(masters))
    }
}

impl Master {
    pub(super) fn new(link: &Arc<Link>) -> Result<Self, Failure> {
        let connection = link.ready()?;
        let (host, port) = link.address();
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self {
            connection,
            address,
            tag: link.tags().into_iter().next(),
            least_tag: link.least_tag(),
            link: Arc::clone(link),
            asking: false,
        })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// On a cluster: a text for a `{hash tag}` that falls into a slot of this master, always the same while it serves the same slots.
    /// A slot that moves takes the keys with that tag along. `None` where there is no cluster: any key will do.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// On a cluster: the least number, as text, whose slot this master serves. Unlike [`Master::tag`] it changes with any slot that comes;
    /// and who doesn't know the daemon's memory finds it.
    pub fn least_tag(&self) -> Option<&str> {
        self.least_tag.as_deref()
    }

    /// Sends a command and gives its reply. Trips the breaker where the server fails (a right that is missing is no such failure).
    ///
    /// # Errors
    /// Whatever Redis answers; `MOVED`, `ASK` and `TRYAGAIN` too: they aren't followed.
    pub async fn ask<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        if self.link.breaker.is_open() {
            return Err(Failure::breaker());
        }
        match self.peek(command).await {
            Err(failure) if failure.is_outage() => self.link.judge(|| None, Err(failure)),
            result => result,
        }
    }

    /// As [`Master::ask`], for what may fail: no breaker is tripped.
    ///
    /// # Errors
    /// As [`Master::ask`].
    pub async fn peek<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        let result = if self.asking {
            let mut both = redis::pipe();
            both.cmd("ASKING").ignore().add_command(command.clone());
            both.query_async(&mut self.connection).await.map(|(reply,): (T,)| reply)
        } else {
            command.query_async(&mut self.connection).await
        };
        result.map_err(|error| classify::error(&error))
    }
}

impl Target {
    /// Every server that takes writes, as of now: on a cluster its masters that serve slots, all of them.
    ///
    /// # Errors
    /// When one of them can't be reached, or its breaker is open.
    pub async fn masters(&self) -> Result<Vec<Master>, Failure> {
        match &self.kind {
            Kind::Single(single) => Ok(vec![Master::new(&single.link)?]),
            Kind::Cluster(cluster) => {
                cluster.masters(&self.connector).await?.iter().map(Master::new).collect()
            }
        }
    }

    /// The server that has this key, and the reply of `probe` to it, by the redirects of a cluster. A slot that moves later makes the
    /// further commands fail: begin anew.
    ///
    /// # Errors
    /// As [`Master::ask`], after a few redirects.
    pub(crate) async fn master_of<T: redis::FromRedisValue>(
        &self,
        key: &[u8],
        probe: &Cmd,
    ) -> Result<(Master, T), Failure> {
        let cluster = match &self.kind {
            Kind::Single(single) => {
                let mut master = Master::new(&single.link)?;
                let reply = master.ask(probe).await?;
                return Ok((master, reply));
            }
            Kind::Cluster(cluster) => cluster,
        };
        let mut master = Master::new(&cluster.owner(key)?)?;
        for _ in 0..super::cluster::REDIRECTS {
            match master.ask(probe).await {
                Err(failure) if failure.is_redirect() => {
                    let link = cluster.follow(&self.connector, &failure, &master.link).await?;
                    let asking = failure.code == "ASK";
                    master = Master { asking, ..Master::new(&link)? };
                }
                result => return result.map(|reply| (master, reply)),
            }
        }
        Err(Failure::target("MOVED", "redirected too often"))
    }

    /// How the slots lie, by what each master says of itself.
    ///
    /// # Errors
    /// As [`Target::masters`].
    pub(crate) async fn layout(&self) -> Result<Layout, Failure> {
        let (mut layout, mut served) = (Layout::default(), 0);
        let mut command = redis::cmd("CLUSTER");
        command.arg("NODES");
        for master in &mut self.masters().await? {
            let nodes: String = master.ask(&command).await?;
            let own = slots::own(&nodes, &master.link.address().0)
                .map_err(|why| Failure::target("PROTOCOL", why))?;
            layout.masters.insert(format!("{} {}", own.id, own.slots.join(" ")));
            layout.goals.extend(own.goals);
            served += own.served;
        }
        // Between two owners, or who was asked for the masters doesn't know the new one yet.
        if served < usize::from(slots::SLOTS) {
            return Err(Failure::target(
                "CLUSTERDOWN",
                format!("the masters say that they serve {served} of {} slots", slots::SLOTS),
            ));
        }
        Ok(layout)
    }
}
