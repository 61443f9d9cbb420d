//! From the model's scores to labels with confidences.

use half::f16;
use nexus_guest::{Error, Tensor};
use serde::Serialize;

use crate::config::{Auto, Softmax};

/// The answer's JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    predicted_label: String,
    confidence: f32,
    top_k: Vec<Ranked>,
}

#[derive(Debug, Clone, Serialize)]
struct Ranked {
    label: String,
    index: usize,
    confidence: f32,
}

/// The scores: the first float output with one row, [1,N] or [N] or [1,N,1,1].
pub(crate) fn scores(outputs: &[Tensor]) -> Result<Vec<f32>, Error> {
    let fits = |output: &&Tensor| {
        let long_axes = output.shape.iter().filter(|&&axis| axis != 1).count();
        let one_row = output.shape.first() == Some(&1) || output.shape.len() == 1;
        one_row && long_axes <= 1 && matches!(output.datatype.as_str(), "FP32" | "FP16" | "FP64")
    };
    let Some(output) = outputs.iter().find(fits) else {
        let outputs: Vec<_> = outputs.iter().map(|o| format!("`{}` {} {:?}", o.name, o.datatype, o.shape)).collect();
        return Err(Error::plugin(format!(
            "no output holds class scores, a float [1,N]; outputs: {}",
            outputs.join(", ")
        )));
    };
    let scores: Vec<f32> = match output.datatype.as_str() {
        "FP32" => output.as_f32()?.into_owned(),
        "FP64" => output.values::<f64>()?.iter().map(|&score| score as f32).collect(),
        _ => output.data.chunks_exact(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect(),
    };
    if scores.is_empty() {
        return Err(Error::plugin(format!("output `{}` is empty", output.name)));
    }
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(Error::plugin(format!("output `{}` holds NaN or infinity", output.name)));
    }
    Ok(scores)
}

/// Scores as probabilities.
pub(crate) fn confidences(scores: Vec<f32>, softmax: Softmax) -> Vec<f32> {
    let needed = match softmax {
        Softmax::Always(needed) => needed,
        Softmax::Auto(Auto::Auto) => !are_probabilities(&scores),
    };
    if !needed {
        return scores;
    }
    // Shifted by the largest, so that no exponential overflows.
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|exponential| exponential / sum).collect()
}

/// Whether scores are within [0,1] and add up to 1. A model quantised to 8 bits is off by up to half a step, 1/512, in
/// each class, so many classes may miss 1 by a lot: efficientnet-lite0 adds up to 0.93 for a cat.
fn are_probabilities(scores: &[f32]) -> bool {
    let tolerance = 0.01 + scores.len() as f32 / 512.0;
    let sum: f32 = scores.iter().sum();
    scores.iter().all(|score| (0.0..=1.0).contains(score)) && (sum - 1.0).abs() <= tolerance
}

/// The `top_k` best classes, best first, the lower index first among equals. A class without a label is called by its index.
pub(crate) fn answer(confidences: &[f32], labels: &[String], top_k: usize) -> Answer {
    let mut order: Vec<usize> = (0..confidences.len()).collect();
    order.sort_unstable_by(|&a, &b| confidences[b].total_cmp(&confidences[a]).then(a.cmp(&b)));
    order.truncate(top_k.max(1));
    let ranked = |index: usize| Ranked {
        label: labels.get(index).filter(|label| !label.is_empty()).cloned().unwrap_or_else(|| index.to_string()),
        index,
        confidence: confidences[index],
    };
    let top_k: Vec<Ranked> = order.into_iter().map(ranked).collect();
    let best = top_k.first().map(|best| (best.label.clone(), best.confidence)).unwrap_or_default();
    Answer { predicted_label: best.0, confidence: best.1, top_k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: Softmax = Softmax::Auto(Auto::Auto);

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn the_first_float_row_holds_the_scores() {
        let ints = Tensor::from_i64("class", [1], [3]).unwrap();
        let boxes = Tensor::from_f32("boxes", [1, 2, 4], [0.0; 8]).unwrap();
        let row = Tensor::from_f32("scores", [1, 3, 1, 1], [1.0, 2.0, 3.0]).unwrap();
        assert_eq!(scores(&[ints.clone(), boxes.clone(), row]).unwrap(), [1.0, 2.0, 3.0]);
        let error = scores(&[ints, boxes]).unwrap_err();
        assert!(error.message().contains("`boxes` FP32 [1, 2, 4]"), "{error}");
        let half = Tensor { datatype: "FP16".into(), ..Tensor::from_values("h", [1], [f16::ONE.to_bits()]).unwrap() };
        assert_eq!(scores(&[half]).unwrap(), [1.0]);
        assert_eq!(scores(&[Tensor::from_values("d", [1, 1], [0.5_f64]).unwrap()]).unwrap(), [0.5]);
    }

    #[test]
    fn broken_scores_are_an_error() {
        for values in [vec![], vec![f32::NAN], vec![f32::INFINITY]] {
            let output = Tensor::from_f32("x", [1, values.len() as u64], values).unwrap();
            assert_eq!(scores(&[output]).unwrap_err().code(), "plugin");
        }
    }

    #[test]
    fn softmax_only_where_needed() {
        assert_eq!(confidences(vec![0.25, 0.75], AUTO), [0.25, 0.75]);
        assert_eq!(confidences(vec![0.9, 0.9], AUTO), [0.5, 0.5]);
        assert_eq!(confidences(vec![1000.0, 0.0], AUTO), [1.0, 0.0]);
        assert_eq!(confidences(vec![0.9, 0.9], Softmax::Always(false)), [0.9, 0.9]);
        assert_eq!(confidences(vec![0.5, 0.5, 0.0], Softmax::Always(true))[0], 0.38365173);
        // What 8-bit quantisation leaves of a softmax over 1,000 classes.
        let mut quantised = vec![0.0; 1000];
        quantised[282] = 0.4157;
        quantised[285] = 0.3216;
        assert_eq!(confidences(quantised.clone(), AUTO), quantised);
    }

    #[test]
    fn the_answer_is_ranked_and_clamped() {
        let answer =
            |labels: &[String], top_k| serde_json::to_value(super::answer(&[0.25, 0.5, 0.25], labels, top_k)).unwrap();
        let named = labels(&["a", "b", "c"]);
        assert_eq!(
            answer(&named, 2),
            serde_json::json!({"predicted_label": "b", "confidence": 0.5, "top_k": [
                {"label": "b", "index": 1, "confidence": 0.5}, {"label": "a", "index": 0, "confidence": 0.25}]})
        );
        assert_eq!(answer(&named, usize::MAX)["top_k"].as_array().unwrap().len(), 3);
        // A list without the last class, none at all, and one with a class too many.
        assert_eq!(answer(&labels(&["a", "b"]), 3)["top_k"][2]["label"], "2");
        assert_eq!(answer(&[], 1)["predicted_label"], "1");
        assert_eq!(answer(&labels(&["a", "b", "c", "d"]), 9)["top_k"][2]["label"], "c");
    }
}
