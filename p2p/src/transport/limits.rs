//! Bounds on what other nodes may send, each with its reason.

use std::time::Duration;

/// Longest piece that a peer may ask for.
pub const MAX_PIECE: usize = crate::limits::MAX_PIECE_LEN as usize;

/// Bytes in one `Data` message. A blocking piece waits behind at most one of these: 5 ms at 100 Mbit/s.
pub const MAX_DATA: usize = 64 << 10;

/// Longest exchange of members and gossip: 10,000 members of 60 bytes.
pub const MAX_EXCHANGE: usize = 640 << 10;

/// Longest message: an exchange with its kind.
pub const MAX_MESSAGE: usize = MAX_EXCHANGE + 16;

/// `host:port`, with the longest DNS name.
pub const MAX_ADDRESS: usize = 260;

/// `host/repository`, or the address of a file: signed ones with a session's token have some 1,500 characters.
pub const MAX_PLACE: usize = 2_048;

/// Requests open at a time from this node to one other: what that one would refuse beyond anyway.
pub const MAX_REQUESTS: usize = crate::limits::MAX_REQUESTS_PER_PEER as usize;

/// Messages that wait to be written to one node, beside piece bytes.
pub const MAX_QUEUED: usize = 1024;

/// Connections that other nodes hold here. A node has about 64 partners in the trees; gossip touches others.
pub const MAX_INCOMING: usize = 1024;

/// Handshakes under way at a time: each costs a signature.
pub const MAX_HANDSHAKES: usize = 64;

/// TCP, TLS and `Hello` together. A dead parent is passed over much earlier, by the request's own deadline.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection on which nothing came is asked for a sign of life so often, by the node that made it. A node of a cluster of 100
/// has 200 connections, and question and answer cost each side some 250 bytes with all headers: 0.25 kB a second.
/// Below the 350 s after which some clouds forget a connection. Nobody waits for it: who does not take a request is passed
/// over at once, and who is dead is no member after some seconds.
pub const PING_EVERY: Duration = Duration::from_secs(200);

/// The other side of a connection asks only when it heard nothing for so much longer than that, so that one of them does.
pub const PATIENCE_OF_THE_ASKED: f64 = 1.25;

/// A connection that has given no sign of life for so long is closed: two pings went unanswered.
pub const SILENCE: Duration = Duration::from_secs(510);

/// A node that takes no byte of what is sent to it for so long is gone.
pub const STUCK: Duration = Duration::from_secs(40);

/// Bytes in flight to one node that the kernel takes off us; it takes twice as many at most. Small, so that blocking pieces do
/// not wait behind many prefetched bytes, and that the time an upload takes tells how fast the network is; enough for
/// 5 Gbit/s to each node at 0.2 ms.
pub const SEND_BUFFER: u32 = 64 << 10;
