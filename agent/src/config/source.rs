//! Where a configuration comes from, so that a reload reads the same file under the same command line.

use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError, values::GatewayMode};

/// A file, or none, and what the command line puts over it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; none for the defaults.
    pub path: Option<PathBuf>,
    /// Ports from the command line; empty to keep those of the file.
    pub interfaces: Vec<String>,
    /// Mode from the command line.
    pub mode: Option<GatewayMode>,
    /// Socket from the command line.
    pub socket: Option<PathBuf>,
}

impl Source {
    /// Reads, puts the command line over it, and checks the whole.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.path {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if !self.interfaces.is_empty() {
            config.gateway.interfaces.clone_from(&self.interfaces);
        }
        if let Some(mode) = self.mode {
            config.gateway.mode = mode;
        }
        if let Some(socket) = &self.socket {
            config.gateway.socket.clone_from(socket);
        }
        config.check(self.path.as_deref().unwrap_or(Path::new("(command line)")))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused configuration is the test's failure")]

    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file_on_every_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        std::fs::write(&path, "[gateway]\ninterfaces = [\"lan0\"]\nmode = \"enforce\"\n").unwrap();
        let mut source = Source { path: Some(path), ..Source::default() };
        assert_eq!(source.load().unwrap().gateway.interfaces, ["lan0"]);
        source.interfaces = vec!["lan1".to_owned()];
        source.mode = Some(GatewayMode::Monitor);
        for _ in 0..2 {
            let gateway = source.load().unwrap().gateway;
            assert_eq!((gateway.interfaces, gateway.mode), (vec!["lan1".to_owned()], GatewayMode::Monitor));
        }
        source.interfaces = vec!["not/a/name".to_owned()];
        assert!(source.load().is_err());
    }
}
