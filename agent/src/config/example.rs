//! The commented example, generated from the sections' doc comments and defaults.

use std::fmt::Write as _;

use crate::config::{Config, section::Section};

/// A configuration file with every key, its meaning and its default. Reading it gives [`Config::default`].
pub fn example() -> String {
    let mut text = String::from(
        "# Configuration of Tidegate. Every key is shown with its default and may be left out.\n\
         # Check a changed file with `tidegate run --check -c FILE`; SIGHUP makes a running daemon read it again.\n",
    );
    let config = Config::default();
    section(&mut text, "gateway", &config.gateway);
    section(&mut text, "kernel", &config.kernel);
    section(&mut text, "names", &config.names);
    section(&mut text, "learning", &config.learning);
    section(&mut text, "detection", &config.detection);
    section(&mut text, "response", &config.response);
    section(&mut text, "enforcement", &config.enforcement);
    section(&mut text, "never_block", &config.never_block);
    section(&mut text, "reachability", &config.reachability);
    section(&mut text, "messages", &config.messages);
    section(&mut text, "message_limits", &config.message_limits);
    section(&mut text, "commands", &config.commands);
    section(&mut text, "telemetry", &config.telemetry);
    section(&mut text, "feeds", &config.feeds);
    section(&mut text, "inputs", &config.inputs);
    section(&mut text, "log", &config.log);
    section(&mut text, "metrics", &config.metrics);
    section(&mut text, "policy", &config.policy);
    section(&mut text, "cloud", &config.cloud);
    section(&mut text, "cloudwatch", &config.cloudwatch);
    section(&mut text, "neighbours", &config.neighbours);
    text
}

fn section<S: Section>(text: &mut String, name: &str, defaults: &S) {
    text.push('\n');
    comment(text, S::ABOUT);
    let _ = writeln!(text, "[{name}]");
    // The sections are made of strings, numbers, lists and tables: TOML has a form for each of them.
    let values = toml::Table::try_from(defaults).unwrap_or_default();
    for key in S::KEYS {
        comment(text, key.doc);
        if let Some(value) = values.get(key.name) {
            let _ = writeln!(text, "{} = {value}", key.name);
        }
    }
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(text, "#{line}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused example is the test's failure")]

    use std::path::Path;

    use super::*;

    #[test]
    fn the_example_is_the_defaults_with_every_key() {
        let text = example();
        assert_eq!(Config::parse(&text, Path::new("example")).unwrap(), Config::default());
        let keys: usize = toml::Table::try_from(Config::default())
            .unwrap()
            .values()
            .map(|section| section.as_table().unwrap().len())
            .sum();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count(), keys);
    }

    #[test]
    fn the_reference_in_the_docs_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/tidegate.toml");
        crate::cli::testing::assert_generated(&path, &example());
    }
}
