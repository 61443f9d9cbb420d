"""One tensor of each datatype, with the values at its edges."""

import ml_dtypes
import numpy as np


def edges(dtype):
    """[2, 3]: the least, nothing, the most; and three between them."""
    bounds = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else ml_dtypes.finfo(dtype)
    return np.array([[bounds.min, 0, bounds.max], [1, 2, 3]]).astype(dtype)


TENSORS = {
    "BOOL": np.array([[True, False, True], [False, False, True]]),
    "UINT8": edges(np.uint8), "UINT16": edges(np.uint16), "UINT32": edges(np.uint32), "UINT64": np.array([[0, 2**64 - 1, 2**53 + 1], [1, 2, 3]], np.uint64),
    "INT8": edges(np.int8), "INT16": edges(np.int16), "INT32": edges(np.int32), "INT64": np.array([[-(2**63), 0, 2**63 - 1], [1, 2, 2**53 + 1]]),
    "FP16": edges(np.float16), "BF16": edges(ml_dtypes.bfloat16), "FP32": edges(np.float32), "FP64": edges(np.float64),
    "BYTES": np.array([[b"", "ä".encode(), b"x" * 1000], [b'"\\', b"\n", b"0"]], dtype=object),
}  # fmt: skip
FIRST, SECOND = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)


def model_of(datatype):
    """The model that answers such a tensor with itself."""
    return f"identity-{datatype.lower()}"


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert (actual == expected).all(), f"{actual} is not {expected}"
