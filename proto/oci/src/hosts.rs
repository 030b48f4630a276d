//! containerd's `certs.d`: which endpoints serve a registry's name, in which order, and how they are spoken to.
//!
//! The rules are those of containerd's `core/remotes/docker/config/hosts.go`: the folder is `HOST_PORT_`, `HOST:PORT`
//! or `_default`; `hosts.toml` lists `[host."URL"]` tables, tried in the file's order, then `server`;
//! without a `hosts.toml`, `*.crt`, `*.cert` and `*.key` beside it count. One difference: a file that cannot be
//! understood is an error, where containerd logs it and goes on without.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use toml::{Table, Value};

use crate::{
    Error,
    endpoint::{Capabilities, Endpoint, TlsMaterial},
    limits::MAX_CONFIG_FILE,
    reference::is_loopback,
};

/// Finds the endpoints for `host`, in the order in which they are to be tried. Blocking.
///
/// # Errors
/// `Invalid` with file and key; `Io` for files that are there and cannot be read.
pub(crate) fn endpoints(hosts_dir: Option<&Path>, host: &str) -> Result<Vec<Endpoint>, Error> {
    let folder = hosts_dir.and_then(|root| candidates(root, host).into_iter().find(|dir| dir.is_dir()));
    let entries = match folder {
        Some(folder) => load(&folder)?,
        None => vec![Entry::default()],
    };
    entries.into_iter().map(|entry| entry.resolve(host)).collect()
}

/// Folders that may hold a host's configuration, best first.
fn candidates(root: &Path, host: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some((name, port)) = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()) {
        folders.push(root.join(format!("{name}_{port}_")));
    }
    folders.push(root.join(host));
    folders.push(root.join("_default"));
    folders
}

fn load(folder: &Path) -> Result<Vec<Entry>, Error> {
    let file = folder.join("hosts.toml");
    match read(&file) {
        Ok(text) if !text.is_empty() => {
            let text = String::from_utf8(text).map_err(|_| invalid(&file, "", "not UTF-8"))?;
            parse(&text, &file)
        }
        Ok(_) => certificates_beside(folder),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            certificates_beside(folder)
        }
        Err(error) => Err(error),
    }
}

/// Docker's older layout: authorities in `*.crt`, client pairs in `NAME.cert` and `NAME.key`.
fn certificates_beside(folder: &Path) -> Result<Vec<Entry>, Error> {
    let listing = std::fs::read_dir(folder).map_err(|source| io(folder, source))?;
    let mut files: Vec<PathBuf> = listing
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    let mut entry = Entry::default();
    for file in files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => entry.authorities.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                entry.identities.push((file, Some(key)));
            }
            _ => {}
        }
    }
    Ok(vec![entry])
}

/// Addresses that a file's text gives a host, for fuzzing.
#[cfg(feature = "fuzzing")]
pub(crate) fn addresses(text: &str, host: &str) -> Result<Vec<Url>, Error> {
    let address = |entry: Entry| entry.base.map_or_else(|| own_address(host), Ok);
    let entries = parse(text, Path::new("/hosts.toml"))?;
    entries.into_iter().map(address).collect()
}

/// One table of the file, its paths not read yet.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    /// Where it is; none: the registry's own address.
    base: Option<Url>,
    capabilities: Option<Capabilities>,
    authorities: Vec<PathBuf>,
    identities: Vec<(PathBuf, Option<PathBuf>)>,
    skip_verify: Option<bool>,
    headers: Vec<(String, String)>,
    dial_timeout: Option<Duration>,
}

impl Entry {
    fn resolve(self, host: &str) -> Result<Endpoint, Error> {
        let own = self.base.is_none();
        let (base, capabilities) = match self.base {
            Some(base) => (base, self.capabilities.unwrap_or(Capabilities::ALL)),
            None => (own_address(host)?, Capabilities::ALL),
        };
        let mut identities = Vec::new();
        for (certificate, key) in &self.identities {
            let mut pem = read(certificate)?;
            if let Some(key) = key {
                pem.push(b'\n');
                pem.extend(read(key)?);
            }
            identities.push(pem);
        }
        let tls = TlsMaterial {
            authorities: self
                .authorities
                .iter()
                .map(|file| read(file))
                .collect::<Result<_, _>>()?,
            identities,
            skip_verify: self.skip_verify.unwrap_or(false),
        };
        let mut endpoint = Endpoint {
            base,
            capabilities,
            tls: tls.into(),
            headers: self.headers,
            dial_timeout: self.dial_timeout,
            mirror_of: None,
        };
        if !own && endpoint.authority() != host && endpoint.base.authority() != host {
            endpoint.mirror_of = Some(host.to_owned());
        }
        Ok(endpoint)
    }
}

/// The address that a registry's name stands for.
fn own_address(host: &str) -> Result<Url, Error> {
    let text = if host == "docker.io" {
        "https://registry-1.docker.io/v2".to_owned()
    } else if is_loopback(host) {
        format!("http://{host}/v2")
    } else {
        format!("https://{host}/v2")
    };
    Url::parse(&text).map_err(|error| Error::Invalid {
        what: format!("registry host {host:?}"),
        reason: error.to_string(),
    })
}

/// Reads a `hosts.toml`. Pure: no other file is touched.
fn parse(text: &str, file: &Path) -> Result<Vec<Entry>, Error> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let reason = error.message().to_owned();
        invalid(file, "", &reason)
    })?;
    let reader = Reader {
        file,
        folder: file.parent().unwrap_or(Path::new(".")),
    };
    let mut entries = Vec::new();
    if let Some(hosts) = table.get("host") {
        let hosts = hosts
            .as_table()
            .ok_or_else(|| reader.wrong("host", "a table", hosts))?;
        for (address, config) in hosts {
            let key = format!("host.{address:?}");
            let config = config
                .as_table()
                .ok_or_else(|| reader.wrong(&key, "a table", config))?;
            entries.push(reader.entry(&key, Some(address), config)?);
        }
    }
    let server = match table.get("server") {
        Some(server) => Some(
            server
                .as_str()
                .ok_or_else(|| reader.wrong("server", "a string", server))?,
        ),
        None => None,
    };
    entries.push(reader.entry("", server.filter(|server| !server.is_empty()), &table)?);
    Ok(entries)
}

struct Reader<'a> {
    file: &'a Path,
    folder: &'a Path,
}

impl Reader<'_> {
    fn entry(&self, at: &str, address: Option<&str>, table: &Table) -> Result<Entry, Error> {
        let key = |name: &str| {
            if at.is_empty() {
                name.to_owned()
            } else {
                format!("{at}.{name}")
            }
        };
        let flag = |name: &str| match table.get(name) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(&key(name), "true or false", other)),
        };
        let override_path = flag("override_path")?.unwrap_or(false);
        let base = match address {
            Some(address) => {
                Some(self.address(if at.is_empty() { "server" } else { at }, address, override_path)?)
            }
            None => None,
        };
        let strings = |name: &str| match table.get(name) {
            None => Ok(Vec::new()),
            Some(value) => self.strings(&key(name), value),
        };
        let capabilities = match strings("capabilities")? {
            names if names.is_empty() => None,
            names => Some(self.capabilities(&key("capabilities"), &names)?),
        };
        let dial_timeout = match table.get("dial_timeout") {
            None => None,
            Some(value) => Some(self.duration(&key("dial_timeout"), value)?),
        };
        Ok(Entry {
            base,
            capabilities,
            authorities: strings("ca")?.iter().map(|path| self.folder.join(path)).collect(),
            identities: match table.get("client") {
                None => Vec::new(),
                Some(value) => self.identities(&key("client"), value)?,
            },
            skip_verify: flag("skip_verify")?,
            headers: match table.get("header") {
                None => Vec::new(),
                Some(value) => self.headers(&key("header"), value)?,
            },
            dial_timeout,
        })
    }

    fn address(&self, key: &str, address: &str, override_path: bool) -> Result<Url, Error> {
        let text = if address.starts_with("http") {
            address.to_owned()
        } else {
            format!("https://{address}")
        };
        let mut url = Url::parse(&text).map_err(|error| invalid(self.file, key, &error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid(self.file, key, "an http or https address is expected"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // The key repeats the address: it must not be shown.
            let key = key.split('.').next().unwrap_or_default();
            return Err(invalid(
                self.file,
                key,
                "credentials do not belong into an address",
            ));
        }
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/').to_owned();
        let path = if override_path || path.ends_with("/v2") {
            path
        } else {
            format!("{path}/v2")
        };
        url.set_path(&path);
        Ok(url)
    }

    fn capabilities(&self, key: &str, names: &[String]) -> Result<Capabilities, Error> {
        let mut capabilities = Capabilities {
            pull: false,
            resolve: false,
            push: false,
        };
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => capabilities.pull = true,
                "resolve" => capabilities.resolve = true,
                "push" => capabilities.push = true,
                _ => return Err(invalid(self.file, key, &format!("unknown capability {name:?}"))),
            }
        }
        Ok(capabilities)
    }

    /// A string, or a list of strings.
    fn strings(&self, key: &str, value: &Value) -> Result<Vec<String>, Error> {
        let one = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wrong(key, "a string", other)),
        };
        match value {
            Value::Array(list) => list.iter().map(one).collect(),
            value => Ok(vec![one(value)?]),
        }
    }

    /// `"pair.pem"`, `["a.pem", "b.pem"]` (each with its key inside) or `[["cert.pem", "key.pem"], ..]`.
    fn identities(&self, key: &str, value: &Value) -> Result<Vec<(PathBuf, Option<PathBuf>)>, Error> {
        let expected = "a file name, or a list of file names or of [certificate, key] pairs";
        let path = |text: &str| self.folder.join(text);
        let list = match value {
            Value::String(one) => return Ok(vec![(path(one), None)]),
            Value::Array(list) => list,
            other => return Err(self.wrong(key, expected, other)),
        };
        let one = |item: &Value| match item {
            Value::String(one) => Ok((path(one), None)),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(certificate)] => Ok((path(certificate), None)),
                [Value::String(certificate), Value::String(file)] if file.is_empty() => {
                    Ok((path(certificate), None))
                }
                [Value::String(certificate), Value::String(file)] => {
                    Ok((path(certificate), Some(path(file))))
                }
                _ => Err(self.wrong(key, expected, item)),
            },
            other => Err(self.wrong(key, expected, other)),
        };
        list.iter().map(one).collect()
    }

    fn headers(&self, key: &str, value: &Value) -> Result<Vec<(String, String)>, Error> {
        let table = value
            .as_table()
            .ok_or_else(|| self.wrong(key, "a table", value))?;
        let mut headers = Vec::new();
        for (name, value) in table {
            let key = format!("{key}.{name}");
            if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(invalid(self.file, &key, "not a header's name"));
            }
            for value in self.strings(&key, value)? {
                if reqwest::header::HeaderValue::from_str(&value).is_err() {
                    return Err(invalid(self.file, &key, "not a header's value"));
                }
                headers.push((name.clone(), value));
            }
        }
        Ok(headers)
    }

    /// Go's notation, in the units that make sense here: `500ms`, `3s`, `1m30s`.
    fn duration(&self, key: &str, value: &Value) -> Result<Duration, Error> {
        let text = value.as_str().ok_or_else(|| self.wrong(key, "a string", value))?;
        parse_duration(text).ok_or_else(|| {
            invalid(
                self.file,
                key,
                "a duration such as \"3s\" or \"500ms\" is expected",
            )
        })
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        invalid(
            self.file,
            key,
            &format!("expected {expected}, found {}", found.type_str()),
        )
    }
}

fn parse_duration(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(digits);
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        text = rest;
    }
    Some(total)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let open = std::fs::File::open(file).map_err(|source| io(file, source))?;
    let mut bytes = Vec::new();
    open.take(MAX_CONFIG_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| io(file, source))?;
    if bytes.len() as u64 > MAX_CONFIG_FILE {
        return Err(invalid(file, "", "the file is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn io(file: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: file.display().to_string(),
        source,
    }
}

fn invalid(file: &Path, key: &str, reason: &str) -> Error {
    let at = if key.is_empty() {
        String::new()
    } else {
        format!(": {key}")
    };
    Error::Invalid {
        what: format!("{}{at}", file.display()),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
