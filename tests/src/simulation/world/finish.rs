//! The figures of a run that is over.

use super::*;

impl World {
    pub(super) fn conclude(mut self) -> Outcome {
        let pieces = self.scenario.pieces as f64;
        let bytes = self.scenario.bytes() as f64;
        let mut uploads = Vec::new();
        for node in &self.nodes {
            let status = node.swarm.status();
            self.outcome.hedged += status.hedged;
            self.outcome.redirected += status.redirected;
            if node.dead {
                continue;
            }
            uploads.push(node.link.sent as f64 / bytes);
            self.outcome.most_parents = self.outcome.most_parents.max(node.parents.len());
            self.outcome.left_over += (status.flights + status.queued) as usize;
            if !node.user {
                continue;
            }
            if let Some(started_up) = node.reader.started_up.filter(|_| !node.slow) {
                (self.outcome.startup).push((started_up - node.reader.started) as f64 / 1e9);
            }
            match (node.reader.done, node.slow) {
                (None, _) => self.outcome.unfinished += 1,
                (Some(done), slow) => {
                    let took = (done - node.reader.started) as f64 / 1e9;
                    let times = if slow {
                        &mut self.outcome.slow_completion
                    } else {
                        &mut self.outcome.completion
                    };
                    times.push(took);
                }
            }
        }
        self.outcome.copies = self.registry.sent as f64 / bytes;
        self.outcome.fetches = self.registry_pieces as f64 / pieces;
        self.outcome.upload_max = uploads.iter().copied().fold(0.0, f64::max);
        let total: f64 = uploads.iter().sum();
        self.outcome.upload_mean = total / uploads.len() as f64;
        let wanted: f64 = self
            .nodes
            .iter()
            .filter(|node| node.user)
            .flat_map(|node| (0..self.scenario.pieces).filter(|piece| node.held.get(*piece)))
            .map(|piece| f64::from(self.scenario.len(piece)))
            .sum::<f64>()
            / bytes;
        self.outcome.moved = (total + self.outcome.copies) / wanted;
        self.outcome.between_zones /= bytes;
        for times in [
            &mut self.outcome.completion,
            &mut self.outcome.startup,
            &mut self.outcome.slow_completion,
            &mut self.outcome.latency,
        ] {
            times.sort_by(f64::total_cmp);
        }
        self.outcome
    }
}
