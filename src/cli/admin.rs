//! Asks a running daemon through its admin address.

use std::{fmt, net::SocketAddr, time::Duration};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{Exit, Global, out};
use crate::config::{Config, Password};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The admin address of a daemon on this host.
#[derive(Debug)]
pub(super) struct Admin {
    address: SocketAddr,
    agent: ureq::Agent,
    token: Option<String>,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the admin address {}", self.address)
    }
}

/// Why a daemon gave no answer.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nothing answers, or not in time.
    NoAnswer(String),
    /// It answers and says no.
    Said {
        /// HTTP status.
        status: u16,
        /// Stable name; empty where the answer has none.
        code: String,
        message: String,
        help: String,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(why) => f.write_str(why),
            Self::Said { code, message, help, .. } => {
                f.write_str(message)?;
                if !code.is_empty() {
                    write!(f, " ({code}); {help}")?;
                }
                Ok(())
            }
        }
    }
}

impl From<ureq::Error> for Refused {
    fn from(error: ureq::Error) -> Self {
        Self::NoAnswer(error.to_string())
    }
}

impl Admin {
    pub(super) fn new(config: &Config) -> Self {
        Self::with_timeout(config, TIMEOUT)
    }

    pub(super) fn with_timeout(config: &Config, timeout: Duration) -> Self {
        let mut address = config.admin.listen;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .proxy(None)
            // What the daemon says about it is in the body.
            .http_status_as_error(false)
            .build()
            .new_agent();
        let token = match &config.admin.token {
            Password::Empty => None,
            Password::Value(secret) => Some(secret.expose_secret().to_owned()),
            // Who may not read it gets the daemon's answer, which names the token.
            Password::File(path) => std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned()),
        };
        Self { address, agent, token }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn headers<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        let request = request.header("X-Rowbust", "1");
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Status and text of a path.
    pub(super) fn text(&self, path: &str) -> Result<(u16, String), Refused> {
        let mut answer = self.headers(self.agent.get(self.url(path))).call()?;
        let text = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), text))
    }

    pub(super) fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Refused> {
        let query = query.iter().map(|(name, value)| (*name, value.as_str()));
        judged(self.headers(self.agent.get(self.url(path))).query_pairs(query).call()?)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Refused> {
        judged(self.headers(self.agent.post(self.url(path))).send_json(body)?)
    }

    /// Says what went wrong, and what to do about it.
    pub(super) fn complain(&self, global: &Global, refused: &Refused) -> Exit {
        let (code, message, help) = match refused {
            Refused::NoAnswer(why) => (
                "admin.no_daemon",
                format!(
                    "no daemon answers at {} (`admin.listen` of {}): {why}",
                    self.address,
                    global.config.display()
                ),
                format!(
                    "start one with `rowbust -c {} run`, or name its config with -c",
                    global.config.display()
                ),
            ),
            Refused::Said { code, message, help, .. } => (code.as_str(), message.clone(), help.clone()),
        };
        if global.json {
            out::json(&json!({
                "schema_version": 1,
                "error": { "code": code, "message": message, "help": help },
            }));
        } else {
            out::complain(&format!("{message}\n  {help}"));
        }
        match refused {
            Refused::NoAnswer(_) => Exit::Unavailable,
            Refused::Said { status: 400, .. } => Exit::Usage,
            Refused::Said { .. } => Exit::Failure,
        }
    }
}

fn judged(mut answer: ureq::http::Response<ureq::Body>) -> Result<Value, Refused> {
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string()?;
    let value: Option<Value> = serde_json::from_str(&text).ok();
    if (200..300).contains(&status) {
        return value.ok_or_else(|| {
            Refused::NoAnswer("what answers there isn't rowbust: its answer is no JSON".into())
        });
    }
    let part = |name: &str| value.as_ref().and_then(|value| value["error"][name].as_str()).map(str::to_owned);
    Err(Refused::Said {
        status,
        code: part("code").unwrap_or_default(),
        message: part("message").unwrap_or_else(|| format!("HTTP {status}: {}", text.trim_end())),
        help: part("help").unwrap_or_default(),
    })
}
