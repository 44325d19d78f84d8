//! Questions about policies.

use bytes::Bytes;
use hyper::Method;

use super::{Client, Result};
use crate::api::view::{PolicyCheckView, PolicyView};

impl Client {
    /// The policy in force.
    pub async fn policy(&self) -> Result<PolicyView> {
        self.get("/v1/policy", &[]).await
    }

    /// What a sealed policy would change.
    pub async fn check_policy(&self, sealed: Bytes) -> Result<PolicyCheckView> {
        self.decode(&self.exchange(Method::POST, "/v1/policy/check", &[], sealed).await?)
    }

    /// Put a sealed policy in force.
    pub async fn apply_policy(&self, sealed: Bytes) -> Result<PolicyView> {
        self.decode(&self.exchange(Method::POST, "/v1/policy", &[], sealed).await?)
    }

    /// Put the policy before in force again.
    pub async fn rollback_policy(&self) -> Result<PolicyView> {
        self.send(Method::POST, "/v1/policy/rollback", &[], &()).await
    }
}
