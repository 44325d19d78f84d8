//! Questions about descriptions and profiles.

use bytes::Bytes;
use hyper::Method;

use super::{Client, Result};
use crate::api::{request::DeviceRef, view::ProfileView};

impl Client {
    /// A description of what a device was seen to do (RFC 8520).
    pub async fn describe(&self, device: &DeviceRef) -> Result<serde_json::Value> {
        let query = [("device", &*device.to_string())];
        let bytes = self.exchange(Method::GET, "/v1/device/description", &query, Bytes::new()).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.broken(format!("gave an answer that cannot be understood: {error}")))
    }

    /// The description that a device is held to.
    pub async fn profile(&self, device: &DeviceRef) -> Result<ProfileView> {
        self.get("/v1/device/profile", &[("device", &device.to_string())]).await
    }

    /// Hold a device to a description.
    pub async fn apply_profile(&self, device: &DeviceRef, description: Bytes) -> Result<ProfileView> {
        let query = [("device", &*device.to_string())];
        let bytes = self.exchange(Method::POST, "/v1/device/profile", &query, description).await?;
        self.decode(&bytes)
    }

    /// Hold a device to nothing.
    pub async fn remove_profile(&self, device: &DeviceRef) -> Result<ProfileView> {
        self.send(Method::DELETE, "/v1/device/profile", &[("device", &device.to_string())], &()).await
    }
}
