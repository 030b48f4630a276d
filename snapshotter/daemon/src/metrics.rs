//! What Prometheus gets: one table of names, meanings and where the numbers come from, and its text form
//! (exposition format 0.0.4). misc/docs/metrics.md explains them; a test holds the two together.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lacewing_rpc::control::StatusResponse;

use crate::meters::{BOUNDS, Histogram, Meters, Outcome};

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

const fn counter(name: &'static str, help: &'static str, read: Read) -> Family {
    let kind = Kind::Counter;
    Family {
        name,
        kind,
        help,
        read,
    }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Sample<'_>) -> Vec<Value>) -> Family {
    let (kind, read) = (Kind::Gauge, Read::Values(read));
    Family {
        name,
        kind,
        help,
        read,
    }
}

const fn of_peers(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    counts: &'static [(&'static str, &'static str)],
) -> Family {
    let read = Read::Peers(counts);
    Family {
        name,
        kind,
        help,
        read,
    }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    read: fn(&Meters) -> Vec<(&'static str, &Histogram)>,
) -> Family {
    let (kind, read) = (Kind::Histogram, Read::Durations(read));
    Family {
        name,
        kind,
        help,
        read,
    }
}

/// Everything that is exposed, in this order.
pub(crate) const FAMILIES: &[Family] = &[
    gauge(
        "lacewing_build_info",
        "Always 1; the label is the daemon's release.",
        |s| vec![(format!("version=\"{}\"", escaped(&s.status.version)), 1.0)],
    ),
    gauge(
        "lacewing_feature",
        "1 if the node uses what the kernel may offer, by name.",
        |s| {
            let feature = |f: &lacewing_rpc::control::Feature| {
                (
                    format!("name=\"{}\"", escaped(&f.name)),
                    f64::from(u8::from(f.used)),
                )
            };
            s.status.features.iter().map(feature).collect()
        },
    ),
    counter(
        "lacewing_worker_restarts_total",
        "Workers that this supervisor started before the one that answers.",
        Read::Values(|s| plain(s.status.worker_restarts)),
    ),
    counter(
        "lacewing_reads_total",
        "Reads that the kernel asked for and that were answered.",
        Read::Total("reads"),
    ),
    counter(
        "lacewing_read_bytes_total",
        "Plain bytes of these answers.",
        Read::Total("read_bytes"),
    ),
    counter(
        "lacewing_read_misses_total",
        "Reads that had to wait for bytes.",
        Read::Total("misses"),
    ),
    counter(
        "lacewing_read_errors_total",
        "Reads that failed.",
        Read::Total("read_errors"),
    ),
    counter(
        "lacewing_reads_resent_total",
        "Reads in flight that the kernel sent again to this worker.",
        Read::Total("resent"),
    ),
    counter(
        "lacewing_fetch_bytes_total",
        "Stored bytes that came from outside the node.",
        Read::Total("source_bytes"),
    ),
    counter(
        "lacewing_fetches_total",
        "Requests for stored bytes that ended, by outcome.",
        Read::Values(|s| {
            let value = |outcome: Outcome| {
                (
                    format!("outcome=\"{}\"", outcome.name()),
                    s.meters.outcome(outcome) as f64,
                )
            };
            Outcome::ALL.into_iter().map(value).collect()
        }),
    ),
    histogram(
        "lacewing_fetch_duration_seconds",
        "How long requests for stored bytes took, by class: whether a process waited.",
        |m| {
            vec![
                ("class=\"blocking\"", &m.blocking),
                ("class=\"prefetch\"", &m.prefetch),
            ]
        },
    ),
    counter(
        "lacewing_decoded_bytes_total",
        "Plain bytes unpacked and verified.",
        Read::Total("decoded_bytes"),
    ),
    counter(
        "lacewing_dedup_bytes_total",
        "Plain bytes found in another layer's pack instead of fetched.",
        Read::Total("dedup_bytes"),
    ),
    counter(
        "lacewing_corrupt_chunks_total",
        "Chunks or frames whose bytes were not those the index demands.",
        Read::Total("corrupt"),
    ),
    counter(
        "lacewing_unstored_frames_total",
        "Frames that could not be kept, for want of space or for a failing disk.",
        Read::Total("unstored"),
    ),
    counter(
        "lacewing_evicted_bytes_total",
        "Plain bytes given up, to be fetched again when they are read.",
        Read::Total("evicted_bytes"),
    ),
    counter(
        "lacewing_layer_offers_total",
        "Layers that containerd asked for, by answer: lazy or ordinary.",
        Read::Values(|s| {
            let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
            vec![
                ("answer=\"lazy\"".to_owned(), get(&s.meters.lazy)),
                ("answer=\"ordinary\"".to_owned(), get(&s.meters.ordinary)),
            ]
        }),
    ),
    histogram(
        "lacewing_layer_offer_duration_seconds",
        "How long containerd waited for that answer, the fetch of the index included.",
        |m| vec![("", &m.offers)],
    ),
    histogram(
        "lacewing_layer_show_duration_seconds",
        "How long showing a layer took, the mount included where it was not shown yet.",
        |m| vec![("", &m.shows)],
    ),
    gauge(
        "lacewing_pulls_in_progress",
        "Layers that somebody asked for and that are not answered yet.",
        |s| plain(s.status.pulls.len() as u64),
    ),
    gauge(
        "lacewing_layers",
        "Layers that containerd was given, by state: lazy (bytes are missing), complete, ordinary.",
        layers,
    ),
    gauge(
        "lacewing_layers_broken",
        "Snapshots that could not be shown again after the last restart.",
        |s| plain(s.status.broken.len() as u64),
    ),
    gauge(
        "lacewing_layer_present_bytes",
        "Plain bytes of lazy layers that are here.",
        |s| plain(s.status.layers.iter().map(|layer| layer.bytes_present).sum()),
    ),
    gauge(
        "lacewing_layer_whole_bytes",
        "Plain bytes of lazy layers when they are whole.",
        |s| plain(s.status.layers.iter().map(|layer| layer.bytes_total).sum()),
    ),
    gauge(
        "lacewing_store_free_bytes",
        "Free bytes of the file system that holds the root.",
        |s| plain(s.disk.free),
    ),
    gauge(
        "lacewing_store_size_bytes",
        "Bytes of the file system that holds the root.",
        |s| plain(s.disk.total),
    ),
    of_peers(
        "lacewing_p2p_members",
        Kind::Gauge,
        "Other nodes of the piece layer that this one knows.",
        &[("", "p2p_members")],
    ),
    of_peers(
        "lacewing_p2p_connections",
        Kind::Gauge,
        "Connections with them, both ways.",
        &[("", "p2p_links")],
    ),
    of_peers(
        "lacewing_p2p_leaf",
        Kind::Gauge,
        "1 while this node is too slow to be asked by others.",
        &[("", "p2p_leaf")],
    ),
    of_peers(
        "lacewing_p2p_stored_pieces",
        Kind::Gauge,
        "Pieces in the piece store.",
        &[("", "p2p_pieces")],
    ),
    of_peers(
        "lacewing_p2p_stored_bytes",
        Kind::Gauge,
        "Their bytes.",
        &[("", "p2p_piece_bytes")],
    ),
    of_peers(
        "lacewing_p2p_received_bytes_total",
        Kind::Counter,
        "Verified bytes of pieces, by where they came from.",
        &[
            ("from=\"peers\"", "p2p_bytes_from_peers"),
            ("from=\"registry\"", "p2p_bytes_from_registry"),
        ],
    ),
    of_peers(
        "lacewing_p2p_sent_bytes_total",
        Kind::Counter,
        "Bytes of pieces that went to other nodes.",
        &[("", "p2p_bytes_to_peers")],
    ),
    of_peers(
        "lacewing_p2p_requests_total",
        Kind::Counter,
        "Requests for pieces, by whom they went to.",
        &[
            ("to=\"peers\"", "p2p_asked"),
            ("to=\"registry\"", "p2p_asked_registry"),
        ],
    ),
    of_peers(
        "lacewing_p2p_hedges_total",
        Kind::Counter,
        "Requests among them for a piece that was asked for elsewhere and is late.",
        &[("", "p2p_hedged")],
    ),
    of_peers(
        "lacewing_p2p_registry_hedges_total",
        Kind::Counter,
        "Those of them that went to a registry.",
        &[("", "p2p_hedged_registry")],
    ),
    of_peers(
        "lacewing_p2p_passed_over_total",
        Kind::Counter,
        "Nodes that did not take a request in time and were left alone for a while.",
        &[("", "p2p_passed_over")],
    ),
    of_peers(
        "lacewing_p2p_answers_total",
        Kind::Counter,
        "Requests of other nodes, by what became of them.",
        &[
            ("answer=\"piece\"", "p2p_uploaded"),
            ("answer=\"redirect\"", "p2p_redirected"),
            ("answer=\"refusal\"", "p2p_refused"),
        ],
    ),
    of_peers(
        "lacewing_p2p_relayed_pieces_total",
        Kind::Counter,
        "Pieces that were fetched for other nodes alone.",
        &[("", "p2p_relayed")],
    ),
    of_peers(
        "lacewing_p2p_wrong_pieces_total",
        Kind::Counter,
        "Pieces from other nodes whose bytes were not those the index demands.",
        &[("", "p2p_wrong_pieces")],
    ),
    of_peers(
        "lacewing_p2p_failed_connections_total",
        Kind::Counter,
        "Connections to other nodes that could not be made.",
        &[("", "p2p_failed_links")],
    ),
    counter(
        "process_cpu_seconds_total",
        "CPU time of the worker, user and system.",
        Read::Values(|s| vec![(String::new(), s.process.cpu.as_secs_f64())]),
    ),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory of the worker.",
        |s| plain(s.process.resident),
    ),
    gauge("process_open_fds", "Open descriptors of the worker.", |s| {
        plain(s.process.open_files)
    }),
    gauge(
        "process_start_time_seconds",
        "When the worker began, in seconds since 1970.",
        |s| vec![(String::new(), s.status.started_at_ms as f64 / 1000.0)],
    ),
];

fn plain(count: u64) -> Vec<Value> {
    vec![(String::new(), count as f64)]
}

fn layers(sample: &Sample<'_>) -> Vec<Value> {
    let mut counts = [("complete", 0_u32), ("lazy", 0), ("ordinary", 0)];
    for layer in &sample.status.layers {
        let at = match (layer.lazy, layer.direct) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        counts[at].1 = counts[at].1.saturating_add(1);
    }
    let value = |(state, count): (&str, u32)| (format!("state=\"{state}\""), f64::from(count));
    counts.into_iter().map(value).collect()
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

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    const DOCUMENT: &str = include_str!("../../../misc/docs/metrics.md");

    fn rendered(status: &StatusResponse, meters: &Meters) -> String {
        render(&Sample {
            status,
            meters,
            process: Process::default(),
            disk: Disk::default(),
        })
    }

    /// Rows `| name | type | meaning |` of the document.
    fn documented() -> BTreeMap<String, (String, String)> {
        let rows = DOCUMENT.lines().filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, meaning] = cells[..] else {
                return None;
            };
            let name = name.strip_prefix('`')?.strip_suffix('`')?;
            Some((name.to_owned(), (kind.to_owned(), meaning.to_owned())))
        });
        rows.collect()
    }

    #[test]
    fn the_document_and_the_table_say_the_same() {
        let table: BTreeMap<String, (String, String)> = FAMILIES
            .iter()
            .map(|family| {
                let said = (family.kind.name().to_owned(), family.help.to_owned());
                (family.name.to_owned(), said)
            })
            .collect();
        assert_eq!(table.len(), FAMILIES.len(), "a name stands twice");
        assert_eq!(documented(), table);
    }

    #[test]
    fn names_follow_the_custom() {
        for family in FAMILIES {
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == Kind::Counter, "{}", family.name);
            if family.kind == Kind::Histogram {
                assert!(family.name.ends_with("_seconds"), "{}", family.name);
            }
        }
    }

    #[test]
    fn every_total_of_the_store_is_exposed() {
        let counted = crate::control::counters(&lacewing_fusefs::Counters::default());
        let told: BTreeSet<&str> = FAMILIES
            .iter()
            .filter_map(|family| match family.read {
                Read::Total(name) => Some(name),
                _ => None,
            })
            .collect();
        for name in &told {
            assert!(counted.contains_key(*name), "status has no {name}");
        }
        // `lacewing_fetches_total` counts these by outcome.
        let apart = "source_reads";
        for name in counted.keys() {
            assert!(
                told.contains(name.as_str()) || name == apart,
                "{name} is not exposed"
            );
        }
    }

    /// Everything that can be told, told once.
    fn busy() -> (StatusResponse, Meters) {
        use lacewing_rpc::control::{Broken, Feature, Fetch, Layer, Pull};
        let layer = |lazy, direct| Layer {
            lazy,
            direct,
            bytes_present: 1,
            bytes_total: 2,
            ..Layer::default()
        };
        let used = Feature {
            used: true,
            ..Feature::default()
        };
        let counted = crate::control::counters(&lacewing_fusefs::Counters::default());
        let of_peers = FAMILIES.iter().flat_map(|family| match family.read {
            Read::Peers(counts) => counts.iter().map(|(_, name)| (*name).to_owned()).collect(),
            _ => Vec::new(),
        });
        let status = StatusResponse {
            worker_restarts: 1,
            started_at_ms: 1,
            features: vec![used],
            layers: vec![layer(true, true), layer(true, false), layer(false, false)],
            broken: vec![Broken::default()],
            counters: (counted.into_keys().chain(of_peers))
                .map(|name| (name, 1))
                .collect(),
            pulls: vec![Pull::default()],
            ..StatusResponse::default()
        };
        let meters = Meters::default();
        for outcome in Outcome::ALL {
            for blocking in [true, false] {
                let fetch = Fetch {
                    blocking,
                    ..Fetch::default()
                };
                meters.fetched(fetch, outcome, Duration::from_secs(1));
            }
        }
        meters.offers.record(Duration::from_secs(1));
        meters.shows.record(Duration::from_secs(1));
        meters.lazy.store(1, Ordering::Relaxed);
        meters.ordinary.store(1, Ordering::Relaxed);
        (status, meters)
    }

    #[test]
    fn every_sample_moves() {
        let (status, meters) = busy();
        let text = render(&Sample {
            status: &status,
            meters: &meters,
            process: Process {
                cpu: Duration::from_secs(1),
                resident: 1,
                open_files: 1,
            },
            disk: Disk { total: 1, free: 1 },
        });
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            // Nothing took less than a second.
            let still = value == "0";
            assert_eq!(still, name.contains("le=\"0."), "{line}");
        }
    }

    #[test]
    fn the_text_has_its_form() {
        let status = StatusResponse {
            version: "1\"2".to_owned(),
            counters: HashMap::from([("reads".to_owned(), 7)]),
            ..StatusResponse::default()
        };
        let meters = Meters::default();
        meters.offers.record(Duration::from_millis(30));
        let text = rendered(&status, &meters);
        for expected in [
            "# TYPE lacewing_reads_total counter\nlacewing_reads_total 7\n",
            "lacewing_build_info{version=\"1\\\"2\"} 1\n",
            "lacewing_layer_offer_duration_seconds_bucket{le=\"0.025\"} 0\n",
            "lacewing_layer_offer_duration_seconds_bucket{le=\"0.05\"} 1\n",
            "lacewing_layer_offer_duration_seconds_bucket{le=\"+Inf\"} 1\n",
            "lacewing_layer_offer_duration_seconds_sum 0.03\n",
            "lacewing_fetch_duration_seconds_count{class=\"blocking\"} 0\n",
            "lacewing_fetches_total{outcome=\"forbidden\"} 0\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }
}
