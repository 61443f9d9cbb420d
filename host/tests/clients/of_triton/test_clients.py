"""Everything that Triton's clients offer and the host does, by each of the four."""

import json
from pathlib import Path

import numpy as np
import pytest
from running import MODELS
from values import FIRST, SECOND, TENSORS, assert_same, model_of

SIMPLE = MODELS / "simple.onnx"


def both(client, first=FIRST, second=SECOND, **how):
    return [client.input("INPUT0", first, **how), client.input("INPUT1", second, **how)]


def test_the_server_is_live_and_ready(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("simple") and client.is_model_ready("simple", "1")
    assert not client.is_model_ready("lily")
    assert not client.is_model_ready("simple", "9")


def test_server_and_models_are_described(client):
    server = client.as_json("get_server_metadata")
    assert server["name"] == "model-nexus"
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(server["extensions"])
    model = client.as_json("get_model_metadata", "simple", "1")
    assert (model["name"], model["versions"]) == ("simple", ["1"])
    # Messages as JSON have 64-bit numbers as texts.
    shapes = {tensor["name"]: (tensor["datatype"], [int(size) for size in tensor["shape"]]) for tensor in model["inputs"] + model["outputs"]}
    assert shapes == {name: ("INT32", [-1, 16]) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")}
    client.refused("not found", lambda: client.get_model_metadata("lily"))


def test_a_model_has_a_configuration(client):
    answer = client.as_json("get_model_config", "simple")
    config = answer if client.is_http else answer["config"]
    assert (config["name"], config["backend"]) == ("simple", "onnxruntime")
    inputs = [(tensor["name"], tensor["data_type"], [int(size) for size in tensor["dims"]]) for tensor in config["input"]]
    assert inputs == [("INPUT0", "TYPE_INT32", [-1, 16]), ("INPUT1", "TYPE_INT32", [-1, 16])]
    client.refused("not found", lambda: client.get_model_config("lily"))


def test_statistics_count(client):
    def counted():
        [model] = client.as_json("get_inference_statistics", "identity-int8")["model_stats"]
        return int(model.get("inference_stats", {}).get("success", {}).get("count", 0))

    before = counted()
    for value in range(3):
        client.infer("identity-int8", [client.input("INPUT", np.full((1, 3), value, np.int8))])
    assert counted() - before == 3
    everything = client.as_json("get_inference_statistics")["model_stats"]
    assert {"simple", "iris"} <= {model["name"] for model in everything}
    client.refused("not found", lambda: client.get_inference_statistics("lily"))


def test_the_repository_is_listed(client):
    answer = client.as_json("get_model_repository_index")
    models = answer if client.is_http else answer["models"]
    assert {"name": "simple", "version": "1", "state": "READY"} in models


@pytest.mark.parametrize("datatype", TENSORS)
def test_every_datatype_comes_back_as_it_went(client, datatype):
    tensor, model = TENSORS[datatype], model_of(datatype)
    # BF16 is never JSON.
    ways = [{"binary_data": True}, {"binary_data": False}] if client.is_http and datatype != "BF16" else [{"binary_data": True}]
    for given in ways if client.is_http else [{}]:
        for wanted in ways if client.is_http else [{}]:
            result = client.infer(model, [client.input("INPUT", tensor, datatype, **given)], outputs=[client.output("OUTPUT", **wanted)])
            actual = result.as_numpy("OUTPUT")
            if datatype == "BYTES" and wanted.get("binary_data") is False:
                actual = np.array([[text.encode() for text in row] for row in actual], dtype=object)
            assert_same(actual, tensor)


def test_texts_are_utf8_as_models_have_them(client):
    tensor = np.array([[b"\xff\x00", b"", b"\x80"]], dtype=object)
    given = [client.input("INPUT", tensor, "BYTES")]
    assert "UTF-8" in client.refused("invalid", lambda: client.infer("identity-bytes", given))


def test_an_empty_batch_is_a_batch(client):
    result = client.infer("identity-fp32", [client.input("INPUT", np.zeros((0, 3), np.float32))])
    assert result.as_numpy("OUTPUT").shape == (0, 3)


def test_outputs_are_chosen(client):
    result = client.infer("simple", both(client), outputs=[client.output("OUTPUT1")])
    assert_same(result.as_numpy("OUTPUT1"), FIRST - SECOND)
    assert result.as_numpy("OUTPUT0") is None
    result = client.infer("simple", both(client))
    assert_same(result.as_numpy("OUTPUT0"), FIRST + SECOND)


def test_a_request_has_an_id_a_version_and_parameters_of_its_own(client):
    terms = {"priority": 1, "timeout": 20_000_000, "parameters": {"color": "red", "level": 3, "exact": True}}
    result = client.infer("simple", both(client), model_version="1", request_id="42", **terms)
    answer = result.get_response(**({} if client.is_http else {"as_json": True}))
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", "simple", "1")
    for start, end in [(True, False), (False, True)]:
        client.infer("simple", both(client), sequence_id=7, sequence_start=start, sequence_end=end)
    client.refused("not found", lambda: client.infer("simple", both(client), model_version="9"))


def test_a_request_that_came_too_late_is_not_answered(client):
    [described] = client.as_json("get_model_metadata", "efficientnet-lite0")["inputs"]
    dtype = {"FP32": np.float32, "UINT8": np.uint8}[described["datatype"]]
    image = np.random.default_rng(1).integers(0, 255, [max(int(size), 1) for size in described["shape"]]).astype(dtype)
    given = [client.input(described["name"], image)]
    client.refused("late", lambda: client.infer("efficientnet-lite0", given, timeout=1))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_and_answers_are_compressed(client, algorithm):
    rows = np.arange(1600, dtype=np.int32).reshape(100, 16)
    if client.is_http:
        how = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    else:
        how = {"compression_algorithm": algorithm}
    result = client.infer("simple", both(client, rows, rows), **how)
    assert_same(result.as_numpy("OUTPUT0"), rows + rows)


def test_the_greatest_values_are_named(client):
    result = client.infer("simple", both(client, second=FIRST), outputs=[client.output("OUTPUT0", class_count=3)])
    classes = result.as_numpy("OUTPUT0")
    assert classes.shape == (1, 3)
    assert [text.decode() if isinstance(text, bytes) else text for text in classes[0]] == ["30:15", "28:14", "26:13"]
    flower = [client.input("X", np.array([[5.1, 3.5, 1.4, 0.2]], np.float32))]
    result = client.infer("iris", flower, outputs=[client.output("probabilities", class_count=1)])
    [[best]] = result.as_numpy("probabilities")
    assert (best.decode() if isinstance(best, bytes) else best).endswith(":0:setosa")


def test_what_is_wrong_is_said(client):
    short, floats = np.zeros((1, 15), np.int32), np.zeros((1, 16), np.float32)
    cases = [
        both(client)[:1],
        both(client, first=short),
        both(client, first=floats),
        both(client, first=np.zeros((3, 16), np.int32), second=np.zeros((2, 16), np.int32)),
        [*both(client), client.input("INPUT2", FIRST)],
        [client.input("INPUT0", FIRST), client.input("INPUT0", SECOND)],
    ]
    for inputs in cases:
        client.refused("invalid", lambda: client.infer("simple", inputs))
    assert "OUTPUT9" in client.refused("invalid", lambda: client.infer("simple", both(client), outputs=[client.output("OUTPUT9")]))
    assert "lily" in client.refused("not found", lambda: client.infer("lily", both(client)))


def test_models_are_loaded_and_unloaded(client):
    client.load_model("identity-uint8")
    client.unload_model("identity-uint8")
    assert not client.is_model_ready("identity-uint8")
    given = [client.input("INPUT", TENSORS["UINT8"])]
    client.refused("unavailable", lambda: client.infer("identity-uint8", given))
    client.load_model("identity-uint8")
    assert_same(client.infer("identity-uint8", given).as_numpy("OUTPUT"), TENSORS["UINT8"])
    client.unload_model("lily")
    client.refused("not found", lambda: client.load_model("lily"))


def test_a_model_comes_with_the_request_to_load_it(client):
    model = f"brought-by-{'http' if client.is_http else 'grpc'}-{'aio' if client.loop else 'sync'}"
    config = json.dumps({"name": model, "backend": "onnxruntime"})
    client.load_model(model, config=config, files={"file:1/model.onnx": SIMPLE.read_bytes()})
    result = client.infer(model, both(client))
    assert_same(result.as_numpy("OUTPUT0"), FIRST + SECOND)
    client.load_model(model, config=config, files={"file:2/model.onnx": Path(MODELS, "identity-fp32.onnx").read_bytes()})
    assert sorted(client.as_json("get_model_metadata", model)["versions"]) == ["1", "2"]
    client.refused("invalid", lambda: client.load_model("broken", config="{}", files={"file:1/model.onnx": b"no model"}))


def test_a_plugin_reads_its_own_request(client):
    picture = json.dumps({"image_url": f"data:image/png;base64,{PIXEL}", "top_k": 2}).encode()
    request = client.input("request", np.array([picture], dtype=object), "BYTES")
    result = client.infer("efficientnet-lite0", [request])
    [answer] = result.as_numpy("response")
    assert len(json.loads(answer)["top_k"]) == 2


def test_what_is_not_offered_is_said(client):
    for call in (client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status):
        client.refused("unsupported", call)


# A picture of one grey point.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
