//! Runs the piece layer's logic in a simulated cluster: one scenario by its settings, NAME=VALUE each, and one line of figures.

use std::time::{Duration, Instant};

use lacewing_tests::simulation::{Fault, Outcome, Scenario, run};

fn main() {
    let mut scenario = Scenario::rollout(100);
    for argument in std::env::args().skip(1) {
        let Some((name, value)) = argument.split_once('=') else {
            panic!("NAME=VALUE, not {argument}")
        };
        set(&mut scenario, name, value.parse().expect("a number"));
    }
    let begun = Instant::now();
    let outcome = run(&scenario);
    tell(&outcome, begun.elapsed());
}

fn set(scenario: &mut Scenario, name: &str, number: f64) {
    match name {
        "nodes" => scenario.nodes = number as usize,
        "users" => scenario.users = Some(number as usize),
        "seed" => scenario.seed = number as u64,
        "pieces" => scenario.pieces = number as usize,
        "piece_kib" => scenario.piece_bytes = (number * 1024.0) as u32,
        "tiny_every" => scenario.tiny_every = number as usize,
        "link_mbit" => scenario.link = number * 1e6,
        "registry_mbit" => scenario.registry_link = number * 1e6,
        "queue_kib" => scenario.queue_bytes = (number * 1024.0) as u32,
        "ack_ms" => scenario.config.ack_timeout = Duration::from_millis(number as u64),
        "origin_limit" => scenario.config.origin_limit = number as u32,
        "cluster" => *scenario = Scenario::cluster(number as usize, 57),
        "under_way_kib" => {
            if let Some(daemon) = &mut scenario.daemon {
                daemon.under_way = (number * 1024.0) as u32;
            }
        }
        "beside" => {
            if let Some(daemon) = &mut scenario.daemon {
                daemon.beside = number as usize;
            }
        }
        "slow" => scenario.slow = number,
        "crashed" => scenario.crashed = number,
        "unseen" => scenario.unseen = number,
        "zones" => scenario.zones = number as u16,
        "window" => scenario.window = number as usize,
        "reads" => scenario.reads = number as usize,
        "stride" => scenario.stride = number as usize,
        "think_ms" => scenario.think = number / 1e3,
        "crash_within" => scenario.crash_within = number,
        "hedge_ms" => scenario.config.hedge_prefetch = Duration::from_millis(number as u64),
        "admit_ms" => scenario.config.admit_wait = Duration::from_millis(number as u64),
        "redirects" => scenario.config.redirects = number as u8,
        "uploads" => scenario.config.uploads = number as u32,
        "relay_ratio" => scenario.config.relay_ratio = number as u32,
        "join" => scenario.faults.push(Fault::JoinOver(number)),
        "limit" => scenario.limit = number,
        _ => panic!("unknown setting {name}"),
    }
}

/// Prints the figures; `took`: what the run itself took.
fn tell(o: &Outcome, took: Duration) {
    println!(
        "p50 {:.3} p99 {:.3} max {:.3} slow {:.2} | copies {:.4} asked {:.4} | up {:.3} | moved {:.3} zones {:.2} | lat {:.2} {:.2} {:.2} | hedged {} redirected {} wasted {} parents {} failures {} unfinished {} left {} | start {:.2} {:.2} | ev {}M {:?}",
        o.completion(0.5),
        o.completion(0.99),
        o.completion(1.0),
        o.slow_completion.last().copied().unwrap_or(0.0),
        o.copies,
        o.fetches,
        o.upload_ratio(),
        o.moved,
        o.between_zones,
        o.latency(0.5),
        o.latency(0.99),
        o.latency(0.999),
        o.hedged,
        o.redirected,
        o.wasted,
        o.most_parents,
        o.failures,
        o.unfinished,
        o.left_over,
        o.startup(0.5),
        o.startup(1.0),
        o.events / 1_000_000,
        took
    );
}
