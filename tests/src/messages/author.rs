//! Who signs: commands and policies, with keys and documents in files and Tidegate's own command line, as people do it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{FLEET, PLUG};
use crate::web::run;

/// A place with a key of its own.
#[derive(Debug)]
pub(super) struct Author {
    binary: String,
    directory: PathBuf,
}

impl Author {
    /// Makes `NAME.key` and `NAME.pub` in `directory/NAME`.
    pub(super) fn new(binary: &Path, directory: &Path, name: &str, what: &str) -> Result<Self> {
        let directory = directory.join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let author = Self { binary: binary.display().to_string(), directory };
        author.tidegate(&[what, "keygen", "--output", "own"])?;
        Ok(author)
    }

    /// Whom gateways trust who know this author.
    pub(super) fn public(&self) -> PathBuf {
        self.directory.join("own.pub")
    }

    /// A command to the plug: to do `verb` at `level`.
    pub(super) fn command(&self, verb: &str, level: u32) -> Result<Vec<u8>> {
        let params = format!("{{\"level\":{level}}}");
        let signer = ["commands", "sign", verb, "--device", PLUG, "--params", &params];
        // It never writes over a file.
        let _ = fs::remove_file(self.directory.join("command"));
        self.tidegate(&[&signer[..], &["--key", "own.key", "--output", "command"]].concat())?;
        fs::read(self.directory.join("command")).context("there is no signed command")
    }

    /// Signs a policy with these `settings` into `file`; its hash.
    pub(super) fn policy(&self, version: u64, settings: &str, file: &Path) -> Result<String> {
        let document = format!(
            "version = {version}\nfleet = \"{FLEET}\"\nnot_before = \"2020-01-01T00:00:00Z\"\n\
             expires = \"2200-01-01T00:00:00Z\"\n[settings]\n{settings}\n"
        );
        fs::write(self.directory.join("policy.toml"), document).context("cannot write a policy")?;
        let sealed = file.display().to_string();
        self.tidegate(&["policy", "sign", "policy.toml", "--key", "own.key", "--output", &sealed])?;
        let sum = run(&self.directory, "sha256sum", &[&sealed])?;
        Ok(sum.split_whitespace().next().unwrap_or_default().to_owned())
    }

    fn tidegate(&self, arguments: &[&str]) -> Result<String> {
        run(&self.directory, &self.binary, arguments)
    }
}
