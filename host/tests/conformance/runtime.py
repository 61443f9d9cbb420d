"""What plain ONNX Runtime makes of a model: the judge of what the host may be asked for."""

import onnx
import onnxruntime
import numpy as np

onnxruntime.set_default_logger_severity(4)


class Plain:
    """A model in ONNX Runtime alone, with the options that the host sets."""

    def __init__(self, case):
        self.problem = self.wrong = self.session = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self.session = onnxruntime.InferenceSession(case.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            self.problem = f"ONNX Runtime does not load it: {code(error)}"
            return
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        self.values = self.inputs + self.outputs
        self.wrong = self.run(case)

    def run(self, case):
        for inputs, expected in case.data_sets:
            feeds = {value.name: given for value, given in zip(self.inputs, inputs)}
            try:
                outputs = self.session.run(None, feeds)
            except RuntimeError as error:
                # Its Python interface has no arrays of bfloat16: the suite's outputs alone judge then.
                return None if "umpy" in str(error) else f"metadata only: ONNX Runtime does not run it: {error}"
            except Exception as error:
                return f"metadata only: ONNX Runtime does not run it: {code(error)}"
            if difference(outputs, expected, case):
                return "metadata only: ONNX Runtime itself gives other outputs"
        return None


def code(error):
    """`NOT_IMPLEMENTED`, where ONNX Runtime says so; what Python says otherwise."""
    text = str(error)
    parts = [part.strip() for part in text.split(":")]
    return parts[2] if text.startswith("[ONNXRuntimeError]") and len(parts) > 2 else type(error).__name__


def difference(actual, expected, case):
    """Where two lists of values differ by more than the suite allows."""
    if len(actual) != len(expected):
        return f"{len(actual)} values, expected {len(expected)}"
    for index, (left, right) in enumerate(zip(actual, expected)):
        if found := value_difference(left, right, case):
            return f"value {index}: {found}"
    return None


def value_difference(actual, expected, case):
    if isinstance(expected, (list, tuple)) and isinstance(actual, list):
        return difference(actual, expected, case)
    if expected is None or actual is None or isinstance(actual, list):
        return None if expected is actual else f"{actual!r}, expected {expected!r}"
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return f"shape {actual.shape}, expected {expected.shape}"
    if expected.dtype.kind in "OUS":
        return None if (actual.astype(str) == expected.astype(str)).all() else f"{actual}, expected {expected}"
    if actual.dtype != expected.dtype:
        return f"datatype {actual.dtype}, expected {expected.dtype}"
    if expected.dtype.kind in "iub":
        alike = np.array_equal(actual, expected)
    else:
        # The suite allows bfloat16 two units in its last place.
        rtol = max(case.rtol, 2**-6) if expected.dtype.name == "bfloat16" else case.rtol
        alike = np.allclose(actual.astype(np.float64), expected.astype(np.float64), rtol, case.atol, equal_nan=True)
    return None if alike else f"{actual.ravel()[:8]}…, expected {expected.ravel()[:8]}…"


def metadata_difference(session, info):
    """Where the host's description differs from ONNX Runtime's. Inputs with defaults are told apart by both."""
    required = [value for value in info["inputs"] if not value.get("optional")]
    optional = [value for value in info["inputs"] if value.get("optional")]
    pairs = [
        ("input", session.get_inputs(), required),
        ("output", session.get_outputs(), info["outputs"]),
        ("input with a default", session.get_overridable_initializers(), optional),
    ]
    for what, theirs, ours in pairs:
        if sorted(value.name for value in theirs) != sorted(value["name"] for value in ours):
            return f"{what}s {[value['name'] for value in ours]}, expected {[value.name for value in theirs]}"
        ours = {value["name"]: value for value in ours}
        for value in theirs:
            if found := declared_difference(value, ours[value.name]):
                return f"{what} {value.name}: {found}"
    return None


def declared_difference(theirs, ours):
    kind = onnx_notation(ours)
    if kind != theirs.type:
        return f"{kind}, expected {theirs.type}"
    if not theirs.type.startswith("tensor"):
        return None
    # ONNX Runtime reports no number of axes and no axes alike.
    shape = ours["shape"] or []
    names = ours.get("symbolic") or [None] * len(shape)
    shape = [name or (None if size < 0 else size) for size, name in zip(shape, names)]
    return None if shape == theirs.shape else f"shape {shape}, expected {theirs.shape}"


def onnx_notation(value):
    if not value["dtype"]:
        return value["datatype"]
    name = onnx.TensorProto.DataType.Name(value["dtype"]).lower()
    return f"tensor({name})"
