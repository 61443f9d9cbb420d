//! Values in JSON: nested numbers in, typed elements out, read and written without a tree of values in between.

mod element;
mod lists;
mod object;
mod read;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod write;

pub use lists::Text;
pub use object::read_object;
pub use read::{pairs_in_order, read_shaped, read_value};
pub use write::{TensorData, ValueData, ValueJson, word_for};

/// What JSON has no number for, both ways, in tensors of floats. JavaScript and Python write the same words.
const NAN: &str = "NaN";
const INFINITY: &str = "Infinity";
const NEGATIVE_INFINITY: &str = "-Infinity";
