//! Limits resource use with budgets. A budget is a weighted semaphore with a total for all callers,
//! a maximum share per holder, and a fair, bounded wait queue.
//!
//! Every resource that clients can make the server hold (bytes of bodies and temporary files,
//! running conversions and fetches, connections) has a budget. This module owns admission and
//! accounting; callers define the units. A holder is a partner, or the address of a client that is
//! not authenticated yet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics::{BudgetMetrics, Metrics};

/// `Retry-After` sent when a reservation is refused, in seconds: a rough guess, because units can
/// be released at any time.
const RETRY_AFTER: u64 = 5;

/// Limits of a budget and of its wait queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Units for all holders together.
    pub total: u64,
    /// Units for one holder.
    pub share: u64,
    /// Maximum number of waiting callers per holder. With 0, reservations fail at once.
    pub max_queued: usize,
    /// Maximum time that a caller waits in the queue.
    pub queue_timeout: Duration,
}

impl Limits {
    #[must_use]
    pub const fn without_queue(total: u64, share: u64) -> Self {
        Self {
            total,
            share,
            max_queued: 0,
            queue_timeout: Duration::ZERO,
        }
    }
}

/// Error from a reservation that was refused because too few units were free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; try again in {retry_after} s", cause(*.share_exhausted))]
pub struct AtCapacity {
    /// True if the holder's share is exhausted, false if the total is.
    pub share_exhausted: bool,
    /// `Retry-After` in seconds.
    pub retry_after: u64,
}

impl AtCapacity {
    /// Creates the error for a server that is at capacity as a whole.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            share_exhausted: false,
            retry_after: RETRY_AFTER,
        }
    }
}

fn cause(share_exhausted: bool) -> &'static str {
    if share_exhausted {
        "your share of this server's capacity is in use"
    } else {
        "the server is at capacity"
    }
}

/// A budget of a resource. Clones share the counts of used units.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    metrics: BudgetMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Holders that have units or waiting callers; others are removed.
    holders: HashMap<Arc<str>, Holder>,
    waiting: usize,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Holder {
    used: u64,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    amount: u64,
    granted: oneshot::Sender<()>,
}

/// Units reserved from a budget, released on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Inner>,
    holder: Arc<str>,
    amount: u64,
}

/// A place in the wait queue. On drop it leaves the queue, or returns units that were granted but
/// not taken.
struct QueuePlace<'a> {
    budget: &'a Arc<Inner>,
    holder: &'a Arc<str>,
    ticket: u64,
    amount: u64,
    is_taken: bool,
}

impl Budget {
    /// Creates a budget. `name` is its label in metrics.
    #[must_use]
    pub fn new(name: &'static str, limits: Limits, metrics: &Metrics) -> Self {
        let metrics = metrics.budget(name, limits.total);
        Self(Arc::new(Inner {
            limits,
            metrics,
            state: Mutex::default(),
        }))
    }

    /// Reserves units without waiting.
    ///
    /// # Errors
    /// Too few units are free.
    pub fn try_reserve(&self, holder: &str, amount: u64) -> Result<Reservation, AtCapacity> {
        let holder: Arc<str> = holder.into();
        self.0.take(&holder, amount)?;
        Ok(Reservation {
            budget: Arc::clone(&self.0),
            holder,
            amount,
        })
    }

    /// Reserves units, waiting for them if necessary. Of all waiting holders, the one with the
    /// fewest units is served first, so a long queue of one holder does not delay the others.
    ///
    /// # Errors
    /// The holder's queue is full, the wait timed out, or `amount` exceeds the share.
    pub async fn reserve(&self, holder: &str, amount: u64) -> Result<Reservation, AtCapacity> {
        let holder: Arc<str> = holder.into();
        let (mut place, granted) = self.0.enqueue(&holder, amount)?;
        // `timeout` polls the grant before the timer, so free units are granted even with a timeout
        // of 0.
        if timeout(self.0.limits.queue_timeout, granted)
            .await
            .is_ok_and(|granted| granted.is_ok())
        {
            place.is_taken = true;
            return Ok(Reservation {
                budget: Arc::clone(&self.0),
                holder: Arc::clone(&holder),
                amount,
            });
        }
        Err(self.0.refuse(&holder, amount))
    }

    /// Returns the number of units in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().used
    }
}

impl Reservation {
    /// Adds units to the reservation without waiting.
    ///
    /// # Errors
    /// Too few units are free. The reservation keeps the units it has.
    pub fn try_grow(&mut self, amount: u64) -> Result<(), AtCapacity> {
        self.budget.take(&self.holder, amount)?;
        self.amount += amount;
        Ok(())
    }

    /// Returns `amount` units to the budget.
    pub fn shrink(&mut self, amount: u64) {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        self.budget.release(&self.holder, amount);
    }

    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(&self.holder, self.amount);
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        if self.is_taken || self.budget.leave(self.holder, self.ticket) {
            return;
        }
        // The units were granted after the caller was cancelled, so they are returned.
        self.budget.release(self.holder, self.amount);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    fn take(&self, holder: &Arc<str>, amount: u64) -> Result<(), AtCapacity> {
        let mut state = self.lock();
        let used = state.holders.get(holder).map_or(0, |holder| holder.used);
        if used.saturating_add(amount) > self.limits.share
            || state.used.saturating_add(amount) > self.limits.total
        {
            drop(state);
            return Err(self.refuse(holder, amount));
        }
        state.use_units(holder, amount);
        self.metrics.set(state.used);
        Ok(())
    }

    fn enqueue<'a>(
        self: &'a Arc<Self>,
        holder: &'a Arc<str>,
        amount: u64,
    ) -> Result<(QueuePlace<'a>, oneshot::Receiver<()>), AtCapacity> {
        let mut state = self.lock();
        let entry = state.holders.entry(Arc::clone(holder)).or_default();
        let fits = entry.queue.is_empty() && entry.used.saturating_add(amount) <= self.limits.share;
        let is_full = entry.queue.len() >= self.limits.max_queued;
        let fits_now =
            fits && state.waiting == 0 && state.used.saturating_add(amount) <= self.limits.total;
        if amount > self.limits.share || (is_full && !fits_now) {
            state.remove_if_idle(holder);
            drop(state);
            return Err(self.refuse(holder, amount));
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting += 1;
        let (granted, receiver) = oneshot::channel();
        let waiter = Waiter {
            ticket,
            amount,
            granted,
        };
        state
            .holders
            .entry(Arc::clone(holder))
            .or_default()
            .queue
            .push_back(waiter);
        state.grant(self.limits);
        self.metrics.set(state.used);
        Ok((
            QueuePlace {
                budget: self,
                holder,
                ticket,
                amount,
                is_taken: false,
            },
            receiver,
        ))
    }

    /// Removes a caller from the queue. Returns false if its units were granted already.
    fn leave(&self, holder: &Arc<str>, ticket: u64) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.holders.get_mut(holder) else {
            return false;
        };
        let Some(at) = entry
            .queue
            .iter()
            .position(|waiter| waiter.ticket == ticket)
        else {
            return false;
        };
        entry.queue.remove(at);
        state.waiting -= 1;
        state.remove_if_idle(holder);
        state.grant(self.limits);
        self.metrics.set(state.used);
        true
    }

    fn release(&self, holder: &Arc<str>, amount: u64) {
        let mut state = self.lock();
        state.used -= amount;
        if let Some(entry) = state.holders.get_mut(holder) {
            entry.used -= amount;
        }
        state.remove_if_idle(holder);
        state.grant(self.limits);
        self.metrics.set(state.used);
    }

    fn refuse(&self, holder: &Arc<str>, amount: u64) -> AtCapacity {
        let used = self
            .lock()
            .holders
            .get(holder)
            .map_or(0, |holder| holder.used);
        let share_exhausted = used.saturating_add(amount) > self.limits.share;
        self.metrics.refused(share_exhausted);
        AtCapacity {
            share_exhausted,
            retry_after: RETRY_AFTER,
        }
    }
}

impl State {
    fn use_units(&mut self, holder: &Arc<str>, amount: u64) {
        self.used += amount;
        self.holders.entry(Arc::clone(holder)).or_default().used += amount;
    }

    fn remove_if_idle(&mut self, holder: &Arc<str>) {
        if self
            .holders
            .get(holder)
            .is_some_and(|holder| holder.used == 0 && holder.queue.is_empty())
        {
            self.holders.remove(holder);
        }
    }

    /// Grants units to waiting callers: first to the holder with the fewest units, then to the one
    /// that has waited longest. A large request that exceeds the total blocks the queue, so small
    /// ones cannot starve it.
    fn grant(&mut self, limits: Limits) {
        while self.waiting > 0 {
            let fits = |holder: &&mut Holder| {
                holder
                    .queue
                    .front()
                    .is_some_and(|next| holder.used.saturating_add(next.amount) <= limits.share)
            };
            let order =
                |holder: &&mut Holder| (holder.used, holder.queue.front().map(|next| next.ticket));
            let Some(holder) = self.holders.values_mut().filter(fits).min_by_key(order) else {
                return;
            };
            let amount = holder.queue.front().map_or(0, |next| next.amount);
            if self.used.saturating_add(amount) > limits.total {
                return;
            }
            let waiter = holder.queue.pop_front().expect("the filter found a waiter");
            holder.used += amount;
            self.used += amount;
            self.waiting -= 1;
            // If the caller was cancelled, `QueuePlace::drop` returns the units.
            let _ = waiter.granted.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    const LONG: Duration = Duration::from_mins(10);

    fn budget(total: u64, share: u64, max_queued: usize) -> Budget {
        Budget::new(
            "test",
            Limits {
                total,
                share,
                max_queued,
                queue_timeout: LONG,
            },
            &Metrics::default(),
        )
    }

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn reservation_beyond_share_or_total_is_refused() {
        let budget = budget(10, 6, 0);
        let mut first = budget.try_reserve("a", 6).expect("free");
        assert!(
            budget
                .try_reserve("a", 1)
                .expect_err("the share is exhausted")
                .share_exhausted
        );
        let second = budget.try_reserve("b", 4).expect("free");
        assert!(
            !budget
                .try_reserve("b", 1)
                .expect_err("the total is exhausted")
                .share_exhausted
        );
        assert!(first.try_grow(1).is_err());
        first.shrink(2);
        assert_eq!((budget.used(), first.amount()), (8, 4));
        drop((first, second));
        assert_eq!(budget.used(), 0);
        assert!(
            budget.0.lock().holders.is_empty(),
            "idle holders are removed"
        );
    }

    #[tokio::test]
    async fn waiting_holder_with_fewest_units_is_served_first() {
        let budget = budget(2, 2, 8);
        let (first, _second) = (
            budget.try_reserve("a", 1).expect("free"),
            budget.try_reserve("a", 1).expect("free"),
        );
        let (mut greedy, mut modest) = (pin!(budget.reserve("a", 1)), pin!(budget.reserve("b", 1)));
        assert!(poll(greedy.as_mut()).is_pending());
        assert!(poll(modest.as_mut()).is_pending());
        drop(first);
        assert!(poll(greedy.as_mut()).is_pending());
        assert!(matches!(poll(modest.as_mut()), Poll::Ready(Ok(_))));
    }

    #[tokio::test]
    async fn cancelled_waiter_leaves_nothing_behind() {
        let budget = budget(1, 1, 2);
        let held = budget.try_reserve("a", 1).expect("free");
        {
            let mut waiting = pin!(budget.reserve("b", 1));
            assert!(poll(waiting.as_mut()).is_pending());
        }
        {
            // The caller is granted its units, but cancelled before it is polled again.
            let mut waiting = pin!(budget.reserve("c", 1));
            assert!(poll(waiting.as_mut()).is_pending());
            drop(held);
        }
        assert_eq!(budget.used(), 0);
        assert!(budget.0.lock().holders.is_empty());
        assert_eq!(budget.0.lock().waiting, 0);
    }

    #[tokio::test]
    async fn full_queue_and_impossible_amount_are_refused_at_once() {
        let budget = budget(1, 1, 1);
        let _held = budget.try_reserve("a", 1).expect("free");
        let mut waiting = pin!(budget.reserve("b", 1));
        assert!(poll(waiting.as_mut()).is_pending());
        assert!(budget.reserve("b", 1).await.is_err());
        assert!(budget.reserve("c", 2).await.is_err());
    }

    proptest! {
        #[test]
        fn counts_never_exceed_limits_and_return_to_zero(steps in proptest::collection::vec((0..3_usize, 0..4_u64, any::<bool>()), 0..60)) {
            let budget = budget(6, 4, 0);
            let mut held = Vec::new();
            for (holder, amount, release) in steps {
                if release {
                    held.pop();
                } else if let Ok(reservation) = budget.try_reserve(["a", "b", "c"][holder], amount) {
                    held.push(reservation);
                }
                let state = budget.0.lock();
                prop_assert!(state.used <= 6);
                prop_assert!(state.holders.values().all(|holder| holder.used <= 4));
                prop_assert_eq!(state.used, state.holders.values().map(|holder| holder.used).sum::<u64>());
                prop_assert_eq!(state.used, held.iter().map(Reservation::amount).sum::<u64>());
            }
            held.clear();
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
