//! Flow logs as flow records: one line a flow of the log, in the log's order, in constant memory.
//!
//! A log holds no packets; what is accounted for are the packets it claims. A line that cannot be read tells no number and
//! counts as one packet under its reason, so that it does not disappear.

use std::io::Write;

use super::{
    ReplayError,
    flowlog::{Entry, LineTally},
    input::LogFile,
    report::{FlowLine, Summary},
};

/// Writes the flows of `logs` when asked for, then the account of all of them.
pub fn replay(logs: Vec<LogFile>, with_flows: bool, mut output: impl Write) -> Result<Summary, ReplayError> {
    let mut summary = Summary::default();
    let mut total = LineTally::default();
    for mut file in logs {
        while let Some(entry) = file.next_entry()? {
            let Entry::Flow(flow) = entry else { continue };
            let packets = flow.packets();
            summary.packets = summary.packets.saturating_add(packets);
            summary.in_flows = summary.in_flows.saturating_add(packets);
            if with_flows {
                FlowLine::new(&flow.key(), &flow.record()).write(&mut output)?;
            }
        }
        total.add(file.log.tally());
    }
    for (reason, lines) in &total.bad {
        summary.packets = summary.packets.saturating_add(lines.count);
        summary.unparsed.insert(reason.name(), lines.count);
    }
    summary.log = Some(total);
    summary.write(output)?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

    use std::io::Write as _;

    use super::*;
    use crate::replay::input::{Files, open_all};

    #[test]
    fn the_account_holds_with_lines_that_cannot_be_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let table = "ts,id.orig_h,id.orig_p,id.resp_h,id.resp_p,proto,orig_pkts,resp_pkts\n\
            1,10.0.0.1,1,10.0.0.2,2,udp,3,2\nbroken\n2,10.0.0.1,1,10.0.0.2,2,udp,1,0\n3,ten,1,10.0.0.2,2,udp,1,0\n";
        file.write_all(table.as_bytes()).unwrap();
        let Files::Logs(logs) = open_all(&[file.path().to_owned()]).unwrap() else { panic!("a capture") };
        let mut printed = Vec::new();
        let summary = replay(logs, true, &mut printed).unwrap();
        assert!(summary.balances(), "{summary:?}");
        assert_eq!((summary.packets, summary.in_flows), (8, 6));
        let printed = String::from_utf8(printed).unwrap();
        assert_eq!(printed.lines().count(), 3);
        insta::assert_snapshot!(printed.lines().last().unwrap(), @r#"{"summary":{"packets":8,"in_flows":6,"unparsed":{"line_address":1,"line_fields":1},"folded":0,"lost":0,"log":{"lines":5,"flows":2,"alerts":0,"other":1,"bad":{"line_fields":{"count":1,"first_line":3},"line_address":{"count":1,"first_line":5}}}}}"#);
    }
}
