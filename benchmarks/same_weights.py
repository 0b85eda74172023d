"""Whether every method still learns the same weights, to the bit, as at an earlier commit, and as fast.

The commit is checked out beside. Each side trains every file of ``conf/method``, stages included, with the options of
its own ``tests/tiny_runs.py``, in one process and in two, one thread each; then all logged numbers and all tensors of
the last checkpoints are compared. Where a tensor has another name, one of its shape and bytes may take its place, and
the pair is printed. At last a step of some methods is timed side by side.

python -m benchmarks.same_weights <commit> [--methods munit ecn ...] [--processes 1 2] [--no-times]
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
LONGER = {"max_iters": 30, "source_iters": 10, "rounds": 2, "iters_per_round": 10}
"""Options of the method, not of its stages. The training is then long enough for rounds and for a full memory."""

WIDER = {
    "munit": ("method.width=16", "data.batch_size=2"),
    "unit": ("method.width=16", "data.batch_size=2"),
    "adaptsegnet": ("method.network.width=32", "data.image_size=[96,128]", "data.batch_size=4"),
    "ecn": ("method.backbone.width=32", "data.image_size=[96,48]", "data.batch_size=8", "data.target_batch_size=8"),
}
"""Methods whose step is timed, and what makes their steps long enough for that."""

REPETITIONS, WARM_UP = 10, 3


# -- one side: this file as a script, on the other tree's modules ------------------------------------------------------


def train(folder: Path, methods: Sequence[str]) -> None:
    """Run ``methods`` by the command's own ``main`` in this process, which may be one of several ranks."""
    import torch

    # Imported by name: where they come from is what PYTHONPATH says.
    tiny_runs, run = importlib.import_module("tiny_runs"), importlib.import_module("da_lightning.run")
    torch.set_num_threads(1)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    for method in methods or tiny_runs.METHODS:
        options = [_longer(option) for option in tiny_runs.tiny(method)]
        own = folder / method
        own.mkdir(parents=True, exist_ok=True)
        os.chdir(own)
        os.environ["DA_RUN_STAMP"] = "run"
        words = [f"method={method}", *options, f"trainer.devices={processes}", "trainer.log_every_n_steps=1"]
        sys.argv = ["da_lightning.run", *words]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                run.main()
        except SystemExit as end:
            if end.code:
                print(f"{' '.join(words)}\n{said.getvalue()}\n{end.code}", file=sys.stderr)
                raise


def _longer(option: str) -> str:
    place, _, key = option.partition("=")[0].rpartition(".")
    return f"{place}.{key}={LONGER[key]}" if place == "method" and key in LONGER else option


def step(method: str) -> None:
    """Train; before each batch wait for a line, and after it answer with its seconds."""
    import lightning.pytorch as L
    import torch

    tiny_runs = importlib.import_module("tiny_runs")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed

    class Timed(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            answers.write("ready\n")
            answers.flush()
            sys.stdin.readline()
            self.began = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            answers.write(f"{time.perf_counter() - self.began}\n")
            answers.flush()

    length = (f"method.max_iters={REPETITIONS + WARM_UP}", "data.iterations_per_epoch=1000")
    further = ("method.source_iters=0",) if method == "adaptsegnet" else ()
    module, data = tiny_runs.built(method, *WIDER[method], *length, *further)
    with tempfile.TemporaryDirectory() as folder:
        tiny_runs.trainer(Path(folder), Timed()).fit(module, data)


# -- both sides --------------------------------------------------------------------------------------------------------


class Side(NamedTuple):
    name: str
    tree: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": f"{self.tree}{os.pathsep}{self.tree / 'tests'}", "OMP_NUM_THREADS": "1"}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DA_", "WANDB_"))}
        return {**inherited, **own, "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}

    def train(self, processes: int, methods: Sequence[str]) -> None:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        words = [*(launcher if processes > 1 else []), __file__, "--train", str(self.folder / str(processes))]
        done = subprocess.run(
            [sys.executable, *words, "--methods", *methods], env=self.environment(), capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{self.name}, {processes} process(es):\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")

    def stepping(self, method: str) -> subprocess.Popen[str]:
        words = [sys.executable, __file__, "--step", method]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(words, env=self.environment(), text=True, **pipes)  # type: ignore[call-overload]


@contextlib.contextmanager
def sides(commit: str) -> Iterator[tuple[Side, Side]]:
    """The commit's tree, checked out beside, and this one."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run([*git, "add", "--detach", str(tree), commit], capture_output=True, text=True)
        if added.returncode:
            sys.exit(f"error: {commit} cannot be checked out: {added.stderr.strip()}")
        try:
            yield Side("before", tree, Path(folder) / "before"), Side("now", ROOT, Path(folder) / "now")
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=False)


def tensors_of(node: Any, place: str = "") -> dict[str, Any]:
    """All tensors of a checkpoint, by where they are in it."""
    import torch

    if isinstance(node, torch.Tensor):
        return {place: node}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    return {name: tensor for key, part in items for name, tensor in tensors_of(part, f"{place}.{key}").items()}


def identity(tensor: Any) -> tuple[Any, ...]:
    content = tensor.detach().contiguous().cpu().view(-1).numpy().tobytes()
    return tuple(tensor.shape), str(tensor.dtype), hashlib.sha256(content).hexdigest()


def compare(before: Path, now: Path) -> tuple[list[str], list[str], int]:
    """What differs between two run folders, what has another name, and how many numbers and tensors were equal."""
    import torch

    logged = [_logged(folder / "metrics.csv") for folder in (before, now)]
    different = [
        f"{name}: {one[:3]} ... became {other[:3]} ..."
        for name, one in logged[0].items()
        if (other := logged[1].get(name, [])) != one
    ]
    one, other = (
        {
            name: identity(t)
            for name, t in tensors_of(torch.load(f / "checkpoints/last.ckpt", weights_only=True)).items()
        }
        for f in (before, now)
    )
    equal = {name for name in one if other.get(name) == one[name]}
    free: dict[Any, list[str]] = defaultdict(list)
    for name in other.keys() - equal:
        free[other[name]].append(name)
    moved = []
    for name in sorted(one.keys() - equal):
        if names := free.get(one[name]):
            moved.append(f"{name} -> {names.pop()}")
        else:
            why = "has other bytes" if name in other else "is gone"
            different.append(f"{name} of {list(one[name][0])} {why}")
    return different, moved, len(equal) + len(moved) + sum(map(len, logged[0].values()))


def _logged(file: Path) -> dict[str, list[str]]:
    numbers: dict[str, list[str]] = defaultdict(list)
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if value:
                    numbers[name].append(value)
    return numbers


def check(before: Side, now: Side, processes: int) -> int:
    """Print what differs; the number of run folders that do."""
    differing, compared, pairs = 0, 0, Counter[str]()
    folders = sorted((before.folder / str(processes)).rglob("checkpoints"))
    for folder in (f.parent.relative_to(before.folder) for f in folders if (f / "last.ckpt").is_file()):
        if not (now.folder / folder / "checkpoints" / "last.ckpt").is_file():
            different, moved, count = ["the run is not there now"], [], 0
        else:
            different, moved, count = compare(before.folder / folder, now.folder / folder)
        pairs.update(moved)
        compared += count
        differing += bool(different)
        for line in different[:8]:
            print(f"  {folder}: {line}")
        if len(different) > 8:
            print(f"  {folder}: and {len(different) - 8} more")
    for pair, count in sorted(pairs.items()):
        print(f"  moved in {count} runs: {pair}")
    print(f"{processes} process(es): {len(folders)} trainings, {compared:,} numbers and tensors, {differing} differ")
    return differing


def times(before: Side, now: Side) -> None:
    """The fastest of some steps of each side, taken in turns."""
    for method in WIDER:
        running = [side.stepping(method) for side in (before, now)]
        fastest = [float("inf")] * 2
        for repetition in range(REPETITIONS + WARM_UP):
            for number, process in enumerate(running):
                assert process.stdin and process.stdout
                if not process.stdout.readline():
                    sys.exit(f"error: the step of {method} ended by itself.")
                process.stdin.write("go\n")
                process.stdin.flush()
                seconds = float(process.stdout.readline())
                if repetition >= WARM_UP:
                    fastest[number] = min(fastest[number], seconds)
        for process in running:
            process.wait()
        old, new = fastest
        print(f"a step of {method}: {old * 1000:.1f} ms before, {new * 1000:.1f} ms now, ratio {new / old:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--methods", nargs="*", default=[])
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        return train(given.train, given.methods)
    if given.step:
        return step(given.step)
    differing = 0
    with sides(given.commit) as both:
        for processes in given.processes:
            # Two processes of a side take two cores, so that sides take turns.
            with ThreadPoolExecutor(2 if processes == 1 else 1) as pool:
                list(pool.map(lambda side, count=processes: side.train(count, given.methods), both))
            differing += check(*both, processes)
        if not given.no_times:
            times(*both)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
