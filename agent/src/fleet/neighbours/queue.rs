//! Notices that wait for one peer, in order and bounded. Pure.

use std::collections::VecDeque;

use jiff::Timestamp;

/// Notices that wait for one peer at most; beyond, the oldest goes and is counted.
pub const MOST_WAITING: usize = 1_024;

/// A sealed notice that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) id: String,
    pub(super) expires: Timestamp,
    pub(super) bytes: Vec<u8>,
}

/// What waits for one peer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Notices that found no room.
    pub(super) dropped: u64,
    /// Notices whose time was over before they could be told.
    pub(super) expired: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, notice: Waiting) {
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(notice);
    }

    /// The next one to tell; it stays until [`Self::done`].
    pub(super) fn front(&mut self, now: Timestamp) -> Option<Waiting> {
        while self.waiting.front().is_some_and(|notice| notice.expires <= now) {
            self.waiting.pop_front();
            self.expired += 1;
        }
        self.waiting.front().cloned()
    }

    /// It was told and answered.
    pub(super) fn done(&mut self, id: &str) {
        if self.waiting.front().is_some_and(|notice| notice.id == id) {
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::notice::tests::at, *};

    fn waiting(number: usize, expires: i64) -> Waiting {
        Waiting { id: number.to_string(), expires: at(expires), bytes: Vec::new() }
    }

    #[test]
    fn they_go_in_order_stay_until_answered_and_the_old_make_room() {
        let mut queue = Queue::default();
        for number in 0..MOST_WAITING + 3 {
            queue.push(waiting(number, if number == 4 { 5 } else { 100 }));
        }
        assert_eq!((queue.len(), queue.dropped), (MOST_WAITING, 3));
        let front = |queue: &mut Queue| queue.front(at(10)).map(|notice| notice.id);
        assert_eq!(front(&mut queue).as_deref(), Some("3"));
        assert_eq!(front(&mut queue).as_deref(), Some("3"), "until it is answered");
        queue.done("7");
        queue.done("3");
        assert_eq!(front(&mut queue).as_deref(), Some("5"), "4 has expired");
        assert_eq!(queue.expired, 1);
        assert_eq!(queue.front(at(100)), None);
    }
}
