//! What a conversion reads in an image config.

use lacewing_format::Digest;
use serde_json::{Map, Value};

use super::document::{invalid, parse, text};
use crate::Error;

/// What a conversion needs of an image config.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFacts {
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) platform: Map<String, Value>,
    pub(crate) commands: Vec<String>,
    pub(crate) folder: String,
}

/// Reads an image config.
pub(crate) fn config_facts(what: &str, bytes: &[u8]) -> Result<ConfigFacts, Error> {
    let document = parse(what, bytes)?;
    let diff_ids = document
        .get("rootfs")
        .and_then(|r| r.get("diff_ids"))
        .and_then(Value::as_array);
    let diff_id = |value: &Value| {
        let text = value.as_str().unwrap_or("");
        text.parse()
            .map_err(|e: lacewing_format::DigestParseError| invalid(what, e.to_string()))
    };
    let diff_ids = diff_ids
        .into_iter()
        .flatten()
        .map(diff_id)
        .collect::<Result<_, Error>>()?;
    let mut facts = ConfigFacts {
        diff_ids,
        ..ConfigFacts::default()
    };
    for key in ["architecture", "os", "os.version", "os.features", "variant"] {
        if let Some(value) = document.get(key) {
            facts.platform.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(Value::Object(run)) = document.get("config") {
        for key in ["Entrypoint", "Cmd"] {
            let words = run.get(key).and_then(Value::as_array).into_iter().flatten();
            facts
                .commands
                .extend(words.filter_map(Value::as_str).map(str::to_owned));
        }
        text(run, "WorkingDir").clone_into(&mut facts.folder);
    }
    Ok(facts)
}
