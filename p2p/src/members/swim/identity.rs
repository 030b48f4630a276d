//! A member as gossip knows it.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};

use crate::members::Meta;

/// A member as gossip knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Id {
    pub(super) address: SocketAddr,
    /// When it began, or last changed what it tells: the larger is the later.
    pub(super) generation: u64,
    pub(super) meta: Meta,
}

impl Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Id {
            generation: self.generation.saturating_add(1),
            ..self.clone()
        })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}
