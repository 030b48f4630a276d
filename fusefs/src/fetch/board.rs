//! Which frames are on their way, for whom, and what is to be started next. Pure.
//!
//! A *flight* is one frame on its way; whoever wants the frame meanwhile joins it. A *run* is a
//! row of neighbouring frames that is fetched by one request.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::store::pack::PackNumber;

/// How urgent a run is; the order is the order of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Urgency {
    /// A process waits.
    Blocking,
    /// A sequential reader will be there soon.
    Ahead,
    /// A layer is being completed.
    Background,
}

const URGENCIES: [Urgency; 3] = [Urgency::Blocking, Urgency::Ahead, Urgency::Background];

/// Runs under way at a time, for each urgency. Blocking ones: enough to fill a link whose round
/// trip is long. Ahead: what four sequential readers use. Background: two, so that one is on the
/// network while the other one is decoded. Their stored bytes bound the process's memory.
const LIMITS: [usize; 3] = [24, 4, 2];

/// Runs under way in all, which bounds the queue to the decoding threads.
pub(crate) const MOST_RUNS: usize = LIMITS[0] + LIMITS[1] + LIMITS[2];

/// For so long after a process has waited nothing is begun in the background. A program that starts reads, computes for some
/// milliseconds and reads on; a run begun in between has the link when it comes back.
const QUIET: Duration = Duration::from_millis(250);

/// For so long after a layer came its first reader is expected, where other nodes are asked: they all have the layer come at once, and
/// what they fetch of it in the background has the registry's link when programs begin to read.
const COMING: Duration = Duration::from_secs(1);

/// One background run is begun each so often though processes read, so that layers become complete beside one that never stops.
/// It goes as a read-ahead does: alone, without what follows it.
const LEAST: Duration = Duration::from_secs(1);

/// Names a frame: its pack and its first block.
pub(crate) type Key = (PackNumber, u32);

/// A row of neighbouring frames, with what is needed to fetch them.
#[derive(Clone, Debug)]
pub(crate) struct Run<D> {
    /// Pack, index and whatever else the fetch needs.
    pub(crate) of: D,
    /// The pack.
    pub(crate) pack: PackNumber,
    /// Tells it from earlier runs of the same frames; given when it is queued.
    pub(crate) number: u64,
    /// Number of the first frame in its index.
    pub(crate) first_frame: usize,
    /// First block of each frame.
    pub(crate) blocks: Vec<u32>,
    /// How urgent it is.
    pub(crate) urgency: Urgency,
}

impl<D> Run<D> {
    /// Key of the frame at a position.
    pub(crate) fn key(&self, position: usize) -> Option<Key> {
        self.blocks.get(position).map(|block| (self.pack, *block))
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.blocks.iter().map(|block| (self.pack, *block))
    }
}

struct Flight<W> {
    waiters: Vec<W>,
    /// The run that carries it.
    run: u64,
    /// In which queue its run stands; nothing once it was started.
    queued: Option<Urgency>,
}

/// All flights and the runs not yet started.
pub(crate) struct Board<D, W> {
    flights: HashMap<Key, Flight<W>>,
    queues: [VecDeque<Run<D>>; 3],
    active: [usize; 3],
    runs: u64,
    /// Flights that somebody waits for, whatever began them.
    awaited: usize,
    /// Whether such a flight has landed since `waited` was noted.
    served: bool,
    /// When a process waited last.
    waited: Option<Instant>,
    /// When a background run was begun last; at first, when the board was made.
    begun: Instant,
    /// Whether a background run may be under way beside who waits.
    beside: bool,
}

impl<D: Clone, W> Board<D, W> {
    /// Makes an empty board.
    pub(crate) fn new(now: Instant) -> Board<D, W> {
        Board {
            flights: HashMap::new(),
            queues: [const { VecDeque::new() }; 3],
            active: [0; 3],
            runs: 0,
            awaited: 0,
            served: false,
            waited: None,
            begun: now,
            beside: false,
        }
    }

    /// The same, but while nothing is read ahead one background run is under way though processes wait: where other nodes are
    /// asked, what they wait for takes a small part of the link, and goes first on its way.
    pub(crate) fn beside(self, beside: bool) -> Board<D, W> {
        Board { beside, ..self }
    }

    /// A layer came that programs will begin to read.
    pub(crate) fn expect_readers(&mut self, now: Instant) {
        if self.beside {
            self.waited = self.waited.max(Some(now + (COMING - QUIET)));
        }
    }

    /// Whether a frame is on its way.
    pub(crate) fn flying(&self, key: Key) -> bool {
        self.flights.contains_key(&key)
    }

    /// Joins a flight. One that was waiting behind more urgent ones is called forward.
    pub(crate) fn join(&mut self, key: Key, waiter: W) {
        let Some(flight) = self.flights.get_mut(&key) else {
            return;
        };
        self.awaited += usize::from(flight.waiters.is_empty());
        flight.waiters.push(waiter);
        if let Some(urgency) = flight.queued.filter(|urgency| *urgency != Urgency::Blocking) {
            self.promote(key, urgency);
        }
    }

    /// Takes one frame out of its run and queues it as a blocking run.
    fn promote(&mut self, key: Key, urgency: Urgency) {
        let queue = &mut self.queues[urgency as usize];
        let holds = |run: &Run<D>| run.pack == key.0 && run.blocks.contains(&key.1);
        let Some(place) = queue.iter().position(holds) else {
            return;
        };
        let Some(run) = queue.remove(place) else { return };
        let at = run.blocks.iter().position(|block| *block == key.1).unwrap_or(0);
        let part = |range: std::ops::Range<usize>, urgency| Run {
            of: run.of.clone(),
            pack: run.pack,
            number: run.number,
            first_frame: run.first_frame + range.start,
            blocks: run.blocks[range].to_vec(),
            urgency,
        };
        for rest in [at + 1..run.blocks.len(), 0..at] {
            if !rest.is_empty() {
                queue.insert(place, part(rest, urgency));
            }
        }
        self.queues[0].push_back(part(at..at + 1, Urgency::Blocking));
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.queued = Some(Urgency::Blocking);
        }
    }

    /// Queues a run of frames that are not yet on their way.
    pub(crate) fn enqueue(&mut self, mut run: Run<D>) {
        self.runs += 1;
        run.number = self.runs;
        for key in run.keys() {
            let flight = Flight {
                waiters: Vec::new(),
                run: run.number,
                queued: Some(run.urgency),
            };
            self.flights.insert(key, flight);
        }
        self.queues[run.urgency as usize].push_back(run);
    }

    /// Takes the next run that may be started. Background runs wait until no process does, and a while longer, but for one
    /// that may go [beside](Board::beside) them.
    pub(crate) fn start(&mut self, now: Instant) -> Option<Run<D>> {
        if self.blocked() {
            self.waited = Some(now);
        }
        let quiet = self.waited.is_none_or(|waited| now >= waited + QUIET);
        let held = self.blocked() || self.quiet_at().is_some_and(|at| now < at);
        let beside = self.beside && self.active[Urgency::Ahead as usize] == 0;
        let ready = |urgency: &Urgency| {
            let at = *urgency as usize;
            let held = *urgency == Urgency::Background && held && !beside;
            !held && self.active[at] < LIMITS[at] && !self.queues[at].is_empty()
        };
        let urgency = URGENCIES.into_iter().find(ready)?;
        let mut run = self.queues[urgency as usize].pop_front()?;
        if urgency == Urgency::Background {
            self.begun = now;
            if !quiet {
                run.urgency = Urgency::Ahead;
            }
        }
        self.active[run.urgency as usize] += 1;
        for key in run.keys() {
            if let Some(flight) = self.flights.get_mut(&key) {
                flight.queued = None;
            }
        }
        Some(run)
    }

    /// Whether a process waits.
    fn blocked(&self) -> bool {
        self.awaited > 0
    }

    /// From when on a background run may be begun if no process waits until then; nothing: none has waited.
    fn quiet_at(&self) -> Option<Instant> {
        Some((self.waited? + QUIET).min(self.begun + LEAST))
    }

    /// When to look for a run to start although nothing happens.
    pub(crate) fn look_again(&self) -> Option<Instant> {
        let held = !self.blocked() && !self.queues[2].is_empty() && self.active[2] < LIMITS[2];
        self.quiet_at().filter(|_| held)
    }

    /// Notes that a run is over. Its flights must have landed before.
    pub(crate) fn finish(&mut self, urgency: Urgency, now: Instant) {
        if std::mem::take(&mut self.served) {
            self.waited = Some(now);
        }
        let active = &mut self.active[urgency as usize];
        *active = active.saturating_sub(1);
    }

    /// Ends a flight with its bytes and returns who waited, whichever run they came by.
    pub(crate) fn land(&mut self, key: Key) -> Vec<W> {
        let Some(flight) = self.flights.remove(&key) else {
            return Vec::new();
        };
        if !flight.waiters.is_empty() {
            self.awaited -= 1;
            self.served = true;
        }
        flight.waiters
    }

    /// Ends a flight without its bytes and returns who waited. Does nothing if the frame is on its
    /// way by another run meanwhile.
    pub(crate) fn fail(&mut self, key: Key, run: u64) -> Vec<W> {
        if self.flights.get(&key).is_some_and(|flight| flight.run == run) {
            return self.land(key);
        }
        Vec::new()
    }

    /// Ends a flight under way for which nobody waits any more, so that who comes next starts
    /// afresh and does not join a request that hangs.
    pub(crate) fn abandon(&mut self, key: Key, waits: impl Fn(&W) -> bool) {
        let idle = |flight: &Flight<W>| flight.queued.is_none() && !flight.waiters.iter().any(waits);
        if self.flights.get(&key).is_some_and(idle) {
            self.land(key);
        }
    }

    /// Who waits for a frame of a run.
    pub(crate) fn waiters(&self, key: Key, run: u64) -> &[W] {
        let flight = self.flights.get(&key).filter(|flight| flight.run == run);
        flight.map_or(&[], |flight| &flight.waiters)
    }

    /// Takes out everything that was not started, with all who wait.
    pub(crate) fn drain(&mut self) -> Vec<W> {
        self.queues = [const { VecDeque::new() }; 3];
        self.awaited = 0;
        self.flights
            .drain()
            .flat_map(|(_, flight)| flight.waiters)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// A moment so many milliseconds after all others.
    fn at(base: Instant, ms: u64) -> Instant {
        base + Duration::from_millis(ms)
    }

    fn run(pack: u32, first: usize, count: u32, urgency: Urgency) -> Run<()> {
        let blocks = (0..count).map(|n| (first as u32 + n) * 64).collect();
        Run {
            of: (),
            pack,
            number: 0,
            first_frame: first,
            blocks,
            urgency,
        }
    }

    #[test]
    fn a_frame_that_somebody_waits_for_leaves_its_run() {
        let mut board: Board<(), u32> = Board::new(Instant::now());
        board.enqueue(run(1, 0, 8, Urgency::Background));
        board.join((1, 3 * 64), 77);
        let now = Instant::now();
        let first = board.start(now).unwrap();
        assert_eq!(
            (first.urgency, first.first_frame, first.blocks.len()),
            (Urgency::Blocking, 3, 1)
        );
        assert!(
            board.start(now).is_none(),
            "background waits while a process does"
        );
        assert_eq!(
            board.look_again(),
            None,
            "and nobody has to look until it is over"
        );
        assert_eq!(board.land((1, 3 * 64)), [77]);
        board.finish(Urgency::Blocking, now);
        let quiet = board.look_again().unwrap();
        assert!(board.start(quiet - Duration::from_millis(1)).is_none());
        let (left, right) = (board.start(quiet).unwrap(), board.start(quiet).unwrap());
        assert_eq!((left.first_frame, left.blocks.len()), (0, 3));
        assert_eq!((right.first_frame, right.blocks.len()), (4, 4));
    }

    #[test]
    fn one_that_never_stops_to_read_does_not_hold_back_the_rest_for_ever() {
        let mut board: Board<(), u32> = Board::new(Instant::now());
        let base = board.begun;
        for pack in 1..10 {
            board.enqueue(run(pack, 0, 8, Urgency::Background));
        }
        let mut begun = Vec::new();
        for tick in 0..50_u64 {
            let now = at(base, tick * 100);
            let key = (100, tick as u32 * 64);
            board.enqueue(run(100, tick as usize, 1, Urgency::Blocking));
            board.join(key, 0);
            assert_eq!(board.start(now).unwrap().urgency, Urgency::Blocking);
            board.land(key);
            board.finish(Urgency::Blocking, now);
            while let Some(run) = board.start(at(now, 50)) {
                assert_eq!(run.urgency, Urgency::Ahead, "and it goes alone");
                begun.push(tick * 100 + 50);
                board.finish(run.urgency, at(now, 50));
            }
        }
        assert_eq!(begun, [1050, 2050, 3050, 4050]);
    }

    #[test]
    fn who_waits_for_what_was_read_ahead_holds_the_background_back() {
        let mut board: Board<(), u32> = Board::new(Instant::now());
        let base = board.begun;
        board.enqueue(run(1, 0, 1, Urgency::Ahead));
        let ahead = board.start(base).unwrap();
        board.join((1, 0), 7);
        board.enqueue(run(2, 0, 1, Urgency::Background));
        assert!(board.start(at(base, 300)).is_none(), "a process waits");
        assert_eq!(board.land((1, 0)), [7]);
        board.finish(ahead.urgency, at(base, 400));
        assert!(board.start(at(base, 600)).is_none(), "it may read on");
        let background = board.start(at(base, 650)).unwrap();
        assert_eq!(background.urgency, Urgency::Background);
    }

    #[test]
    fn where_others_are_asked_one_background_run_goes_beside_who_waits() {
        let mut board: Board<(), u32> = Board::new(Instant::now()).beside(true);
        let now = board.begun;
        board.enqueue(run(1, 0, 1, Urgency::Blocking));
        board.join((1, 0), 7);
        for pack in 2..4 {
            board.enqueue(run(pack, 0, 1, Urgency::Background));
        }
        assert_eq!(board.start(now).unwrap().urgency, Urgency::Blocking);
        let beside = board.start(now).unwrap();
        assert_eq!(
            (beside.pack, beside.urgency),
            (2, Urgency::Ahead),
            "without what follows it"
        );
        assert!(board.start(now).is_none());
        board.land((2, 0));
        board.finish(Urgency::Ahead, now);
        board.enqueue(run(4, 0, 1, Urgency::Ahead));
        assert_eq!(
            board.start(now).unwrap().pack,
            4,
            "what will be read soon goes first"
        );
        assert!(board.start(now).is_none());
        board.land((4, 0));
        board.finish(Urgency::Ahead, now);
        assert_eq!(board.start(now).unwrap().pack, 3);
    }

    #[test]
    fn where_others_are_asked_the_background_waits_for_a_layers_first_reader() {
        for beside in [false, true] {
            let mut board: Board<(), u32> = Board::new(Instant::now()).beside(beside);
            let now = board.begun;
            board.expect_readers(now);
            for pack in 1..4 {
                board.enqueue(run(pack, 0, 1, Urgency::Background));
            }
            let begun = |board: &mut Board<(), u32>, ms| {
                std::iter::from_fn(|| board.start(at(now, ms)).map(|run| run.urgency)).collect::<Vec<_>>()
            };
            let first = begun(&mut board, 0);
            match beside {
                false => assert_eq!(first, [Urgency::Background; 2]),
                true => assert_eq!(first, [Urgency::Ahead], "one, without what follows it"),
            }
            assert!(begun(&mut board, 900).is_empty());
            assert_eq!(begun(&mut board, 1000).len(), if beside { 2 } else { 0 });
        }
    }

    #[test]
    fn a_started_run_is_joined_as_it_is() {
        let mut board: Board<(), u32> = Board::new(Instant::now());
        board.enqueue(run(1, 0, 8, Urgency::Ahead));
        let started = board.start(Instant::now()).unwrap();
        board.join((1, 64), 5);
        assert!(board.start(Instant::now()).is_none());
        assert_eq!(board.waiters((1, 64), started.number), [5]);
    }

    #[test]
    fn who_comes_after_an_abandoned_flight_is_not_failed_by_it() {
        let mut board: Board<(), u32> = Board::new(Instant::now());
        board.enqueue(run(1, 0, 1, Urgency::Blocking));
        board.join((1, 0), 5);
        let hanging = board.start(Instant::now()).unwrap();
        board.abandon((1, 0), |_| true);
        assert!(board.flying((1, 0)), "somebody waits");
        board.abandon((1, 0), |_| false);
        assert!(!board.flying((1, 0)));
        board.enqueue(run(1, 0, 1, Urgency::Blocking));
        board.join((1, 0), 6);
        assert!(board.waiters((1, 0), hanging.number).is_empty());
        assert!(board.fail((1, 0), hanging.number).is_empty());
        let second = board.start(Instant::now()).unwrap();
        assert_eq!(board.fail((1, 0), second.number), [6]);
    }

    #[test]
    fn blocking_runs_go_first() {
        let mut board: Board<(), u32> = Board::new(Instant::now());
        board.enqueue(run(1, 0, 2, Urgency::Background));
        board.enqueue(run(2, 0, 2, Urgency::Ahead));
        board.enqueue(run(3, 0, 2, Urgency::Blocking));
        board.join((3, 0), 9);
        let now = Instant::now();
        let order: Vec<u32> = std::iter::from_fn(|| board.start(now))
            .map(|run| run.pack)
            .collect();
        assert_eq!(order, [3, 2]);
    }

    proptest! {
        #[test]
        fn every_frame_is_started_once_and_every_waiter_found(
            joins in proptest::collection::vec((0u32..60, 0usize..3), 0..40),
        ) {
            let mut board: Board<(), usize> = Board::new(Instant::now());
            for n in 0..6 {
                board.enqueue(run(1, n * 10, 10, URGENCIES[n % 3]));
            }
            let mut started = Vec::new();
            let mut now = Instant::now();
            let mut found = Vec::new();
            for (number, (frame, starts)) in joins.iter().enumerate() {
                if board.flying((1, frame * 64)) {
                    board.join((1, frame * 64), number);
                    found.push(number);
                }
                for _ in 0..*starts {
                    started.extend(board.start(now));
                }
            }
            let mut frames = Vec::new();
            let mut answered = Vec::new();
            loop {
                now += QUIET; // nothing is held back any more
                started.extend(std::iter::from_fn(|| board.start(now)));
                if started.is_empty() { break }
                for run in started.drain(..) {
                    for (at, block) in run.blocks.iter().enumerate() {
                        prop_assert_eq!(*block, (run.first_frame + at) as u32 * 64);
                        frames.push(run.first_frame + at);
                        answered.extend(board.land((1, *block)));
                    }
                    board.finish(run.urgency, now);
                }
            }
            frames.sort_unstable();
            answered.sort_unstable();
            prop_assert_eq!(frames, (0..60).collect::<Vec<_>>());
            prop_assert_eq!(answered, found);
        }
    }
}
