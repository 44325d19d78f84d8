//! Where joint models are grown: on a thread of its own, because a forest takes milliseconds and messages wait for nothing.
//!
//! The guard's beat hands over what is due and takes back what has grown. Both ways are bounded, and a topic has one request on its
//! way at most: what finds no room stays due until the next beat. Messages are judged by the model before, meanwhile.

use tokio::sync::mpsc;

use super::{
    Topic,
    joint::{Grown, Seed},
};

/// Requests that wait, and results.
const WAITING: usize = 16;

/// A pair: the guard's end, and the one that a thread runs.
pub fn nursery() -> (Nursery, Grower) {
    let (asked, asking) = mpsc::channel(WAITING);
    let (done, grown) = mpsc::channel(WAITING);
    (Nursery { asked, grown, last: 0 }, Grower { asking, done })
}

/// The guard's end.
#[derive(Debug)]
pub struct Nursery {
    asked: mpsc::Sender<(String, Seed)>,
    grown: mpsc::Receiver<(String, Grown)>,
    last: u64,
}

impl Nursery {
    /// The next model that has grown, with its topic.
    pub(super) fn grown(&mut self) -> Option<(String, Grown)> {
        self.grown.try_recv().ok()
    }

    /// Hands over what `model` is to be grown from, if that is due; whether there is room for more.
    pub(super) fn tend(&mut self, topic: &str, model: &mut Topic) -> bool {
        if !model.is_due() {
            return true;
        }
        let Ok(room) = self.asked.try_reserve() else { return false };
        self.last += 1;
        if let Some(seed) = model.seed(self.last) {
            room.send((topic.to_owned(), seed));
        }
        true
    }
}

/// The thread's end.
#[derive(Debug)]
pub struct Grower {
    asking: mpsc::Receiver<(String, Seed)>,
    done: mpsc::Sender<(String, Grown)>,
}

impl Grower {
    /// Grows until the guard's end is gone.
    pub fn run(mut self) {
        while let Some((topic, seed)) = self.asking.blocking_recv() {
            if self.done.blocking_send((topic, seed.grow())).is_err() {
                return;
            }
        }
    }
}
