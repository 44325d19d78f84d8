//! The question about neighbours.

use super::{Client, Result};
use crate::api::view::NeighboursView;

impl Client {
    /// Other gateways of the site, and what passed between them and this one.
    pub async fn neighbours(&self) -> Result<NeighboursView> {
        self.get("/v1/neighbours", &[]).await
    }
}
