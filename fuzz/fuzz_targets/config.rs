//! The configuration file: what is accepted is written and read again as it was.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tidegate::config::Config;

fuzz_target!(|text: &str| {
    let path = Path::new("fuzz.toml");
    if let Ok(config) = Config::parse(text, path) {
        let written = toml::to_string(&config).expect("what was read can be written");
        assert_eq!(Config::parse(&written, path).expect("and read again"), config);
        let _ = (config.database_path(), config.eve_path());
        assert!(config.diff_reloadable(&config).is_empty());
    }
});
