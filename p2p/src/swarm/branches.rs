//! Who asks whom in the trees of a small cluster, so that all upload the same.
//!
//! Where everybody asks by rank alone, a few members upload twice the mean within a window of pieces, now these, now those,
//! and the cluster is as fast as the fullest link. Here each asks, of those that are earlier, whoever was asked the least so
//! far, tree after tree in the order in which the pieces of a blob use them. Nodes that know different members choose
//! differently, but always somebody earlier.

use super::tree::{ARITY, STEP, TreeId};

/// Largest cluster whose trees may be one level deeper than they need be, as there is too little to choose from in few levels.
/// With more members that balances no better, and a reader waits for one node more.
const ROOM_UP_TO: usize = 64;

/// For each tree, by rank, the rank that is asked.
#[derive(Debug)]
pub(super) struct Branches(Vec<Vec<u8>>);

impl Branches {
    /// `order`: at most 255 members in the order of a tree, each a number below `members`.
    pub(super) fn new(members: usize, trees: u16, order: impl Fn(TreeId) -> Vec<usize>) -> Branches {
        let mut asked = vec![0; members];
        let mut branches = vec![Vec::new(); usize::from(trees)];
        for place in 0..u64::from(trees) {
            let tree = TreeId((place * STEP % u64::from(trees)) as u16);
            branches[usize::from(tree.0)] = grow(&order(tree), &mut asked);
        }
        Branches(branches)
    }

    /// The ranks that are asked in a tree, by the rank of who asks; one more than there are members, for a leaf behind all.
    pub(super) fn of(&self, tree: TreeId) -> Option<&[u8]> {
        self.0.get(usize::from(tree.0)).map(Vec::as_slice)
    }
}

/// One tree: counts in `asked` who is asked how often.
fn grow(order: &[usize], asked: &mut [u32]) -> Vec<u8> {
    let deepest = levels(order.len()) + usize::from(order.len() <= ROOM_UP_TO);
    let mut children = vec![0; order.len()];
    let mut depths = vec![0; order.len()];
    let mut parents = vec![0; order.len() + 1];
    for rank in 1..parents.len() {
        let free = |at: &usize| depths[*at] < deepest && children[*at] < ARITY;
        let parent = (0..rank)
            .filter(free)
            .min_by_key(|at| (asked[order[*at]], depths[*at]))
            .unwrap_or(0);
        parents[rank] = parent as u8;
        if rank < order.len() {
            children[parent] += 1;
            asked[order[parent]] += 1;
            depths[rank] = depths[parent] + 1;
        }
    }
    parents
}

/// Levels below the first of a tree of so many members in which each has as many children as it may.
fn levels(members: usize) -> usize {
    let widths = std::iter::successors(Some(1_usize), |width| Some(width * ARITY));
    let sizes = widths.scan(0, |size, width| {
        *size += width;
        Some(*size)
    });
    sizes.take_while(|size| *size < members).count()
}

#[cfg(test)]
mod tests {
    use super::super::rng::mix;
    use super::*;

    const TREES: u16 = 256;

    /// Any order, another one for each tree.
    fn order(members: usize, tree: TreeId) -> Vec<usize> {
        let mut order: Vec<usize> = (0..members).collect();
        order.sort_by_key(|member| mix(*member as u64 ^ mix(u64::from(tree.0))));
        order
    }

    fn branches(members: usize) -> Branches {
        Branches::new(members, TREES, |tree| order(members, tree))
    }

    #[test]
    fn everybody_asks_somebody_earlier_and_the_way_to_the_first_is_short() {
        for members in [1, 2, 5, 6, 16, 21, 22, 100, 128] {
            let branches = branches(members);
            for tree in (0..TREES).map(TreeId) {
                let parents = branches.of(tree).unwrap_or_default();
                assert_eq!(parents.len(), members + 1);
                let mut depths = vec![0; parents.len()];
                for rank in 1..parents.len() {
                    let parent = usize::from(parents[rank]);
                    assert!(parent < rank, "{members} {tree:?}");
                    depths[rank] = depths[parent] + 1;
                }
                assert!(depths.iter().max() <= Some(&(levels(members) + 2)));
                for rank in 0..members {
                    let children = parents[1..members]
                        .iter()
                        .filter(|parent| usize::from(**parent) == rank);
                    assert!(children.count() <= ARITY);
                }
            }
        }
    }

    #[test]
    fn within_a_window_of_pieces_nobody_is_asked_much_more_than_others() {
        for members in [5, 16, 50] {
            let branches = branches(members);
            for from in 0..u64::from(TREES) - 64 {
                let mut asked = vec![0_u32; members];
                for place in from..from + 64 {
                    let tree = TreeId((place * STEP % u64::from(TREES)) as u16);
                    let order = order(members, tree);
                    let parents = &branches.of(tree).unwrap_or_default()[1..members];
                    parents
                        .iter()
                        .for_each(|parent| asked[order[usize::from(*parent)]] += 1);
                }
                let (most, mean) = (asked.iter().max().copied(), 64 * (members - 1) / members);
                assert!(most <= Some(mean as u32 * 13 / 10), "{members}: {asked:?}");
            }
        }
    }

    #[test]
    fn levels_are_those_of_a_full_tree() {
        assert_eq!([1, 2, 5, 6, 21, 22, 85, 86].map(levels), [0, 1, 1, 2, 2, 3, 3, 4]);
    }
}
