//! The cloud's side: a rule that puts reports into a queue, the shadow that names policies, and an account of what arrived.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{RULE, THING};
use crate::{emulator::Emulator, interrupt, netns::Netns};

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Name of the shadow.
const SHADOW: &str = "policy";

/// The emulator as those use it who run the fleet.
#[derive(Debug)]
pub(super) struct Cloud {
    pub(super) emulator: Emulator,
    queue: String,
    /// Reports in the order in which they came, repeats left out.
    reports: Vec<Value>,
    sequences: BTreeSet<u64>,
    pub(super) reordered: u64,
    pub(super) repeated: u64,
}

impl Cloud {
    /// Makes a queue and the rule that fills it with what gateways report.
    pub(super) fn prepare(emulator: Emulator, internet: &Netns) -> Result<Self> {
        let made = emulator.ask(
            internet,
            "sqs",
            "POST /",
            "AmazonSQS.CreateQueue",
            &json!({ "QueueName": "reports" }),
        )?;
        let queue = made["QueueUrl"].as_str().context("the queue has no address")?.to_owned();
        let role = emulator.role(internet, "rules", "sqs:SendMessage")?;
        let action = json!({ "sqs": { "roleArn": role, "queueUrl": queue, "useBase64": false } });
        let rule = json!({ "sql": "SELECT * FROM 'tidegate/+/+'", "actions": [action] });
        emulator.ask(internet, "iot", &format!("POST /rules/{RULE}"), "", &rule)?;
        Ok(Self {
            emulator,
            queue,
            reports: Vec::new(),
            sequences: BTreeSet::new(),
            reordered: 0,
            repeated: 0,
        })
    }

    /// Wishes that the gateway has the policy of `version`.
    pub(super) fn wish(&self, internet: &Netns, version: u64, hash: &str, url: &str) -> Result<()> {
        let policy = json!({ "version": version, "sha256": hash, "url": url });
        let document = json!({ "state": { "desired": { "policy": policy } } });
        self.emulator.ask(internet, "iotdata", &format!("POST {}", shadow()), "", &document).map(drop)
    }

    /// What the gateway last said about policies.
    pub(super) fn answer(&self, internet: &Netns) -> Result<Value> {
        let mut document =
            self.emulator.ask(internet, "iotdata", &format!("GET {}", shadow()), "", &Value::Null)?;
        Ok(document["state"]["reported"]["policy"].take())
    }

    /// Takes what is in the queue by now.
    pub(super) fn collect(&mut self, internet: &Netns) -> Result<()> {
        loop {
            let wanted = json!({ "QueueUrl": self.queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0 });
            let mut got = self.queue(internet, "ReceiveMessage", &wanted)?;
            let Some(messages) = got["Messages"].as_array_mut().filter(|messages| !messages.is_empty())
            else {
                return Ok(());
            };
            let mut entries = Vec::new();
            for (number, message) in messages.iter_mut().enumerate() {
                let body = message["Body"].as_str().context("a message without a body")?;
                let report = serde_json::from_str(body).context("a report that is no JSON")?;
                entries.push(json!({ "Id": number.to_string(), "ReceiptHandle": message["ReceiptHandle"] }));
                self.enter(report);
            }
            let done = json!({ "QueueUrl": self.queue, "Entries": entries });
            self.queue(internet, "DeleteMessageBatch", &done)?;
        }
    }

    /// The first report that is meant, once it has come.
    pub(super) fn report(
        &mut self,
        internet: &Netns,
        patience: Duration,
        is_meant: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        let deadline = std::time::Instant::now() + patience;
        loop {
            self.collect(internet)?;
            if let Some(report) = self.reports.iter().find(|report| is_meant(report)) {
                return Ok(Some(report.clone()));
            }
            if std::time::Instant::now() > deadline {
                return Ok(None);
            }
            interrupt::pause(POLL)?;
        }
    }

    /// Different reports that came, and the highest number among them.
    pub(super) fn came(&self) -> (u64, u64) {
        (self.sequences.len() as u64, self.sequences.last().copied().unwrap_or(0))
    }

    /// Writes down a report of the outbox; presence has no number and no place in the order.
    fn enter(&mut self, report: Value) {
        let Some(sequence) = report["sequence"].as_u64() else { return };
        let latest = self.sequences.last().copied().unwrap_or(0);
        if !self.sequences.insert(sequence) {
            self.repeated += 1;
            return;
        }
        if sequence < latest {
            self.reordered += 1;
        }
        self.reports.push(report);
    }

    fn queue(&self, internet: &Netns, operation: &str, body: &Value) -> Result<Value> {
        let answer = self.emulator.ask(internet, "sqs", "POST /", &format!("AmazonSQS.{operation}"), body)?;
        match answer["Failed"].as_array() {
            Some(failed) if !failed.is_empty() => bail!("{operation}: {answer}"),
            _ => Ok(answer),
        }
    }
}

fn shadow() -> String {
    format!("/things/{THING}/shadow?name={SHADOW}")
}
