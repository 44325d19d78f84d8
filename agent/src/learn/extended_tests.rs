use proptest::prelude::*;

use super::*;

fn random_rows(count: usize, width: usize, seed: u64) -> Rows<i16> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut rows = Rows::new(width);
    for _ in 0..count {
        let row: Vec<i16> = (0..width)
            .map(|_| (0..6).map(|_| (random.next_u64() % 2_048) as i16).sum::<i16>() - 6_144)
            .collect();
        rows.push(&row);
    }
    rows
}

#[test]
fn the_middle_scores_below_every_corner() {
    let forest = Extended::grow(&random_rows(2_000, 5, 3), Growth::default()).unwrap();
    let score = |row: &[i16]| forest.score_of_sum(forest.sum(row));
    assert!(score(&[0; 5]) < 0.45, "{}", score(&[0; 5]));
    for corner in 0..32 {
        let row: Vec<i16> = (0..5).map(|bit| if corner >> bit & 1 == 0 { -9_000 } else { 9_000 }).collect();
        assert!(score(&row) > 0.6, "{row:?} {}", score(&row));
    }
}

#[test]
fn what_differs_from_a_constant_stands_out() {
    let mut rows = random_rows(500, 3, 1);
    for index in 0..500 {
        let mut row = rows.row(index).to_vec();
        row[1] = 0;
        rows.replace(index, &row);
    }
    let forest = Extended::grow(&rows, Growth::default()).unwrap();
    let score = |row: &[i16]| forest.score_of_sum(forest.sum(row));
    assert!(score(&[0, 8_192, 0]) > score(&[0, 0, 0]) + 0.2, "{}", score(&[0, 8_192, 0]));
}

#[test]
fn the_same_seed_gives_the_same_forest() {
    let rows = random_rows(500, 7, 1);
    let grown = |seed| Extended::grow(&rows, Growth { seed, ..Growth::default() }).unwrap();
    assert_eq!(grown(5), grown(5));
    assert_ne!(grown(5), grown(6));
}

#[test]
fn directions_favour_no_column_and_no_sign() {
    let mut sums = [0_i64; 16];
    let mut squares = [0_i64; 16];
    for tree in 0..100 {
        for cut in 0..255 {
            for (column, weight) in direction(key(1, tree), cut, 16).enumerate() {
                sums[column] += i64::from(weight);
                squares[column] += i64::from(weight).pow(2);
            }
        }
    }
    for (sum, squares) in sums.iter().zip(squares) {
        let (mean, deviation) = (*sum as f64 / 25_500.0, (squares as f64 / 25_500.0).sqrt());
        assert!(mean.abs() < 1.0 && (36.0..38.0).contains(&deviation), "{mean} {deviation}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Rows scored together and alone come out the same, whatever they hold.
    #[test]
    fn the_batch_is_the_single_row(
        rows in proptest::collection::vec(any::<[i16; 6]>(), 1..300),
        seed: u64,
        width in 1..=6_usize,
    ) {
        let mut table = Rows::new(width);
        // The grid ends one short of the type's ends.
        for row in &rows {
            table.push(&row.map(|value| value.clamp(-FARTHEST, FARTHEST)));
        }
        let forest = Extended::grow(&table, Growth { trees: 10, seed, ..Growth::default() }).unwrap();
        prop_assert!(Extended::from_parts(forest.trees.clone(), width, forest.sample, seed).is_some());
        for (row, score) in table.iter().zip(forest.score_rows(&table)) {
            prop_assert!((forest.score_of_sum(forest.sum(row)) - score).abs() < f64::EPSILON);
        }
    }
}
