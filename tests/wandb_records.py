"""What W&B wrote to the disk, read back from its own file."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768  # of LevelDB's log format, which the file is in
MAGIC = 7


@dataclass
class WandbRun:
    folder: Path
    run: Any = None
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    class_names: dict[str, dict[str, str]] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)

    def points(self, key: str) -> list[tuple[int, Any]]:
        """Iteration and value of each point."""
        return [(row["iteration"], row[key]) for row in self.history if key in row]

    def file(self, path: str) -> Path:
        return self.folder / "files" / path


def read_run(save_dir: Path, patience: float = 30) -> WandbRun:
    """The only run under ``save_dir/wandb``; W&B's process may still be writing its last records."""
    (file,) = save_dir.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + patience
    while (read := _read(file)).exit_code is None and time.monotonic() < end:
        time.sleep(0.1)
    assert read.exit_code is not None, file
    return read


def _read(file: Path) -> WandbRun:
    read = WandbRun(file.parent)
    for record in _records(file.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                read.run = record.run
            case "exit":
                read.exit_code = record.exit.exit_code
            case "config":
                _update(read.config, record.config.update)
            case "metric":
                read.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "history":
                read.history.append({})
                _update(read.history[-1], record.history.item)
            case "summary":
                _update(read.summary, record.summary.update)
            case "artifact":
                read.artifacts.append(record.artifact)
    labels = read.config.pop("_wandb", {}).get("mask/class_labels", {})
    read.class_names = {key: named["value"] for key, named in labels.items()}
    return read


def _update(into: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = item.nested_key or [item.key]
        inner = into
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)


def _records(content: bytes) -> Iterator[wandb_internal_pb2.Record]:
    assert content[:4] == b":W&B"
    place, whole = MAGIC, b""
    while place + 7 <= len(content):
        room = BLOCK - place % BLOCK
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):
            return  # not yet written to its end
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""
