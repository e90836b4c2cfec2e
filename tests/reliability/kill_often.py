"""Kill a run of three epochs at random, let it resume, and compare every bit: many times.

python -m tests.reliability.kill_often --kills 100
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from pathlib import Path

from imdb_lightning.runs.run import Run

from .processes import SMALL, differences, killed_after, output_of, run
from .test_kills import MODELS


LONGER = [*SMALL, "data.train_size=400"]  # 50 steps an epoch
MESSAGES = ("resuming", "there is no", "no unfinished")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chosen = random.Random(arguments.seed)
    uninterrupted: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    kills = equal = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        while kills < arguments.kills:
            name = chosen.choice(list(MODELS))
            model = MODELS[name].split()
            if name not in uninterrupted:
                uninterrupted[name] = run(folder / f"uninterrupted {name}", *LONGER, *model)
                seconds[name] = Run(uninterrupted[name]).metrics["seconds"] + 0.5
            killed = folder / "killed"
            shutil.rmtree(killed, ignore_errors=True)
            after = chosen.uniform(0, seconds[name])
            if not killed_after(killed, after, *LONGER, *model):
                continue  # it was done already
            kills += 1
            found = differences(uninterrupted[name], run(killed, *LONGER, *model))
            equal += not found
            messages = [
                line for line in output_of(killed).splitlines() if line.startswith(MESSAGES)
            ]
            print(f"{kills:4} {name:18} after {after:.2f} s  {messages[-1]}", flush=True)
            for line in found:
                print(f"     {line}", flush=True)
    print(f"{kills} kills, {equal} ended with the bits of a run that was not killed")
    raise SystemExit(kills != equal)


if __name__ == "__main__":
    main()
