//! Single values: paths, sizes, times, addresses. An error names the field and says what would be right.

use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigError, Listen};

/// `sockaddr_un` holds 108 bytes with the closing NUL, and the hand-over socket appends five.
const MAX_ADDRESS: usize = 102;

/// A path of the command line may be relative to the current directory.
pub(super) fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|error| ConfigError::Invalid {
        field,
        message: format!("is no path: {error}"),
    })
}

/// A path of the file must be absolute: a service has no current directory worth relying on.
pub(super) fn configured(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError::Invalid {
        field,
        message: format!("must be an absolute path, not {}", path.display()),
    })
}

pub(super) fn listen(text: &str) -> Result<Option<Listen>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = socket("http.listen", configured("http.listen", path.into())?)?;
        return Ok(Some(Listen::Unix(path)));
    }
    match text.parse() {
        Ok(address) => Ok(Some(Listen::Tcp(address))),
        Err(_) => Err(ConfigError::Invalid {
            field: "http.listen",
            message: format!(
                "is {text:?}; write 127.0.0.1:9763, [::1]:9763, unix:/path, or \"\" for nowhere"
            ),
        }),
    }
}

pub(super) fn socket(field: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let len = path.as_os_str().len();
    if len <= MAX_ADDRESS {
        return Ok(path);
    }
    Err(ConfigError::Invalid {
        field,
        message: format!("has {len} bytes; a unix socket's path may have {MAX_ADDRESS}"),
    })
}

/// Reads `20GiB`, `500MB`, `10G` or a count of bytes. Nothing and `""` mean no bound.
pub(super) fn size(
    field: &'static str,
    text: Option<String>,
    least: u64,
) -> Result<Option<u64>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => 0,
    };
    let bytes = digits
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit));
    match bytes {
        Some(bytes) if bytes >= least => Ok(Some(bytes)),
        Some(bytes) if unit > 0 => Err(ConfigError::Invalid {
            field,
            message: format!("is {bytes} bytes; it must be {least} or more, or \"\" for no bound"),
        }),
        _ => Err(ConfigError::Invalid {
            field,
            message: format!("is {text:?}; write a size such as 20GiB, 500MB or 1048576"),
        }),
    }
}

pub(super) fn window(text: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<lacewing_fusefs::Window>() {
        Ok(_) => Ok(Some(text)),
        Err(message) => Err(ConfigError::Invalid {
            field: "background.window",
            message,
        }),
    }
}

pub(super) fn seconds(
    field: &'static str,
    value: Option<u64>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(Duration::from_secs(value));
    }
    let message = format!(
        "is {value}; it must be from {} to {} seconds",
        range.start(),
        range.end()
    );
    Err(ConfigError::Invalid { field, message })
}

/// Where traces go. Passed to the worker on its command line, so it must hold no secret.
pub(super) fn collector(text: Option<String>) -> Result<Option<String>, ConfigError> {
    match &text {
        Some(url) if !url.is_empty() => match lacewing_oci::check_url(url) {
            Ok(url) if url.query().is_none() => Ok(text),
            _ => Err(ConfigError::Invalid {
                field: "traces.endpoint",
                message: format!("is {url:?}; write http://HOST:4318, or \"\" for nowhere"),
            }),
        },
        _ => Ok(text),
    }
}
