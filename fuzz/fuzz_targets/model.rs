//! Model files with a right checksum, up to the scores of what was read; and the tables that models are trained on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::learn::{Model, Rows, Table};

/// Of a table, in bytes; larger ones only take longer.
const LONGEST_TABLE: usize = 4 << 10;

fuzz_target!(|bytes: &[u8]| {
    // FNV-1a, 64 bits, as `learn::model_file` writes it.
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    if let Ok(model) = Model::read(&[bytes, &sum.to_le_bytes()].concat()[..]) {
        let mut rows = Rows::new(model.columns.len());
        for value in [0.0, 1.0, -1.0e300, 1.0e300] {
            rows.push(&vec![value; model.columns.len()]);
        }
        assert!(model.score_rows(&rows).iter().all(|score| (0.0..=1.0).contains(score)));
        let mut written = Vec::new();
        model.write(&mut written).expect("memory takes everything");
        assert_eq!(Model::read(&written[..]).expect("what was read can be read again"), model);
    }
    if bytes.len() <= LONGEST_TABLE
        && let Ok(mut table) = Table::open(bytes)
        && let Ok(rows) = table.read_sampled(1)
    {
        assert!(
            rows.width() == table.columns().len() && rows.iter().flatten().all(|value| value.is_finite())
        );
    }
});
