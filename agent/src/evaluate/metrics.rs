//! Ranking measures of anomaly scores against labels. Ties are shared fairly; nothing here knows what a row is.

/// Fewest negatives from which a false-positive rate of one in a thousand can be told.
const NEGATIVES_FOR_PERMILLE: usize = 1_000;

/// A scored row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Higher = more anomalous.
    pub score: f64,
    /// Whether it belongs to an attack.
    pub positive: bool,
}

/// What a ranking is worth. A measure that the rows do not allow is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ranking {
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// Area under the precision-recall curve at the rows' own prevalence (average precision).
    pub auprc: Option<f64>,
    /// Recall at a false-positive rate of at most 1 %.
    pub recall_at_1pct: Option<f64>,
    /// Recall at a false-positive rate of at most 0.1 %, from 1,000 negatives on.
    pub recall_at_01pct: Option<f64>,
}

/// Measures a ranking.
pub fn ranking(rows: &[Scored]) -> Ranking {
    let positives = rows.iter().filter(|row| row.positive).count();
    let negatives = rows.len() - positives;
    if positives == 0 || negatives == 0 {
        return Ranking::default();
    }
    let mut sorted = rows.to_vec();
    sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
    let (mut hits, mut alarms) = (0_usize, 0_usize);
    let (mut area, mut precision_area) = (0.0, 0.0);
    let limits = [0.01, 0.001].map(|share| (share * negatives as f64).floor() as usize);
    let mut recalls = [0.0; 2];
    for tie in sorted.chunk_by(|a, b| a.score.total_cmp(&b.score).is_eq()) {
        let new_hits = tie.iter().filter(|row| row.positive).count();
        let new_alarms = tie.len() - new_hits;
        area += new_alarms as f64 * (hits as f64 + new_hits as f64 / 2.0);
        hits += new_hits;
        alarms += new_alarms;
        precision_area += new_hits as f64 * hits as f64 / (hits + alarms) as f64;
        for (recall, limit) in recalls.iter_mut().zip(limits) {
            if alarms <= limit {
                *recall = hits as f64 / positives as f64;
            }
        }
    }
    Ranking {
        auroc: Some(area / (positives as f64 * negatives as f64)),
        auprc: Some(precision_area / positives as f64),
        recall_at_1pct: Some(recalls[0]),
        recall_at_01pct: (negatives >= NEGATIVES_FOR_PERMILLE).then_some(recalls[1]),
    }
}

/// The score that at most `share` of `normal` exceed; infinity of nothing.
pub fn threshold(normal: &[f64], share: f64) -> f64 {
    let mut sorted = normal.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let allowed = (share * sorted.len() as f64).floor() as usize;
    sorted.get(allowed).copied().unwrap_or(f64::INFINITY)
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    fn rows(positives: &[f64], negatives: &[f64]) -> Vec<Scored> {
        let of = |positive| move |score: &f64| Scored { score: *score, positive };
        positives.iter().map(of(true)).chain(negatives.iter().map(of(false))).collect()
    }

    #[test]
    fn measures_are_those_of_the_textbook() {
        let best = ranking(&rows(&[0.9, 0.8], &[0.1, 0.2, 0.3]));
        assert_eq!((best.auroc, best.auprc, best.recall_at_1pct), (Some(1.0), Some(1.0), Some(1.0)));
        assert_eq!(best.recall_at_01pct, None);
        let mixed = ranking(&rows(&[0.9, 0.4], &[0.5, 0.1]));
        assert_eq!((mixed.auroc, mixed.recall_at_1pct), (Some(0.75), Some(0.5)));
        assert!((mixed.auprc.unwrap() - f64::midpoint(1.0, 2.0 / 3.0)).abs() < 1e-12);
        let blind = ranking(&rows(&[0.5; 4], &[0.5; 6]));
        assert_eq!((blind.auroc, blind.auprc, blind.recall_at_1pct), (Some(0.5), Some(0.4), Some(0.0)));
        assert_eq!(ranking(&rows(&[1.0], &[])), Ranking::default());
    }

    #[test]
    fn a_threshold_lets_its_share_through() {
        let normal: Vec<f64> = (0..200).map(f64::from).collect();
        let limit = threshold(&normal, 0.01);
        assert_eq!(normal.iter().filter(|score| **score > limit).count(), 2);
        assert!(threshold(&[], 0.01).is_infinite());
        assert_eq!(median([3.0, 1.0, 2.0, 4.0]), Some(2.5));
    }

    proptest! {
        #[test]
        fn the_area_is_the_chance_that_an_attack_ranks_higher(positives in proptest::collection::vec(0_u8..9, 1..20), negatives in proptest::collection::vec(0_u8..9, 1..20)) {
            let of = |values: &[u8]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
            let (positives, negatives) = (of(&positives), of(&negatives));
            let measured = ranking(&rows(&positives, &negatives)).auroc.unwrap();
            let wins: f64 = positives
                .iter()
                .flat_map(|a| negatives.iter().map(move |b| if a > b { 1.0 } else if a < b { 0.0 } else { 0.5 }))
                .sum();
            prop_assert!((measured - wins / (positives.len() * negatives.len()) as f64).abs() < 1e-9);
        }
    }
}
