"""What Schemathesis is told beside the document: real files for uploads, and models that come back after they were removed."""

import functools
import json
import os

import requests
import schemathesis
from running import FIXTURES, MODELS

HOST = os.environ.get("NEXUS_FUZZED", "")
# The models that requests remove, unload and bind plugins to: `schemathesis.toml` gives those operations these ids alone.
LOOSE = ("loose", "stray")
REAL_FILES = {
    "/models/upload": ("file", MODELS / "simple.onnx"),
    "/upload": ("model", MODELS / "simple.onnx"),
    "/plugins/upload": ("file", FIXTURES / "plugins/contract-0.1.0.wasm"),
}


@functools.cache
def put_there(model):
    files = {"file": ("model.onnx", (MODELS / "simple.onnx").read_bytes())}
    for version in ("1", "2"):
        fields = {"id": model, "name": model, "version": version}
        answer = requests.post(f"{HOST}/models/upload", data=fields, files=files, timeout=60)
        assert answer.status_code in (201, 409), answer.text


@schemathesis.hook
def before_call(context, case, kwargs):
    """The loose models are there again before the request after one that may have removed them."""
    for model in LOOSE:
        put_there(model)
    if case.method == "DELETE":
        put_there.cache_clear()


@schemathesis.serializer("application/x-ndjson")
def as_lines(context, value):
    """Text as it is; of anything else, a line of JSON each."""
    if isinstance(value, (bytes, str)):
        return value
    rows = value if isinstance(value, list) else [value]
    return "".join(json.dumps(row) + "\n" for row in rows)


@schemathesis.hook
def map_body(context, body):
    """Random bytes are no model, and would never get past the first check."""
    name, path = REAL_FILES.get(context.operation.path, (None, None))
    if isinstance(body, dict) and isinstance(body.get(name), (bytes, str)):
        return body | {name: path.read_bytes()}
    return body
