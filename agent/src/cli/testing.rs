//! Keeps generated reference pages in step with the code.

use std::{env, fs, path::Path};

/// Fails unless `path` holds `expected`; with `TIDEGATE_BLESS=1` writes it instead.
#[allow(clippy::panic, clippy::expect_used, reason = "a difference is the test's failure")]
pub(crate) fn assert_generated(path: &Path, expected: &str) {
    if env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(path, expected).expect("the reference page can be written");
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not what the code says: run the test again with TIDEGATE_BLESS=1 and commit the page",
        path.display(),
    );
}
