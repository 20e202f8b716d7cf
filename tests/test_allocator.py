"""The allocator's settings, each in a process of its own: what they did to its heap cannot be taken back."""

import os
import resource
import subprocess
import sys

import pytest

from wasi import allocator

PROGRAM = """
import resource, sys, torch
from wasi import allocator
print(eval("allocator." + sys.argv[1]))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):  # until the heap has grown
    faults()
print(faults())
print(allocator.provenance()["freed"])
print(allocator.release_memory())
"""
MANY = 5 * 2**25 / resource.getpagesize() / 10  # a fault per page, or per few where the system joins them


def lines(program: str, *words: str, **environment: str) -> list[str]:
    """What a Python program prints in a process with no setting of an allocator but those given."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "MIMALLOC_"))}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**clean, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.splitlines()


def run(call: str, **environment: str):
    effect, faults, freed, released = lines(PROGRAM, call, **environment)
    return effect == "True", int(faults), freed, int(released)


glibc = pytest.mark.skipif(allocator.name() != "glibc", reason="settings that take effect at run time are glibc's")


@glibc
def test_freed_memory_is_found_again_unless_the_environment_says_otherwise():
    kept, few, freed, released = run("keep_freed_memory()")
    assert kept and few < 1000 and freed == "kept" and released > 2**24
    left_alone, many, freed, _ = run("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="65536")
    assert not left_alone and many > MANY and freed == "returned"


@glibc
def test_large_blocks_go_back_and_it_is_seen_when_they_do_not():
    returned, many, freed, _ = run("return_large_blocks(2**24)")
    assert returned and many > MANY and freed == "returned"
    against = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "9999999999"}
    returned, few, freed, _ = run("return_large_blocks(2**24)", **against)
    assert not returned and few < 1000 and freed == "kept"


HOLES = """
import psutil
import torch
from wasi import allocator
resident = lambda: psutil.Process().memory_info().rss
allocator.return_large_blocks(2**24)
before = resident()
patient, eager = allocator.HeapTrimmer(2**30), allocator.HeapTrimmer(2**25)
many = [torch.ones(2**16) for _ in range(400)]  # 100 MiB
many = many[::20]  # the rest are holes
print(resident() - before)
patient.trim_if_grown()
print(resident() - before)
eager.trim_if_grown()
print(resident() - before)
"""


@glibc
def test_holes_of_the_heap_go_back_once_the_process_has_grown_enough():
    grown, untouched, trimmed = (int(line) / 2**20 for line in lines(HOLES))
    assert grown > 80 and untouched > 80 and trimmed < 40


LONG_LIVED = """
import psutil
import torch
from wasi import allocator
resident = lambda: psutil.Process().memory_info().rss
allocator.keep_freed_memory()
before = resident()
held = allocator.long_lived((2**12, 2**12), torch.float32, torch.device("cpu"))
print(held.shape == (2**12, 2**12) and not held.any())
held += 1
print(resident() - before)
del held
print(resident() - before)
"""


def test_what_is_long_lived_goes_back_even_where_freed_memory_is_kept():
    zeros, grown, freed = lines(LONG_LIVED)
    assert zeros == "True" and int(grown) > 2**26 and int(freed) < 2**24


IN_TURNS = """
from wasi import allocator
print(allocator.keep_freed_memory(), allocator.return_large_blocks(2**27), allocator.keep_freed_memory(),
      allocator.returns_freed_memory(2**27))
"""


@glibc
def test_what_is_told_last_holds_for_what_does_not_fit_into_holes_of_the_heap():
    assert lines(IN_TURNS) == ["True True True False"]


@pytest.fixture
def library(tmp_path, monkeypatch):
    def with_content(content: bytes | None) -> None:
        file = tmp_path / "libc10.so"
        file.write_bytes(content or b"")
        monkeypatch.setattr(allocator, "_library", lambda: file if content is not None else None)
        allocator.name.cache_clear()

    yield with_content
    monkeypatch.undo()
    allocator.name.cache_clear()


@pytest.mark.parametrize(
    ("content", "libc", "preload", "name"),
    [
        (b"\x7fELF ... mimalloc: option %s ...", "glibc", "", "mimalloc"),
        (b"\x7fELF posix_memalign", "glibc", "", "glibc"),
        (None, "glibc", "", "glibc"),
        (b"\x7fELF posix_memalign", "", "", "unknown"),
        (b"\x7fELF ... mimalloc", "glibc", "/usr/lib/libjemalloc.so.2", "jemalloc"),
    ],
)
def test_the_allocator_is_told_from_torchs_library(content, libc, preload, name, library, monkeypatch):
    library(content)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: (libc, ""))
    monkeypatch.setenv("LD_PRELOAD", preload)
    assert allocator.name() == name and allocator.provenance()["name"] == name


def test_provenance_tells_what_the_environment_asks_for(monkeypatch):
    monkeypatch.setenv("MIMALLOC_PURGE_DELAY", "0")
    assert allocator.provenance()["environment"]["MIMALLOC_PURGE_DELAY"] == "0"
