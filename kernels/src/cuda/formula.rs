//! Element-wise formulas: one kernel that reads the steps, so that a formula is one launch and none needs a compiler.

use super::driver::Arg;
use super::elementwise::{map_number, zip_number};
use super::{Cuda, DeviceWords, Launch};
use crate::formula::{Change, Formula, Place, Step};

/// Where the parts of `struct Formula` in `formula.cu` begin, in words, and its length.
const CONSTANTS: usize = Formula::STEPS.div_ceil(2);
const INPUTS: usize = CONSTANTS + Formula::STEPS;
const OUTPUTS: usize = INPUTS + Formula::INPUTS;
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

impl Cuda {
    pub(super) fn evaluated(&self, formula: &Formula, inputs: &[&DeviceWords]) -> Vec<DeviceWords> {
        let n = inputs[0].len();
        assert!(inputs.iter().all(|a| a.len() == n), "a formula of buffers of different length");
        let results: Vec<_> = (0..formula.outputs()).map(|_| self.core.alloc("formula", n)).collect();
        let mut block = [0; WORDS];
        for (s, step) in formula.steps().iter().enumerate() {
            let (number, constant) = step_number(step);
            block[s / 2] |= u64::from(number) << (32 * (s % 2));
            block[CONSTANTS + s] = constant;
        }
        let arguments = (INPUTS..).zip(inputs.iter().copied()).chain((OUTPUTS..).zip(&results));
        for (at, words) in arguments {
            let Some(address) = words.address("formula") else { return results };
            block[at] = address;
        }
        let steps = formula.steps().len() as u32;
        self.launch(Launch::over("formula", n), &[Arg::Block(&block), steps.into(), n.into()]);
        results
    }
}
