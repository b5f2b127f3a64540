//! docs/security.md: secrets are nowhere, and the rights that it names suffice, to the letter.

use std::time::Duration;

use anyhow::{Context as _, Result};

mod acl;
mod grants;
mod secrets;

const DOC: &str = include_str!("../../../docs/security.md");
const WITHIN: Duration = Duration::from_secs(30);

/// The code block that begins with this line, without it.
fn block(begin: &str) -> Result<&'static str> {
    let (_, rest) = DOC.split_once(begin).with_context(|| format!("no {begin} in docs/security.md"))?;
    Ok(rest.split("```").next().unwrap_or_default())
}
