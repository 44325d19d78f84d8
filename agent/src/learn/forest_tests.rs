use std::time::Instant;

use super::*;
use crate::learn::grid::Grid;

fn random_rows(count: usize, width: usize, seed: u64) -> Rows<u32> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut rows = Rows::new(width);
    for _ in 0..count {
        // A sum of uniform draws: a bell, with the middle dense.
        let row: Vec<u32> =
            (0..width).map(|_| (0..6).map(|_| (random.next_u64() >> 36) as u32).sum::<u32>()).collect();
        rows.push(&row);
    }
    rows
}

#[test]
fn the_middle_scores_below_the_edge() {
    let rows = random_rows(2_000, 5, 3);
    let forest = Forest::grow(&rows, Growth::default()).unwrap();
    let middle = forest.score(&[6 << 27; 5]);
    let edge = forest.score(&[u32::MAX; 5]);
    assert!(middle < 0.45 && edge > 0.6, "{middle} {edge}");
}

#[test]
fn the_same_seed_gives_the_same_forest() {
    let rows = random_rows(500, 7, 1);
    let grown = |seed| Forest::grow(&rows, Growth { seed, ..Growth::default() }).unwrap();
    assert_eq!(grown(5), grown(5));
    assert_ne!(grown(5), grown(6));
}

#[test]
fn training_takes_what_the_world_sends() {
    let grow = |rows: &Rows<u32>| Forest::grow(rows, Growth::default());
    assert_eq!(grow(&Rows::new(0)), Err(GrowthError::Columns(0)));
    assert_eq!(grow(&Rows::new(3)), Err(GrowthError::NoRows));
    let mut one = Rows::new(2);
    one.push(&[1, 2]);
    let forest = grow(&one).unwrap();
    assert_eq!(forest.sample(), 1);
    assert!((forest.score(&[9, 9]) - 0.5).abs() < f64::EPSILON);

    let mut constant = Rows::new(2);
    (0..1_000).for_each(|_| constant.push(&[7, 7]));
    let forest = grow(&constant).unwrap();
    let (same, different) = (forest.score(&[7, 7]), forest.score(&[8, 0]));
    assert!(same < 0.5 && different > same + 0.1, "{same} {different}");

    // Columns whose values are one ulp apart made another forest hang.
    let mut ulp = Rows::new(2);
    (0..1_000)
        .for_each(|row| ulp.push(&[if row % 2 == 0 { 1.0 } else { 1.0_f64.next_up() }, f64::from(row)]));
    let placed = Grid::fit(&ulp).place_all(&ulp);
    assert_eq!(grow(&placed).unwrap().sample(), SAMPLE);
}

#[test]
fn bounds_are_kept() {
    let rows = random_rows(10, 2, 1);
    let with =
        |trees, sample| Forest::grow(&rows, Growth { trees, sample, seed: 1 }).map(|forest| forest.sample());
    assert_eq!(with(0, 256), Err(GrowthError::Trees(0)));
    assert_eq!(with(1_000_000, 256), Err(GrowthError::Trees(1_000_000)));
    assert_eq!(with(1, 0), Err(GrowthError::Sample(0)));
    assert_eq!(with(1, 256), Ok(10), "a sample larger than the rows is reduced");
    assert_eq!(with(1, u32::MAX), Ok(10), "however large it is");
}

/// Where all rows agree but one differs, the difference alone isolates it, on either side.
#[test]
fn what_differs_from_a_constant_stands_out() {
    let mut rows = random_rows(500, 4, 1);
    for index in 0..500 {
        let row = rows.row(index).to_vec();
        rows.replace(index, &[row[0], 1 << 20, row[2], row[3]]);
    }
    let forest = Forest::grow(&rows, Growth::default()).unwrap();
    let with = |value| forest.score(&[6 << 27, value, 6 << 27, 6 << 27]);
    assert!(with((1 << 20) + 1) > with(1 << 20) + 0.02, "{} {}", with((1 << 20) + 1), with(1 << 20));
    assert!(with((1 << 20) - 1) > with(1 << 20) + 0.02, "{} {}", with((1 << 20) - 1), with(1 << 20));
}

/// Columns that never vary, however many, leave at least half of the cuts to the others.
#[test]
fn many_constant_columns_do_not_drown_the_rest() {
    let few = random_rows(1_000, 2, 1);
    let mut wide = Rows::new(200);
    for row in few.iter() {
        wide.push(&[row, &[9; 198][..]].concat());
    }
    let (few, wide) =
        (Forest::grow(&few, Growth::default()).unwrap(), Forest::grow(&wide, Growth::default()).unwrap());
    let gap = |forest: &Forest, rest: &[u32]| {
        forest.score(&[&[u32::MAX; 2], rest].concat()) - forest.score(&[&[6 << 27; 2], rest].concat())
    };
    assert!(gap(&wide, &[9; 198]) > gap(&few, &[]) / 3.0, "{} {}", gap(&wide, &[9; 198]), gap(&few, &[]));
}

#[test]
fn path_lengths_follow_the_paper() {
    // c(2) = 1, c(3) = 5/3, c(256) = 2 H(255) - 2 · 255 / 256.
    assert!((unsuccessful_search(2) - 1.0).abs() < 1e-12);
    assert!((unsuccessful_search(3) - 5.0 / 3.0).abs() < 1e-12);
    assert!((unsuccessful_search(256) - 10.248_690).abs() < 1e-5);
    let seam = unsuccessful_search(257) - unsuccessful_search(256);
    assert!((0.0..0.01).contains(&seam), "{seam}");
}

#[test]
fn a_score_and_its_sum_are_the_same_limit() {
    let forest = Forest::grow(&random_rows(256, 3, 1), Growth::default()).unwrap();
    for score in [0.3, 0.5, 0.62] {
        assert!((forest.score_of_sum(forest.sum_of_score(score)) - score).abs() < 1e-4);
    }
}

#[test]
fn wide_tables_of_constants_do_not_slow_training_down() {
    let mut rows = Rows::new(MAX_COLUMNS);
    let mut row = vec![1; MAX_COLUMNS];
    for value in 0..256 {
        row[5] = value;
        rows.push(&row);
    }
    let begun = Instant::now();
    Forest::grow(&rows, Growth { trees: 10, ..Growth::default() }).unwrap();
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}
