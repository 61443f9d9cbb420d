"""What KServe's clients offer, over REST and over gRPC."""

import json

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferInput, InferOutput, InferRequest
from running import FIXTURES
from values import FIRST, SECOND, TENSORS, assert_same, model_of


def tensor(name, array, datatype, parameters=None, **how):
    made = InferInput(name, list(array.shape), datatype, parameters=parameters)
    made.set_data_from_numpy(array, **how)
    return made


def simple(*inputs, model="simple"):
    inputs = inputs or (tensor("INPUT0", FIRST, "INT32"), tensor("INPUT1", SECOND, "INT32"))
    return InferRequest(model_name=model, infer_inputs=list(inputs), request_id="42")


def refused(call, status, code):
    with pytest.raises((httpx.HTTPStatusError, grpc.RpcError)) as refusal:
        call()
    if isinstance(refusal.value, httpx.HTTPStatusError):
        assert refusal.value.response.status_code == status
        return str(refusal.value)
    assert refusal.value.code() == code
    return refusal.value.details()


def test_the_server_is_live_and_ready(client):
    assert client.call("is_server_live") is True
    assert client.call("is_server_ready") is True
    assert client.call("is_model_ready", "simple") is True
    assert client.call("is_model_ready", "lily") is False


def test_a_request_is_answered(client):
    answer = client.infer(simple())
    assert (answer.model_name, answer.id) == ("simple", "42")
    # The REST client does not take it over.
    assert answer.model_version in ("1", None)
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert_same(outputs["OUTPUT0"], FIRST + SECOND)
    assert_same(outputs["OUTPUT1"], FIRST - SECOND)


# The client has no bfloat16 of NumPy, and sends FP16 as bytes alone.
WAYS = [(name, binary) for name in TENSORS for binary in (True, False) if name != "BF16" and (binary or name != "FP16")]


@pytest.mark.parametrize("datatype, binary", WAYS)
def test_every_datatype_comes_back_as_it_went(client, datatype, binary):
    expected = TENSORS[datatype]
    answer = client.infer(simple(tensor("INPUT", expected, datatype, binary_data=binary), model=model_of(datatype)))
    actual = answer.outputs[0].as_numpy()
    if datatype == "BYTES":
        actual = np.array([[item if isinstance(item, bytes) else item.encode() for item in row] for row in actual], dtype=object)
    assert_same(actual, expected)


def test_outputs_as_bytes(url):
    from conftest import Rest

    request = simple()
    request.request_outputs = [InferOutput("OUTPUT0", [1, 16], "INT32", parameters={"binary_data": True})]
    headers = {}
    answer = Rest(url).infer(request, response_headers=headers)
    assert headers["content-type"] == "application/octet-stream"
    assert_same(answer.outputs[0].as_numpy(), FIRST + SECOND)


def test_what_is_wrong_is_said(client):
    said = refused(lambda: client.infer(simple(model="lily")), 404, grpc.StatusCode.NOT_FOUND)
    assert "lily" in said
    alone = simple(tensor("INPUT0", FIRST, "INT32"))
    assert "INPUT1" in refused(lambda: client.infer(alone), 400, grpc.StatusCode.INVALID_ARGUMENT)


def test_a_plugin_reads_a_picture(client):
    picture = np.array([(FIXTURES / "images/cat.jpg").read_bytes()], dtype=object)
    request = simple(tensor("request", picture, "BYTES", parameters={"content_type": "image/jpeg"}), model="efficientnet-lite0")
    request.parameters = {"top_k": 3}
    [response] = client.infer(request).outputs
    [answer] = response.as_numpy()
    said = json.loads(answer)
    assert (said["predicted_label"], len(said["top_k"])) == ("tiger cat", 3)
