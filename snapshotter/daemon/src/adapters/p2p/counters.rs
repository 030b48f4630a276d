//! What the node has done and does, by name.

use std::collections::HashMap;

use lacewing_p2p::driver::Status;

use super::Peers;

impl Peers {
    /// What the node has done and does, for status and metrics.
    pub(crate) async fn counters(&self) -> HashMap<String, u64> {
        let status: Status = self.node.status().await;
        let swarm = status.swarm;
        [
            ("p2p_members", u64::from(status.members)),
            ("p2p_links", u64::from(status.links)),
            ("p2p_pieces", status.held.pieces),
            ("p2p_piece_bytes", status.held.bytes),
            ("p2p_bytes_from_peers", status.bytes_from_peers),
            ("p2p_bytes_from_registry", status.bytes_from_origin),
            ("p2p_bytes_to_peers", status.bytes_to_peers),
            ("p2p_failed_links", status.failed_links),
            ("p2p_wrong_peers", status.wrong.len() as u64),
            ("p2p_wrong_pieces", swarm.corrupt),
            ("p2p_asked", swarm.asked),
            ("p2p_asked_registry", swarm.asked_origin),
            ("p2p_hedged", swarm.hedged),
            ("p2p_hedged_registry", swarm.hedged_origin),
            ("p2p_passed_over", swarm.passed_over),
            ("p2p_redirected", swarm.redirected),
            ("p2p_refused", swarm.refused),
            ("p2p_relayed", swarm.relayed),
            ("p2p_uploaded", swarm.uploaded),
            ("p2p_leaf", u64::from(swarm.leaf)),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
    }
}
