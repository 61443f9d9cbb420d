"""Schemathesis against a running host: requests made from `/openapi.json`, some as it describes them and some not.

    python fuzz.py HOST_BINARY [ARGUMENT...]    the arguments go to `schemathesis run`, as --include-path=/predict

`schemathesis.toml` says what is checked, `fuzz_hooks.py` keeps what the requests need in place. No request may end in a 5xx that
is not designed, and every answer has to be as the document says.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from running import HERE, running

# Short, so that requests that are told to wait do not hold up the run.
OPTIONS = ("--predict-timeout", "10s", "--store-poll", "0s", "--log", "info")


def main():
    binary, *arguments = sys.argv[1:]
    # Where it runs, Schemathesis keeps what it found.
    with running(binary, *OPTIONS) as host, tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml"]
        environment = os.environ | {"NEXUS_FUZZED": host.url, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "fuzz_hooks"}
        command += ["run", f"{host.url}/openapi.json", "--url", host.url, *arguments]
        ended = subprocess.run(command, env=environment, cwd=folder)
        faults = host.faults()
    for line in faults[:20]:
        print(f"the host's own fault: {line}")
    return 1 if faults else ended.returncode


if __name__ == "__main__":
    sys.exit(main())
