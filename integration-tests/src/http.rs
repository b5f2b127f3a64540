//! The daemon's admin server, asked as any client does.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::task::spawn_blocking;
use ureq::http::Request;

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A status code and a body.
///
/// # Errors
/// When nothing listens, or the answer is no HTTP.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    ask(port, "GET", path, &[], "").await
}

/// What changes something, asked as a program of this host does.
///
/// # Errors
/// When nothing listens, or the answer is no HTTP.
pub async fn post(port: u16, path: &str, body: &Value) -> Result<(u16, String)> {
    let headers = [("X-Rowbust", "1"), ("Content-Type", "application/json")];
    ask(port, "POST", path, &headers, &body.to_string()).await
}

/// Any request, on a connection of its own; whatever its status is, it is an answer. `headers`: names and values, `Host` where it isn't to
/// be the true one.
///
/// # Errors
/// When nothing listens, or the answer is no HTTP.
pub async fn ask(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<(u16, String)> {
    let mut request = Request::builder().method(method).uri(format!("http://127.0.0.1:{port}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.to_owned())?;
    let answer = spawn_blocking(move || {
        let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).proxy(None);
        let agent = config.max_redirects(0).http_status_as_error(false).build().new_agent();
        let mut answer = agent.run(request)?;
        let body = answer.body_mut().read_to_string()?;
        Ok::<_, ureq::Error>((answer.status().as_u16(), body))
    });
    answer.await?.with_context(|| format!("{method} {path}: no answer"))
}

/// The body of a JSON answer.
///
/// # Errors
/// When there is no answer of status 200, or it is no JSON.
pub async fn json(port: u16, path: &str) -> Result<Value> {
    let (status, body) = get(port, path).await?;
    anyhow::ensure!(status == 200, "GET {path}: {status}: {body}");
    serde_json::from_str(&body).with_context(|| format!("GET {path}: {body}"))
}

/// The sum over all label sets of one metric in the Prometheus text format; 0 where it isn't there.
#[must_use]
pub fn metric(text: &str, name: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
