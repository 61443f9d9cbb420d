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
    let classes = classes.min(row);
    let strings = classes_of(tensor.datatype, bytes, row, classes, labels).ok_or_else(refused)?;
    let shape = leading.iter().copied().chain([classes]).collect();
    Ok(Tensor::from_strings(tensor.name.clone(), shape, strings)?)
}

/// `None` for what has no order.
fn classes_of(datatype: DataType, bytes: &[u8], row: usize, classes: usize, labels: &[String]) -> Option<Vec<Bytes>> {
    macro_rules! rows {
        ($type:ty, $score:expr) => {
            Some(of_rows(bytes, row, classes, labels, |element| $score(<$type>::from_le_bytes(element))))
        };
    }
    match datatype {
        DataType::Uint8 => rows!(u8, |value| Score::Int(i128::from(value))),
        DataType::Uint16 => rows!(u16, |value| Score::Int(i128::from(value))),
        DataType::Uint32 => rows!(u32, |value| Score::Int(i128::from(value))),
        DataType::Uint64 => rows!(u64, |value| Score::Int(i128::from(value))),
        DataType::Int8 => rows!(i8, |value| Score::Int(i128::from(value))),
        DataType::Int16 => rows!(i16, |value| Score::Int(i128::from(value))),
        DataType::Int32 => rows!(i32, |value| Score::Int(i128::from(value))),
        DataType::Int64 => rows!(i64, |value| Score::Int(i128::from(value))),
        DataType::Fp16 => rows!(f16, |value| Score::Float(f64::from(value))),
        DataType::Bf16 => rows!(bf16, |value| Score::Float(f64::from(value))),
        DataType::Fp32 => rows!(f32, |value| Score::Float(f64::from(value))),
        DataType::Fp64 => rows!(f64, Score::Float),
        DataType::Bool | DataType::Bytes => None,
    }
}

/// Elements are read where they lie: a tensor of scores would be many times the tensor.
fn of_rows<const N: usize>(
    bytes: &[u8],
    row: usize,
    classes: usize,
    labels: &[String],
    score: impl Fn([u8; N]) -> Score,
) -> Vec<Bytes> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut strings = Vec::with_capacity(elements.len().checked_div(row).unwrap_or(0) * classes);
    let mut places: Vec<usize> = Vec::new();
    for row in elements.chunks_exact(row.max(1)) {
        let greatest_first = |a: &usize, b: &usize| score(row[*b]).order(&score(row[*a])).then(a.cmp(b));
        places.clear();
        places.extend(0..row.len());
        if classes < row.len() {
            places.select_nth_unstable_by(classes, greatest_first);
            places.truncate(classes);
        }
        places.sort_unstable_by(greatest_first);
        strings.extend(places.iter().map(|&place| class(&score(row[place]), place, labels)));
    }
    strings
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
