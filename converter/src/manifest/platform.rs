//! Platforms by name: `os/architecture[/variant]`.

use serde_json::{Map, Value};

use super::document::text;

/// `os/architecture[/variant]` of a platform or a config.
pub(crate) fn platform_name(object: &Map<String, Value>) -> String {
    let parts = [
        text(object, "os"),
        text(object, "architecture"),
        text(object, "variant"),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

/// Does a platform agree with a wanted one? A variant that is not asked for does not matter.
pub(crate) fn platform_matches(platform: &str, wanted: &str) -> bool {
    platform == wanted
        || platform
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The platform of this machine in OCI's words.
pub(crate) fn this_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{architecture}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let rows = [
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", false),
            ("linux/arm", "linux/arm64", false),
            ("linux/arm64", "linux/arm", false),
            ("linux/amd64", "linux/amd64", true),
        ];
        for (platform, wanted, want) in rows {
            assert_eq!(platform_matches(platform, wanted), want, "{platform} {wanted}");
        }
    }
}
