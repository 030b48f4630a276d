//! Who is in the cluster, and who asks whom: trees cut from one ring of hashes.

/// A member's position on the ring: a 64-bit hash of its name, the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// A zone's number; the driver numbers zones by name, each node as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(pub u16);

/// Names a tree, and by that an order of all possible members. The same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub u16);

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub id: PeerId,
    /// Where it stands.
    pub zone: ZoneId,
    /// Whether it asks but is not to be asked: it said that it is slow, or is configured not to upload.
    pub leaf: bool,
}

/// The members at one moment, sorted for look-ups. Immutable and shared.
#[derive(Debug)]
pub struct View {
    members: Vec<Member>,
}

impl View {
    /// Sorts the members. Of two with the same id the first counts.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.sort_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        Self { members }
    }

    /// All members, sorted by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}
