"""Triton's four clients, behind one face: those of asyncio are waited for."""

import asyncio
import sys
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

sys.path.insert(0, str(Path(__file__).parent.parent))

MODULES = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
# How each says what went wrong.
STATUSES = {
    "invalid": ("400", "StatusCode.INVALID_ARGUMENT"),
    "not found": ("404", "StatusCode.NOT_FOUND"),
    "unavailable": ("503", "StatusCode.UNAVAILABLE"),
    "late": ("504", "StatusCode.DEADLINE_EXCEEDED"),
    "unsupported": ("501", "StatusCode.UNIMPLEMENTED"),
}


class Client:
    """`client.infer(…)` is the client's own, whichever it is."""

    def __init__(self, kind, address):
        self.is_http = kind.startswith("http")
        self.module = tritonclient.http if self.is_http else tritonclient.grpc
        self.loop = asyncio.new_event_loop() if kind.endswith("aio") else None
        self.inner = self.run(lambda: MODULES[kind].InferenceServerClient(address))

    def run(self, call):
        async def in_loop():
            made = call()
            return await made if asyncio.iscoroutine(made) else made

        return self.loop.run_until_complete(in_loop()) if self.loop else call()

    def __getattr__(self, name):
        return lambda *arguments, **named: self.run(lambda: getattr(self.inner, name)(*arguments, **named))

    def input(self, name, array, datatype=None, **how):
        datatype = datatype or tritonclient.utils.np_to_triton_dtype(array.dtype)
        return self.module.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, **how)

    def output(self, name, **how):
        return self.module.InferRequestedOutput(name, **how)

    def as_json(self, name, *arguments):
        """What REST answers as JSON anyway."""
        return getattr(self, name)(*arguments, **({} if self.is_http else {"as_json": True}))

    def refused(self, status, call):
        with pytest.raises(tritonclient.utils.InferenceServerException) as refusal:
            call()
        assert refusal.value.status() == STATUSES[status][0 if self.is_http else 1], refusal.value
        assert refusal.value.message(), "an error without a message"
        return refusal.value.message()


@pytest.fixture(scope="session", params=list(MODULES))
def client(request, address):
    client = Client(request.param, address)
    yield client
    client.close()
