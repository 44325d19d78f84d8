#![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

use std::net::IpAddr;

use proptest::prelude::*;
use tidegate_common::flow::progress;

use super::*;
use crate::{
    enforce::Now,
    replay::{engine::HostEngine, report::FlowLine},
    store::eve,
};

const HEADER: &str = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n\
#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state\thistory\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes";

fn read(text: &[u8]) -> Result<(Vec<Entry>, LineTally), FlowLogError> {
    let mut log = FlowLog::open(text)?;
    let mut entries = Vec::new();
    while let Some(entry) = log.next_entry()? {
        entries.push(entry);
    }
    Ok((entries, log.tally().clone()))
}

fn flows(text: &str) -> Vec<LoggedFlow> {
    let (entries, _) = read(text.as_bytes()).unwrap();
    entries
        .into_iter()
        .filter_map(|entry| match entry {
            Entry::Flow(flow) => Some(*flow),
            Entry::Alert(_) => None,
        })
        .collect()
}

fn line(flow: &LoggedFlow) -> String {
    serde_json::to_string(&FlowLine::new(&flow.key(), &flow.record())).unwrap()
}

#[test]
fn zeeks_text_and_json_say_the_same() {
    let text = format!(
        "{HEADER}\n1545403816.962094\tC1\t192.168.1.195\t41040\t185.244.25.235\t80\ttcp\t3.139211\t10\t20\tSF\tShADadFf\t5\t270\t4\t228\n"
    );
    let flat = r#"{"ts":1545403816.962094,"uid":"C1","id.orig_h":"192.168.1.195","id.orig_p":41040,"id.resp_h":"185.244.25.235","id.resp_p":80,"proto":"tcp","duration":3.139211,"orig_bytes":10,"resp_bytes":20,"conn_state":"SF","history":"ShADadFf","orig_pkts":5,"orig_ip_bytes":270,"resp_pkts":4,"resp_ip_bytes":228}"#;
    let nested = r#"{"ts":"2018-12-21T14:50:16.962094Z","id":{"orig_h":"192.168.1.195","orig_p":41040,"resp_h":"185.244.25.235","resp_p":80},"proto":"tcp","duration":3.139211,"orig_bytes":10,"resp_bytes":20,"conn_state":"SF","history":"ShADadFf","orig_pkts":5,"orig_ip_bytes":270,"resp_pkts":4,"resp_ip_bytes":228}"#;
    let table = "timestamp,origin_address,origin_port,response_address,response_port,protocol,duration,orig_bytes,resp_bytes,conn_state,history,orig_pkts,orig_ip_bytes,resp_pkts,resp_ip_bytes\n\
        1545403816.962094,\"192.168.1.195\",41040,185.244.25.235,80,tcp,3.139211,10,20,SF,ShADadFf,5,270,4,228\n";
    let expected = flows(&text);
    assert_eq!(expected.len(), 1);
    for other in [flat, nested, table] {
        assert_eq!(flows(other), expected, "{other}");
    }
    insta::assert_snapshot!(line(&expected[0]), @r#"{"src_ip":"192.168.1.195","dst_ip":"185.244.25.235","src_port":41040,"dst_port":80,"proto":6,"vlan":0,"packets_out":5,"bytes_out":270,"packets_in":4,"bytes_in":228,"first_ns":1545403816962094000,"last_ns":1545403820101305000,"tcp_flags_out":19,"tcp_flags_in":19}"#);
    assert_ne!(expected[0].progress & progress::ESTABLISHED, 0);
}

#[test]
fn labels_come_in_columns_of_their_own_or_appended_with_blanks() {
    let row = "1.5\tC1\t10.0.0.1\t1\t10.0.0.2\t2\tudp\t-\t-\t-\tS0\tD\t1\t40\t0\t0";
    let apart = format!("{HEADER}\tlabel\tdetailed-label\n{row}\tMalicious\tDDoS\n");
    let appended =
        format!("{HEADER}\ttunnel_parents   label   detailed-label\n{row}\t-   Malicious   DDoS\n");
    let barred = format!("{HEADER}\tlabel|detailed-label\n{row}\tBenign|-\n");
    let label = |text: &str| flows(text)[0].label.clone().unwrap();
    let attack = Label { class: Class::Malicious, detail: "DDoS".to_owned() };
    assert_eq!((label(&apart), label(&appended)), (attack.clone(), attack));
    assert_eq!(label(&barred), Label { class: Class::Benign, detail: String::new() });
    assert_eq!(Label::of("Background", "(empty)").class, Class::Unknown);
    assert_eq!(Label::of("Okiru", "-"), Label { class: Class::Malicious, detail: "Okiru".to_owned() });
}

#[test]
fn icmp_has_a_type_instead_of_ports() {
    let text =
        format!("{HEADER}\n2\tC\tfe80::1%eth0\t143\tff02::16\t0\ticmp\t-\t-\t-\tOTH\t-\t2\t152\t0\t0\n");
    let flow = &flows(&text)[0];
    assert_eq!((flow.src_port, flow.dst_port, flow.proto, flow.icmp), (0, 0, 58, (143, 0)));
}

#[test]
fn suricatas_flows_are_read_and_alerts_noted() {
    let text = r#"{"timestamp":"2017-04-07T22:24:40.251547+0100","event_type":"stats","stats":{}}
{"timestamp":"2017-04-07T22:24:37.251547+0100","event_type":"alert","src_ip":"10.0.0.1","dest_ip":"10.0.0.2","alert":{"signature_id":7,"signature":"bad","severity":1}}
{"timestamp":"2017-04-07T22:25:37+0100","event_type":"flow","src_ip":"10.0.0.1","src_port":5000,"dest_ip":"10.0.0.2","dest_port":443,"proto":"TCP","vlan":[7],"flow":{"pkts_toserver":3,"pkts_toclient":2,"bytes_toserver":200,"bytes_toclient":150,"start":"2017-04-07T22:24:37.251547+0100","end":"2017-04-07T22:24:38.251547+0100"},"tcp":{"tcp_flags":"1b","tcp_flags_ts":"1b","tcp_flags_tc":"13"}}
{"timestamp":"2017-04-07T22:25:37+0100","event_type":"netflow","src_ip":"10.0.0.1","src_port":5000,"dest_ip":"10.0.0.2","dest_port":443,"proto":"TCP","netflow":{"pkts":3,"bytes":200}}
"#;
    let (entries, tally) = read(text.as_bytes()).unwrap();
    assert_eq!((tally.lines, tally.flows, tally.alerts, tally.other), (4, 1, 1, 2));
    let Entry::Alert(alert) = &entries[0] else { panic!("{entries:?}") };
    assert_eq!((alert.src, alert.signature_id), (IpAddr::from([10, 0, 0, 1]), 7));
    let Entry::Flow(flow) = &entries[1] else { panic!("{entries:?}") };
    assert_eq!(
        (flow.first_ns, flow.duration_ns(), flow.vlans),
        (1_491_600_277_251_547_000, 1_000_000_000, [7, 0])
    );
    assert_eq!((flow.out.packets, flow.inward.bytes, flow.inward.tcp_flags), (3, 150, 0x13));
}

#[test]
fn our_own_event_log_is_read_back() {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    frame.extend([
        10, 0, 0, 1, 10, 0, 0, 2, 0x13, 0x88, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0,
        0,
    ]);
    let mut engine = HostEngine::with_capacity(4);
    engine.account(5_000_000_000, &frame);
    let (key, record) = crate::replay::engine::Engine::finish(engine).unwrap().flows[0];
    let wall = jiff::Timestamp::from_second(1_000_005).unwrap();
    let event = eve::flow(&key, &record, None, "timeout", Now { kernel_ns: 5_000_000_000, wall });
    let flow = &flows(&event.to_string())[0];
    let (mut ours, theirs) = (FlowLine::new(&key, &record), FlowLine::new(&flow.key(), &flow.record()));
    (ours.first_ns, ours.last_ns) = (1_000_005_000_000_000, 1_000_005_000_000_000);
    assert_eq!(ours, theirs);
}

#[test]
fn lines_that_cannot_be_read_are_counted_with_the_first_ones_number() {
    let good = "1.5\tC1\t10.0.0.1\t1\t10.0.0.2\t2\tudp\t-\t-\t-\tS0\tD\t1\t40\t0\t0";
    let long = "x".repeat(2 << 20);
    let text = format!(
        "{HEADER}\n{good}\n\n{}\n{}\n1.5\tC1\n{long}\n{good}\n#close\t2020\n",
        good.replace("10.0.0.2", "ten"),
        good.replace("10.0.0.1", "one")
    );
    let (entries, tally) = read(text.as_bytes()).unwrap();
    assert_eq!(entries.len(), 2);
    let bad: Vec<_> =
        tally.bad.iter().map(|(reason, bad)| (reason.name(), bad.count, bad.first_line)).collect();
    assert_eq!(bad, [("line_too_long", 1, 12), ("line_fields", 1, 11), ("line_address", 2, 9)]);
}

#[test]
fn other_files_are_refused_with_a_hint() {
    let error = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
    assert!(error("").contains("empty"));
    assert!(error("#path\tdns\n#fields\tts\n").contains("Zeek's dns.log"));
    assert!(error("{\"a\":1}\n").contains("neither of Suricata's EVE"));
    assert!(error("{\"a\":\n").contains("begins like JSON"));
    assert!(error("hello\n").contains("header row"));
    assert!(error("ts,id.orig_h\n1,2\n").contains("lacks id.orig_p"));
    assert!(error(&format!("{HEADER}\nnonsense\n")).contains("not one of its 7 lines is a flow"));
}

#[test]
fn the_beginning_of_a_flow_is_a_record_too() {
    let text = format!("{HEADER}\n1\tC\t10.0.0.1\t1\t10.0.0.2\t2\ttcp\t10\t0\t0\tS0\tS\t1000\t40000\t0\t0\n");
    let flow = &flows(&text)[0];
    let first = flow.record_after(1, flow.first_ns);
    assert_eq!((first.out.packets, first.out.bytes, first.out.flag_counts()[1]), (1, 40, 1));
    let half = flow.record_after(500, flow.first_ns + 5_000_000_000);
    assert_eq!((half.out.packets, half.out.iat_mean_ns() / 1_000_000), (500, 10));
    assert_eq!(flow.record_after(5_000, u64::MAX), flow.record());
}

#[test]
fn alerts_are_told_apart_and_their_words_are_harmless() {
    let line = r#"{"timestamp":"2026-01-01T00:00:00.000000+0000","event_type":"alert","src_ip":"198.51.100.7","src_port":1,
        "dest_ip":"10.0.0.2","dest_port":2,"proto":"TCP","alert":{"signature_id":2000001,"severity":1,
        "signature":"ET EXPLOIT \u001b[2J named"}}"#;
    let alert = eve_alert(line).unwrap().unwrap();
    assert_eq!((alert.severity, alert.signature_id), (1, 2_000_001));
    assert_eq!(alert.signature, "ET EXPLOIT ?[2J named");
    assert_eq!(eve_alert(r#"{"event_type":"dns","dns":{}}"#), Ok(None));
    assert_eq!(eve_alert(r#"{"event_type":"dns","dns":{"rrname":"\"alert\""}}"#), Ok(None));
    for (line, reason) in [
        ("alert", BadLine::LineJson),
        (r#"{"event_type":"alert"}"#, BadLine::LineJson),
        (r#"{"event_type":"alert","alert":{}}"#, BadLine::LineTime),
        (r#"{"timestamp":"2026-01-01T00:00:00Z","event_type":"alert","alert":{}}"#, BadLine::LineAddress),
    ] {
        assert_eq!(eve_alert(line), Err(reason), "{line}");
    }
}

proptest! {
    #[test]
    fn no_line_makes_the_alert_reader_panic(
        text in ".{0,80}",
        fields in proptest::collection::vec(
            (
                proptest::sample::select(vec![
                    "timestamp", "event_type", "src_ip", "dest_ip", "alert", "signature", "severity", "signature_id",
                ]),
                proptest::sample::select(vec![
                    "\"alert\"", "1", "-1", "1e400", "null", "{}", "\"::1\"", "\"10.0.0.1\"", "[]",
                    "{\"severity\":999,\"signature\":[]}", "\"2026-01-01T00:00:00Z\"",
                ]),
            ),
            0..8,
        )
    ) {
        let _ = eve_alert(&text);
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let _ = eve_alert(&format!("{{{}}}", fields.join(",")));
    }
}

#[test]
fn times_beyond_what_nanoseconds_can_say_are_bad_lines() {
    let row = |ts: &str, duration: &str| {
        format!("{ts}\tC\t10.0.0.1\t1\t10.0.0.2\t2\tudp\t{duration}\t1\t1\tSF\tDd\t1\t40\t1\t40\n")
    };
    for (ts, duration) in
        [("18446744073.9", "1"), ("20000000000", "1"), ("2e10", "1"), ("1", "99999999999.9"), ("1", "9e10")]
    {
        // A log without any flow would be refused as a whole.
        let text = format!("{HEADER}\n{}{}", row("1", "1"), row(ts, duration));
        let (entries, tally) = read(text.as_bytes()).unwrap();
        assert_eq!((entries.len(), tally.bad[&BadLine::LineTime].count), (1, 1), "{ts} and {duration}");
    }
    let latest = flows(&format!("{HEADER}\n{}", row("18446744072.999999999", "18446744072.5")));
    assert_eq!((latest[0].first_ns, latest[0].last_ns), (18_446_744_072_999_999_999, u64::MAX));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), json: bool, eve: bool) {
        let mut text = match (json, eve) {
            (true, _) => br#"{"event_type":"flow","src_ip":"10.0.0.1","dest_ip":"10.0.0.2","proto":"UDP","flow":{"pkts_toserver":"#.to_vec(),
            (false, true) => format!("{HEADER}\n").into_bytes(),
            (false, false) => Vec::new(),
        };
        text.extend(bytes);
        let _ = read(&text);
    }

    /// Whatever a log claims, every record can be made and the lines are all accounted for.
    #[test]
    fn any_numbers_make_a_record(ts in "[0-9.e+-]{0,24}", duration in "[0-9.e+-]{0,24}", counts in proptest::collection::vec(any::<u64>(), 6), protocol in 0_u8.., part: u64) {
        let text = format!(
            "{HEADER}\n1\tC\t10.0.0.1\t1\t10.0.0.2\t2\tudp\t-\t-\t-\tS0\tD\t1\t40\t0\t0\n{ts}\tC\t10.0.0.1\t1\t10.0.0.2\t2\t{protocol}\t{duration}\t{}\t{}\tSF\tShADf\t{}\t{}\t{}\t{}\n",
            counts[0], counts[1], counts[2], counts[3], counts[4], counts[5]
        );
        let (entries, tally) = read(text.as_bytes()).unwrap();
        for entry in &entries {
            let Entry::Flow(flow) = entry else { continue };
            let whole = flow.record();
            prop_assert_eq!(whole.packets(), flow.packets());
            let begun = flow.record_after(part, flow.first_ns);
            prop_assert!(begun.packets() <= flow.packets());
        }
        prop_assert_eq!(tally.lines, tally.flows + tally.other + tally.bad.values().map(|bad| bad.count).sum::<u64>());
    }
}
