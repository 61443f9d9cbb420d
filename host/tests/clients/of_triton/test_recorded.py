"""What a Triton 2.51 with the model `simple` answered, case by case, and what the host answers.

Where the two differ, the third column says why. Most often because Triton has 500 for what its client did wrong.
"""

import http.client
import json

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException
from values import FIRST, SECOND

NUMBERS = list(range(16))
CLIENTS_FAULT = "what the client did wrong is a 400"
NOT_READY = "a model that is there and unloaded is 503, which KServe's client takes for not ready"
ABSENT = "what is not there is 404"
ANY_ROWS = "a request may have any number of rows: those past what is run together are run in parts"


def tensor(name="INPUT0", shape=(1, 16), datatype="INT32", data=NUMBERS, **more):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data} | more


def request(*inputs, **more):
    return json.dumps({"id": "42", "inputs": list(inputs)} | more)


FIRST_JSON, SECOND_JSON = tensor(), tensor("INPUT1")
BYTES = np.arange(16, dtype=np.int32).tobytes()
HEAD = json.dumps({"inputs": [
    {"name": name, "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": 64}} for name in ("INPUT0", "INPUT1")
]}).encode()  # fmt: skip
LENGTH = "Inference-Header-Content-Length"
INFER, POST = "/v2/models/simple/infer", "POST"

# name: Triton's status, the host's where it differs and why, and the request.
REST = {
    "json ok": (200, None, POST, INFER, request(FIRST_JSON, SECOND_JSON)),
    "json one output": (200, None, POST, INFER, request(FIRST_JSON, SECOND_JSON, outputs=[{"name": "OUTPUT0"}])),
    "bad shape vs data": (500, (400, CLIENTS_FAULT), POST, INFER, request(tensor(shape=[1, 15]), SECOND_JSON)),
    "bad shape vs model": (400, None, POST, INFER, request(tensor(shape=[1, 15], data=NUMBERS[:15]), SECOND_JSON)),
    "over max batch": (400, (200, ANY_ROWS), POST, INFER, request(*(tensor(name, [9, 16], data=NUMBERS * 9) for name in ("INPUT0", "INPUT1")))),
    "missing batch dim": (400, None, POST, INFER, request(tensor(shape=[16]), SECOND_JSON)),
    "bad dtype": (400, None, POST, INFER, request(tensor(datatype="FP32"), SECOND_JSON)),
    "unknown dtype": (400, None, POST, INFER, request(tensor(datatype="INT33"), SECOND_JSON)),
    "missing input": (400, None, POST, INFER, request(FIRST_JSON)),
    "wrong input name": (400, None, POST, INFER, request(tensor("NOPE"), SECOND_JSON)),
    "dup input": (400, None, POST, INFER, request(FIRST_JSON, FIRST_JSON)),
    "unknown output": (400, None, POST, INFER, request(FIRST_JSON, SECOND_JSON, outputs=[{"name": "NOPE"}])),
    "float into int": (500, (400, CLIENTS_FAULT), POST, INFER, request(tensor(data=[0.5] * 16), SECOND_JSON)),
    "string into int": (500, (400, CLIENTS_FAULT), POST, INFER, request(tensor(data=["a"] * 16), SECOND_JSON)),
    "bad json": (500, (400, CLIENTS_FAULT), POST, INFER, '{"inputs": nope'),
    "empty body": (400, None, POST, INFER, ""),
    "no inputs": (500, (400, CLIENTS_FAULT), POST, INFER, "{}"),
    "model 404": (404, None, POST, "/v2/models/nope/infer", request(FIRST_JSON, SECOND_JSON)),
    "ver 404": (404, None, POST, "/v2/models/simple/versions/7/infer", request(FIRST_JSON, SECOND_JSON)),
    "GET infer": (405, None, "GET", INFER, None),
    "binary ok": (200, None, POST, INFER, HEAD + BYTES + BYTES, {LENGTH: str(len(HEAD))}),
    "binary short": (400, None, POST, INFER, HEAD + BYTES, {LENGTH: str(len(HEAD))}),
    "binary long": (400, None, POST, INFER, HEAD + BYTES * 3, {LENGTH: str(len(HEAD))}),
    "header too large": (400, None, POST, INFER, HEAD + BYTES + BYTES, {LENGTH: "999999"}),
    "header bad": (400, None, POST, INFER, HEAD + BYTES + BYTES, {LENGTH: "many"}),
    "raw multi-input": (400, None, POST, INFER, BYTES + BYTES, {LENGTH: "0"}),
    "custom params": (200, None, POST, INFER, request(FIRST_JSON, SECOND_JSON, parameters={"color": "red"})),
    "load unknown": (500, (404, ABSENT), POST, "/v2/repository/models/nope/load", "{}"),
    "load traversal": (500, (404, ABSENT), POST, "/v2/repository/models/..%2F..%2Fetc/load", "{}"),
    "unload unknown": (200, None, POST, "/v2/repository/models/nope/unload", "{}"),
    "stats": (200, None, "GET", "/v2/models/simple/stats", None),
    "stats unknown": (400, (404, ABSENT), "GET", "/v2/models/nope/stats", None),
    "live": (200, None, "GET", "/v2/health/live", None),
    "v2/": (404, None, "GET", "/v2/", None),
    "v2/models": (404, (200, "KServe has it"), "GET", "/v2/models", None),
    "logging": (200, (501, "Triton's own settings are not offered"), "GET", "/v2/logging", None),
    "trace": (200, (501, "Triton's own settings are not offered"), "GET", "/v2/trace/setting", None),
}


def ask(address, method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


@pytest.mark.parametrize("case", REST)
def test_rest(address, case):
    recorded, ours, *asked = REST[case]
    status, headers, body = ask(address, *asked)
    assert status == (ours[0] if ours else recorded), body
    if status >= 400:
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body)["error"]


def test_rest_of_a_model_that_is_unloaded(address):
    loaded = lambda what: ask(address, POST, f"/v2/repository/models/identity-int16/{what}", "{}")[0]
    asked = lambda path="", method="GET", body=None: ask(address, method, f"/v2/models/identity-int16{path}", body)[0]
    given = request(tensor("INPUT", [1, 3], "INT16", [1, 2, 3]))
    assert loaded("unload") == 200
    assert asked("/ready") == 503, NOT_READY  # Triton: 400
    assert asked("/infer", POST, given) == 503, NOT_READY  # Triton: 404
    assert asked() == 200, "what it takes is known all the same"  # Triton: 404
    index = json.loads(ask(address, POST, "/v2/repository/index", "{}")[2])
    [state] = [model["state"] for model in index if model["name"] == "identity-int16"]
    assert state == "UNAVAILABLE"
    assert loaded("load") == 200
    assert (asked("/ready"), asked("/infer", POST, given)) == (200, 200)


def test_rest_of_outputs_as_json_and_as_bytes(address):
    outputs = [{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1", "parameters": {"binary_data": True}}]
    status, headers, body = ask(address, POST, INFER, request(FIRST_JSON, SECOND_JSON, outputs=outputs))
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    length = int(headers[LENGTH])
    first, second = json.loads(body[:length])["outputs"]
    assert first["data"] == [2 * number for number in NUMBERS]
    assert (second["parameters"]["binary_data_size"], body[length:]) == (64, bytes(64))


def test_rest_of_a_body_that_is_the_tensor_alone(address):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    status, headers, body = ask(address, POST, "/v2/models/identity-fp32/infer", rows.tobytes(), {LENGTH: "0"})
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream"), body
    length = int(headers[LENGTH])
    assert json.loads(body[:length])["outputs"][0]["shape"] == [2, 3]
    assert body[length:] == rows.tobytes()


def test_rest_says_json_where_nobody_asked_for_bytes(address):
    status, headers, body = ask(address, POST, INFER, request(FIRST_JSON, SECOND_JSON, outputs=[{"name": "OUTPUT0", "parameters": {"classification": 3}}]))
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["outputs"][0]["data"] == ["30:15", "28:14", "26:13"]


# ---- gRPC -----------------------------------------------------------------------------------------------------------------


def given(name="INPUT0", array=FIRST, datatype="INT32"):
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


GRPC = {
    "mm404": ("NOT_FOUND", None, lambda client: client.get_model_metadata("nope")),
    "missing": ("INVALID_ARGUMENT", None, lambda client: client.infer("simple", [given()])),
    "dtype": ("INVALID_ARGUMENT", None, lambda client: client.infer("simple", [given(array=FIRST.astype(np.float32), datatype="FP32"), given("INPUT1")])),
    "name": ("INVALID_ARGUMENT", None, lambda client: client.infer("simple", [given("XX"), given("INPUT1")])),
    "infer404": ("NOT_FOUND", None, lambda client: client.infer("nope", [given()])),
    "badver": ("INVALID_ARGUMENT", ("NOT_FOUND", "a version is any text"), lambda client: client.infer("simple", [given()], model_version="v1")),
    "sizemismatch": ("INVALID_ARGUMENT", None, lambda client: client.infer("simple", [given(array=FIRST[:, :15]), given("INPUT1")])),
    "load404": ("INTERNAL", ("NOT_FOUND", ABSENT), lambda client: client.load_model("nope")),
    "stats404": ("INVALID_ARGUMENT", ("NOT_FOUND", ABSENT), lambda client: client.get_inference_statistics("nope")),
}


@pytest.fixture(scope="module")
def client(address):
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.mark.parametrize("case", GRPC)
def test_grpc(client, case):
    recorded, ours, call = GRPC[case]
    with pytest.raises(InferenceServerException) as refusal:
        call(client)
    assert refusal.value.status() == f"StatusCode.{ours[0] if ours else recorded}"
    assert refusal.value.message()


def test_grpc_of_readiness(client):
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("simple", "9")


def message(raw, *inputs):
    tensors = service_pb2.ModelInferRequest.InferInputTensor
    made = service_pb2.ModelInferRequest(model_name="simple", raw_input_contents=raw)
    for name, contents in inputs:
        made.inputs.append(tensors(name=name, datatype="INT32", shape=[1, 16]))
        made.inputs[-1].contents.int_contents.extend(contents)
    return made


def test_grpc_of_typed_contents(client):
    answer = client._client_stub.ModelInfer(message([], ("INPUT0", NUMBERS), ("INPUT1", NUMBERS)))
    assert [output.name for output in answer.outputs] == ["OUTPUT0", "OUTPUT1"]
    assert answer.raw_output_contents[0] == (FIRST + FIRST).tobytes(), "answers are always raw"


@pytest.mark.parametrize("case", ["both", "short raw"])
def test_grpc_of_contents_that_do_not_add_up(client, case):
    import grpc

    asked = {
        "both": message([BYTES, BYTES], ("INPUT0", NUMBERS), ("INPUT1", [])),
        "short raw": message([BYTES], ("INPUT0", []), ("INPUT1", [])),
    }
    with pytest.raises(grpc.RpcError) as refusal:
        client._client_stub.ModelInfer(asked[case])
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
