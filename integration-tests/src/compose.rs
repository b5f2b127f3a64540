//! `docker-compose.yml` without an engine: what it says of each service, for a test that does the same with private servers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_default()
}

/// The file, parsed.
#[derive(Debug)]
pub struct Compose(Value);

impl Compose {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no YAML.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(root().join("docker-compose.yml"))?;
        Ok(Self(serde_saphyr::from_str(&text)?))
    }

    fn service(&self, name: &str) -> Result<&Value> {
        self.0["services"].get(name).with_context(|| format!("no service {name}"))
    }

    /// The words of its command.
    ///
    /// # Errors
    /// When it has none.
    pub fn command(&self, service: &str) -> Result<Vec<String>> {
        let words =
            self.service(service)?["command"].as_array().with_context(|| format!("{service}: no command"))?;
        Ok(words.iter().filter_map(Value::as_str).map(unescaped).collect())
    }

    /// Its variables.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn environment(&self, service: &str) -> Result<Vec<(String, String)>> {
        let variables = self.service(service)?["environment"].as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), unescaped);
        Ok(variables.map(|(name, value)| (name.clone(), text(value))).collect())
    }

    /// Its health check, as a line for a shell.
    ///
    /// # Errors
    /// When it has none.
    pub fn health(&self, service: &str) -> Result<String> {
        let test = self.service(service)?["healthcheck"]["test"].as_array();
        let words: Vec<String> =
            test.into_iter().flatten().filter_map(Value::as_str).map(unescaped).collect();
        match words.split_first() {
            Some((how, [line])) if how == "CMD-SHELL" => Ok(line.clone()),
            Some((how, words)) if how == "CMD" => Ok(quoted(words)),
            _ => bail!("{service}: no health check: {words:?}"),
        }
    }
}

/// `$$` is how the file writes `$`.
fn unescaped(text: &str) -> String {
    text.replace("$$", "$")
}

/// Words as a shell takes them.
#[must_use]
pub fn quoted<S: AsRef<str>>(words: &[S]) -> String {
    let quote = |word: &S| format!("'{}'", word.as_ref().replace('\'', r"'\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// The health check of the image: what follows `HEALTHCHECK … CMD` in `Dockerfile`, as a line for a shell.
///
/// # Errors
/// When there is none.
pub fn image_health() -> Result<String> {
    let text = fs::read_to_string(root().join("Dockerfile"))?;
    let (_, rest) = text.split_once("HEALTHCHECK").context("no health check")?;
    let (_, rest) = rest.split_once("CMD").context("no command of the health check")?;
    let words: Vec<String> = serde_json::from_str(rest.lines().next().unwrap_or_default())?;
    Ok(quoted(&words))
}
