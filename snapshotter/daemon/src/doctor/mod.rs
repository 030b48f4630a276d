//! `lacewing doctor`: looks at a node and says in plain words what keeps layers from being lazy, and what to change.
//!
//! It changes nothing and asks the daemon, containerd's configuration, the kernel and, given an image, its registry. Each
//! check is a function that returns findings; what they decide from text alone is apart from where the text comes from.

mod containerd;
mod credentials;
mod daemon;
mod disk;
mod kernel;
mod peers;
mod registry;
mod stale;

use anyhow::Result;
use serde::Serialize;

use crate::Outcome;
use crate::cli::DoctorArgs;
use crate::config::{Config, Overrides};
use crate::output::{print, print_json};
use crate::places;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Works, not as well as it could.
    Warning,
    /// Layers are not lazy, or containers may fail.
    Problem,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    check: &'static str,
    verdict: Verdict,
    /// What was seen.
    found: String,
    /// What to do; empty if nothing.
    advice: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            verdict: Verdict::Warning,
            advice: advice.into(),
            ..Finding::ok(check, found)
        }
    }

    fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding {
            verdict: Verdict::Problem,
            advice: advice.into(),
            ..Finding::ok(check, found)
        }
    }
}

/// What the JSON has.
#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

/// Looks, prints, and says by the exit status whether anything is wrong.
///
/// # Errors
/// Standard output is gone, or the process cannot be set up.
pub(crate) fn run(args: &DoctorArgs) -> Result<Outcome> {
    let mut findings = Vec::new();
    let overrides = || Overrides {
        root: args.root.clone(),
        address: args.address.clone(),
    };
    let config = match Config::load(args.config.as_deref(), overrides()) {
        Ok(config) => {
            findings.push(Finding::ok("configuration", "is valid"));
            config
        }
        Err(error) => {
            let advice = "correct that line; misc/examples/config.toml has every field with its default";
            findings.push(Finding::problem("configuration", error.to_string(), advice));
            Config::defaults(overrides())?
        }
    };
    if !nix::unistd::geteuid().is_root() {
        findings.push(Finding::problem(
            "user",
            "this is not root",
            "run it as root: mounts and sockets are root's",
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    findings.extend(kernel::look());
    let status = daemon::look(&config, &runtime, &mut findings);
    findings.extend(containerd::look(
        &config,
        &args.containerd_config,
        status.as_ref(),
    ));
    let own = args.config.clone().unwrap_or_else(places::config_file);
    findings.extend(stale::look(
        &config,
        &own,
        &args.containerd_config,
        status.as_ref(),
    ));
    findings.extend(disk::look(&config));
    findings.extend(credentials::look(&config));
    findings.extend(registry::look(&config, args.image.as_deref(), &runtime));
    findings.extend(peers::look(&config, &runtime));
    let report = Report {
        healthy: findings.iter().all(|finding| finding.verdict != Verdict::Problem),
        findings,
    };
    match args.json {
        true => print_json(&report)?,
        false => print(&text(&report.findings))?,
    }
    Ok(if report.healthy {
        Outcome::Done
    } else {
        Outcome::Differs
    })
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Ok => "ok      ",
            Verdict::Warning => "warning ",
            Verdict::Problem => "PROBLEM ",
        };
        text.push_str(&format!(
            "{mark} {}: {}\n",
            finding.check,
            finding.found.trim_end()
        ));
        if !finding.advice.is_empty() {
            text.push_str(&format!("          -> {}\n", finding.advice));
        }
    }
    let problems = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Problem)
        .count();
    text.push_str(&match problems {
        0 => "nothing is wrong\n".to_owned(),
        1 => "1 problem\n".to_owned(),
        _ => format!("{problems} problems\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_to_do() {
        let findings = [
            Finding::ok("kernel", "6.18"),
            Finding::problem("fuse", "/dev/fuse is missing", "modprobe fuse"),
        ];
        let text = text(&findings);
        assert!(
            text.contains("PROBLEM  fuse: /dev/fuse is missing\n          -> modprobe fuse\n"),
            "{text}"
        );
        assert!(text.ends_with("1 problem\n"), "{text}");
    }
}
