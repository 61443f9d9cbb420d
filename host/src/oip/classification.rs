//! The classification extension: of each row the greatest values, with their places and labels.

use std::cmp::Ordering;

use bytes::Bytes;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::tensor::{Data, DataType, Tensor};

/// A BYTES tensor of `value:index[:label]`, the greatest first, along the last axis. Floats have six decimals, as Triton
/// writes them.
///
/// # Errors
/// The tensor's elements have no order, or it has no axis.
pub(super) fn classify(tensor: &Tensor, classes: usize, labels: &[String]) -> Result<Tensor> {
    let refused = || {
        Error::invalid_input(format!(
            "output {}: `classification` takes numbers along an axis; the output is {}",
            tensor.name,
            tensor.describe()
        ))
    };
    let Data::Raw(bytes) = &tensor.data else { return Err(refused()) };
    let Some((&row, leading)) = tensor.shape.split_last() else { return Err(refused()) };
    let scores = scores(tensor.datatype, bytes).ok_or_else(refused)?;
    let classes = classes.min(row);
    let mut strings = Vec::with_capacity(scores.len().checked_div(row).unwrap_or(0) * classes);
    for row in scores.chunks_exact(row.max(1)) {
        let mut places: Vec<usize> = (0..row.len()).collect();
        places.sort_by(|&a, &b| row[b].order(&row[a]));
        strings.extend(places[..classes].iter().map(|&place| class(&row[place], place, labels)));
    }
    let shape = leading.iter().copied().chain([classes]).collect();
    Ok(Tensor::from_strings(tensor.name.clone(), shape, strings)?)
}

fn class(score: &Score, place: usize, labels: &[String]) -> Bytes {
    let score = match score {
        Score::Int(value) => value.to_string(),
        Score::Float(value) => format!("{value:.6}"),
    };
    match labels.get(place) {
        Some(label) => format!("{score}:{place}:{label}").into(),
        None => format!("{score}:{place}").into(),
    }
}

/// Wide enough for every integer, and exact for every float.
#[derive(Clone, Copy)]
enum Score {
    Int(i128),
    Float(f64),
}

impl Score {
    /// What is no number is less than every number.
    fn order(&self, other: &Score) -> Ordering {
        match (self, other) {
            (Score::Int(a), Score::Int(b)) => a.cmp(b),
            (Score::Float(a), Score::Float(b)) if a.is_nan() || b.is_nan() => b.is_nan().cmp(&a.is_nan()),
            (Score::Float(a), Score::Float(b)) => a.total_cmp(b),
            _ => Ordering::Equal,
        }
    }
}

fn scores(datatype: DataType, bytes: &[u8]) -> Option<Vec<Score>> {
    macro_rules! read {
        ($type:ty, $score:expr) => {{
            let (elements, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
            Some(elements.iter().map(|element| $score(<$type>::from_le_bytes(*element))).collect())
        }};
    }
    match datatype {
        DataType::Uint8 => read!(u8, |value| Score::Int(i128::from(value))),
        DataType::Uint16 => read!(u16, |value| Score::Int(i128::from(value))),
        DataType::Uint32 => read!(u32, |value| Score::Int(i128::from(value))),
        DataType::Uint64 => read!(u64, |value| Score::Int(i128::from(value))),
        DataType::Int8 => read!(i8, |value| Score::Int(i128::from(value))),
        DataType::Int16 => read!(i16, |value| Score::Int(i128::from(value))),
        DataType::Int32 => read!(i32, |value| Score::Int(i128::from(value))),
        DataType::Int64 => read!(i64, |value| Score::Int(i128::from(value))),
        DataType::Fp16 => read!(f16, |value| Score::Float(f64::from(value))),
        DataType::Bf16 => read!(bf16, |value| Score::Float(f64::from(value))),
        DataType::Fp32 => read!(f32, |value| Score::Float(f64::from(value))),
        DataType::Fp64 => read!(f64, Score::Float),
        DataType::Bool | DataType::Bytes => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn texts(tensor: &Tensor) -> Vec<String> {
        let Data::Strings(strings) = &tensor.data else { unreachable!() };
        strings.iter().map(|string| String::from_utf8(string.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_greatest_of_each_row_come_first_and_have_their_labels() {
        let rows = vec![0.25f32, f32::NAN, 0.5, 3.0, 1.0, 2.0];
        let tensor = Tensor::from_vec("p".into(), DataType::Fp32, vec![2, 3], rows).unwrap();
        let classes = classify(&tensor, 2, &["no".into(), "yes".into()]).unwrap();
        assert_eq!((classes.datatype, &classes.shape), (DataType::Bytes, &vec![2, 2]));
        assert_eq!(texts(&classes), ["0.500000:2", "0.250000:0:no", "3.000000:0:no", "2.000000:2"]);
    }

    #[test]
    fn integers_are_written_whole_equal_ones_by_place_and_there_are_no_more_than_a_row_has() {
        let tensor = Tensor::from_vec("n".into(), DataType::Uint64, vec![3], vec![7u64, u64::MAX, 7]).unwrap();
        let classes = classify(&tensor, 9, &[]).unwrap();
        assert_eq!(texts(&classes), ["18446744073709551615:1", "7:0", "7:2"]);
        let none = Tensor::from_vec("n".into(), DataType::Uint8, vec![2, 0], Vec::<u8>::new()).unwrap();
        assert_eq!(classify(&none, 3, &[]).unwrap().shape, [2, 0]);
    }

    #[test]
    fn texts_truth_values_and_scalars_have_no_classes() {
        let text = Tensor::from_strings("t".into(), vec![1], vec![Bytes::new()]).unwrap();
        let flag = Tensor::from_vec("b".into(), DataType::Bool, vec![1], vec![1u8]).unwrap();
        let scalar = Tensor::from_vec("s".into(), DataType::Uint8, vec![], vec![1u8]).unwrap();
        for tensor in [text, flag, scalar] {
            assert!(classify(&tensor, 1, &[]).is_err(), "{}", tensor.name);
        }
    }
}
