"""KServe's two clients, both of asyncio, each made for one call."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, RESTConfig

sys.path.insert(0, str(Path(__file__).parent.parent))
# It logs every refusal with its stack, those that are expected too.
logging.getLogger("kserve").setLevel(logging.CRITICAL)


class Rest:
    def __init__(self, url):
        self.url = url

    def call(self, name, *arguments, **named):
        async def ask():
            async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
                return await getattr(client, name)(self.url, *arguments, **named)

        return asyncio.run(ask())

    def infer(self, request, **named):
        return self.call("infer", request, model_name=request.model_name, **named)


class Grpc:
    def __init__(self, address):
        self.address = address

    def call(self, name, *arguments, **named):
        async def ask():
            async with InferenceGRPCClient(self.address) as client:
                return await getattr(client, name)(*arguments, **named)

        return asyncio.run(ask())

    def infer(self, request, **named):
        return self.call("infer", request, **named)


@pytest.fixture(params=["REST", "gRPC"])
def client(request, address, url):
    return Rest(url) if request.param == "REST" else Grpc(address)
