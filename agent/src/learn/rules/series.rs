//! What the sizes of a series of short calls say: whether somebody tries, repeats or fetches.

/// Different sizes of requests up to which a series repeats a few requests rather than tries one password after the other.
const REQUESTS: usize = 4;
/// A refusal, the page or handshake around it included, is no longer.
const LONGEST_REFUSAL: u64 = 8_000;
/// Share of a series' answers that may be none of its refusals.
const OTHERS: f64 = 0.1;

/// Passwords differ by a few bytes; pages and uploads by far more.
pub(super) fn are_alike(sizes: impl Iterator<Item = u64>) -> bool {
    let (low, high) = sizes.fold((u64::MAX, 0), |(low, high), size| (low.min(size), high.max(size)));
    high <= low.saturating_mul(2).saturating_add(64)
}

/// Whether the requests are a few ones, over and over.
pub(super) fn are_repeated(requests: impl Iterator<Item = u64>) -> bool {
    different(requests) <= REQUESTS
}

/// How many different sizes there are.
pub(super) fn different(sizes: impl Iterator<Item = u64>) -> usize {
    let mut sizes: Vec<u64> = sizes.collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.len()
}

/// Whether nearly all answers may be one and the same refusal: short and alike, as no series of contents is.
pub(super) fn are_refusals(answers: impl Iterator<Item = u64>) -> bool {
    let mut answers: Vec<u64> = answers.collect();
    answers.sort_unstable();
    let Some(median) = answers.get(answers.len() / 2).copied() else { return false };
    let near = |size: u64| size.min(median) * 3 / 2 + 64 >= size.max(median);
    let others = answers.iter().filter(|size| !near(**size)).count();
    median <= LONGEST_REFUSAL && others as f64 <= OTHERS * answers.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_short_and_alike_and_one_success_among_them_changes_nothing() {
        let guesses = |guess: u64| if guess == 30 { 90_000 } else { 420 + guess % 3 };
        assert!(are_refusals((0..40).map(guesses)));
        assert!(!are_refusals((0..40).map(|_| 18_000)), "pictures");
        assert!(!are_refusals((0..40).map(|page| 500 + page * 150)), "pages");
        assert!(!are_refusals(std::iter::empty()));
    }
}
