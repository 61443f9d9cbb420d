"""The models of the `onnx` package's backend suite, with inputs and expected outputs."""

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_node_model_tests


@dataclass
class Case:
    name: str
    model: bytes
    # Of (inputs, outputs), each in the order that the model declares; None for an empty optional.
    data_sets: list
    rtol: float
    atol: float


def cases(names):
    """Those whose names hold one of `names`, and why how many others are not here."""
    left_out = Counter()
    found = list(node_cases()) + list(folder_cases(left_out)) + list(light_cases())
    return [case for case in found if not names or any(name in case.name for name in names)], left_out


def node_cases():
    """One operator each: the package makes them when they are loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_node_model_tests()
    for test in tests:
        data_sets = [([array(value) for value in inputs], [array(value) for value in outputs]) for inputs, outputs in test.data_sets]
        yield Case(test.name, test.model.SerializeToString(), data_sets, test.rtol, test.atol)


def array(value):
    """Some tests have tensors as messages, and some scalars as NumPy's own, which ONNX Runtime does not take."""
    value = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return np.asarray(value) if isinstance(value, np.generic) else value


def folder_cases(left_out):
    """Models in folders of their own, with files of inputs and outputs."""
    for folder in sorted(Path(DATA_DIR).glob("*/test_*")):
        file = folder / "model.onnx"
        if not file.exists():
            left_out["the model itself is not in the package"] += 1
            continue
        graph = onnx.load(file).graph
        weights = {weight.name for weight in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        data_sets = [
            (read_files(data, "input", inputs), read_files(data, "output", graph.output))
            for data in sorted(folder.glob("test_data_set_*"))
        ]
        yield Case(folder.name, file.read_bytes(), data_sets, 1e-3, 1e-7)


def read_files(folder, kind, values):
    return [read_file(file, value.type) for index, value in enumerate(values) if (file := folder / f"{kind}_{index}.pb").exists()]


def read_file(file, declared):
    content = file.read_bytes()
    if declared.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if declared.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def light_cases():
    """Whole networks without their weights, whose inputs are numbers in order."""
    for file in sorted(Path(DATA_DIR).glob("light/*.onnx")):
        graph = onnx.load(file).graph
        weights = {weight.name for weight in graph.initializer}
        inputs = [in_order(value) for value in graph.input if value.name not in weights]
        outputs = [read_file(file.with_name(f"{file.stem}_output_{i}.pb"), value.type) for i, value in enumerate(graph.output)]
        yield Case(file.stem, file.read_bytes(), [(inputs, outputs)], 1e-3, 1e-7)


def in_order(value):
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)
