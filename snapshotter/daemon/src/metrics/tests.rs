#![allow(clippy::unwrap_used)]
use super::*;
use crate::meters::Outcome;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;

const DOCUMENT: &str = include_str!("../../../../misc/docs/metrics.md");

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
