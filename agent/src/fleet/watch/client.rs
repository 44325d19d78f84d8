//! CloudWatch through its SDK.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::{
    primitives::DateTime,
    types::{ComparisonOperator, Dimension, MetricDatum, StandardUnit, Statistic},
};
use serde::Serialize;

use super::{
    alarms::{Alarm, Call, DIMENSION},
    data::{Figure, Reading, Unit},
};
use crate::fleet::aws::AwsError;

/// CloudWatch for one gateway.
#[derive(Debug, Clone)]
pub struct Client {
    cloudwatch: aws_sdk_cloudwatch::Client,
    namespace: String,
    gateway: String,
    high_resolution: bool,
}

/// An alarm as CloudWatch knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// `OK`, `ALARM` or `INSUFFICIENT_DATA`.
    pub state: String,
    /// Why, in CloudWatch's words.
    pub reason: String,
}

impl Client {
    /// CloudWatch as `config` reaches it, for the metrics of `gateway` in `namespace`.
    pub fn new(config: &SdkConfig, namespace: &str, gateway: &str, high_resolution: bool) -> Self {
        let cloudwatch = aws_sdk_cloudwatch::Client::new(config);
        let (namespace, gateway) = (namespace.to_owned(), gateway.to_owned());
        Self { cloudwatch, namespace, gateway, high_resolution }
    }

    /// Sends readings; how many figures that were.
    pub async fn send(&self, readings: &[&Reading]) -> Result<u64, AwsError> {
        let data: Vec<MetricDatum> = readings
            .iter()
            .flat_map(|reading| reading.figures.iter().map(|figure| self.datum(figure, reading.at)))
            .collect();
        let figures = data.len() as u64;
        let request =
            self.cloudwatch.put_metric_data().namespace(&self.namespace).set_metric_data(Some(data));
        let sent = request.send().await;
        sent.map(|_| figures).map_err(|error| AwsError::new("cloudwatch:PutMetricData", &error))
    }

    fn datum(&self, figure: &Figure, at: SystemTime) -> MetricDatum {
        let unit = match figure.unit {
            Unit::Count => StandardUnit::Count,
            Unit::Microseconds => StandardUnit::Microseconds,
        };
        let (values, counts): (Vec<f64>, Vec<f64>) = figure.values.iter().copied().unzip();
        MetricDatum::builder()
            .metric_name(figure.name)
            .dimensions(self.dimension())
            .timestamp(DateTime::from(at))
            .unit(unit)
            .set_values(Some(values))
            .set_counts(Some(counts))
            .storage_resolution(if self.high_resolution { 1 } else { 60 })
            .build()
    }

    fn dimension(&self) -> Dimension {
        Dimension::builder().name(DIMENSION).value(&self.gateway).build()
    }

    /// Makes a call; alarms tell `action`, the name of a resource such as a topic, if there is one.
    pub async fn make(&self, call: &Call, action: Option<&str>) -> Result<(), AwsError> {
        let cloudwatch = &self.cloudwatch;
        match call {
            Call::PutMetricAlarm(alarm) => self.put_alarm(alarm).await,
            Call::PutCompositeAlarm { name, rule } => {
                let request = cloudwatch.put_composite_alarm().alarm_name(name).alarm_rule(rule);
                let request = request.alarm_description("something is wrong with this gateway");
                let actions = action.map(|action| vec![action.to_owned()]);
                let done = request.set_alarm_actions(actions.clone()).set_ok_actions(actions).send().await;
                done.map(drop).map_err(|error| AwsError::new("cloudwatch:PutCompositeAlarm", &error))
            }
            Call::PutDashboard { name, body } => {
                let request = cloudwatch.put_dashboard().dashboard_name(name);
                let done = request.dashboard_body(body.to_string()).send().await;
                done.map(drop).map_err(|error| AwsError::new("cloudwatch:PutDashboard", &error))
            }
            Call::DeleteAlarms { names } => {
                let done = cloudwatch.delete_alarms().set_alarm_names(Some(names.clone())).send().await;
                absent_is_done(
                    done.map(drop).map_err(|error| AwsError::new("cloudwatch:DeleteAlarms", &error)),
                )
            }
            Call::DeleteDashboards { names } => {
                let request = cloudwatch.delete_dashboards().set_dashboard_names(Some(names.clone()));
                let done = request.send().await.map(drop);
                absent_is_done(done.map_err(|error| AwsError::new("cloudwatch:DeleteDashboards", &error)))
            }
        }
    }

    async fn put_alarm(&self, alarm: &Alarm) -> Result<(), AwsError> {
        let comparison = if alarm.below {
            ComparisonOperator::LessThanThreshold
        } else {
            ComparisonOperator::GreaterThanThreshold
        };
        let request = self
            .cloudwatch
            .put_metric_alarm()
            .alarm_name(&alarm.name)
            .alarm_description(alarm.description)
            .namespace(&self.namespace)
            .metric_name(alarm.metric)
            .dimensions(self.dimension())
            .comparison_operator(comparison)
            .threshold(alarm.threshold)
            .period(alarm.period_s as i32)
            .evaluation_periods(alarm.periods as i32)
            .datapoints_to_alarm(alarm.bad as i32)
            .treat_missing_data(if alarm.missing_is_bad { "breaching" } else { "notBreaching" });
        let request = if alarm.statistic.starts_with('p') {
            request.extended_statistic(alarm.statistic)
        } else {
            request.statistic(Statistic::from(alarm.statistic))
        };
        let done = request.send().await;
        done.map(drop).map_err(|error| AwsError::new("cloudwatch:PutMetricAlarm", &error))
    }

    /// How the alarms called `names` stand.
    pub async fn standing(&self, names: Vec<String>) -> Result<Vec<Standing>, AwsError> {
        use aws_sdk_cloudwatch::types::AlarmType;
        let request = self.cloudwatch.describe_alarms().set_alarm_names(Some(names));
        let request = request.alarm_types(AlarmType::MetricAlarm).alarm_types(AlarmType::CompositeAlarm);
        let found =
            request.send().await.map_err(|error| AwsError::new("cloudwatch:DescribeAlarms", &error))?;
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let state = |state: Option<&aws_sdk_cloudwatch::types::StateValue>| {
            state.map(|state| state.as_str().to_owned()).unwrap_or_default()
        };
        let alone = found.metric_alarms().iter().map(|alarm| Standing {
            name: text(alarm.alarm_name()),
            state: state(alarm.state_value()),
            reason: text(alarm.state_reason()),
        });
        let over_all = found.composite_alarms().iter().map(|alarm| Standing {
            name: text(alarm.alarm_name()),
            state: state(alarm.state_value()),
            reason: text(alarm.state_reason()),
        });
        Ok(alone.chain(over_all).collect())
    }
}

fn absent_is_done(done: Result<(), AwsError>) -> Result<(), AwsError> {
    match done {
        Err(error) if error.is_absence() => Ok(()),
        done => done,
    }
}
