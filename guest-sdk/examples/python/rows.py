"""Rows of numbers in, a line of text for each out: what the plugin does, in functions that any Python can test."""

import csv
import io
import json
import math
from array import array

CONFIG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "mean": {
            "description": "Subtracted from each feature, in the model's order; 0 where it is left out.",
            "type": "array",
            "items": {"type": "number"},
        },
        "std": {
            "description": "What each feature is divided by after that; 1 where it is left out.",
            "type": "array",
            "items": {"type": "number", "exclusiveMinimum": 0},
        },
    },
}


class Failure(Exception):
    """Whose fault it is, as the contract's `error` says it, and what to tell them."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class Scaler:
    """A binding: the model's one input, and how its features are scaled."""

    def __init__(self, model, config: str):
        settings = json.loads(config)
        if len(model.inputs) != 1 or model.inputs[0].datatype != "FP32" or len(model.inputs[0].shape) != 2:
            got = ", ".join(f"{spec.datatype}{spec.shape}" for spec in model.inputs)
            raise Failure("invalid-config", f"expected a model of one input FP32[rows, features], got {got}")
        self.input = model.inputs[0].name
        self.labels = model.labels
        self.features = model.inputs[0].shape[1]
        if self.features < 0:
            raise Failure("invalid-config", "the model does not say how many features it takes")
        self.mean = settings.get("mean", [0.0] * self.features)
        self.std = settings.get("std", [1.0] * self.features)
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != self.features:
                message = f"`{name}`: expected {self.features} numbers, one a feature, got {len(numbers)}"
                raise Failure("invalid-config", message)

    def scale(self, body: bytes) -> tuple[list[int], bytes]:
        """CSV without a header as shape and data of an FP32 tensor: z-scores, row by row."""
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise Failure("invalid-input", f"the request body is no UTF-8: {error}") from None
        values = array("f")
        rows = 0
        for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
            if row:
                values.extend(self._scaled(number, row))
                rows += 1
        if rows == 0:
            raise Failure("invalid-input", f"the request body has no row; expected {self.features} numbers a line")
        return [rows, self.features], values.tobytes()

    def _scaled(self, line: int, row: list[str]) -> list[float]:
        try:
            numbers = [float(field) for field in row]
        except ValueError as error:
            raise Failure("invalid-input", f"line {line}: {error}") from None
        if len(numbers) != self.features or not all(map(math.isfinite, numbers)):
            raise Failure("invalid-input", f"line {line}: expected {self.features} finite numbers, got {','.join(row)}")
        return [(x - mean) / std for x, mean, std in zip(numbers, self.mean, self.std)]

    def answer(self, outputs) -> str:
        """A line for each row of scores: the label of the best and its score."""
        scores = next((output for output in outputs if output.datatype == "FP32" and len(output.shape) == 2), None)
        if scores is None:
            raise Failure("plugin", "the model has no output FP32[rows, classes] to take for scores")
        rows, classes = scores.shape
        values = array("f", scores.data)
        lines = []
        for row in range(rows):
            best = max(range(classes), key=lambda index: values[row * classes + index])
            label = self.labels[best] if best < len(self.labels) else str(best)
            lines.append(f"{label} {values[row * classes + best]:.4f}\n")
        return "".join(lines)
