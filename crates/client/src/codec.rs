//! Typed values and the bytes in Redis: JSON, so that any language can read them.

use std::sync::Arc;

use rowbust_protocol::lease;
use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

/// # Errors
/// When the value can't be JSON.
pub(crate) fn encode<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<Vec<u8>, Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|source| Error::Encode { key: key.to_owned(), source: Arc::new(source) })?;
    // JSON begins with no zero byte; whatever the encoding, the check stays.
    lease::check_value(&bytes).map_err(|source| Error::Reserved { key: key.to_owned(), source })?;
    Ok(bytes)
}

/// # Errors
/// When the bytes are no such value.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|source| Error::Foreign { key: key.to_owned(), source: Arc::new(source) })
}
