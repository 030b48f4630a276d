//! Serving threads keep to the processor of a reader that waits for each answer.
//!
//! A process that walks a tree sleeps until each request is answered, so nothing can run beside it. If it and the
//! thread that serves it are on two processors, each request wakes one of them out of its sleep and each answer the
//! other, which on a virtual machine costs several times what the request does. So when requests have come from one
//! process alone for a while, the thread that answers moves to where that process was last seen, and [stands
//! back](policy): else the scheduler, which finds it running there, would wake the process elsewhere.
//!
//! What limits the harm where it does not help:
//! - another asker, or a READ (the disk and the copy of what it gives can go on beside the reader; following small ones
//!   took a tenth to a quarter more CPU): every thread takes its own processors back before it answers its next request;
//! - a pause, be it the reader's or that of a thread which waits for a busy processor: the same, and it takes twice as
//!   many requests to begin again. So does a reader that is never found where it was;
//! - a thread without requests takes its processors back after [`IDLE`].
//!
//! A thread that takes its processors back no longer stands back either. So where others want the same processor, one
//! request waits for the turns that they take, and the pause that this is ends it.
//!
//! The askers of all connections are looked at together, since one walk is answered by several.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::policy;

/// Requests in a row from one process before it is followed, and between looks at where it is: a look takes as long as
/// one or two requests.
const LOOK: u32 = 16;

/// Most requests in a row that are asked for before a process is followed again.
const MOST: u32 = 16 << 10;

/// A process that was followed for so many requests may be followed anew without delay.
const LASTING: u32 = 512;

/// Time between two requests from which on the asker does not simply wait for answers, or the answer waited: some
/// dozen times what a request takes, and what the scheduler lets others run at least.
const PAUSE: Duration = Duration::from_millis(2);

/// Looks that find the process elsewhere, one after the other, until it is left alone.
const MOVES: u32 = 8;

/// Time after which a thread without requests takes its processors back.
pub(crate) const IDLE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What a request means for the thread that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It may run anywhere.
    Free,
    /// It goes where the asker was seen last, if somebody is followed.
    Follow,
    /// The same, after another look.
    Look,
}

/// Who asked last. Pure.
#[derive(Debug, Default)]
struct Askers {
    pid: u32,
    last: Option<Instant>,
    /// Requests in a row.
    run: u32,
    /// How many of them it takes.
    need: u32,
    /// Looks in a row that found it elsewhere.
    moves: u32,
}

impl Askers {
    /// Notes a request. `alone`: nothing can be done beside it but to wait for its answer.
    fn note(&mut self, pid: u32, alone: bool, now: Instant) -> Step {
        let before = self.last.replace(now);
        // A process that this namespace does not know has no number.
        if pid == 0 || !alone || pid != self.pid {
            *self = Askers {
                pid: if alone { pid } else { 0 },
                last: Some(now),
                need: LOOK,
                ..Askers::default()
            };
            return Step::Free;
        }
        if before.is_none_or(|before| now.saturating_duration_since(before) > PAUSE) {
            self.leave();
            return Step::Free;
        }
        self.run = self.run.saturating_add(1);
        match self.run.checked_sub(self.need) {
            None => Step::Free,
            Some(followed) if followed.is_multiple_of(LOOK) => Step::Look,
            Some(_) => Step::Follow,
        }
    }

    /// Ends what was begun.
    fn leave(&mut self) {
        if let Some(followed) = self.run.checked_sub(self.need) {
            self.need = if followed >= LASTING {
                LOOK
            } else {
                (self.need * 2).min(MOST)
            };
        }
        (self.run, self.moves) = (0, 0);
    }

    /// Notes what a look found; whether to go on.
    fn seen(&mut self, moved: bool) -> bool {
        self.moves = if moved { self.moves + 1 } else { 0 };
        if self.moves < MOVES {
            return true;
        }
        self.run = self.run.min(self.need);
        self.leave();
        false
    }
}

/// What all serving threads know together.
#[derive(Default)]
pub(crate) struct Follow {
    askers: Mutex<Askers>,
    /// Where the asker was seen last, and one more; 0: nobody is followed.
    wish: AtomicUsize,
}

impl Follow {
    /// Notes a request, before it is answered.
    pub(crate) fn note(&self, pid: u32, alone: bool) -> Step {
        // Two threads at a time are two askers.
        let step = self
            .askers
            .try_lock()
            .map_or(Step::Free, |mut askers| askers.note(pid, alone, Instant::now()));
        if step == Step::Free && self.wish.load(Ordering::Relaxed) != 0 {
            self.wish.store(0, Ordering::Relaxed);
        }
        step
    }

    /// Looks where the asker is.
    fn look(&self, pid: u32) {
        let mut stat = [0; 1024];
        let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat));
        let found = read.ok().and_then(|len| processor(stat.get(..len)?));
        let wish = found.map_or(0, |processor| processor.saturating_add(1));
        let before = self.wish.swap(wish, Ordering::Relaxed);
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if wish == 0 || !askers.seen(before != 0 && before != wish) {
            self.wish.store(0, Ordering::Relaxed);
        }
    }
}

/// The processor in /proc/PID/stat (proc(5), field 39). The second field is a name in parentheses, of any characters.
fn processor(stat: &[u8]) -> Option<usize> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(36)?.parse().ok()
}

/// Where one thread may run. Made and used by that thread.
#[derive(Default)]
pub(crate) struct Place {
    kept: Option<Kept>,
}

/// A thread that is kept to a processor.
struct Kept {
    at: usize,
    /// The processors that it had before.
    own: CpuSet,
    /// Whether it stands back there.
    back: bool,
}

impl Place {
    /// Whether the thread is kept to a processor.
    pub(crate) fn kept(&self) -> bool {
        self.kept.is_some()
    }

    /// To be called before a request is answered.
    pub(crate) fn before(&mut self, step: Step) {
        if step == Step::Free {
            self.free();
        }
    }

    /// To be called after it was answered: the asker is awake by then, and where it will ask from.
    pub(crate) fn after(&mut self, step: Step, follow: &Follow, pid: u32) {
        if step == Step::Look {
            follow.look(pid);
        }
        if step == Step::Free {
            return;
        }
        match follow.wish.load(Ordering::Relaxed).checked_sub(1) {
            Some(processor) => self.keep(processor),
            None => self.free(),
        }
    }

    /// Takes the thread's own processors back.
    pub(crate) fn free(&mut self) {
        if let Some(kept) = self.kept.take() {
            if kept.back {
                policy::step_up();
            }
            // Refused if none of them is left to this process: then the kernel has chosen others already.
            let _ = sched_setaffinity(None, &kept.own);
        }
    }

    fn keep(&mut self, processor: usize) {
        let own = match &self.kept {
            Some(kept) if kept.at == processor => return,
            Some(kept) => kept.own,
            None => match sched_getaffinity(None) {
                Ok(own) => own,
                Err(_) => return,
            },
        };
        // What an administrator keeps this program off stays so.
        if processor >= CpuSet::MAX_CPU || !own.is_set(processor) {
            return self.free();
        }
        let mut one = CpuSet::new();
        one.set(processor);
        if sched_setaffinity(None, &one).is_err() {
            return;
        }
        let back = self
            .kept
            .as_ref()
            .map_or_else(policy::stand_back, |kept| kept.back);
        self.kept = Some(Kept {
            at: processor,
            own,
            back,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Steps of requests, each so many microseconds after the one before.
    fn steps(askers: &mut Askers, now: &mut Instant, requests: &[(u32, bool, u64)]) -> Vec<Step> {
        let note = |(pid, alone, after): &(u32, bool, u64)| {
            *now += Duration::from_micros(*after);
            askers.note(*pid, *alone, *now)
        };
        requests.iter().map(note).collect()
    }

    fn begun(askers: &mut Askers, now: &mut Instant, need: u32) {
        let all = steps(askers, now, &vec![(7, true, 50); need as usize + 1]);
        let (last, before) = all.split_last().unwrap();
        assert_eq!(*last, Step::Look);
        assert!(before.iter().all(|step| *step == Step::Free));
    }

    #[test]
    fn one_process_that_waits_for_answers_is_followed() {
        let (mut askers, mut now) = (Askers::default(), Instant::now());
        begun(&mut askers, &mut now, LOOK);
        let more = steps(&mut askers, &mut now, &[(7, true, 50); LOOK as usize]);
        assert!(more[..LOOK as usize - 1].iter().all(|step| *step == Step::Follow));
        assert_eq!(more[LOOK as usize - 1], Step::Look);
    }

    #[test]
    fn whatever_else_comes_ends_it_at_once() {
        for (what, other) in [
            ("another process", (8, true, 50)),
            ("a read", (7, false, 50)),
            ("a process without a number", (0, true, 50)),
            ("a pause", (7, true, 3000)),
        ] {
            let (mut askers, mut now) = (Askers::default(), Instant::now());
            begun(&mut askers, &mut now, LOOK);
            let after = steps(&mut askers, &mut now, &[other, (7, true, 50)]);
            assert_eq!(after, [Step::Free, Step::Free], "{what}");
        }
    }

    #[test]
    fn two_processes_in_turn_are_never_followed() {
        let (mut askers, mut now) = (Askers::default(), Instant::now());
        let turns: Vec<_> = (0..1000).map(|n| (7 + n % 2, true, 50)).collect();
        assert!(
            steps(&mut askers, &mut now, &turns)
                .iter()
                .all(|step| *step == Step::Free)
        );
    }

    #[test]
    fn pauses_make_it_slower_to_begin() {
        let (mut askers, mut now) = (Askers::default(), Instant::now());
        begun(&mut askers, &mut now, LOOK);
        for turn in 1..20 {
            let need = (LOOK << turn).min(MOST);
            assert_eq!(steps(&mut askers, &mut now, &[(7, true, 3000)]), [Step::Free]);
            assert_eq!(askers.need, need);
            let rest = steps(&mut askers, &mut now, &vec![(7, true, 50); need as usize]);
            assert_eq!(rest.last(), Some(&Step::Look));
        }
        steps(&mut askers, &mut now, &[(7, true, 50); LASTING as usize]);
        steps(&mut askers, &mut now, &[(7, true, 3000)]);
        assert_eq!(askers.need, LOOK, "after a long walk");
    }

    #[test]
    fn a_process_that_moves_all_the_time_is_left() {
        let (mut askers, mut now) = (Askers::default(), Instant::now());
        begun(&mut askers, &mut now, LOOK);
        for _ in 0..MOVES - 1 {
            assert!(askers.seen(true));
        }
        assert!(askers.seen(false));
        for _ in 0..MOVES - 1 {
            assert!(askers.seen(true));
        }
        assert!(!askers.seen(true));
        assert_eq!((askers.run, askers.need), (0, 2 * LOOK));
    }

    #[test]
    fn the_processor_is_found_behind_any_name() {
        let fields: Vec<String> = (4..60).map(|field| field.to_string()).collect();
        let line = format!("7 (a ) S 1 (2)) S {}\n", fields.join(" "));
        assert_eq!(processor(line.as_bytes()), Some(39));
        for broken in ["", "7 (a", "7 (a) S 1 2", ")"] {
            assert_eq!(processor(broken.as_bytes()), None);
        }
        let mut own = String::new();
        File::open("/proc/self/stat")
            .unwrap()
            .read_to_string(&mut own)
            .unwrap();
        assert!(processor(own.as_bytes()).is_some());
    }

    #[test]
    fn a_thread_is_kept_while_one_asks_and_free_once_askers_mix() {
        let own = sched_getaffinity(None).unwrap();
        let (follow, mut place, me) = (Follow::default(), Place::default(), std::process::id());
        let mut ask = |pid| {
            let step = follow.note(pid, true);
            place.before(step);
            let before = place.kept();
            place.after(step, &follow, pid);
            (before, place.kept())
        };
        // A loaded machine may pause between any two requests.
        while !ask(me).1 {}
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        assert_eq!(ask(me + 1), (false, false), "free before it answers");
        assert_eq!(sched_getaffinity(None).unwrap(), own);
    }
}
