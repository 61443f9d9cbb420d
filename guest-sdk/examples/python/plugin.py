"""The component's exports: `transform` and `golden` of nexus:plugin."""

import json
from contextlib import contextmanager

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import log
from wit_world.imports.types import Error, Manifest, Model, Request, Response, Tensor

import rows

# Set by `init`; every request starts from a copy of it.
scaler: rows.Scaler


@contextmanager
def failures_as_errors():
    try:
        yield
    except rows.Failure as failure:
        raise Err(Error(failure.code, failure.message)) from None


class Transform(exports.Transform):
    def describe(self) -> Manifest:
        return Manifest(
            name="rows",
            version="0.1.0",
            stages=["preprocess", "postprocess"],
            config_schema=json.dumps(rows.CONFIG_SCHEMA),
            hosts=[],
        )

    def init(self, model: Model, config: str) -> None:
        global scaler
        with failures_as_errors():
            scaler = rows.Scaler(model, config)
        log.emit("info", f"{model.id} takes {scaler.features} features a row")

    def preprocess(self, request: Request) -> list[Tensor]:
        with failures_as_errors():
            shape, data = scaler.scale(request.body)
        return [Tensor(name=scaler.input, datatype="FP32", shape=shape, data=data)]

    def postprocess(self, outputs: list[Tensor]) -> Response:
        with failures_as_errors():
            return Response(content_type="text/plain; charset=utf-8", body=scaler.answer(outputs).encode())


class Golden(exports.Golden):
    def example(self) -> Request:
        return Request(content_type="text/csv", body=",".join(map(str, scaler.mean)).encode(), parameters=[])
