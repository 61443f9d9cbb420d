"""Requests that do not wait for one another: over many connections, and over one stream, with errors amid the answers."""

import asyncio
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
from values import FIRST

PATIENCE_S = 60


def inputs_of(module, number):
    arrays = {"INPUT0": FIRST, "INPUT1": np.full((1, 16), number, np.int32)}
    return [module.InferInput(name, [1, 16], "INT32").set_data_from_numpy(array) for name, array in arrays.items()]


def assert_is_of(result, number):
    assert (result.as_numpy("OUTPUT0") == FIRST + number).all()


def test_http_requests_side_by_side(address):
    client = tritonclient.http.InferenceServerClient(address, concurrency=8)
    requests = [client.async_infer("simple", inputs_of(tritonclient.http, number)) for number in range(64)]
    for number, request in enumerate(requests):
        assert_is_of(request.get_result(timeout=PATIENCE_S), number)
    client.close()


def test_grpc_requests_side_by_side(address):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        for number in range(64):
            note = lambda result, error, number=number: answers.put((number, result, error))
            client.async_infer("simple", inputs_of(tritonclient.grpc, number), callback=note)
        for _ in range(64):
            number, result, error = answers.get(timeout=PATIENCE_S)
            assert error is None, error
            assert_is_of(result, number)


def test_a_stream_goes_on_after_an_error(address):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for number in range(60):
            model = "lily" if number % 3 == 2 else "simple"
            client.async_stream_infer(model, inputs_of(tritonclient.grpc, number), request_id=str(number))
        for number in range(60):
            result, error = answers.get(timeout=PATIENCE_S)
            if number % 3 == 2:
                assert result is None and "lily" in error.message()
            else:
                assert error is None, error
                assert result.get_response().id == str(number)
                assert_is_of(result, number)


def test_a_stream_says_which_answer_is_the_last(address):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("simple", inputs_of(tritonclient.grpc, 1), enable_empty_final_response=True)
        result, error = answers.get(timeout=PATIENCE_S)
        assert error is None, error
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert_is_of(result, 1)


def test_a_stream_of_asyncio(address):
    async def stream():
        async def requests():
            for number in range(20):
                yield {"model_name": "lily" if number == 7 else "simple", "inputs": inputs_of(tritonclient.grpc, number)}

        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            return [answer async for answer in client.stream_infer(requests())]

    answers = asyncio.run(asyncio.wait_for(stream(), PATIENCE_S))
    assert len(answers) == 20
    for number, (result, error) in enumerate(answers):
        if number == 7:
            assert "lily" in error.message()
        else:
            assert_is_of(result, number)


@pytest.mark.parametrize("service, expected", [(b"", b"\x08\x01"), (b"\n\x1einference.GRPCInferenceService", b"\x08\x01")])
def test_the_health_service_answers_probes(address, service, expected):
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(service, timeout=PATIENCE_S) == expected
