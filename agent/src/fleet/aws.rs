//! How the clients of AWS are set up: one HTTP stack over the agent's own TLS library, the default chain of credentials, errors with a hint.
//!
//! The endpoint comes from the region, or from `AWS_ENDPOINT_URL`. Keys and tokens are never written down or printed.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, timeout::TimeoutConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_iot::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

/// A call may take so long, repeats included.
const PATIENCE: Duration = Duration::from_secs(30);

/// AWS did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {cause}")]
pub struct AwsError {
    /// The call, as IAM names the right to it.
    pub call: &'static str,
    /// What AWS or the network said.
    pub cause: String,
    /// Its code, if AWS gave one.
    pub code: Option<String>,
    /// What to do.
    pub hint: &'static str,
}

impl AwsError {
    /// An error of `call`.
    pub fn new<E, R>(call: &'static str, error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug + 'static,
    {
        let code = error.code().map(ToOwned::to_owned);
        let said = error.as_service_error().and_then(ProvideErrorMetadata::message);
        let cause = match (&code, said) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.clone(),
            (None, _) => DisplayErrorContext(error).to_string(),
        };
        let hint = match &code {
            Some(code) if code.contains("AccessDenied") || code.contains("Unauthorized") => {
                "the credentials lack a right; the operations guide lists those that are needed"
            }
            Some(code) if code.contains("Token") || code.contains("Signature") => {
                "the credentials are wrong or have ended, or the clock is off"
            }
            Some(code) if code.contains("Throttl") || code.contains("LimitExceeded") => "try again later",
            Some(_) => {
                "nothing was changed by this call; what was done before stays, and a repeat goes on from there"
            }
            None if cause.contains("redential") => {
                "no credentials were found: set AWS_PROFILE, sign in, or give the machine a role"
            }
            None if cause.contains("region") => "set AWS_REGION",
            None => "is the network up, and do AWS_REGION and AWS_ENDPOINT_URL name what they should?",
        };
        Self { call, cause, code, hint }
    }

    /// AWS answered, but without what its answer must hold.
    pub fn incomplete(call: &'static str) -> Self {
        Self {
            call,
            cause: "the answer lacks what it must hold".to_owned(),
            code: None,
            hint: "is AWS_ENDPOINT_URL what it should be?",
        }
    }

    /// Whether AWS says that there is no such thing.
    pub fn is_absence(&self) -> bool {
        matches!(self.code.as_deref(), Some("ResourceNotFoundException" | "ResourceNotFound"))
    }
}

/// What clients are made of: in `region` or the one of the environment, with `credentials` or those of the default chain.
pub async fn config(region: Option<String>, credentials: Option<SharedCredentialsProvider>) -> SdkConfig {
    let client = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(client)
        .timeout_config(TimeoutConfig::builder().operation_timeout(PATIENCE).build());
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    loader.load().await
}

/// The region in the name of an endpoint of AWS IoT Core, such as `abc123-ats.iot.eu-central-1.amazonaws.com`.
pub fn region_of(endpoint: &str) -> Option<&str> {
    let (_, rest) = endpoint.split_once(".iot.")?;
    let (region, domain) = rest.split_once('.')?;
    domain.starts_with("amazonaws.com").then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_stands_in_the_name_of_an_endpoint() {
        assert_eq!(region_of("abc-ats.iot.eu-central-1.amazonaws.com"), Some("eu-central-1"));
        assert_eq!(region_of("abc.ats.iot.cn-north-1.amazonaws.com.cn"), Some("cn-north-1"));
        for other in ["localhost", "broker.iot.example.org", "", ".iot."] {
            assert_eq!(region_of(other), None, "{other}");
        }
    }
}
