"""Schemathesis against a running host: requests made from `/openapi.json`, some as it describes them and some not.

    python fuzz.py HOST_BINARY [ARGUMENT...]    the arguments go to `schemathesis run`, as --include-path=/predict

`schemathesis.toml` says what is checked, `fuzz_hooks.py` keeps what the requests need in place. No request may end in a 5xx that
is not designed, and every answer has to be as the document says.
"""

import os
import subprocess
import sys
from pathlib import Path

from running import HERE, running

# Faults of the host's own, by the code that its log has beside them.
FAULTS = ("internal:",)
# Short, so that requests that are told to wait do not hold up the run.
OPTIONS = ("--predict-timeout", "10s", "--store-poll", "0s", "--log", "info")


def main():
    binary, *arguments = sys.argv[1:]
    with running(binary, *OPTIONS) as host:
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml"]
        environment = os.environ | {"NEXUS_FUZZED": host.url, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "fuzz_hooks"}
        ended = subprocess.run([*command, "run", f"{host.url}/openapi.json", "--url", host.url, *arguments], env=environment)
        faults = [line for line in host.lines() if line.get("error", "").startswith(FAULTS) or line.get("level") == "ERROR"]
    for line in faults[:20]:
        print(f"the host's own fault: {line}")
    return 1 if faults else ended.returncode


if __name__ == "__main__":
    sys.exit(main())
