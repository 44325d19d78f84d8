//! What each room needs of the configuration, in that room's own terms.

use std::path::PathBuf;

use tidegate_common::verdict;

use crate::{
    config::{Config, period::Period},
    datapath::{IdleLimits, LoadOptions},
    decide::ResponseConfig,
    enforce::Settings,
    fleet::{role::RoleAlias, tls::TlsFiles},
    learn::LearnConfig,
    store::OutboxLimits,
};

impl Config {
    /// How the kernel programs are loaded.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            pin_path: Some(self.gateway.pin_path.clone()),
            max_flows: self.kernel.max_flows,
            max_devices: self.kernel.max_devices,
            max_forests: self.kernel.max_forests,
            ring_bytes: self.kernel.ring_bytes,
            replay: false,
        }
    }

    /// The kernel's settings in `mode`; which tables are in use and which list is in force is `enforce`'s to fill in.
    pub fn kernel_config(&self, mode: verdict::Mode) -> verdict::Config {
        verdict::Config {
            mode: mode as u32,
            window_ns: self.learning.window.as_ns(),
            active_timeout_ns: self.kernel.active_timeout.as_ns(),
            new_flow_limit: self.kernel.new_flow_limit,
            sample_limit: self.kernel.sample_limit,
            // Validation bounds the period to ten minutes.
            cut_ms: (self.response.cut_ttl.as_ns() / 1_000_000) as u32,
            dns_limit: if self.names.enabled { self.names.dns_limit } else { 0 },
            hello_limit: if self.names.enabled { self.names.hello_limit } else { 0 },
            ..verdict::Config::default()
        }
    }

    /// How much may wait for the cloud.
    pub fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits { rows: self.cloud.outbox_rows, bytes: self.cloud.outbox_bytes }
    }

    /// Whom the cloud's side is trusted by, and what the gateway shows it.
    pub fn cloud_tls(&self) -> TlsFiles {
        let cloud = &self.cloud;
        TlsFiles {
            ca: Some(PathBuf::from(&cloud.ca)).filter(|path| !path.as_os_str().is_empty()),
            certificate: PathBuf::from(&cloud.certificate),
            key: PathBuf::from(&cloud.key),
        }
    }

    /// The role alias that gives the gateway's certificate credentials of AWS, if one is named.
    pub fn role_alias(&self) -> Option<RoleAlias> {
        let section = &self.cloudwatch;
        (!section.role_alias.is_empty()).then(|| RoleAlias {
            endpoint: section.credentials_endpoint.clone(),
            alias: section.role_alias.clone(),
            thing: self.gateway_name(),
            tls: self.cloud_tls(),
        })
    }

    /// When silent flows are swept.
    pub fn idle_limits(&self) -> IdleLimits {
        IdleLimits {
            open_ns: self.kernel.idle_timeout.as_ns(),
            closed_ns: self.kernel.closed_timeout.as_ns(),
        }
    }

    /// How baselines are learned.
    pub fn learn_config(&self) -> LearnConfig {
        let learning = &self.learning;
        LearnConfig {
            period_s: seconds(learning.learning_period),
            min_flows: learning.min_flows,
            min_windows: learning.min_windows,
            samples: learning.samples,
            max_devices: learning.max_devices,
            max_models: learning.max_models,
            seed: learning.seed,
            evidence_p: learning.sensitivity.rate(),
            evidence_flows: learning.evidence_flows,
            report_p: learning.report_p,
        }
    }

    /// What is done about findings.
    pub fn response_config(&self) -> ResponseConfig {
        ResponseConfig {
            block_s: seconds(self.enforcement.base_ttl),
            isolate_s: seconds(self.enforcement.isolate_ttl),
            min_confidence: self.response.min_confidence,
            full_confidence: self.response.full_confidence,
            model_p: self.response.model_p,
            techniques: self.response.techniques.clone(),
        }
    }

    /// How verdicts are enforced.
    pub fn enforce_settings(&self) -> Settings {
        let enforcement = &self.enforcement;
        Settings {
            ttl_s: seconds(enforcement.base_ttl),
            ttl_max_s: seconds(enforcement.max_ttl),
            escalation: enforcement.escalation.clone(),
            forget_s: seconds(enforcement.forget_after),
            cooldown_s: seconds(enforcement.cooldown),
            hold_s: seconds(enforcement.rollback_hold),
            devices_per_hour: enforcement.blast_radius_devices_per_hour,
            addresses_per_hour: enforcement.blast_radius_addresses_per_hour,
            confirm_s: seconds(enforcement.confirm_window),
            rate_pps: enforcement.rate_limit_pps,
        }
    }
}

/// Whole seconds, at least one of whatever is longer than nothing.
fn seconds(period: Period) -> u64 {
    period.duration().as_secs().max(u64::from(period != Period::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_rooms() {
        let config = Config::default();
        assert_eq!(config.learn_config(), LearnConfig::default());
        assert_eq!(config.response_config(), ResponseConfig::default());
        assert_eq!(config.enforce_settings(), Settings { ttl_s: 600, ..Settings::default() });
    }

    #[test]
    fn names_that_nobody_wants_are_not_sampled() {
        let mut config = Config::default();
        let limits = |config: &Config| {
            let kernel = config.kernel_config(verdict::Mode::Enforce);
            (kernel.dns_limit, kernel.hello_limit)
        };
        assert_eq!(limits(&config), (config.names.dns_limit, config.names.hello_limit));
        config.names.enabled = false;
        assert_eq!(limits(&config), (0, 0));
    }

    #[test]
    fn what_is_sound_for_the_file_is_sound_for_the_enforcer() {
        assert_eq!(Config::default().enforce_settings().check(), Ok(()));
    }
}
