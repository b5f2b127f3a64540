//! The frontier: which prefix of the binlog is done.
//!
//! Guarantees (I2): [`Frontier::drain_done`] releases a segment only when it and every segment before it are settled, each by
//! all of its tickets. A ticket that is dropped unsettled means *not done*: the frontier then stays before it for good and
//! says so. Both are asserted in production, by counts that are kept apart from the queue. May depend on nothing of ours.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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

#[derive(Debug)]
struct State<D> {
    /// Number of the segment at the front of `open`.
    base: u64,
    open: VecDeque<Slot<D>>,
    done: Option<D>,
    tickets_settled: u64,
    tickets_released: u64,
    tickets_lost: u64,
}

#[derive(Debug)]
struct Slot<D> {
    tickets: u32,
    pending: u32,
    data: D,
}

/// How full the frontier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontierStats {
    /// Segments that aren't done.
    pub open: usize,
    /// Tickets that were dropped unsettled since the start.
    pub lost: u64,
    /// Whether something is done that nobody has taken yet.
    pub undrained: bool,
}

impl<D> Default for Frontier<D> {
    fn default() -> Self {
        let state = State {
            base: 0,
            open: VecDeque::new(),
            done: None,
            tickets_settled: 0,
            tickets_released: 0,
            tickets_lost: 0,
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

    /// Moves what is settled from the front of `open` to `done`.
    fn advance(&mut self) -> bool {
        let mut moved = false;
        while self.open.front().is_some_and(|slot| slot.pending == 0) {
            if let Some(slot) = self.open.pop_front() {
                self.base += 1;
                self.tickets_released += u64::from(slot.tickets);
                self.release(slot.data);
                moved = true;
            }
        }
        assert!(
            self.tickets_released <= self.tickets_settled,
            "I2 violated: {} tickets released, {} settled",
            self.tickets_released,
            self.tickets_settled
        );
        moved
    }
}

impl<D: Append> Frontier<D> {
    /// Opens the next segment with `tickets` tickets; with none it is settled at once. Its place in the order is
    /// that of this call.
    pub fn open(&self, tickets: u32, data: D) -> Vec<Ticket<D>> {
        let mut state = self.shared.lock();
        // Without tickets it is done when the one before it is: no slot, or a stream of unmapped changes would fill memory
        // behind one segment that is held.
        if tickets == 0
            && let Some(before) = state.open.back_mut()
        {
            before.data.append(data);
            return Vec::new();
        }
        let segment = state.base + state.open.len() as u64;
        state.open.push_back(Slot { tickets, pending: tickets, data });
        if tickets == 0 && state.advance() {
            self.shared.advanced.notify_one();
        }
        drop(state);
        (0..tickets).map(|_| Ticket { shared: Some(Arc::clone(&self.shared)), segment }).collect()
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
        FrontierStats { open: state.open.len(), lost: state.tickets_lost, undrained: state.done.is_some() }
    }
}

/// The duty to acknowledge one part of a segment.
#[derive(Debug)]
#[must_use = "a ticket that is dropped holds the checkpoint for good"]
pub struct Ticket<D> {
    shared: Option<Arc<Shared<D>>>,
    segment: u64,
}

impl<D: Append> Ticket<D> {
    /// Says that this part is acknowledged, by Redis or by the queue.
    pub fn settle(mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = shared.lock();
        state.tickets_settled += 1;
        let at = self.segment.checked_sub(state.base).and_then(|at| usize::try_from(at).ok());
        let slot = at.and_then(|at| state.open.get_mut(at));
        let Some(slot) = slot else {
            panic!("I2 violated: segment {} was released before its last ticket was settled", self.segment)
        };
        slot.pending -= 1;
        if slot.pending == 0 && at == Some(0) && state.advance() {
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
        assert_eq!(frontier.stats(), FrontierStats { open: 2, lost: 1, undrained: false });
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
        /// After every step exactly the longest prefix of fully settled segments has been released, once, in order.
        #[test]
        fn releases_exactly_the_settled_prefix(steps in steps()) {
            let frontier = Frontier::default();
            let mut model: Vec<u32> = Vec::new();
            // The model's place of each segment that got a slot of its own.
            let mut places: Vec<usize> = Vec::new();
            let mut tickets: Vec<Ticket<Vec<usize>>> = Vec::new();
            let mut released = Vec::new();
            for step in steps {
                match step {
                    Step::Open(n) => {
                        let merged = n == 0 && frontier.stats().open > 0;
                        if !merged {
                            places.push(model.len());
                        }
                        tickets.extend(frontier.open(n, vec![model.len()]));
                        model.push(n);
                    }
                    Step::Settle(at) if !tickets.is_empty() => {
                        let ticket = tickets.swap_remove(at.index(tickets.len()));
                        model[places[usize::try_from(ticket.segment).unwrap()]] -= 1;
                        ticket.settle();
                    }
                    // Dropped: the model's count stays above zero for ever.
                    Step::Drop(at) if !tickets.is_empty() => drop(tickets.swap_remove(at.index(tickets.len()))),
                    _ => {}
                }
                released.extend(frontier.drain_done().unwrap_or_default());
                let prefix = model.iter().take_while(|pending| **pending == 0).count();
                prop_assert_eq!(&released, &(0..prefix).collect::<Vec<_>>());
            }
            tickets.into_iter().for_each(Ticket::settle);
        }
    }
}
