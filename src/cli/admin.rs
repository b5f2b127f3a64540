//! Asks a running daemon through its admin address.

use std::{fmt, net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::config::Config;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The admin address of a daemon on this host.
#[derive(Debug)]
pub(super) struct Admin {
    address: SocketAddr,
    agent: ureq::Agent,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the admin address {}", self.address)
    }
}

impl Admin {
    pub(super) fn new(config: &Config) -> Self {
        let mut address = config.admin.listen;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let agent =
            ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).proxy(None).build().new_agent();
        Self { address, agent }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ureq::Error> {
        let query = query.iter().map(|(name, value)| (*name, value.as_str()));
        self.agent.get(self.url(path)).query_pairs(query).call()?.body_mut().read_json()
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, ureq::Error> {
        self.agent.post(self.url(path)).send_json(body)?.body_mut().read_json()
    }
}
