//! The daemon's admin server.

use std::time::Duration;

use tokio::task::spawn_blocking;

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Status code and body, on a connection of its own; whatever its status is, it is an answer.
///
/// # Errors
/// When nobody answers in time, or it is no HTTP.
pub(super) async fn get(port: u16, path: &str) -> Result<(u16, String), ureq::Error> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let answer = spawn_blocking(move || {
        let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).proxy(None);
        let agent = config.http_status_as_error(false).build().new_agent();
        let mut answer = agent.get(url).call()?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    });
    answer.await.map_err(|panicked| ureq::Error::Other(panicked.into()))?
}
