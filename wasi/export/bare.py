"""A script that runs an exported program without `wasi`: `python bare.py PROGRAM.pt2 INPUTS.pt OUTPUTS.pt`.

INPUTS.pt holds a list of batches, and OUTPUTS.pt gets the list of their logits. Prints the median time of the first
batch in milliseconds.
"""

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter


def median_ms(call: Callable[[], object]) -> float:
    """Return the median wall time of ten calls after three untimed ones, in milliseconds."""
    for _ in range(3):
        call()
    times = []
    for _ in range(10):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return 1000 * median(times)


def main(program_file: str, inputs: str, outputs: str) -> None:
    # Makes any import of wasi raise ImportError.
    sys.modules["wasi"] = None  # type: ignore[assignment]  # documented, but not in typeshed
    import torch

    with open(program_file, "rb") as file:
        program = torch.export.load(file).module()
    batches = torch.load(inputs, weights_only=True)
    with torch.no_grad():
        torch.save([program(batch) for batch in batches], outputs)
        print(median_ms(lambda: program(batches[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
