//! Bounded caches of which there is one a device: they take memory as they fill, where `LruCache::new` takes all of it at once.

use std::{hash::Hash, num::NonZeroUsize};

use lru::LruCache;

/// A cache that holds at most `most` entries.
pub(super) fn bounded<K: Hash + Eq, V>(most: NonZeroUsize) -> LruCache<K, V> {
    let mut cache = LruCache::unbounded();
    cache.resize(most);
    cache
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut cache = bounded(NonZeroUsize::new(2).unwrap());
        for key in [1, 2, 3] {
            cache.put(key, ());
        }
        assert_eq!(cache.iter().map(|(key, ())| *key).collect::<Vec<_>>(), [3, 2]);
    }
}
