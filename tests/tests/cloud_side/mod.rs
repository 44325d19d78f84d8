//! The cloud's side of the tests: its SDK inside the namespace, a queue behind a rule.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at once")]

use std::time::{Duration, Instant, SystemTime};

use aws_sdk_cloudwatch::{
    primitives::DateTime,
    types::{Dimension, Statistic},
};
use aws_sdk_iot::{
    config::{Credentials, SharedCredentialsProvider},
    types::{Action, SqsAction, TopicRulePayload},
};
use serde_json::Value;
use tidegate::fleet::aws;
use tidegate_tests::{
    emulator::{ACCOUNT, Emulator, REGION},
    netns::Netns,
    wait_for,
};

/// Asks the emulator with the SDK.
pub(crate) struct Aws<'a> {
    netns: &'a Netns,
    url: String,
}

/// Makes a client of a service from inside the namespace, and waits for what is done with it.
macro_rules! ask {
    ($aws:expr, $service:ident, $work:expr) => {{
        let url = $aws.url.clone();
        $aws.netns
            .enter(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(async move {
                    let keys = Credentials::new(ACCOUNT, "test", None, None, "test");
                    let keys = SharedCredentialsProvider::new(keys);
                    let config = aws::config(Some(REGION.to_owned()), Some(keys)).await;
                    let config = config.into_builder().endpoint_url(url).build();
                    $work($service::Client::new(&config)).await
                }))
            })
            .unwrap()
    }};
}

impl<'a> Aws<'a> {
    pub(crate) fn new(netns: &'a Netns, emulator: &Emulator) -> Self {
        Self { netns, url: emulator.url() }
    }

    pub(crate) fn iot<T: Send>(&self, work: impl AsyncFnOnce(aws_sdk_iot::Client) -> T + Send) -> T {
        ask!(self, aws_sdk_iot, work)
    }

    fn sqs<T: Send>(&self, work: impl AsyncFnOnce(aws_sdk_sqs::Client) -> T + Send) -> T {
        ask!(self, aws_sdk_sqs, work)
    }

    fn cloudwatch<T: Send>(&self, work: impl AsyncFnOnce(aws_sdk_cloudwatch::Client) -> T + Send) -> T {
        ask!(self, aws_sdk_cloudwatch, work)
    }

    /// Names of the metrics there are.
    pub(crate) fn metrics(&self) -> Vec<String> {
        let listed = self.cloudwatch(async |watch| {
            watch.list_metrics().namespace("Tidegate").send().await.unwrap().metrics.unwrap_or_default()
        });
        let mut names: Vec<String> = listed.into_iter().filter_map(|metric| metric.metric_name).collect();
        names.sort();
        names.dedup();
        names
    }

    /// How an alarm takes a period without a figure.
    pub(crate) fn missing_is(&self, alarm: &str) -> String {
        let found =
            self.cloudwatch(async |watch| watch.describe_alarms().alarm_names(alarm).send().await.unwrap());
        found.metric_alarms()[0].treat_missing_data().unwrap().to_owned()
    }

    /// Sum of a metric of `gateway` over the last quarter of an hour.
    pub(crate) fn sum_of(&self, metric: &str, gateway: &str) -> f64 {
        let now = SystemTime::now();
        let statistics = self.cloudwatch(async |watch| {
            let dimension = Dimension::builder().name("Gateway").value(gateway).build();
            let request = watch.get_metric_statistics().namespace("Tidegate").metric_name(metric);
            let request = request.dimensions(dimension).statistics(Statistic::Sum).period(60);
            let from = DateTime::from(now - Duration::from_mins(15));
            let until = DateTime::from(now + Duration::from_mins(1));
            request.start_time(from).end_time(until).send().await.unwrap()
        });
        statistics.datapoints().iter().filter_map(|point| point.sum()).sum()
    }

    fn data<T: Send>(&self, work: impl AsyncFnOnce(aws_sdk_iotdataplane::Client) -> T + Send) -> T {
        ask!(self, aws_sdk_iotdataplane, work)
    }

    /// A queue; its address.
    pub(crate) fn queue(&self, name: &str) -> String {
        let made = self.sqs(async |sqs| sqs.create_queue().queue_name(name).send().await.unwrap());
        made.queue_url.unwrap()
    }

    /// A rule that puts what `sql` chooses into `queue`.
    pub(crate) fn rule(&self, name: &str, sql: &str, queue: &str, role: &str) {
        self.iot(async |iot| {
            let action =
                SqsAction::builder().role_arn(role).queue_url(queue).use_base64(false).build().unwrap();
            let payload = TopicRulePayload::builder().sql(sql).actions(Action::builder().sqs(action).build());
            let payload = payload.build().unwrap();
            iot.create_topic_rule().rule_name(name).topic_rule_payload(payload).send().await.unwrap();
        });
    }

    /// Gives `thing` a job.
    pub(crate) fn job(&self, id: &str, thing: &str, document: &Value) {
        self.iot(async |iot| {
            let target = format!("arn:aws:iot:{REGION}:{ACCOUNT}:thing/{thing}");
            let request = iot.create_job().job_id(id).targets(target).document(document.to_string());
            request.send().await.unwrap();
        });
    }

    /// How `thing` ended a job.
    pub(crate) fn job_ended(&self, id: &str, thing: &str, patience: Duration) -> String {
        let find = || {
            let execution = self.iot(async |iot| {
                let request = iot.describe_job_execution().job_id(id).thing_name(thing);
                request.send().await.unwrap().execution
            })?;
            let status = execution.status()?.as_str().to_owned();
            (status != "QUEUED").then_some(status)
        };
        wait_for(patience, find).expect("the job is not ended")
    }

    pub(crate) fn inbox(&self, queue: &str) -> Inbox<'_, 'a> {
        Inbox { aws: self, queue: queue.to_owned(), reports: Vec::new(), cursor: 0 }
    }

    /// Wishes something of `thing` in its shadow named `policy`.
    pub(crate) fn update_shadow(&self, thing: &str, document: &Value) {
        let payload = aws_sdk_iotdataplane::primitives::Blob::new(document.to_string());
        self.data(async |data| {
            let request = data.update_thing_shadow().thing_name(thing).shadow_name("policy");
            request.payload(payload).send().await.unwrap();
        });
    }

    /// What `thing` reports about policies, once it is as meant.
    pub(crate) fn shadow_until(
        &self,
        thing: &str,
        patience: Duration,
        is_meant: impl Fn(&Value) -> bool,
    ) -> Value {
        let find = || {
            let shadow = self.data(async |data| {
                data.get_thing_shadow().thing_name(thing).shadow_name("policy").send().await.ok()
            })?;
            let shadow: Value = serde_json::from_slice(shadow.payload?.as_ref()).ok()?;
            let reported = shadow["state"]["reported"]["policy"].clone();
            is_meant(&reported).then_some(reported)
        };
        wait_for(patience, find).expect("the shadow is not answered")
    }
}

/// Reads reports from a queue.
pub(crate) struct Inbox<'a, 'b> {
    aws: &'a Aws<'b>,
    queue: String,
    /// Everything so far, in the order in which it came into the queue.
    reports: Vec<Value>,
    cursor: usize,
}

impl Inbox<'_, '_> {
    /// The next report that is meant.
    pub(crate) fn until(&mut self, patience: Duration, is_meant: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            while let Some(report) = self.reports.get(self.cursor) {
                self.cursor += 1;
                if is_meant(report) {
                    return report.clone();
                }
            }
            assert!(Instant::now() < deadline, "not reported; there is {:#?}", self.reports);
            self.receive();
        }
    }

    fn receive(&mut self) {
        let queue = self.queue.clone();
        let received = self.aws.sqs(async |sqs| {
            let request = sqs.receive_message().queue_url(&queue);
            let messages = request.max_number_of_messages(10).wait_time_seconds(1).send().await.unwrap();
            let messages = messages.messages.unwrap_or_default();
            for message in &messages {
                let handle = message.receipt_handle.as_deref().unwrap();
                sqs.delete_message().queue_url(&queue).receipt_handle(handle).send().await.unwrap();
            }
            messages
        });
        let bodies = received.iter().filter_map(|message| message.body.as_deref());
        self.reports
            .extend(bodies.map(|body| serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()))));
    }

    /// The numbers of the reports in the order in which they came, repeats left out.
    pub(crate) fn sequences(&self) -> Vec<u64> {
        let mut sequences: Vec<u64> = Vec::new();
        for sequence in self.reports.iter().filter_map(|report| report["sequence"].as_u64()) {
            if !sequences.contains(&sequence) {
                sequences.push(sequence);
            }
        }
        sequences
    }
}
