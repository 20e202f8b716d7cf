"""Offline W&B files, read from outside."""

import json
import subprocess
import sys
import time
from pathlib import Path


def records(folder: Path, kind: str = "offline-run", last: str = "exit") -> list:
    """Of the one file in `folder`, whose last records the backend may still be writing when `finish` returns."""
    deadline = time.monotonic() + 20
    while True:
        found = written(folder, kind)
        if any(r.WhichOneof("record_type") == last for r in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def written(folder: Path, kind: str = "offline-run") -> list:
    """Of the one file in `folder`, as far as it is written."""
    (path,) = (folder / "wandb").glob(f"{kind}-*/run-*.wandb")
    return parsed(path)


def parsed(path: Path) -> list:
    """The record log: 32 KiB blocks of [crc u32, length u16, kind u8] chunks after a 7-byte header."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, place, parts, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(raw):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        if place + 7 + length > len(raw):
            break  # the backend is still writing it
        parts += raw[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def of_type(found: list, kind: str) -> list:
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def items(update) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


def history(found: list) -> list[dict]:
    return [items(record.item) for record in of_type(found, "history")]


def steps(found: list) -> list[int]:
    """Of every row that training logged."""
    return [row["_step"] for row in history(found) if "train/loss" in row]


def run_of(found: list):
    return of_type(found, "run")[0]


def inspected_steps(folder: Path) -> list[int]:
    """As `steps`, by W&B's own reader of its files."""
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    output = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [record["history"] for record in output if record["type"] == "history"]
    return [row["item"]["_step"] for row in rows if "train/loss" in json.dumps(row)]
