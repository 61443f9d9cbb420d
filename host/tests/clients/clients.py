"""The clients of others against a running host: Triton's Python clients, and KServe's.

    python clients.py HOST_BINARY [ARGUMENT...]    the arguments go to pytest, as -k grpc

Each has a process of its own: both bring the protocol's messages under the same names, which one process cannot hold twice.
"""

import os
import subprocess
import sys

from running import HERE, running


def main():
    binary, *arguments = sys.argv[1:]
    failed = []
    with running(binary) as host:
        for client in ("of_triton", "of_kserve"):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", HERE, HERE / client, *arguments]
            environment = os.environ | {"NEXUS_ASKED": host.address}
            ended = subprocess.run(command, env=environment).returncode
            # 5: there is no test, which is no failure where the arguments mean those of the other client.
            if ended != 0 and not (ended == 5 and arguments):
                failed.append(client)
        faults = host.faults()
    for line in faults[:20]:
        print(f"the host's own fault: {line}")
    return 1 if failed or faults else 0


if __name__ == "__main__":
    sys.exit(main())
