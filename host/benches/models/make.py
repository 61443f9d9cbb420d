"""Makes the model of this folder: two layers of 4096×4096, whose weights are made as it is loaded, so that the file is small.

Run it with the `onnx` package of version 1.23.2: `python make.py`. The file is kept, so that the benchmark needs no Python.
"""

from pathlib import Path

import numpy
from onnx import TensorProto, checker, helper, numpy_helper, save

WIDTH = 4096
shape = numpy_helper.from_array(numpy.array([WIDTH, WIDTH], dtype=numpy.int64), "shape")
weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [1 / WIDTH])
node, value = helper.make_node, helper.make_tensor_value_info
graph = helper.make_graph(
    [
        # ONNX Runtime folds these into constants when it loads the model.
        node("ConstantOfShape", ["shape"], ["first"], value=weight),
        node("ConstantOfShape", ["shape"], ["second"], value=weight),
        node("MatMul", ["x", "first"], ["sums"]),
        node("Relu", ["sums"], ["hidden"]),
        node("MatMul", ["hidden", "second"], ["y"]),
    ],
    "mlp",
    [value("x", TensorProto.FLOAT, ["n", WIDTH])],
    [value("y", TensorProto.FLOAT, ["n", WIDTH])],
    [shape],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
checker.check_model(model)
save(model, Path(__file__).parent / "mlp.onnx")
