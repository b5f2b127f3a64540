//! Headless Chromium, driven by its DevTools protocol (<https://chromedevtools.github.io/devtools-protocol/>).
//!
//! By a pipe (`--remote-debugging-pipe`: messages with a NUL behind, in at descriptor 3, out at 4), so that there is neither a port
//! nor a WebSocket. A shell leads its stdin and stdout there.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rowbust_servers::{Need, require};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::wait::{Seen, until};

/// For an answer, on a loaded machine.
const WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Heard {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    /// What the page did wrong.
    complaints: Vec<String>,
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One page in a browser of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    requests: tokio::sync::Mutex<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    numbers: AtomicU64,
    session: String,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with the pipe.
        _ = self.child.start_kill();
    }
}

impl Browser {
    /// An empty page. `None` where Chromium can't be had.
    ///
    /// # Errors
    /// When it doesn't start.
    pub async fn start() -> Result<Option<Self>> {
        let found = tokio::task::spawn_blocking(|| require(&[Need::Chromium])).await?;
        let Some(program) = found.and_then(|installed| installed.chromium) else { return Ok(None) };
        let profile = tempfile::Builder::new().prefix("rowbust-browser-").tempdir()?;
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#])
            .arg(program)
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-first-run",
                "--no-default-browser-check",
            ])
            // The pages are ours; in a container, and for root, its sandbox isn't to be had.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"])
            .args(["--disable-background-networking", "--disable-component-update", "--mute-audio"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("can't run a shell")?;
        let requests = child.stdin.take().context("no pipe")?;
        let answers = child.stdout.take().context("no pipe")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        tokio::spawn(hear(answers, Arc::clone(&heard)));
        let mut browser = Self {
            child,
            requests: tokio::sync::Mutex::new(requests),
            heard,
            numbers: AtomicU64::new(1),
            session: String::new(),
            _profile: profile,
        };
        let made = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for domain in ["Runtime", "Log", "Page"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(Some(browser))
    }

    /// A command of the protocol, and its result.
    ///
    /// # Errors
    /// When it is refused or not answered.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        let (sender, answer) = oneshot::channel();
        lock(&self.heard).waiting.insert(id, sender);
        let mut bytes = serde_json::to_vec(&request)?;
        bytes.push(0);
        self.requests.lock().await.write_all(&bytes).await.context("the browser has ended")?;
        let answer = timeout(WITHIN, answer).await.with_context(|| format!("{method}: no answer"))?;
        let answer = answer.context("the browser has ended")?;
        ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        Ok(answer["result"].clone())
    }

    /// Opens an address and returns when it is loaded.
    ///
    /// # Errors
    /// When it isn't.
    pub async fn open(&self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({ "url": url })).await?;
        ensure!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until(
            "the page is loaded",
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        )
        .await
    }

    /// The value of an expression, a promise's too.
    ///
    /// # Errors
    /// When it throws.
    pub async fn eval(&self, expression: &str) -> Result<Value> {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let done = self.call("Runtime.evaluate", params).await?;
        if !done["exceptionDetails"].is_null() {
            bail!("{expression}: {}", done["exceptionDetails"]);
        }
        Ok(done["result"]["value"].clone())
    }

    /// The text of what a selector finds first; empty where nothing is.
    ///
    /// # Errors
    /// When the browser doesn't answer.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let value = self.eval(&format!("document.querySelector({selector:?})?.innerText ?? ''")).await?;
        value.as_str().map(str::to_owned).ok_or_else(|| anyhow!("{selector}: {value}"))
    }

    /// Returns when an expression is true.
    ///
    /// # Errors
    /// When it doesn't become so; with the page's text and complaints.
    pub async fn until(&self, what: &str, expression: &str) -> Result<()> {
        let waited =
            until(what, WITHIN, async || Ok(Seen::check(self.eval(expression).await? == true, String::new)));
        if let Err(error) = waited.await {
            let page = self.text("body").await?;
            bail!("{error:#}{expression}; complaints {:?}; the page:\n{page}", self.complaints());
        }
        Ok(())
    }

    /// What was logged as an error, thrown and not caught, refused by the page's policy, or shown as a dialog since this was asked last.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.heard).complaints)
    }

    /// A window of this size, as on a phone.
    ///
    /// # Errors
    /// When the browser doesn't answer.
    pub async fn size(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// `light` or `dark`.
    ///
    /// # Errors
    /// When the browser doesn't answer.
    pub async fn colours(&self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await.map(drop)
    }

    /// A picture of the whole page.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn picture(&self, path: &Path) -> Result<()> {
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let made = self.call("Page.captureScreenshot", params).await?;
        std::fs::write(path, BASE64_STANDARD.decode(made["data"].as_str().context("no picture")?)?)?;
        eprintln!("{}", path.display());
        Ok(())
    }

    /// Presses a key: `Tab`, `Enter`, a space.
    ///
    /// # Errors
    /// When the browser doesn't answer.
    pub async fn press(&self, key: &str) -> Result<()> {
        let (code, number, text) = match key {
            " " => ("Space", 32, " "),
            "Tab" => ("Tab", 9, ""),
            _ => ("Enter", 13, "\r"),
        };
        for kind in ["keyDown", "keyUp"] {
            let params = json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number, "text": text });
            self.call("Input.dispatchKeyEvent", params).await?;
        }
        Ok(())
    }
}

/// Reads until the browser ends.
async fn hear(answers: ChildStdout, heard: Arc<Mutex<Heard>>) {
    let mut answers = BufReader::new(answers);
    let mut bytes = Vec::new();
    while matches!(answers.read_until(0, &mut bytes).await, Ok(n) if n > 0) {
        bytes.pop();
        if let Ok(message) = serde_json::from_slice::<Value>(&bytes) {
            let mut heard = lock(&heard);
            match message["id"].as_u64() {
                Some(id) => {
                    if let Some(waits) = heard.waiting.remove(&id) {
                        _ = waits.send(message);
                    }
                }
                None => heard.complaints.extend(complaint(&message)),
            }
        }
        bytes.clear();
    }
    lock(&heard).waiting.clear();
}

fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if params["type"] == "error" => Some(params["args"].to_string()),
        "Log.entryAdded" if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
            Some(params["entry"].to_string())
        }
        "Page.javascriptDialogOpening" => Some(params.to_string()),
        _ => None,
    }
}
