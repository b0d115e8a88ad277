//! Element-wise formulas: one kernel that reads the steps, so that a formula is one launch and none needs a compiler.

use super::driver::Arg;
use super::elementwise::{map_number, zip_number};
use super::{Cuda, DeviceWords, Launch};
use crate::formula::{Change, Formula, Input, Place, Step};
use crate::indices::{Grid, Indices, Places};
use std::sync::Arc;

/// Where the parts of `struct Formula` in `formula.cu` begin, in words, and its length.
const CONSTANTS: usize = Formula::STEPS.div_ceil(2);
const INPUTS: usize = CONSTANTS + Formula::STEPS;
const PLACES: usize = INPUTS + Formula::INPUTS;
const OUTPUTS: usize = PLACES + 3 * Formula::INPUTS;
const WORDS: usize = OUTPUTS + Formula::OUTPUTS;

/// The number of the first map.
const MAPS: u32 = 16;

/// A place's kind and number, in a byte.
fn place_number(place: Place) -> u32 {
    match place {
        Place::Temporary(i) => i as u32,
        Place::Input(i) => 1 << 6 | i as u32,
        Place::Output(i) => 2 << 6 | i as u32,
    }
}

/// A step as four bytes, and its constant.
fn step_number(step: &Step) -> (u32, u64) {
    let (op, other, constant) = match step.change {
        Change::Zip(op, other) => (zip_number(op), place_number(other), 0),
        Change::Map(op) => {
            let (op, constant) = map_number(op);
            (MAPS + op, 0, constant)
        }
    };
    (op | place_number(step.to) << 8 | place_number(step.of) << 16 | other << 24, constant)
}

/// The first two words of `struct Places`: of words in their order, and of a table.
const IN_ORDER: u64 = 0;
const TABLE: u64 = u64::MAX;

impl Cuda {
    pub(super) fn evaluated(
        &self,
        formula: &Formula,
        inputs: &[Input<'_, DeviceWords>],
        n: usize,
    ) -> Vec<DeviceWords> {
        let results: Vec<_> = (0..formula.outputs()).map(|_| self.core.alloc("formula", n)).collect();
        let mut block = [0; WORDS];
        for (s, step) in formula.steps().iter().enumerate() {
            let (number, constant) = step_number(step);
            block[s / 2] |= u64::from(number) << (32 * (s % 2));
            block[CONSTANTS + s] = constant;
        }
        // Tables live until the launch.
        let mut tables = vec![];
        for (i, input) in inputs.iter().enumerate() {
            let Some((address, places)) = self.input(input, n, &mut tables) else { return results };
            block[INPUTS + i] = address;
            block[PLACES + 3 * i..][..3].copy_from_slice(&places);
        }
        for (at, words) in (OUTPUTS..).zip(&results) {
            let Some(address) = words.address("formula") else { return results };
            block[at] = address;
        }
        let steps = formula.steps().len() as u32;
        self.launch(Launch::over("formula", n), &[Arg::Block(&block), steps.into(), n.into()]);
        results
    }

    /// An input's address and its `struct Places`; `None` without memory.
    fn input(
        &self,
        input: &Input<'_, DeviceWords>,
        n: usize,
        tables: &mut Vec<Arc<DeviceWords>>,
    ) -> Option<(u64, [u64; 3])> {
        let len = input.at.as_ref().map_or(input.words.len(), Indices::len);
        assert_eq!(len, n, "a formula of inputs of different length");
        let address = input.words.address("formula")?;
        let Some(at) = &input.at else { return Some((address, [IN_ORDER; 3])) };
        assert!(at.end() <= input.words.len(), "an input beyond {} words", input.words.len());
        match at.places() {
            Places::Table(table) => {
                let places = self.table("formula", table);
                let to = places.address("formula")?;
                tables.push(places);
                Some((address, [TABLE, to, 0]))
            }
            Places::Grid(Grid { start, rows, row, cols, col }) => {
                let places = match (rows, col) {
                    (1, 1) => [IN_ORDER; 3],
                    _ => [*cols as u64, *row as u64, *col as u64],
                };
                Some((address + 8 * *start as u64, places))
            }
        }
    }
}
