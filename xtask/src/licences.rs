//! Every crate in the lock file that is built must be under a licence that `deny.toml` allows.
//!
//! The same list serves cargo-deny; this check needs nothing but cargo, so it also runs where cargo-deny is absent.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
}

#[derive(Deserialize)]
struct DenyFile {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

/// Checks every package of the workspace and all its dependencies.
pub(crate) fn run() -> Result<()> {
    let deny = fs::read_to_string(shell::root().join("deny.toml")).context("cannot read deny.toml")?;
    let allow = toml::from_str::<DenyFile>(&deny).context("deny.toml is malformed")?.licenses.allow;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = shell::output(shell::cargo().args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        &target,
    ]))?;
    let packages =
        serde_json::from_str::<Metadata>(&metadata).context("cargo metadata is malformed")?.packages;
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(|licence| allowed(licence, &allow)))
        .map(|package| {
            let licence =
                package.license.as_deref().or(package.license_file.as_deref()).unwrap_or("no licence");
            format!("{} {}: {licence}", package.name, package.version)
        })
        .collect();
    if !refused.is_empty() {
        bail!("not under a licence that deny.toml allows:\n    {}", refused.join("\n    "));
    }
    println!("  {} packages, all under allowed licences", packages.len());
    Ok(())
}

/// Whether a choice that `expression` (SPDX, and the old `A/B` for `A OR B`) offers is within `allow`.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = spaced.split_whitespace().peekable();
    let result = any(&mut tokens, allow);
    result && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(tokens: &mut Tokens<'_>, allow: &BTreeSet<String>) -> bool {
    let mut result = all(tokens, allow);
    while tokens.next_if_eq(&"OR").is_some() {
        result |= all(tokens, allow);
    }
    result
}

fn all(tokens: &mut Tokens<'_>, allow: &BTreeSet<String>) -> bool {
    let mut result = one(tokens, allow);
    while tokens.next_if_eq(&"AND").is_some() {
        result &= one(tokens, allow);
    }
    result
}

fn one(tokens: &mut Tokens<'_>, allow: &BTreeSet<String>) -> bool {
    if tokens.next_if_eq(&"(").is_some() {
        return any(tokens, allow) & tokens.next_if_eq(&")").is_some();
    }
    let Some(licence) = tokens.next() else { return false };
    if tokens.next_if_eq(&"WITH").is_some() {
        let exception = tokens.next().unwrap_or_default();
        // An exception only adds permissions.
        return allow.contains(licence) || allow.contains(&format!("{licence} WITH {exception}"));
    }
    allow.contains(licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_by_their_structure() {
        let allow = BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "Zlib".to_owned()]);
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("MIT/GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR GPL-3.0-only) AND Zlib", true),
            ("(MIT AND GPL-3.0-only) OR Zlib", true),
            ("(GPL-3.0-only OR BSL-1.0) AND Zlib", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
            ("GPL-2.0-only WITH Linux-syscall-note", false),
            ("(MIT", false),
            ("MIT )", false),
            ("", false),
        ] {
            assert_eq!(allowed(expression, &allow), expected, "{expression}");
        }
    }
}
