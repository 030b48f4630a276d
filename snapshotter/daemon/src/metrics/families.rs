//! The table of everything that is exposed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Family, Kind, Read, Sample, Value};
use crate::meters::{Histogram, Meters, Outcome};

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
pub(super) const FAMILIES: &[Family] = &[
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
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
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

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
