//! What Prometheus gets: one table of names, meanings and where the numbers come from, and its text form
//! (exposition format 0.0.4). misc/docs/metrics.md explains them; a test holds the two together.

mod families;

use std::fmt::Write;
use std::time::Duration;

use lacewing_rpc::control::StatusResponse;

use self::families::FAMILIES;
use crate::meters::{BOUNDS, Histogram, Meters};

/// All that is known at the moment of a question.
pub(crate) struct Sample<'a> {
    /// What `lacewing status` tells.
    pub(crate) status: &'a StatusResponse,
    /// What is measured beside it.
    pub(crate) meters: &'a Meters,
    /// The worker as the kernel sees it.
    pub(crate) process: Process,
    /// The file system of the root.
    pub(crate) disk: Disk,
}

/// The process's own numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Process {
    /// CPU time, user and system.
    pub(crate) cpu: Duration,
    /// Resident bytes.
    pub(crate) resident: u64,
    /// Open descriptors.
    pub(crate) open_files: u64,
}

/// Bytes of the root's file system.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Disk {
    /// In all.
    pub(crate) total: u64,
    /// Free for root.
    pub(crate) free: u64,
}

/// Prometheus' types that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Grows until the worker is replaced.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// As it stands behind `# TYPE`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One labelled number; an empty label is none.
type Value = (String, f64);

/// How a family's numbers are found.
enum Read {
    /// A running total of the store, by its name in status.
    Total(&'static str),
    /// Whatever else.
    Values(fn(&Sample<'_>) -> Vec<Value>),
    /// Numbers of the piece layer by their names in status, each with its label; told where it is on.
    Peers(&'static [(&'static str, &'static str)]),
    /// Histograms, each with its label.
    Durations(fn(&Meters) -> Vec<(&'static str, &Histogram)>),
}

/// Numbers of one name.
pub(crate) struct Family {
    /// Prefix, thing, unit, as the ecosystem has it.
    pub(crate) name: &'static str,
    /// Its type.
    pub(crate) kind: Kind,
    /// One sentence.
    pub(crate) help: &'static str,
    read: Read,
}

/// The whole answer to a scrape.
pub(crate) fn render(sample: &Sample<'_>) -> String {
    let mut text = String::with_capacity(8 << 10);
    let on = sample.status.counters.contains_key("p2p_members");
    for family in FAMILIES {
        if matches!(family.read, Read::Peers(_)) && !on {
            continue;
        }
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(text, "# TYPE {} {}", family.name, family.kind.name());
        match family.read {
            Read::Total(name) => {
                let count = sample.status.counters.get(name).copied().unwrap_or_default();
                line(&mut text, family.name, "", count as f64);
            }
            Read::Peers(counts) => {
                for (label, name) in counts {
                    let count = sample.status.counters.get(*name).copied().unwrap_or_default();
                    line(&mut text, family.name, label, count as f64);
                }
            }
            Read::Values(read) => {
                for (label, value) in read(sample) {
                    line(&mut text, family.name, &label, value);
                }
            }
            Read::Durations(read) => {
                for (label, histogram) in read(sample.meters) {
                    durations(&mut text, family.name, label, histogram);
                }
            }
        }
    }
    text
}

fn line(text: &mut String, name: &str, label: &str, value: f64) {
    let _ = match label {
        "" => writeln!(text, "{name} {value}"),
        _ => writeln!(text, "{name}{{{label}}} {value}"),
    };
}

fn durations(text: &mut String, name: &str, label: &str, histogram: &Histogram) {
    let counts = histogram.cumulative();
    let comma = if label.is_empty() { "" } else { "," };
    for (bound, count) in BOUNDS.iter().zip(counts) {
        line(
            text,
            &format!("{name}_bucket"),
            &format!("{label}{comma}le=\"{bound}\""),
            count as f64,
        );
    }
    let all = counts[BOUNDS.len()] as f64;
    line(
        text,
        &format!("{name}_bucket"),
        &format!("{label}{comma}le=\"+Inf\""),
        all,
    );
    line(text, &format!("{name}_sum"), label, histogram.seconds());
    line(text, &format!("{name}_count"), label, all);
}

#[cfg(test)]
mod tests;
