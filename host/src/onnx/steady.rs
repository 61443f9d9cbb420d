//! Operators whose time follows from the shapes of what they are given, and not from the values.

/// Those among ONNX's own and its machine learning operators. What is not here may loop as often as a value says, or make
/// a tensor as large as one says.
const STEADY: &[&[u8]] = &[
    b"Abs",
    b"Add",
    b"And",
    b"ArgMax",
    b"ArgMin",
    b"ArrayFeatureExtractor",
    b"AveragePool",
    b"BatchNormalization",
    b"Binarizer",
    b"Cast",
    b"CastLike",
    b"Ceil",
    b"Clip",
    b"Concat",
    b"Constant",
    b"Conv",
    b"Cos",
    b"Div",
    b"Dropout",
    b"Elu",
    b"Equal",
    b"Erf",
    b"Exp",
    b"FeatureVectorizer",
    b"Flatten",
    b"Floor",
    b"Gather",
    b"Gelu",
    b"Gemm",
    b"GlobalAveragePool",
    b"GlobalMaxPool",
    b"Greater",
    b"GreaterOrEqual",
    b"HardSigmoid",
    b"HardSwish",
    b"Identity",
    b"Imputer",
    b"InstanceNormalization",
    b"LabelEncoder",
    b"LayerNormalization",
    b"LeakyRelu",
    b"Less",
    b"LessOrEqual",
    b"LinearClassifier",
    b"LinearRegressor",
    b"Log",
    b"LogSoftmax",
    b"MatMul",
    b"Max",
    b"MaxPool",
    b"Min",
    b"Mul",
    b"Neg",
    b"Normalizer",
    b"Not",
    b"OneHotEncoder",
    b"Or",
    b"PRelu",
    b"Pow",
    b"Reciprocal",
    b"ReduceMax",
    b"ReduceMean",
    b"ReduceMin",
    b"ReduceSum",
    b"Relu",
    b"Reshape",
    b"Round",
    b"SVMClassifier",
    b"SVMRegressor",
    b"Scaler",
    b"Selu",
    b"Shape",
    b"Sigmoid",
    b"Sign",
    b"Sin",
    b"Softmax",
    b"Softplus",
    b"Sqrt",
    b"Squeeze",
    b"Sub",
    b"Sum",
    b"Tanh",
    b"Transpose",
    b"TreeEnsembleClassifier",
    b"TreeEnsembleRegressor",
    b"Unsqueeze",
    b"Where",
    b"ZipMap",
];

/// Whether the time of an operator follows from shapes alone.
pub(super) fn is_steady(domain: &[u8], operator: &[u8]) -> bool {
    matches!(domain, b"" | b"ai.onnx" | b"ai.onnx.ml") && STEADY.binary_search(&operator).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_has_nothing_that_follows_values() {
        assert!(STEADY.is_sorted());
        assert!(is_steady(b"", b"MatMul") && is_steady(b"ai.onnx.ml", b"TreeEnsembleClassifier"));
        for operator in ["Loop", "Scan", "If", "Expand", "Tile", "Range", "ConstantOfShape", "Resize", "NonZero", "Pad"]
        {
            assert!(!is_steady(b"", operator.as_bytes()), "{operator}");
        }
        assert!(!is_steady(b"com.example", b"MatMul"));
    }
}
