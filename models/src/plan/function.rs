//! Tables of functions: which polynomials approximate a function, on how many entries, in which ring.

use crate::algebra::SCALE;
use crate::checkpoint::Activation;
use kernels::{Device, Ring};
use protocol::gates::quadratic::Quadratic;
use protocol::gates::table::{Piecewise, Table, TableSpec, gelu, gelu_tanh, silu};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A function's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlan {
    /// It covers ±2^range_log2.
    pub range_log2: u32,
    /// With 2^entries_log2 entries.
    pub entries_log2: u32,
    /// What an entry holds.
    pub polynomials: Polynomials,
    /// A gated activation's products f(g)·u are below 2^product_log2; `None` for a function alone.
    pub product_log2: Option<u32>,
}

/// What approximates a function on an entry of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Polynomials {
    /// Lines: for gated activations only.
    Lines,
    /// Quadratics.
    Quadratics,
}

/// Fractional bits of the function's value in a gated activation by lines.
const FUNCTION_SCALE: u32 = 24;
/// The same by quadratics, where products leave as many: 13 of the local coordinate, twice, and 8 of c2.
const LARGEST_QUADRATIC_SCALE: u32 = 34;
/// Fractional bits of the other factor. A table errs by 10^−4 of it, a unit is 10 times less.
pub const FACTOR_SCALE: u32 = 16;

/// A table has no more than 4096 entries.
const MOST_ENTRIES_LOG2: u32 = 12;

/// How wide the entries of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// 1/16, lines, for gated activations.
    Gated,
    /// 1/4, quadratics, for gated activations of wide range.
    GatedWide,
    /// 1/8, quadratics, for those whose products are so large that c2 has fewer bits.
    GatedLarge,
    /// 1/4, quadratics, for the functions of feed-forward blocks.
    Activation,
    /// 1/8, quadratics, for tanh.
    Pooler,
}

/// A table and what it approximates.
#[derive(Clone, Debug)]
pub struct FunctionTable {
    /// The table.
    pub table: Pieces,
    /// The function.
    pub function: fn(f64) -> f64,
}

/// How a function is computed.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// Alone, by quadratics.
    Alone(Quadratic),
    /// As a gate, by lines or quadratics.
    Gated(GatedTable),
}

/// A table, and the ring in which its values times the other factor (at [`FACTOR_SCALE`]) are computed.
#[derive(Clone, Debug)]
pub struct GatedTable {
    /// The table.
    pub table: Arc<dyn Piecewise>,
    /// Products are computed modulo 2^bits.
    pub bits: u32,
}

/// The function that a configuration names.
pub fn function(activation: Activation) -> fn(f64) -> f64 {
    match activation {
        Activation::Silu => silu,
        Activation::Gelu => gelu,
        Activation::GeluTanh => gelu_tanh,
    }
}

impl Step {
    /// log2 of the entries to a unit.
    fn entries_log2(self) -> u32 {
        match self {
            Step::Gated => 4,
            Step::GatedWide | Step::Activation => 2,
            Step::GatedLarge | Step::Pooler => 3,
        }
    }

    fn polynomials(self) -> Polynomials {
        match self {
            Step::Gated => Polynomials::Lines,
            Step::GatedWide | Step::GatedLarge | Step::Activation | Step::Pooler => Polynomials::Quadratics,
        }
    }

    /// log2 of the entries over ±2^range_log2.
    fn entries_over(self, range_log2: u32) -> u32 {
        range_log2 + 1 + self.entries_log2()
    }

    /// Width of an entry.
    pub fn width(self) -> f64 {
        2f64.powi(-(self.entries_log2() as i32))
    }
}

impl TablePlan {
    /// Covers ±2^range_log2 in steps of `step`, or as small ones as 4096 entries allow.
    pub fn covering(range_log2: u32, step: Step, product_log2: Option<u32>) -> TablePlan {
        let entries_log2 = step.entries_over(range_log2).min(MOST_ENTRIES_LOG2);
        TablePlan { range_log2, entries_log2, polynomials: step.polynomials(), product_log2 }
    }

    /// A gated activation's: lines, unless these are many and products leave enough bits to quadratics. These err no more than
    /// the lines in their place: where c2 has less than 8 bits, by shorter entries.
    pub fn gated(range_log2: u32, product_log2: u32) -> TablePlan {
        const MOST_LINES_LOG2: u32 = 9;
        let at = |step| TablePlan::covering(range_log2, step, Some(product_log2));
        let lines = at(Step::Gated);
        if lines.entries_log2 <= MOST_LINES_LOG2 || product_log2 > Self::LARGEST_QUADRATIC_PRODUCT_LOG2 {
            return lines;
        }
        // Of more than 4096 entries there are half as many, of twice the width.
        let lines_are_exact = Step::Gated.entries_over(range_log2) <= MOST_ENTRIES_LOG2;
        let few_bits = quadratic_scale(product_log2) < LARGEST_QUADRATIC_SCALE;
        at(if few_bits && lines_are_exact { Step::GatedLarge } else { Step::GatedWide })
    }

    pub(super) fn validate(&self, gated: bool) -> Result<(), String> {
        let fits = (1..=8).contains(&self.range_log2)
            && (4..=MOST_ENTRIES_LOG2).contains(&self.entries_log2)
            && match (self.polynomials, self.product_log2) {
                (Polynomials::Lines, Some(product)) => gated && product <= Self::LARGEST_PRODUCT_LOG2,
                (Polynomials::Quadratics, Some(product)) => {
                    gated && product <= Self::LARGEST_QUADRATIC_PRODUCT_LOG2
                }
                (Polynomials::Quadratics, None) => !gated,
                (Polynomials::Lines, None) => false,
            };
        if fits { Ok(()) } else { Err(format!("impossible table parameters {self:?}")) }
    }

    /// Larger products leave too few bits to the table.
    pub const LARGEST_PRODUCT_LOG2: u32 = 19;
    /// The same of quadratics: 6 to c2.
    pub const LARGEST_QUADRATIC_PRODUCT_LOG2: u32 = 13;

    /// Builds it.
    ///
    /// # Panics
    /// For lines of a function alone; plans are validated.
    pub fn table(&self, device: &Device, function: fn(f64) -> f64) -> FunctionTable {
        let (range, entries) = (self.range_log2, self.entries_log2);
        let table = match (self.product_log2, self.polynomials) {
            (Some(product_log2), Polynomials::Lines) => {
                let bits = product_bits(FUNCTION_SCALE, product_log2);
                let spec = TableSpec::shortened(range, entries, SCALE, FUNCTION_SCALE);
                Pieces::Gated(GatedTable { table: Arc::new(Table::new(device, spec, function)), bits })
            }
            (Some(product_log2), Polynomials::Quadratics) => {
                let scale = quadratic_scale(product_log2);
                let bits = product_bits(scale, product_log2);
                let table = Quadratic::factor(device, (range, entries), SCALE, scale, bits, function);
                Pieces::Gated(GatedTable { table: Arc::new(table), bits })
            }
            (None, polynomials) => {
                assert_eq!(polynomials, Polynomials::Quadratics, "a validated plan has quadratics here");
                // All functions here are largest at an end of their range.
                let end = 2f64.powi(range as i32);
                let largest = function(end).abs().max(function(-end).abs()).max(1.0);
                let value_log2 = largest.log2().ceil() as u32;
                Pieces::Alone(Quadratic::symmetric(device, (range, entries), SCALE, value_log2, function))
            }
        };
        FunctionTable { table, function }
    }
}

/// Bits of the ring for products below 2^product_log2: fractional bits of both factors, and three as for a function alone.
const fn product_bits(function_scale: u32, product_log2: u32) -> u32 {
    function_scale + FACTOR_SCALE + product_log2 + 3
}

// What a validated plan asks for fits the ring, with 6 bits of c2 at least.
const _: () = {
    let ring = Ring::Z64.bits();
    assert!(product_bits(FUNCTION_SCALE, TablePlan::LARGEST_PRODUCT_LOG2) <= ring);
    assert!(product_bits(2 * 13 + 6, TablePlan::LARGEST_QUADRATIC_PRODUCT_LOG2) <= ring);
};

/// Fractional bits of a function by quadratics, of which the ring holds products below 2^product_log2.
fn quadratic_scale(product_log2: u32) -> u32 {
    let rest = product_bits(0, product_log2);
    Ring::Z64.bits().saturating_sub(rest).min(LARGEST_QUADRATIC_SCALE)
}

impl FunctionTable {
    /// The table of a function alone.
    ///
    /// # Panics
    /// For a gated activation's; plans are validated.
    pub fn alone(&self) -> &Quadratic {
        match &self.table {
            Pieces::Alone(table) => table,
            Pieces::Gated(_) => panic!("a validated plan has tables of the model's kind"),
        }
    }

    /// The table of a gated activation.
    ///
    /// # Panics
    /// For a function alone; plans are validated.
    pub fn gated(&self) -> &GatedTable {
        match &self.table {
            Pieces::Gated(table) => table,
            Pieces::Alone(_) => panic!("a validated plan has tables of the model's kind"),
        }
    }

    /// Every number of the table, for the program digest.
    pub(super) fn words(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        match &self.table {
            Pieces::Alone(table) => Box::new(table.words()),
            Pieces::Gated(gate) => {
                let kind = [u64::from(gate.bits), gate.table.coefficients() as u64];
                Box::new(kind.into_iter().chain(gate.table.words()))
            }
        }
    }
}

impl GatedTable {
    /// Products that the gate computes lie within ±limit.
    pub fn limit(&self) -> f64 {
        2f64.powi(self.bits as i32 - 2 - (self.table.spec().out_scale() + FACTOR_SCALE) as i32)
    }
}
