//! JSON objects as they are read and written, whatever they describe.

use serde_json::{Map, Value, json};

use crate::Error;

/// Says that a document is not what it should be: `what` names the document.
pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Invalid {
        what: what.into(),
        reason: reason.into(),
    }
}

/// Parses a JSON document that must be an object.
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid(what, "not a JSON object")),
        Err(error) => Err(invalid(what, error.to_string())),
    }
}

/// A document's bytes: keys sorted, no white space.
pub(crate) fn bytes(document: Map<String, Value>) -> Vec<u8> {
    // A document of strings and numbers always has a text.
    serde_json::to_vec(&Value::Object(document)).unwrap_or_default()
}

/// A descriptor as a document.
pub(crate) fn describe(media_type: &str, digest: &str, size: u64) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("mediaType".to_owned(), json!(media_type));
    object.insert("digest".to_owned(), json!(digest));
    object.insert("size".to_owned(), json!(size));
    object
}

/// The text under a key; empty if there is none.
pub(super) fn text<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or("")
}
