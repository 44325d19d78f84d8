#![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

use std::time::Duration;

use super::{Plan, SetResult, evaluate};
use crate::{
    config::Config,
    replay::{
        detect::Protected,
        flowlog::{Entry, FlowLog, LoggedFlow},
    },
};

const DEVICE: &str = "192.168.1.9";

/// A day of a device that reports to its cloud, and in the evening scans for Telnet.
fn day(with_attack: bool) -> Vec<LoggedFlow> {
    let mut log = String::from(
        "ts,id.orig_h,id.orig_p,id.resp_h,id.resp_p,proto,duration,conn_state,history,orig_pkts,orig_ip_bytes,resp_pkts,resp_ip_bytes,label,detailed-label\n",
    );
    let mut row = |at: f64, port: u16, to: &str, to_port: u16, rest: &str, label: &str| {
        let line = format!("{},{DEVICE},{port},{to},{to_port},{rest},{label}\n", 1_700_000_000.0 + at);
        log += &line;
    };
    for nth in 0_u32..400 {
        let at = f64::from(nth) * 20.0 + f64::from(nth * 7 % 11) / 3.0;
        let (packets, bytes) = (6 + nth % 5, 900 + nth * 37 % 700);
        let rest = format!("tcp,1.5,SF,ShADadFf,{packets},{bytes},{packets},{}", bytes * 2);
        row(at, 40_000 + nth as u16, "203.0.113.5", 443, &rest, "Benign,-");
    }
    for nth in 0_u32..300 {
        if with_attack {
            let to = format!("198.51.{}.{}", nth / 200, nth % 200);
            row(7_200.0 + f64::from(nth) / 4.0, 50_000, &to, 23, "tcp,-,S0,S,1,40,0,0", "Malicious,Scan");
        }
    }
    let mut log = FlowLog::open(log.as_bytes()).unwrap();
    let mut flows = Vec::new();
    while let Some(entry) = log.next_entry().unwrap() {
        let Entry::Flow(flow) = entry else { continue };
        flows.push(*flow);
    }
    flows
}

fn results(flows: Vec<LoggedFlow>) -> Vec<SetResult> {
    let plan = Plan { window: Duration::from_secs(30), seed: 1, seeds: 1 };
    evaluate("day", flows, &Config::default(), &plan, &Protected::default()).unwrap()
}

#[test]
fn a_scan_is_ranked_above_and_answered_within_seconds() {
    let results = results(day(true));
    assert_eq!(results, self::results(day(true)), "the same seed gives the same figures");
    let json = serde_json::to_value(&results[2]).unwrap();
    for field in ["recall_at_01pct", "false_blocks_per_device_day", "seeds", "auprc", "recall_at_1pct"] {
        assert!(json.get(field).is_some(), "{field}");
    }
    let names: Vec<&str> = results.iter().map(|result| result.detector).collect();
    assert_eq!(names, ["flow", "window", "combined"]);
    let combined = &results[2];
    assert!(combined.auroc.unwrap() > 0.99, "{combined:?}");
    assert_eq!((combined.episodes, combined.never_detected), (1, Some(0.0)));
    assert!(combined.detect_s_median.unwrap() < 10.0, "{combined:?}");
    assert_eq!(combined.false_blocks_per_device_day, Some(0.0));
    assert_eq!(combined.wrong_target_blocks, Some(0.0));
    assert_eq!((combined.seeds, combined.attacks[0].label.as_str()), (1, "Scan"));
    assert_eq!((results[0].positives, results[0].negatives), (300, 120));
}

#[test]
fn without_attacks_there_are_false_blocks_to_count_and_nothing_else() {
    let results = results(day(false));
    assert!(results.iter().all(|result| result.auroc.is_none() && result.episodes == 0));
    assert_eq!(results[2].false_blocks_per_device_day, Some(0.0));
}
