//! Which images a pattern of kubelet's covers: `*.dkr.ecr.*.amazonaws.com`, `registry.io:8080/path`.
//!
//! As kubelet's `URLsMatchStr` (pkg/credentialprovider/keyring.go): as many labels in the host, each matched as a glob;
//! the same port, or none in both; the pattern's path is a prefix of the image's.

/// Whether a pattern covers an image, both as `host[:port][/path]`.
pub(super) fn covers(pattern: &str, image: &str) -> bool {
    let (pattern_host, pattern_port, pattern_path) = parts(pattern);
    let (host, port, path) = parts(image);
    let (globs, labels) = (pattern_host.split('.'), host.split('.'));
    globs.clone().count() == labels.clone().count()
        && globs.zip(labels).all(|(glob, label)| glob_covers(glob, label))
        && pattern_port == port
        && path.starts_with(pattern_path)
}

/// Host, port and path.
fn parts(text: &str) -> (&str, &str, &str) {
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let (authority, path) = text.split_once('/').unwrap_or((text, ""));
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port, path),
        _ => (authority, "", path),
    }
}

/// A glob with `*` for any characters, against one label of a host.
fn glob_covers(glob: &str, label: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = label.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(before) = last.replace(part) {
            match rest.find(before) {
                Some(at) => rest = &rest[at + str::len(before)..],
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(end) => rest.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_the_documentation() {
        let rows = [
            (
                "123.dkr.ecr.us-east-1.amazonaws.com",
                "123.dkr.ecr.us-east-1.amazonaws.com/app",
                true,
            ),
            (
                "*.dkr.ecr.*.amazonaws.com",
                "123.dkr.ecr.us-east-1.amazonaws.com/app",
                true,
            ),
            (
                "*.dkr.ecr.*.amazonaws.com",
                "123.dkr.ecr.us-east-1.amazonaws.com.cn/app",
                false,
            ),
            ("*.io", "registry.k8s.io/pause", false),
            ("*.*.io", "registry.k8s.io/pause", true),
            ("app*.k8s.io", "app1.k8s.io/x", true),
            ("app*.k8s.io", "bpp1.k8s.io/x", false),
            ("a*b*c", "aXbYc/x", true),
            ("a*b*c", "aXcYb/x", false),
            ("registry.io:8080/path", "registry.io:8080/path/image", true),
            ("registry.io:8080/path", "registry.io:8080/other", false),
            ("registry.io", "registry.io:8080/path", false),
            ("registry.io:8080", "registry.io/path", false),
            ("https://registry.io", "registry.io/path", true),
            ("*", "localhost/x", true),
        ];
        for (pattern, image, expected) in rows {
            assert_eq!(covers(pattern, image), expected, "{pattern} {image}");
        }
    }
}
