use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const KINDS: [ModelKind; 2] = [ModelKind::Flow, ModelKind::Window];

fn table(width: usize, rows: usize, value: impl Fn(usize, usize) -> f64) -> Rows<f64> {
    let mut table = Rows::new(width);
    for row in 0..rows {
        table.push(&(0..width).map(|column| value(row, column)).collect::<Vec<f64>>());
    }
    table
}

fn train(kind: ModelKind, rows: &Rows<f64>) -> Result<Model, GrowthError> {
    let columns = (0..rows.width()).map(|column| format!("c{column}")).collect();
    let begun = Instant::now();
    let model = Model::train(kind, columns, rows, Growth::default());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?} for {} rows", begun.elapsed(), rows.len());
    model
}

/// Values one unit of the last place apart made another forest hang for ever.
#[test]
fn columns_one_ulp_apart_are_trained_in_no_time() {
    for kind in KINDS {
        for base in [0.0, 1.0, -1.0, 1e300, f64::MIN_POSITIVE, 0.1] {
            let up = f64::next_up(base);
            let rows = table(14, 1_000, |row, column| if row >> (column % 4) & 1 == 0 { base } else { up });
            let model = train(kind, &rows).unwrap();
            assert!(model.score_rows(&rows).iter().all(|score| (0.0..=1.0).contains(score)));
        }
    }
}

#[test]
fn hostile_tables_give_an_error_or_a_bounded_result() {
    for kind in KINDS {
        assert_eq!(train(kind, &Rows::new(0)), Err(GrowthError::Columns(0)));
        assert_eq!(train(kind, &Rows::new(3)), Err(GrowthError::NoRows));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let rows = table(3, 50, |row, column| if (row, column) == (17, 1) { bad } else { 1.0 });
            assert_eq!(train(kind, &rows), Err(GrowthError::NotFinite(17)));
        }
        let one = table(2, 1, |_, _| 5.0);
        assert!((train(kind, &one).unwrap().score_rows(&one)[0] - 0.5).abs() < f64::EPSILON);
        let constant = train(kind, &table(4, 1_000, |_, _| 5.0)).unwrap();
        let scores = constant.score_rows(&table(4, 2, |row, _| if row == 0 { 5.0 } else { 6.0 }));
        assert!(scores[0] < 0.5 && scores[1] > scores[0], "{scores:?}");
        let huge = table(2, 300, |row, _| if row % 2 == 0 { f64::MIN } else { f64::MAX });
        assert!(train(kind, &huge).unwrap().score_rows(&huge).iter().all(|score| score.is_finite()));
        // What cannot be trained on may still have to be scored.
        let odd = table(4, 3, |row, _| [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][row]);
        assert!(constant.score_rows(&odd).iter().all(|score| (0.0..=1.0).contains(score)));
    }
}

#[test]
fn a_million_rows_are_trained_in_bounded_time() {
    let rows = table(3, 1_000_000, |row, column| (row * 7_919 % 10_007 * (column + 1)) as f64);
    for kind in KINDS {
        train(kind, &rows).unwrap();
    }
}

/// A file of sixteen columns, as a device's vectors have, stays below 200 kB, and far more so without its columns' names.
#[test]
fn models_are_small() {
    let noise = |row: usize, column: usize| {
        f64::from(tidegate_common::pod::mix64((row * 64 + column) as u64) >> 8).ln_1p()
    };
    for kind in KINDS {
        let mut bytes = Vec::new();
        train(kind, &table(16, 3_000, noise)).unwrap().write(&mut bytes).unwrap();
        assert!(bytes.len() <= 200_000, "{kind:?}: {} bytes", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_finite_table_trains_and_scores(
        values in proptest::collection::vec(any::<f64>().prop_filter("finite", |value| value.is_finite()), 1..200),
        asked in proptest::collection::vec(any::<f64>(), 5),
        width in 1..=5_usize,
        kind in proptest::sample::select(&KINDS[..]),
    ) {
        let mut rows = Rows::new(width);
        values.chunks_exact(width).for_each(|row| rows.push(row));
        prop_assume!(!rows.is_empty());
        rows.push(&vec![0.0; width]);
        let model = train(kind, &rows).unwrap();
        let mut tests = Rows::new(width);
        tests.push(&asked);
        prop_assert!((0.0..=1.0).contains(&model.score_rows(&tests)[0]));
    }
}
