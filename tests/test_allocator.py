"""The allocator's settings, each in a process of its own: they cannot be taken back."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from wasi.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):  # until the heap has grown
    faults()
print(faults())
"""


def run(**environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**clean, **environment}, stdout=subprocess.PIPE)
    took_effect, faults = done.stdout.decode().split()
    return took_effect == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc's options are glibc's")
def test_freed_memory_is_found_again_unless_the_environment_says_otherwise():
    kept, few = run()
    assert kept and few < 1000
    left_alone, many = run(MALLOC_MMAP_THRESHOLD_="65536")
    assert not left_alone and many > 5 * 2**25 / 4096 / 10  # a fault per page, or per few where pages are large
