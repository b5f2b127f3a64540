//! Slots of a Redis cluster, and who serves them.
//!
//! Guarantees: replies are read with bounds: what isn't understood is an error. May depend on `rowbust-protocol`, which computes slots.

use redis::Value;
pub(super) use rowbust_protocol::slots::{SLOTS, slot, tags};

/// A range of slots and the address of its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: (String, u16),
}

/// Reads `CLUSTER SLOTS`. `asked`: who answered; its host stands for an address that the cluster leaves open.
pub(super) fn ranges(reply: &Value, asked: &str) -> Result<Vec<Range>, String> {
    let Value::Array(entries) = reply else { return Err("CLUSTER SLOTS gives no list".into()) };
    if entries.len() > usize::from(SLOTS) {
        return Err(format!("CLUSTER SLOTS gives {} ranges", entries.len()));
    }
    entries
        .iter()
        .map(|entry| range(entry, asked).ok_or_else(|| format!("{entry:?} in CLUSTER SLOTS")))
        .collect()
}

fn range(entry: &Value, asked: &str) -> Option<Range> {
    let Value::Array(parts) = entry else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    let host = if matches!(host.as_str(), "" | "?") { asked.to_owned() } else { host };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    (first <= last && last < SLOTS).then_some(Range {
        first,
        last,
        master: (host, u16::try_from(*port).ok()?),
    })
}

/// What a node says of itself in `CLUSTER NODES`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own<'a> {
    pub(super) id: &'a str,
    /// As they stand there, those on their way too.
    pub(super) slots: Vec<&'a str>,
    /// How many it serves.
    pub(super) served: usize,
    /// Where slots are on their way to.
    pub(super) goals: Vec<(String, u16)>,
}

/// Reads `CLUSTER NODES` (<https://redis.io/docs/latest/commands/cluster-nodes/>): id, address, flags, master, ping, pong, epoch, link
/// state, slots… `asked`: the host of the one that answered.
pub(super) fn own<'a>(nodes: &'a str, asked: &str) -> Result<Own<'a>, String> {
    let lines: Vec<Vec<&str>> = nodes.lines().map(|line| line.split(' ').collect()).collect();
    let is_own =
        |words: &&Vec<&str>| words.get(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"));
    let own = lines.iter().find(is_own).and_then(|words| Some((*words.first()?, words.get(8..)?)));
    let (id, slots) = own.ok_or("CLUSTER NODES names nobody as itself")?;
    let (mut served, mut goals) = (0, Vec::new());
    for word in slots {
        if let Some(moving) = word.strip_prefix('[') {
            let Some((_, goal)) = moving.trim_end_matches(']').split_once("->-") else { continue };
            let line = lines.iter().find(|words| words.first() == Some(&goal));
            let goal = line.and_then(|words| node_address(words.get(1)?, asked));
            goals.push(goal.ok_or_else(|| format!("{word} in CLUSTER NODES names nobody"))?);
        } else {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
            let range = range.filter(|(first, last)| first <= last && *last < SLOTS);
            let (first, last) = range.ok_or_else(|| format!("{word} in CLUSTER NODES is no slot"))?;
            served += usize::from(last - first) + 1;
        }
    }
    Ok(Own { id, slots: slots.to_vec(), served, goals })
}

/// `10.0.0.1:6379@16379,redis1`: the host name if there is one.
fn node_address(text: &str, asked: &str) -> Option<(String, u16)> {
    let (address, more) = text.split_once('@').unwrap_or((text, ""));
    let (ip, port) = address.rsplit_once(':')?;
    let name = more.split(',').nth(1).filter(|name| !name.is_empty() && !name.contains('='));
    let host = name.or(Some(ip).filter(|ip| !ip.is_empty())).unwrap_or(asked);
    Some((host.to_owned(), port.parse().ok()?))
}

/// Where `MOVED` and `ASK` point: `3999 127.0.0.1:6381`, with an empty host for the one that answered.
pub(super) fn redirect(message: &str, asked: &str) -> Option<(u16, (String, u16))> {
    let mut words = message.split_ascii_whitespace();
    let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if matches!(host, "" | "?") { asked } else { host };
    Some((slot, (host.to_owned(), port.parse().ok()?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_itself() {
        let nodes = "aa 127.0.0.1:7001@17001,h1 myself,master - 0 0 1 connected 0-92 94 [93->-cc] [5-<-bb]\n\
                     bb 127.0.0.1:7002@17002,,tls-port=1,shard-id=x master - 0 0 2 connected 95-16383\n\
                     cc :7003@17003,h3 master - 0 0 0 connected\n";
        let found = own(nodes, "me").unwrap();
        assert_eq!((found.id, found.served), ("aa", 94));
        assert_eq!(found.goals, [("h3".to_owned(), 7003)]);
        assert_eq!(found.slots, ["0-92", "94", "[93->-cc]", "[5-<-bb]"]);
        assert!(own(&nodes.replace("myself,", ""), "me").is_err());
        assert!(own(&nodes.replace("->-cc", "->-dd"), "me").is_err());
        assert!(own(&nodes.replace("0-92", "0-16384"), "me").is_err());
        assert_eq!(node_address("127.0.0.1:7002@17002", "me"), Some(("127.0.0.1".to_owned(), 7002)));
        assert_eq!(node_address(":7002@17002,", "me"), Some(("me".to_owned(), 7002)));
    }

    #[test]
    fn redirects() {
        let at = |host: &str, port| Some((3999, (host.to_owned(), port)));
        assert_eq!(redirect("3999 127.0.0.1:6381", "h"), at("127.0.0.1", 6381));
        assert_eq!(redirect("3999 :6381", "h"), at("h", 6381));
        assert_eq!(redirect("3999 ::1:6381", "h"), at("::1", 6381));
        for wrong in ["", "3999", "3999 x", "16384 h:1", "3999 h:70000", "-1 h:1"] {
            assert_eq!(redirect(wrong, "h"), None, "{wrong}");
        }
    }
}
