//! Provisioning by claim over MQTT: a certificate that many gateways share is exchanged for one of this gateway's own, by a template.
//!
//! For gateways that were given a claim certificate at the factory and have no credentials of AWS. The request is signed here; the key never
//! leaves. Nothing is written before the template has accepted the thing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rumqttc::{
    AsyncClient, Event, MqttOptions, Packet, QoS, SubscribeReasonCode, TlsConfiguration, Transport,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::{Outcome, ProvisionError, identity::Files};
use crate::fleet::{
    limits::{MAX_PAYLOAD, check_publish},
    tls::{self, TlsFiles},
};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_mins(1);
const CREATE: &str = "$aws/certificates/create-from-csr/json";
/// Subscriptions made: accepted and rejected of both steps.
const SUBSCRIPTIONS: usize = 4;

/// What is claimed, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Host name of the endpoint.
    pub endpoint: String,
    /// Its port.
    pub port: u16,
    /// The claim certificate, its key, and whom to trust.
    pub tls: TlsFiles,
    /// The provisioning template.
    pub template: String,
    /// Name asked for; handed to the template as `ThingName`.
    pub thing: String,
    /// Further parameters of the template.
    pub parameters: BTreeMap<String, String>,
}

/// A certificate that waits for its template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    certificate_ownership_token: String,
    certificate_pem: String,
}

/// The thing that the template made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    thing_name: Option<String>,
}

/// What the service said in answer to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Created(Created),
    Registered(Registered),
    Refused(String),
}

fn provision_topic(template: &str) -> String {
    format!("$aws/provisioning-templates/{template}/provision/json")
}

/// Reads a message of the service; nothing if it is none of the answers.
fn step(topic: &str, payload: &[u8], template: &str) -> Option<Step> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Refusal {
        #[serde(default)]
        error_code: String,
        #[serde(default)]
        error_message: String,
    }
    let provision = provision_topic(template);
    let (asked, word) = topic.rsplit_once('/')?;
    let read =
        |error: serde_json::Error| Step::Refused(format!("the answer to {asked} cannot be read: {error}"));
    Some(match word {
        "accepted" if asked == CREATE => serde_json::from_slice(payload).map_or_else(read, Step::Created),
        "accepted" if asked == provision => {
            serde_json::from_slice(payload).map_or_else(read, Step::Registered)
        }
        "rejected" if asked == CREATE || asked == provision => {
            let refusal = serde_json::from_slice(payload);
            let Refusal { error_code, error_message } = match refusal {
                Ok(refusal) => refusal,
                Err(error) => return Some(read(error)),
            };
            Step::Refused(format!("{asked} was refused: {error_code}: {error_message}"))
        }
        _ => return None,
    })
}

/// Exchanges the claim for an own certificate, unless there is one already.
pub async fn claim(claim: &Claim, files: &Files) -> Result<Outcome, ProvisionError> {
    let outcome = |thing: String, certificate: Option<String>| Outcome {
        thing,
        endpoint: Some(claim.endpoint.clone()),
        certificate,
        dry_run: false,
        calls: Vec::new(),
    };
    if let Some(id) = files.certificate_id()? {
        return Ok(outcome(claim.thing.clone(), Some(id)));
    }
    let request = files.request(&claim.thing)?;
    let exchanged = timeout(PATIENCE, exchange(claim, &request))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
    let (created, registered) = exchanged.map_err(|cause| {
        ProvisionError::Claim(format!("{} grants no certificate: {cause}", claim.endpoint))
    })?;
    files.keep_certificate(&created.certificate_pem)?;
    Ok(outcome(registered.thing_name.unwrap_or_else(|| claim.thing.clone()), files.certificate_id()?))
}

async fn exchange(claim: &Claim, request: &str) -> Result<(Created, Registered), String> {
    let provision = provision_topic(&claim.template);
    let config = tls::broker(&claim.tls, claim.port).map_err(|error| error.to_string())?;
    let mut options = MqttOptions::new(&claim.thing, &claim.endpoint, claim.port);
    options
        .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
        .set_clean_session(true)
        .set_max_packet_size(MAX_PAYLOAD, MAX_PAYLOAD);
    let (client, mut events) = AsyncClient::new(options, 2 * SUBSCRIPTIONS);
    let say = |topic: &str, payload: serde_json::Value| {
        let payload = payload.to_string();
        check_publish(topic, payload.len()).map_err(|error| error.to_string())?;
        client.try_publish(topic, QoS::AtLeastOnce, false, payload).map_err(|error| error.to_string())
    };
    let mut heard = 0;
    let mut kept = None;
    loop {
        match events.poll().await.map_err(|error| error.to_string())? {
            Event::Incoming(Packet::ConnAck(_)) => {
                for topic in [CREATE, &provision] {
                    for word in ["accepted", "rejected"] {
                        let filter = format!("{topic}/{word}");
                        client.try_subscribe(filter, QoS::AtLeastOnce).map_err(|error| error.to_string())?;
                    }
                }
            }
            Event::Incoming(Packet::SubAck(granted)) => {
                if granted.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return Err("the claim certificate may not subscribe to the answers".to_owned());
                }
                heard += 1;
                if heard == SUBSCRIPTIONS {
                    say(CREATE, json!({ "certificateSigningRequest": request }))?;
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                match step(&publish.topic, &publish.payload, &claim.template) {
                    Some(Step::Created(created)) => {
                        let mut parameters = claim.parameters.clone();
                        parameters.insert("ThingName".to_owned(), claim.thing.clone());
                        let token = &created.certificate_ownership_token;
                        say(
                            &provision,
                            json!({ "certificateOwnershipToken": token, "parameters": parameters }),
                        )?;
                        kept = Some(created);
                    }
                    Some(Step::Registered(registered)) => {
                        if let Some(created) = kept.take() {
                            return Ok((created, registered));
                        }
                    }
                    Some(Step::Refused(cause)) => return Err(cause),
                    None => {}
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let created = br#"{"certificateId":"1","certificatePem":"PEM","certificateOwnershipToken":"T"}"#;
        let expected =
            Created { certificate_ownership_token: "T".to_owned(), certificate_pem: "PEM".to_owned() };
        assert_eq!(step(&format!("{CREATE}/accepted"), created, "gate"), Some(Step::Created(expected)));
        let topic = format!("{}/accepted", provision_topic("gate"));
        let registered = Registered { thing_name: Some("gate-1".to_owned()) };
        let answer = br#"{"thingName":"gate-1","deviceConfiguration":{}}"#;
        assert_eq!(step(&topic, answer, "gate"), Some(Step::Registered(registered)));
        assert_eq!(step(&topic, answer, "other"), None);
        let refused = step(
            &format!("{CREATE}/rejected"),
            br#"{"statusCode":403,"errorCode":"AccessDenied","errorMessage":"no"}"#,
            "gate",
        );
        assert!(matches!(refused, Some(Step::Refused(cause)) if cause.ends_with("AccessDenied: no")));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(word in "accepted|rejected|x", payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = step(&format!("{CREATE}/{word}"), &payload, "gate");
            let _ = step(&format!("{}/{word}", provision_topic("gate")), &payload, "gate");
        }
    }
}
