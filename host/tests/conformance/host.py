"""A running host, and the ways of asking it."""

import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import uuid

import ml_dtypes
import numpy as np
from runtime import difference

DATATYPES = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
STARTS_WITHIN_S = 60
ANSWERS_WITHIN_S = 120


@contextlib.contextmanager
def running(binary):
    """A host with an empty store on a free port."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as store:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        arguments = ["serve", "--store", store, "--listen", f"127.0.0.1:{port}", "--instances", "1"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NEXUS_")}
        log = os.path.join(store, "host.log")
        with open(log, "wb") as output:
            process = subprocess.Popen([binary, *arguments], env=environment, stdout=output, stderr=output)
        try:
            server = Server(port)
            server.wait(process)
            yield server
        except Exception:
            with open(log, "rb") as output:
                print(*output.readlines()[-20:], sep="\n")
            raise
        finally:
            process.terminate()
            process.wait()


class Server:
    def __init__(self, port):
        self.port = port
        self.local = threading.local()
        self.numbers = itertools.count()
        self.ways = [self.predict, self.infer_as_json, self.infer_as_bytes]

    def wait(self, process):
        deadline = time.monotonic() + STARTS_WITHIN_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/health")[0] == 200:
                    return
            self.local = threading.local()
            time.sleep(0.1)
        process.kill()
        raise RuntimeError("the host did not start; its log says why")

    def ask(self, method, path, body=None, headers={}):
        """Status, headers and body, over one connection a thread."""
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWERS_WITHIN_S)
        try:
            self.local.connection.request(method, path, body, headers)
            response = self.local.connection.getresponse()
            return response.status, response.headers, response.read()
        except Exception:
            del self.local.connection
            raise

    @contextlib.contextmanager
    def uploaded(self, case):
        """Why it was refused, or else what the host says of it; removed at the end."""
        case.id = f"case-{next(self.numbers)}"
        boundary = uuid.uuid4().hex
        fields = {"id": case.id, "name": case.name, "version": "1"}
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
        file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="model.onnx"\r\n\r\n'
        body = ("".join(parts) + file).encode() + case.model + f"\r\n--{boundary}--\r\n".encode()
        content_type = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        status, _, answer = self.ask("POST", "/models/upload", body, content_type)
        if status != 201:
            yield answer.decode(), None
            return
        try:
            yield None, json.loads(self.ask("GET", f"/models/info?id={case.id}")[2])["info"]
        finally:
            self.ask("DELETE", f"/models/{case.id}")

    def predict(self, case, plain, inputs, expected):
        given = {value.name: as_json(value_given) for value, value_given in zip(plain.inputs, inputs)}
        status, _, answer = self.ask("POST", "/predict", json.dumps({"model_id": case.id, "inputs": given}))
        if status != 200:
            return answer.decode()
        outputs = json.loads(answer)["outputs"]
        return difference([from_json(outputs[output.name]) for output in plain.outputs], expected, case)

    def infer_as_json(self, case, plain, inputs, expected):
        tensors = [tensor for value, given in zip(plain.inputs, inputs) for tensor in as_tensors(value.name, given)]
        request = {"id": "7", "inputs": [described(name, array) | {"data": elements(array)} for name, array in tensors]}
        status, _, answer = self.ask("POST", f"/v2/models/{case.id}/infer", json.dumps(request))
        if status != 200:
            return answer.decode()
        answer = json.loads(answer)
        if (answer["id"], answer["model_name"], answer["model_version"]) != ("7", case.id, "1"):
            return f"not this request's answer: {answer}"
        arrays = {output["name"]: to_array(output, output["data"]) for output in answer["outputs"]}
        return difference(put_together(arrays, plain), expected, case)

    def infer_as_bytes(self, case, plain, inputs, expected):
        tensors = [tensor for value, given in zip(plain.inputs, inputs) for tensor in as_tensors(value.name, given)]
        binary = [to_bytes(array) for _, array in tensors]
        described_inputs = [
            described(name, array) | {"parameters": {"binary_data_size": len(data)}} for (name, array), data in zip(tensors, binary)
        ]
        head = json.dumps({"inputs": described_inputs, "parameters": {"binary_data_output": True}}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        status, headers, answer = self.ask("POST", f"/v2/models/{case.id}/versions/1/infer", head + b"".join(binary), length)
        if status != 200:
            return answer.decode()
        length = int(headers.get("Inference-Header-Content-Length", len(answer)))
        arrays, offset = {}, length
        for output in json.loads(answer[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            arrays[output["name"]] = from_bytes(output, answer[offset : offset + size])
            offset += size
        if offset != len(answer):
            return f"{len(answer) - offset} bytes too many"
        return difference(put_together(arrays, plain), expected, case)


def text(element):
    return element.decode() if isinstance(element, bytes) else str(element)


def elements(array):
    """A tensor's elements as JSON has them, flat."""
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        return [text(element) for element in array.ravel()]
    if array.dtype.kind in "iub":
        return array.ravel().tolist()
    return [number(element) for element in array.astype(np.float64).ravel().tolist()]


def number(value):
    if np.isfinite(value):
        return value
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def as_json(value):
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return {"shape": list(np.shape(value)), "data": elements(value)}


def from_json(output):
    if output is None:
        return None
    if output["datatype"] == "SEQUENCE":
        return [from_json(item) for item in output["data"]]
    return to_array(output, output["data"])


def to_array(output, data):
    if output["datatype"] == "BYTES":
        return np.array(data, dtype=object).reshape(output["shape"])
    if output["datatype"].startswith(("FP", "BF")):
        data = [float(element) for element in data]
    return np.array(data, dtype=DATATYPES[output["datatype"]]).reshape(output["shape"])


def as_tensors(name, value):
    """A sequence as tensors `x.0`, `x.1`, …; an empty one as a tensor of no elements."""
    if not isinstance(value, (list, tuple)):
        return [(name, np.asarray(value))]
    items = [tensor for index, item in enumerate(value) for tensor in as_tensors(f"{name}.{index}", item)]
    return items or [(name, np.zeros(0, np.float32))]


def put_together(arrays, plain):
    def value(output):
        if "seq(" not in output.type:
            return arrays.get(output.name)
        names = (f"{output.name}.{index}" for index in itertools.count())
        return [arrays[name] for name in itertools.takewhile(arrays.__contains__, names)]

    return [value(output) for output in plain.outputs]


def described(name, array):
    datatype = "BYTES" if array.dtype.kind in "OUS" else NAMES[array.dtype]
    return {"name": name, "shape": list(array.shape), "datatype": datatype}


def to_bytes(array):
    if array.dtype.kind not in "OUS":
        return array.tobytes()
    strings = [text(element).encode() for element in array.ravel()]
    return b"".join(len(string).to_bytes(4, "little") + string for string in strings)


def from_bytes(output, data):
    if output["datatype"] != "BYTES":
        return np.frombuffer(data, DATATYPES[output["datatype"]]).reshape(output["shape"])
    strings, offset = [], 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        strings.append(data[offset + 4 : end].decode())
        offset = end
    return np.array(strings, dtype=object).reshape(output["shape"])
