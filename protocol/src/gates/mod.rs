//! Gates. Each file is one gate: the algebra in its first lines, dealer and evaluators side by side, its meaning in
//! the clear, and its declared cost, which tests hold against the measured one.

mod at_least;
pub mod bit;
pub mod choice;
pub mod compare;
pub mod embedding;
pub mod exp;
pub mod glu;
pub mod input;
pub mod lift;
pub mod lut;
pub mod max;
pub mod norm;
pub mod product;
pub mod quadratic;
pub mod reciprocal;
pub mod reveal;
pub mod row;
pub mod softmax;
pub mod table;
pub mod truncate;
