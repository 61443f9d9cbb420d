"""Every model of the ONNX project's own backend suite, through a running host.

Metadata is compared with what ONNX Runtime reports; outputs, by `POST /predict` and by the Open Inference Protocol as JSON and as
bytes, with those that the suite expects. A model that plain ONNX Runtime runs and gets right, and that fails here, ends this with 1.

    python conformance.py HOST_BINARY [NAME...]    only the models whose names hold one of NAME
"""

import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import host
import runtime
import suite

# What has no form in JSON or in the protocol, by ONNX Runtime's names: the host refuses it at the request.
FORMLESS = ("float8", "float4", "int4", "int2", "complex")
# Models loaded at once: each takes memory and a core.
AT_ONCE = 2
SHOWN = 40


def check(server, case):
    """What became of one model, and why."""
    plain = runtime.Plain(case)
    if plain.problem:
        return plain.problem, None
    formless = [value.type for value in plain.values if any(word in value.type for word in FORMLESS)]
    with server.uploaded(case) as (refusal, info):
        if refusal:
            return "failed", f"upload: {refusal}"
        if difference := runtime.metadata_difference(plain.session, info):
            return "failed", f"metadata: {difference}"
        if formless:
            return "metadata only: a datatype without a form in JSON", None
        if plain.wrong:
            return plain.wrong, None
        for inputs, expected in case.data_sets:
            if any(value is None for value in inputs):
                return "metadata only: an empty optional input", None
            for way in server.ways:
                problem = way(case, plain, inputs, expected)
                if problem:
                    return "failed", f"{way.__name__}: {problem}"
    return "right", None


def check_safely(server, case):
    try:
        return case.name, *check(server, case)
    except Exception as error:  # One model's surprise is its own failure, and not the end of the others.
        return case.name, "failed", f"{type(error).__name__}: {error}"


def main():
    binary, *names = sys.argv[1:]
    started = time.monotonic()
    cases, left_out = suite.cases(names)
    with host.running(binary) as server, ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda case: check_safely(server, case), cases))
    verdicts = Counter(verdict for _, verdict, _ in results)
    failed = [(name, why) for name, verdict, why in results if verdict == "failed"]
    for name, why in failed[:SHOWN]:
        print(f"FAILED {name}: {why[:400]}")
    if len(failed) > SHOWN:
        print(f"… and {len(failed) - SHOWN} more")
    print(f"\n{verdicts['right']} of {len(results)} models: metadata and outputs right, in {time.monotonic() - started:.0f} s")
    for verdict, count in sorted(verdicts.items(), key=lambda item: -item[1]):
        if verdict != "right":
            print(f"{count:6} {verdict}")
    for why, count in left_out.items():
        print(f"{count:6} not tried: {why}")
    return 1 if failed or not verdicts["right"] else 0


if __name__ == "__main__":
    sys.exit(main())
