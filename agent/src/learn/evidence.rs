//! From single scores to findings: k of n recent flows, together with the recent windows.
//!
//! One strange flow is nothing, nor are many of one burst. Several of a few bursts, or of one in strange windows, are worth a report, when
//! they are rarer as a whole than one strange flow is meant to be; how much they prove is counted in bursts, since the flows of one depend
//! on each other. However many there are, flows without windows are never strong evidence, nor windows without flows. A device without
//! models of its own is judged by the fleet's default, more reluctantly. What a device does with its usual peers while one of them leaves
//! it without a word tells of that peer or of the line, and nothing of the device.

use tidegate_common::{device::DeviceKey, feature::FeatureVector};

use super::{
    baseline::Baseline,
    config::LearnConfig,
    contact::Contact,
    detector::{Detector, Judgement},
    device::{Device, Phase},
    finding::{Finding, Subject},
    model::ModelKind,
    recent::{Count, binomial_tail},
    rules::SECOND_NS,
    samples::narrow,
    technique::Technique,
    vetting::Vetted,
};

/// How much more often than on held-out traffic evidence may occur in normal traffic later (measured: 1.7–4.2 times).
const DRIFT_FACTOR: f64 = 3.0;
/// Evidence that is asked to be rarer than this proves no more for it: who wants fewer reports wants no surer ones.
const LEAST_RATE: f64 = 0.01;
/// Flows alone are never stronger evidence than this, nor are windows.
const FLOOR_P: f64 = 1e-9;
/// Packets up to which a call that the other end says nothing to is a try: a SYN is repeated six times, and a few bytes may follow.
const TRY_PACKETS: u64 = 16;
/// How long a peer's silence tells of an outage: as long as devices wait between two tries.
const OUTAGE_NS: u64 = 120 * SECOND_NS;
/// Only what is stranger than nearly all of the fleet's samples is evidence against a device that is not among them.
const FLEET_EVIDENCE_P: f64 = 0.002;
/// Windows looked at together.
const RECENT_WINDOWS: usize = 5;

/// Judges a flow of a device; `id` says which it is when it is judged again.
pub(super) fn flow(
    config: &LearnConfig,
    fleet: &Baseline,
    device: DeviceKey,
    state: &mut Device,
    (id, vector): (u64, &FeatureVector),
    contact: &Contact<'_>,
) -> Option<Finding> {
    if is_of_outage(state, contact) {
        return None;
    }
    let now_ns = contact.now_ns;
    let own = state.baseline.as_ref();
    let detector = own.map_or(&fleet.flows, |own| &own.flows);
    let judged = detector.judge(vector);
    let limit = if own.is_some() { detector.limit(config.evidence_p) } else { FLEET_EVIDENCE_P };
    let evidence = judged.p_value <= limit;
    if own.is_some() {
        state.vetting.add(vetted(ModelKind::Flow, vector, judged, evidence, now_ns));
    }
    state.recent_flows.push(id, evidence, now_ns, config.evidence_flows as usize);
    if !evidence {
        return None;
    }
    let subject = Evidence { judged, device, now_ns };
    subject.weigh(config, state)
}

/// Whether an outage explains a flow to a peer and service of the device's baseline: the other end says nothing, or one of those peers
/// said nothing about then, while the device turns to the others in its place or asks for its address again.
fn is_of_outage(state: &mut Device, contact: &Contact<'_>) -> bool {
    let Contact { victim, protocol, port, record, .. } = *contact;
    let is_usual = state.services.are_known(victim, protocol, port, true)
        || state.known.contains(&victim) && state.services.are_used_outside(protocol, port);
    if state.phase != Phase::Ready || !is_usual {
        return false;
    }
    let at_ns = record.last_ns();
    if record.inward.payload_bytes == 0 && record.packets() <= TRY_PACKETS {
        let (since_ns, last_ns) = state.outage.unwrap_or((at_ns, at_ns));
        let goes_on = at_ns <= last_ns.saturating_add(OUTAGE_NS);
        state.outage = Some((if goes_on { since_ns.min(at_ns) } else { at_ns }, last_ns.max(at_ns)));
    }
    state.outage.is_some_and(|(since_ns, last_ns)| {
        since_ns.saturating_sub(OUTAGE_NS) <= at_ns && at_ns <= last_ns.saturating_add(OUTAGE_NS)
    })
}

/// Judges a window that has ended of a device with a baseline.
pub(super) fn window(
    config: &LearnConfig,
    device: DeviceKey,
    state: &mut Device,
    vector: &FeatureVector,
    now_ns: u64,
) -> Option<Finding> {
    let detector = state.baseline.as_ref()?.windows.as_ref()?;
    let judged = detector.judge(vector);
    let evidence = judged.p_value <= detector.limit(config.evidence_p) && detector.is_excessive(vector);
    state.vetting.add(vetted(ModelKind::Window, vector, judged, evidence, now_ns));
    let subject = Evidence { judged, device, now_ns };
    state.recent_windows.push(evidence, now_ns, RECENT_WINDOWS);
    if !evidence {
        return None;
    }
    subject.weigh(config, state)
}

fn vetted(kind: ModelKind, vector: &FeatureVector, judged: Judgement, evidence: bool, at_ns: u64) -> Vetted {
    Vetted { at_ns, kind, vector: narrow(vector), sum: judged.sum, evidence }
}

struct Evidence {
    judged: Judgement,
    device: DeviceKey,
    now_ns: u64,
}

impl Evidence {
    fn weigh(&self, config: &LearnConfig, state: &Device) -> Option<Finding> {
        let chance = |detector: Option<&Detector>| {
            let rate = config.evidence_p.max(LEAST_RATE);
            let limit = detector.map_or(rate, |detector| detector.limit(rate));
            (limit * DRIFT_FACTOR).clamp(0.0, 0.5)
        };
        let own = state.baseline.as_ref();
        let chance_of_flow = chance(own.map(|own| &own.flows));
        let chance_of_window = chance(own.and_then(|own| own.windows.as_ref()));
        let Count { flows, bursts } =
            state.recent_flows.count(config.evidence_flows as usize, chance_of_flow);
        let windows = state.recent_windows.count();
        let of_windows = binomial_tail(windows.0, windows.1, chance_of_window).max(FLOOR_P);
        let of_bursts = binomial_tail(bursts.0, bursts.1, chance_of_flow).max(FLOOR_P);
        let p_value = of_bursts * of_windows;
        let is_single = bursts.0 + windows.0 < 2;
        // What is no rarer than one strange flow is meant to be is no news, however many flows say it.
        let is_weak = p_value >= config.evidence_p;
        let is_likely = binomial_tail(flows.0, flows.1, chance_of_flow) * of_windows >= config.report_p;
        if is_single || is_weak || is_likely {
            return None;
        }
        let detail = format!(
            "{} of the last {} flows, in {} of {} bursts, and {} of the last {} windows are unlike its normal traffic",
            flows.0, flows.1, bursts.0, bursts.1, windows.0, windows.1
        );
        Some(Finding {
            subject: Subject::Device(self.device),
            victim: None,
            technique: Technique::UNUSUAL,
            rule: None,
            score: self.judged.score,
            p_value,
            first_ns: self.now_ns,
            at_ns: self.now_ns,
            detail,
            notes: Vec::new(),
        })
    }
}

/// Says which features a model finding rests on. That takes milliseconds, so it is asked for only when the finding is news.
pub(super) fn explain(finding: &mut Finding, kind: ModelKind, vector: &FeatureVector, baseline: &Baseline) {
    finding.notes = match (kind, &baseline.windows) {
        (ModelKind::Flow, _) => baseline.flows.explain(vector),
        (ModelKind::Window, Some(windows)) => windows.explain(vector),
        (ModelKind::Window, None) => Vec::new(),
    };
    let most = match finding.notes.iter().find(|note| note.is_outside()) {
        Some(note) => format!("; {:.0} % of it is {note}", note.share * 100.0),
        None if finding.notes.is_empty() => return,
        None => "; none of what weighs most is unusual by itself, together they are".to_owned(),
    };
    finding.detail += &most;
}

/// A single flow so far from everything its device was ever seen to do that the kernel cut it by itself.
pub(super) fn cut(device: DeviceKey, contact: &Contact<'_>, judged: Judgement) -> Finding {
    let detail = format!(
        "the kernel cut its flow to {} port {} after {} packets: it is far from everything the device was seen to do",
        contact.victim,
        contact.port,
        contact.record.packets()
    );
    Finding {
        subject: Subject::Device(device),
        victim: Some(contact.victim),
        technique: Technique::CUT,
        rule: None,
        score: judged.score,
        // One flow: enough to cut it, too little to do more.
        p_value: judged.p_value,
        first_ns: contact.record.first_ns(),
        at_ns: contact.now_ns,
        detail,
        notes: Vec::new(),
    }
}

/// A device whose traffic has moved farther from its learning period than may be followed.
pub(super) fn drifted(config: &LearnConfig, device: DeviceKey, share: f64, now_ns: u64) -> Finding {
    let detail = format!(
        "its traffic has drifted: {:.0} % of what it did lately is unlike what was learned, too much to be taken for normal; \
         if the device was changed on purpose, let it be learned again",
        share * 100.0
    );
    Finding {
        subject: Subject::Device(device),
        victim: None,
        technique: Technique::DRIFTED,
        rule: None,
        score: share,
        // Something to look at, never something to act on.
        p_value: config.evidence_p,
        first_ns: now_ns,
        at_ns: now_ns,
        detail,
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceKey = DeviceKey::new([2, 0, 0, 0, 0, 1], 3);
    const JUDGED: Judgement = Judgement { score: 0.6, p_value: 0.001, sum: 0 };

    /// What is said of a device without models that had flows in twelve bursts, so many of which were strange in each.
    fn said_at(evidence_p: f64, strange: [u64; 12]) -> Option<Finding> {
        let config = LearnConfig { evidence_p, ..LearnConfig::default() };
        let mut state = Device::new(&config, 0);
        let mut now_ns = 0;
        for (burst, evidence) in (0..).zip(strange) {
            now_ns = burst * 60 * SECOND_NS;
            for flow in 0..evidence.max(1) {
                let id = burst * 100 + flow;
                state.recent_flows.push(id, flow < evidence, now_ns, config.evidence_flows as usize);
            }
        }
        Evidence { judged: JUDGED, device: DEVICE, now_ns }.weigh(&config, &state)
    }

    fn said(strange: [u64; 12]) -> Option<Finding> {
        said_at(LearnConfig::default().evidence_p, strange)
    }

    #[test]
    fn who_asks_for_rarer_evidence_gets_no_stronger_one() {
        const STRANGE: [u64; 12] = [2, 0, 0, 2, 0, 0, 2, 0, 2, 0, 2, 2];
        let proved = |evidence_p| said_at(evidence_p, STRANGE).unwrap().p_value;
        let medium = proved(0.01);
        assert!(proved(0.003) >= medium && proved(1e-4) >= medium && proved(0.03) > medium);
    }

    #[test]
    fn windows_alone_never_isolate() {
        for evidence_p in [1e-4, 0.01, 0.03] {
            let config = LearnConfig { evidence_p, ..LearnConfig::default() };
            let mut state = Device::new(&config, 0);
            (0..5).for_each(|nth| state.recent_windows.push(true, nth * 30 * SECOND_NS, RECENT_WINDOWS));
            let subject = Evidence { judged: JUDGED, device: DEVICE, now_ns: 150 * SECOND_NS };
            let p_value = subject.weigh(&config, &state).unwrap().p_value;
            assert!(p_value >= crate::decide::ResponseConfig::default().model_p, "{p_value:e}");
        }
    }

    #[test]
    fn a_page_loaded_twice_proves_nothing() {
        assert_eq!(said([6, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn what_goes_on_from_burst_to_burst_is_told_with_its_counts() {
        assert_eq!(said([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]), None, "two flows of twelve are likely");
        let found = said([2, 0, 0, 2, 0, 0, 2, 0, 2, 0, 2, 2]).unwrap();
        assert!(
            found.detail.starts_with(
                "12 of the last 18 flows, in 6 of 12 bursts, and 0 of the last 0 windows are unlike"
            ),
            "{}",
            found.detail
        );
        assert!(found.p_value < LearnConfig::default().evidence_p);
    }
}
