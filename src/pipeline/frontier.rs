//! The frontier: which prefix of the binlog is done.
//!
//! Guarantees (I2): [`Frontier::drain_done`] releases a segment only when it and every segment before it are settled, each by
//! all of its tickets. A ticket that is dropped unsettled means *not done*: the frontier then stays before it for good and
//! says so. Both are asserted in production, by counts that are kept apart from the list. Memory is that of the segments that
//! aren't settled, however much is settled behind them: a flush may hold the front for an hour. May depend on nothing of ours.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What a segment adds to the position when it is done.
pub trait Append {
    /// Adds what comes directly behind.
    fn append(&mut self, later: Self);
}

/// The contiguous prefix of settled segments, in the order in which they were opened. `D` is what a segment adds to the
/// position when it is done.
#[derive(Debug)]
pub struct Frontier<D> {
    shared: Arc<Shared<D>>,
}

impl<D> Clone for Frontier<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<D> {
    state: Mutex<State<D>>,
    advanced: Notify,
    lost: Notify,
}

/// The segments that aren't settled, a list in their order. What is settled behind one of them is appended to it.
#[derive(Debug)]
struct State<D> {
    slots: Vec<Slot<D>>,
    /// Places in `slots` that can be taken again.
    free: Vec<usize>,
    first: Option<usize>,
    last: Option<usize>,
    open: usize,
    done: Option<D>,
    tickets_settled: u64,
    tickets_released: u64,
    tickets_lost: u64,
    /// Tickets that hold the frontier for good, each the only one of its segment.
    kept: usize,
}

#[derive(Debug)]
struct Slot<D> {
    /// Of the segment, and of all that were appended to it.
    tickets: u64,
    pending: u32,
    /// `None`: the place is free.
    data: Option<D>,
    before: Option<usize>,
    behind: Option<usize>,
}

/// How full the frontier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontierStats {
    /// Segments that aren't settled, but for those that are kept.
    pub open: usize,
    /// Tickets that were dropped unsettled since the start.
    pub lost: u64,
    /// Whether something is done that nobody has taken yet.
    pub undrained: bool,
}

impl<D> Default for Frontier<D> {
    fn default() -> Self {
        let state = State {
            slots: Vec::new(),
            free: Vec::new(),
            first: None,
            last: None,
            open: 0,
            done: None,
            tickets_settled: 0,
            tickets_released: 0,
            tickets_lost: 0,
            kept: 0,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                advanced: Notify::new(),
                lost: Notify::new(),
            }),
        }
    }
}

impl<D> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State<D>> {
        // A poisoned lock means that an assertion of this module failed: go on failing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Append> State<D> {
    /// One value however much is done: nobody may be there to take it.
    fn release(&mut self, data: D) {
        match &mut self.done {
            Some(done) => done.append(data),
            None => self.done = Some(data),
        }
    }

    fn push(&mut self, tickets: u32, data: D) -> usize {
        let slot = Slot {
            tickets: u64::from(tickets),
            pending: tickets,
            data: Some(data),
            before: self.last,
            behind: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        match self.last {
            Some(last) => self.slots[last].behind = Some(at),
            None => self.first = Some(at),
        }
        self.last = Some(at);
        self.open += 1;
        at
    }

    /// Takes a settled segment out of the list: what it adds is done, or is when the one before it is. Says whether it is.
    fn remove(&mut self, at: usize) -> bool {
        let slot = &mut self.slots[at];
        let (tickets, before, behind) = (slot.tickets, slot.before, slot.behind);
        let data = slot.data.take();
        match before {
            Some(before) => self.slots[before].behind = behind,
            None => self.first = behind,
        }
        match behind {
            Some(behind) => self.slots[behind].before = before,
            None => self.last = before,
        }
        self.free.push(at);
        self.open -= 1;
        if self.open == 0 {
            // What a long hold has grown.
            self.slots.truncate(0);
            self.free.truncate(0);
            self.slots.shrink_to(SPARE);
            self.free.shrink_to(SPARE);
        }
        let Some(data) = data else { return false };
        if let Some(before) = before.and_then(|before| self.slots.get_mut(before)) {
            before.tickets += tickets;
            if let Some(held) = &mut before.data {
                held.append(data);
            }
            return false;
        }
        self.tickets_released += tickets;
        assert!(
            self.tickets_released <= self.tickets_settled,
            "I2 violated: {} tickets released, {} settled",
            self.tickets_released,
            self.tickets_settled
        );
        self.release(data);
        true
    }
}

/// Places that are kept when none is in use.
const SPARE: usize = 1024;

impl<D: Append> Frontier<D> {
    /// Opens the next segment with `tickets` tickets; with none it is settled at once. Its place in the order is
    /// that of this call.
    pub fn open(&self, tickets: u32, data: D) -> Vec<Ticket<D>> {
        let mut state = self.shared.lock();
        if tickets == 0 {
            // Done when the one before it is.
            match state.last.and_then(|last| state.slots.get_mut(last)).and_then(|slot| slot.data.as_mut()) {
                Some(before) => before.append(data),
                None => {
                    state.release(data);
                    self.shared.advanced.notify_one();
                }
            }
            return Vec::new();
        }
        let slot = state.push(tickets, data);
        drop(state);
        (0..tickets).map(|_| Ticket { shared: Some(Arc::clone(&self.shared)), slot }).collect()
    }

    /// Takes what has become done since the last call, appended in order.
    pub fn drain_done(&self) -> Option<D> {
        self.shared.lock().done.take()
    }

    /// Completes when the frontier has advanced since the last [`Frontier::drain_done`]. For one waiter.
    pub async fn advanced(&self) {
        loop {
            let notified = self.shared.advanced.notified();
            if self.shared.lock().done.is_some() {
                return;
            }
            notified.await;
        }
    }

    /// Completes when a ticket was dropped unsettled: nothing behind it can become done any more.
    pub async fn lost(&self) {
        loop {
            let notified = self.shared.lost.notified();
            if self.shared.lock().tickets_lost > 0 {
                return;
            }
            notified.await;
        }
    }

    /// How full it is.
    pub fn stats(&self) -> FrontierStats {
        let state = self.shared.lock();
        FrontierStats {
            open: state.open - state.kept,
            lost: state.tickets_lost,
            undrained: state.done.is_some(),
        }
    }
}

/// The duty to acknowledge one part of a segment.
#[derive(Debug)]
#[must_use = "a ticket that is dropped holds the checkpoint for good"]
pub struct Ticket<D> {
    shared: Option<Arc<Shared<D>>>,
    /// Stays the segment's as long as one of its tickets is unsettled.
    slot: usize,
}

impl<D: Append> Ticket<D> {
    /// Holds the frontier before this segment for good, as meant: the next start begins there. Only for the one ticket of a
    /// segment.
    pub fn keep(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.lock().kept += 1;
        }
    }

    /// Says that this part is acknowledged, by Redis or by the queue.
    pub fn settle(mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = shared.lock();
        state.tickets_settled += 1;
        let slot = state.slots.get_mut(self.slot).filter(|slot| slot.data.is_some() && slot.pending > 0);
        let Some(slot) = slot else {
            panic!(
                "I2 violated: segment in place {} was released before its last ticket was settled",
                self.slot
            )
        };
        slot.pending -= 1;
        if slot.pending == 0 && state.remove(self.slot) {
            shared.advanced.notify_one();
        }
    }
}

impl<D> Drop for Ticket<D> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.lock().tickets_lost += 1;
            shared.lost.notify_one();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Append for Vec<usize> {
        fn append(&mut self, later: Self) {
            self.extend(later);
        }
    }

    #[test]
    fn a_segment_without_tickets_is_done_when_all_before_it_are() {
        let frontier = Frontier::default();
        let first = frontier.open(2, vec![1]);
        assert!(frontier.open(0, vec![2]).is_empty());
        assert_eq!(frontier.stats().open, 1);
        assert!(frontier.drain_done().is_none());
        let mut first = first.into_iter();
        first.next().unwrap().settle();
        assert!(frontier.drain_done().is_none());
        first.next().unwrap().settle();
        assert_eq!(frontier.drain_done(), Some(vec![1, 2]));
    }

    #[test]
    fn a_dropped_ticket_holds_the_frontier_and_is_told() {
        let frontier = Frontier::default();
        drop(frontier.open(1, vec![1]));
        let second = frontier.open(1, vec![2]);
        second.into_iter().for_each(Ticket::settle);
        assert!(frontier.drain_done().is_none());
        assert_eq!(frontier.stats(), FrontierStats { open: 1, lost: 1, undrained: false });
    }

    #[derive(Debug, Clone)]
    enum Step {
        Open(u32),
        Settle(prop::sample::Index),
        Drop(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u32..4).prop_map(Step::Open),
            6 => any::<prop::sample::Index>().prop_map(Step::Settle),
            1 => any::<prop::sample::Index>().prop_map(Step::Drop),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// After every step exactly the longest prefix of fully settled segments has been released, once, in order; and there
        /// are no more places than segments that wait.
        #[test]
        fn releases_exactly_the_settled_prefix(steps in steps()) {
            let frontier = Frontier::default();
            let mut pending: Vec<u32> = Vec::new();
            let mut tickets: Vec<(usize, Ticket<Vec<usize>>)> = Vec::new();
            let mut released = Vec::new();
            let mut most = 0;
            for step in steps {
                match step {
                    Step::Open(n) => {
                        let segment = pending.len();
                        tickets.extend(frontier.open(n, vec![segment]).into_iter().map(|t| (segment, t)));
                        pending.push(n);
                    }
                    Step::Settle(at) if !tickets.is_empty() => {
                        let (segment, ticket) = tickets.swap_remove(at.index(tickets.len()));
                        pending[segment] -= 1;
                        ticket.settle();
                    }
                    // Dropped: the model's count stays above zero for ever.
                    Step::Drop(at) if !tickets.is_empty() => drop(tickets.swap_remove(at.index(tickets.len()))),
                    _ => {}
                }
                released.extend(frontier.drain_done().unwrap_or_default());
                let prefix = pending.iter().take_while(|pending| **pending == 0).count();
                prop_assert_eq!(&released, &(0..prefix).collect::<Vec<_>>());
                let open = pending.iter().filter(|pending| **pending > 0).count();
                most = most.max(open);
                prop_assert_eq!(frontier.stats().open, open);
                prop_assert!(frontier.shared.lock().slots.len() <= most);
            }
            tickets.into_iter().for_each(|(_, ticket)| ticket.settle());
        }
    }
}
