//! A Redis cluster of a few nodes.
//!
//! Guarantees: when `start` returns every slot is served, every node knows it, and every replica has its master's data.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::install::Need;
use crate::instance::StartOptions;
use crate::ports::free_port;
use crate::process::poll;
use crate::redis::{Redis, RedisTls};

const SLOTS: usize = 16384;
/// Until all nodes have heard of each other.
const WITHIN: Duration = Duration::from_secs(60);

/// What a cluster consists of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Redis, Redis 8 or Valkey.
    pub need: Need,
    /// Folder of all nodes.
    pub dir: PathBuf,
    /// Masters; they share the slots evenly.
    pub masters: usize,
    /// Replicas of each master.
    pub replicas: usize,
    /// The nodes talk to each other by TLS too, and clients that come by TLS are told the TLS ports.
    pub tls: Option<RedisTls>,
    /// As for [`Redis::start_with`]; the user `default` must be allowed everything, without a password.
    pub acl_file: Option<PathBuf>,
    /// More options for all nodes, as in [`StartOptions::args`].
    pub args: Vec<String>,
}

impl ClusterOptions {
    /// Three masters without replicas, TLS or ACL.
    #[must_use]
    pub fn new(need: Need, dir: impl Into<PathBuf>) -> Self {
        let (tls, acl_file) = (None, None);
        Self { need, dir: dir.into(), masters: 3, replicas: 0, tls, acl_file, args: Vec::new() }
    }
}

/// The nodes of a cluster. Stopped when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters as started, then the replicas: first one of each master, in the masters' order, then the second ones.
    pub nodes: Vec<Redis>,
    masters: usize,
}

impl RedisCluster {
    /// Starts the nodes and joins them.
    ///
    /// # Errors
    /// When the server can't be installed, a node doesn't come up, or they don't come together within a minute.
    pub fn start(options: &ClusterOptions) -> Result<Self> {
        let ClusterOptions { masters, replicas, .. } = options;
        let count = masters * (1 + replicas);
        let nodes = (0..count).map(|n| node(options, n)).collect::<Result<Vec<_>>>()?;
        let cluster = Self { nodes, masters: *masters };
        for (n, master) in cluster.nodes.iter().take(*masters).enumerate() {
            let (first, last) = (n * SLOTS / masters, (n + 1) * SLOTS / masters - 1);
            master.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
            master.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()])?;
        }
        let (first, others) = cluster.nodes.split_first().context("a cluster without nodes")?;
        for other in others {
            let (port, bus) = (other.port().to_string(), bus_port(other)?);
            first.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        cluster.until("the nodes meet", |info| info.contains(&format!("cluster_known_nodes:{count}")))?;
        for (n, replica) in cluster.nodes.iter().enumerate().skip(*masters) {
            let id = cluster.id(n % masters)?;
            replica.cli(&["CLUSTER", "REPLICATE", &id])?;
        }
        cluster.until("all slots are served", |info| info.contains("cluster_state:ok"))?;
        cluster.replicated(*replicas)?;
        Ok(cluster)
    }

    /// The ports of the nodes that began as masters.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().take(self.masters).map(|node| node.port()).collect()
    }

    /// A node's id.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub fn id(&self, node: usize) -> Result<String> {
        self.nodes.get(node).context("no such node")?.cli(&["CLUSTER", "MYID"])
    }

    /// Returns when every master has this many replicas that are up to date with it.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn replicated(&self, replicas: usize) -> Result<()> {
        let has = |node: &Redis| {
            node.cli(&["INFO", "replication"]).is_ok_and(|info| {
                info.contains("role:slave") || info.matches("state=online").count() >= replicas
            })
        };
        if poll(WITHIN, || self.nodes.iter().filter(|node| node.is_running()).all(has)) {
            return Ok(());
        }
        bail!("the replicas don't come up")
    }

    /// Returns when `CLUSTER INFO` of every running node is as wanted.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let is = |node: &Redis| node.cli(&["CLUSTER", "INFO"]).is_ok_and(|info| wanted(&info));
        if poll(WITHIN, || self.nodes.iter().filter(|node| node.is_running()).all(is)) {
            return Ok(());
        }
        let infos: Vec<String> =
            self.nodes.iter().filter_map(|node| node.cli(&["CLUSTER", "INFO"]).ok()).collect();
        bail!("not within {} s: {what}\n{}", WITHIN.as_secs(), infos.join("\n\n"))
    }

    /// Moves a slot with its keys from one node to another, as `redis-cli --cluster reshard` does: one batch of keys after the other, while
    /// clients go on. After `begin` some keys are here and some there.
    ///
    /// # Errors
    /// When a node refuses.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) -> Result<()> {
        self.begin_move(slot, from, to)?;
        while self.move_keys(slot, from, to, 10)? > 0 {}
        self.end_move(slot, from, to)
    }

    /// The first step of [`RedisCluster::move_slot`]: both know that the slot is on its way.
    ///
    /// # Errors
    /// When a node refuses.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) -> Result<()> {
        let slot = slot.to_string();
        self.node(to)?.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)?])?;
        self.node(from)?.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)?]).map(drop)
    }

    /// The second step: at most `count` keys. Says how many there were.
    ///
    /// # Errors
    /// When a node refuses.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, count: usize) -> Result<usize> {
        let (source, target) = (self.node(from)?, self.node(to)?);
        let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()])?;
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if !keys.is_empty() {
            let port = target.port().to_string();
            let mut args = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "REPLACE", "KEYS"];
            args.extend(&keys);
            source.cli(&args)?;
        }
        Ok(keys.len())
    }

    /// The last step: first the new owner learns that it is the owner, then the old one, then all other masters.
    ///
    /// # Errors
    /// When a node refuses.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) -> Result<()> {
        let (slot, owner) = (slot.to_string(), self.id(to)?);
        let others = (0..self.masters).filter(|n| *n != from && *n != to);
        for n in [to, from].into_iter().chain(others) {
            self.node(n)?.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &owner])?;
        }
        Ok(())
    }

    fn node(&self, n: usize) -> Result<&Redis> {
        self.nodes.get(n).context("no such node")
    }
}

fn node(options: &ClusterOptions, n: usize) -> Result<Redis> {
    let mut start = StartOptions::new(options.dir.join(format!("node{n}")));
    let bus = free_port()?.to_string();
    let mut set = |name: &str, value: &str| start.args.extend([format!("--{name}"), value.to_owned()]);
    set("cluster-enabled", "yes");
    set("cluster-config-file", "nodes.conf");
    // The default, the port plus 10000, may be taken.
    set("cluster-port", &bus);
    set("cluster-node-timeout", "1500");
    set("cluster-allow-replica-migration", "no");
    set("cluster-replica-validity-factor", "0");
    set("repl-diskless-sync", "yes");
    set("repl-diskless-sync-delay", "0");
    set("repl-ping-replica-period", "1");
    if options.tls.is_some() {
        set("tls-cluster", "yes");
        set("tls-replication", "yes");
    }
    start.args.extend(options.args.iter().cloned());
    Redis::launch(options.need, start, options.tls.clone(), options.acl_file.as_deref().map(Path::new))
}

fn bus_port(node: &Redis) -> Result<String> {
    let said = node.cli(&["CONFIG", "GET", "cluster-port"])?;
    said.lines().nth(1).map(str::to_owned).context("no cluster-port")
}
