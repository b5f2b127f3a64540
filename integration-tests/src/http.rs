//! The daemon's admin server, asked over plain HTTP/1.1.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A status code and a body.
///
/// # Errors
/// When nothing listens, or the answer is no HTTP.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    ask(port, "GET", path, "", "").await
}

/// What changes something, asked as a program of this host does.
///
/// # Errors
/// When nothing listens, or the answer is no HTTP.
pub async fn post(port: u16, path: &str, body: &Value) -> Result<(u16, String)> {
    ask(port, "POST", path, "X-Rowbust: 1\r\nContent-Type: application/json\r\n", &body.to_string()).await
}

/// Any request. `headers`: whole lines, each with its line break.
///
/// # Errors
/// When nothing listens, or the answer is no HTTP.
pub async fn ask(port: u16, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String)> {
    let host = if headers.contains("Host:") { "" } else { "Host: 127.0.0.1\r\n" };
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer =
        timeout(ANSWER_WITHIN, exchange).await.with_context(|| format!("{method} {path}: no answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.with_context(|| format!("no status: {head:?}"))?, body.to_owned()))
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
