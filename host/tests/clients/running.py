"""A running host with the bundled models, those of every datatype, and nobody else's store."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
MODELS = FIXTURES / "models/oip"
STARTS_WITHIN_S = 120  # The plugins of the bundle are compiled, on a machine that may be busy.


@dataclass
class Host:
    address: str
    log: Path

    @property
    def url(self):
        return f"http://{self.address}"

    def lines(self):
        """The log's lines that are JSON."""
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


@contextlib.contextmanager
def running(binary, *options):
    """A host on a free port; what it said last is printed where the test fails."""
    with tempfile.TemporaryDirectory() as folder:
        store, log = Path(folder, "store"), Path(folder, "host.log")
        lay_out(store)
        arguments = ["serve", "--store", store, "--bundle", os.environ["NEXUS_BUNDLE"], "--listen", "127.0.0.1:0", *options]
        # What is set for the host of whoever runs the tests is not meant for this one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NEXUS_") and key != "PORT"}
        with open(log, "wb") as output:
            process = subprocess.Popen([binary, *arguments], env=environment, stdout=output, stderr=output)
        try:
            yield Host(wait(process, log), log)
            assert process.poll() is None, "the host ended by itself"
        except BaseException:
            print("the host's last lines:", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
            raise
        finally:
            process.terminate()
            process.wait()


def lay_out(store):
    """The bundle's models as a start would import them, and those of the protocol's tests."""
    shutil.copytree(Path(os.environ["NEXUS_BUNDLE"], "models"), store / "models")
    for file in MODELS.glob("*.onnx"):
        version = store / "models" / file.stem / "1"
        version.mkdir(parents=True)
        shutil.copy(file, version / "model.onnx")


def wait(process, log):
    """The address that the host says it listens on."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        for line in Host("", log).lines():
            if line.get("message") == "listening":
                return line["address"]
        time.sleep(0.05)
    raise RuntimeError("the host did not start; its log says why")
