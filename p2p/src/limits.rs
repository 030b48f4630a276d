//! Bounds on what peers may make this node hold or do.

/// Most members of a cluster that a view holds. Ten times the largest cluster that was simulated.
pub const MAX_MEMBERS: usize = 100_000;

/// Most zones; a tree's roots of zones are kept in a table of trees times zones.
pub const MAX_ZONES: usize = 1_024;

/// Longest piece, in bytes. An index travels as one piece and is at most that long.
pub const MAX_PIECE_LEN: u32 = 256 << 20;

/// Most requests of one peer that this node holds at once. A node asks one parent for its window of a tree, and for
/// what its own children wait for; 1,024 is several times what the simulation of 10,000 nodes shows.
pub const MAX_REQUESTS_PER_PEER: u32 = 1_024;

/// Most requests that this node holds at once, over all peers; beyond it they are refused as busy.
pub const MAX_REQUESTS: usize = 65_536;

/// Most pieces in flight to this node at once; beyond it peers' requests are refused as busy and local wants fail.
pub const MAX_FLIGHTS: usize = 65_536;

/// Most (blob, tree) pairs for which askers are counted; the oldest is forgotten first.
pub const MAX_DEMANDS: usize = 4_096;
