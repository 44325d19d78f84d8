//! Questions about commands.

use hyper::Method;

use super::{Client, Result};
use crate::api::view::{CommandsView, HeldCommandView};

impl Client {
    /// What waits, and what was done so far.
    pub async fn commands(&self) -> Result<CommandsView> {
        self.get("/v1/commands", &[]).await
    }

    /// One held command.
    pub async fn command(&self, id: &str) -> Result<HeldCommandView> {
        self.get("/v1/command", &[("id", id)]).await
    }

    /// Let a held command go on.
    pub async fn release_command(&self, id: &str) -> Result<HeldCommandView> {
        self.send(Method::POST, "/v1/command/release", &[("id", id)], &()).await
    }

    /// Take a held command away for good.
    pub async fn drop_command(&self, id: &str) -> Result<HeldCommandView> {
        self.send(Method::POST, "/v1/command/drop", &[("id", id)], &()).await
    }
}
