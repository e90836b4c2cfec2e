"""When two runs are the same: canonical configuration, hash, differences and name.

Every comparison of runs is one of these views, with the keys that it ignores or compares named
here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .components import OBSERVERS
from .schema import EXECUTION_KEYS, flatten


# Paths and settings of this machine, which change no result.
MACHINE_KEYS = ("data.path", "data.cache_dir", "data.num_workers", "data.fallback")
# Paths of the runs that a run builds on; metrics.json has their provenance.
UPSTREAM_KEYS = ("pretrained", "teacher")
# Keys that do not change the mathematics of a model: replicas may differ in them.
REPLICA_KEYS = ("seed", "trainer.accelerator", "trainer.devices", "model.implementation")
# The processes of a run, which may change when it is resumed: sums are in another order then.
PROCESS_KEYS = ("trainer.devices", "trainer.num_nodes", "trainer.strategy")
# The key that may change when a run is resumed.
RESUMABLE_KEY = "trainer.max_epochs"
# But not under these schedules, which span the whole run.
SCHEDULES_OF_THE_RUN = ("one_cycle", "cosine")

# Two runs that differ in one of these had other reviews in val.
SPLIT_KEYS = ("data.name", "data.seed", "data.val_size")
# The same of the synthetic corpus.
SYNTHETIC_KEYS = ("data.train_size", "data.test_size", "data.distance", "data.max_length")
# Two runs that differ in one of these have embeddings of other words or another size.
EMBEDDING_KEYS = ("data.vocab_size", "model.embedding_size")


def canonical_config(cfg: DictConfig) -> dict[str, Any]:
    """The configuration that defines a run: flat, without what only concerns this machine."""
    own = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k not in ("hydra", "logger")])
    values = flatten(OmegaConf.to_container(own, resolve=True))
    shows = [key for key in values if key.startswith(tuple(f"callbacks.{n}." for n in OBSERVERS))]
    return without(values, *MACHINE_KEYS, *EXECUTION_KEYS, *shows)


def without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def config_hash(cfg: DictConfig, seed: bool = True, upstream: bool = True) -> str:
    """A hash of `canonical_config`, with or without the seed and the paths of upstream runs.

    0 and 0.0 are the same number, except where 1 is one batch and 1.0 is all of them.
    """
    ignored = (*(() if seed else ("seed",)), *(() if upstream else UPSTREAM_KEYS))
    values = {
        key: float(value)
        if isinstance(value, int) and not isinstance(value, bool) and ".limit_" not in key
        else value
        for key, value in without(canonical_config(cfg), *ignored).items()
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def differences(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    keys: Collection[str] | None = None,
    ignore: Collection[str] = (),
) -> dict[str, tuple[Any, Any]]:
    """{key: (before, after)} of the keys whose values differ; "absent" if there is no value."""
    compared = sorted(before.keys() | after.keys()) if keys is None else keys
    pairs = {key: (before.get(key, "absent"), after.get(key, "absent")) for key in compared}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b and key not in ignore}


SWEPT = "IMDB_LIGHTNING_SWEPT"  # the keys of the grid that is being run, also for its processes


@contextmanager
def names_of_grid(swept: Sequence[str]) -> Iterator[None]:
    """Within it, `run_name` knows what is swept; so do processes that are started."""
    before = os.environ.get(SWEPT)
    os.environ[SWEPT] = ",".join(swept)
    try:
        yield
    finally:
        os.environ.pop(SWEPT)
        if before is not None:
            os.environ[SWEPT] = before


def run_name(overrides: str, dataset: str) -> str:
    """A directory name for one job of a grid: its overrides, those that are swept first.

    Two sets of overrides never share a name: where a character is replaced, a hash is added.
    """
    overrides = swept_first(overrides, os.environ.get(SWEPT, ""))
    readable = overrides.replace("experiment=", "").replace("/", "-").replace("++", "") or "default"
    name = re.sub(r"[^\w=,.+-]", "_", readable)
    if name != readable or len(name) > 150:
        name = f"{name[:150]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"
    if dataset == "synthetic" and "synthetic" not in name:
        name += ",synthetic"
    return name


def swept_first(overrides: str, swept: str) -> str:
    """The overrides of a job: the experiment, the keys in `swept` in their order, the others."""
    keys = ["experiment", *swept.split(",")]

    def rank(text: str) -> int:
        key = text.lstrip("+").partition("=")[0]
        return keys.index(key) if key in keys else len(keys)

    return ",".join(sorted(re.split(r",(?=[+~]*[\w./@]+=)", overrides), key=rank))


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
