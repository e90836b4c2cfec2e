"""One run, read from top to bottom: data, model, fit, test once, write."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, TQDMProgressBar
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from . import __version__, checkpoint, durable, process, teacher
from .adversarial import Adversarial
from .averaging import Averaging
from .data.module import ReviewData
from .finite import Finite
from .model.classifier import Classifier
from .pretrain import pretrained
from .record import Record
from .run import Run
from .schedule import OneCycle


log = logging.getLogger(__name__)


class Changed(Exception):
    """A run that cannot go on, since what it would go on with is not what it began with."""


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train, test once and record in `run_dir`; returns what metrics.json holds.

    With `cfg.resume` the run in `run_dir` goes on from its newest checkpoint. Raises DataError
    where the reviews cannot be used, RunExists where `run_dir` has a run, Busy where another
    process is at it, Changed or Damaged where it cannot go on. Whatever else ends the run early is
    raised too, after metrics.json has it as its "status".
    """
    with process.restored():
        if cfg.resume is None:
            run = Run.claim(run_dir, {"status": "running", **identity(cfg)})
            return _train(cfg, run, None, {})
        run = Run.reopen(run_dir)
        try:
            path, start = checkpoint.newest(run, cfg.test_checkpoint == "best") or (None, {})
            if not start and run.status == "done":
                raise Changed(f"{run_dir} is done, and has no checkpoint to go on from")
        except (checkpoint.Damaged, Changed):
            run.release()
            raise
        if start and start["threads"] <= process.cores():  # sums over other parts have other bits
            torch.set_num_threads(start["threads"])
        return _train(cfg, run, path, start)


def _train(cfg: DictConfig, run: Run, path: Path | None, start: dict[str, Any]) -> dict[str, Any]:
    record = Record(run, identity(cfg), cfg, start.get("record"))
    try:
        quiet()
        process.prepare()
        lightning.seed_everything(cfg.seed, workers=True, verbose=False)
        data = make_data(cfg)
        data.setup()
        if cfg.pretrained is not None:
            data.facts["pretrained"] = pretrained.facts(Path(cfg.pretrained).expanduser())
        if cfg.teacher is not None:
            data.facts["teacher"] = teacher.facts(teacher.paths(cfg.teacher))
        if cfg.resume is not None:
            go_on(cfg, run, data, start)
        run.write_config(cfg)
        durable.write(run.tokenizer, data.tokenizer.encode())
        if "pretrain" in cfg:
            return pretrain_vectors(cfg, run, record, data)
        model = make_model(cfg, data)
        record.begin(model, data)

        trainer = make_trainer(cfg, run, record, start or None)
        with logging_redirect_tqdm():  # lines above the progress bar, not in it
            trainer.fit(model, datamodule=data, ckpt_path=path)
        start.clear()  # the memory of a second set of weights

        if cfg.test_checkpoint == "best":
            weights = checkpoint.read(run.best)["state_dict"]
            model.load_state_dict(weights)
        if cfg.test_checkpoint == "best" or not model.has("val"):
            trainer.validate(model, datamodule=data, verbose=False)
        trainer.test(model, datamodule=data, verbose=False)
        return record.finish(trainer.strategy.root_device, model)
    except BaseException as error:
        if cfg.resume is None or record.writer is not None:  # else nothing has been written yet
            record.fail(error)
        raise
    finally:
        run.release()


def make_data(cfg: DictConfig) -> ReviewData:
    """The reviews, in the words of what was pretrained where there is such."""
    words = None
    if cfg.pretrained is not None:
        words = Run(Path(cfg.pretrained).expanduser()).tokenizer.read_text("utf-8")
    tell = None
    if cfg.teacher is not None:
        tell = partial(teacher.tell, teacher.paths(cfg.teacher))
    return ReviewData(cfg.data, cfg.seed, words, for_pretraining="pretrain" in cfg, teacher=tell)


def make_model(cfg: DictConfig, data: ReviewData) -> Classifier:
    """A classifier, which begins with what was pretrained."""
    model = Classifier.from_config(cfg.model, cfg.optim)
    if data.told_N is not None:
        model.told_N = torch.from_numpy(data.told_N)
    if cfg.pretrained is not None:
        path = Path(cfg.pretrained).expanduser()
        model.pretrained = pretrained.load(model, path)
        model.pretrained_lr = cfg.optim.pretrained_lr
    return model


def pretrain_vectors(cfg: DictConfig, run: Run, record: Record, data: ReviewData) -> dict[str, Any]:
    """Word vectors, saved as the embedding of a classifier."""
    from .pretrain.vectors import skip_gram

    record.begin(None, data)
    rows, size = cfg.data.vocab_size + 1, cfg.model.embedding_size
    vectors_VE = skip_gram(
        data.splits["train"],
        rows,
        size,
        window=cfg.pretrain.window,
        negatives=cfg.pretrain.negatives,
        epochs=cfg.trainer.max_epochs,
        seed=cfg.seed,
    )
    checkpoint.save({"state_dict": {"embedding.weight": torch.from_numpy(vectors_VE)}}, run.vectors)
    return record.finish(torch.device("cpu"))


def go_on(cfg: DictConfig, run: Run, data: ReviewData, start: Mapping[str, Any]) -> None:
    """Make `data` go on where the checkpoint is. Raises Changed where the reviews are others."""
    try:
        if run.tokenizer.read_text("utf-8") != data.tokenizer:
            raise Changed(
                f"{run.tokenizer}: not the vocabulary of these reviews, which are others or the "
                "file is damaged; without the file it is written anew"
            )
    except FileNotFoundError:
        pass  # the run had not come so far
    except UnicodeDecodeError:
        raise Changed(f"{run.tokenizer}: damaged; without the file it is written anew") from None
    if not start:
        log.info("there is no checkpoint yet: starting from the beginning")
        return
    before = start["record"]["metrics"]
    now = {**data.facts, "padding": data.padding()}
    changes = [
        f"data.{name}: {before['data'].get(name)} in the run, {value} now"
        for name, value in now.items()
        if name != "source" and before["data"].get(name) != value
    ]
    if changes:
        raise Changed("; ".join(changes))
    at = checkpoint.Position(**start["position"])
    if at.epoch + (at.batch > 0) > cfg.trainer.max_epochs:
        raise Changed(f"trainer.max_epochs={cfg.trainer.max_epochs}: the run is in a later epoch")
    others = [
        f"{name} {before['versions'].get(name)}, now {value}"
        for name, value in identity(cfg)["versions"].items()
        if before["versions"].get(name) != value
    ]
    if others:
        log.warning("begun with %s: %s", ", ".join(others), checkpoint.OTHER_BITS)
    data.begun = at[:2]
    if at.batch:
        log.info("going on in epoch %d, after %d of its batches", at.epoch + 1, at.batch)
    else:
        log.info("going on after epoch %d", at.epoch)


def make_trainer(
    cfg: DictConfig, run: Run, record: Record, start: Mapping[str, Any] | None
) -> lightning.Trainer:
    """lightning.Trainer with the group `trainer`, a record, and the two checkpoints."""
    options = cfg.trainer
    arguments = {name: value for name, value in options.items() if name != "early_stopping"}
    on_terminal = sys.stdout.isatty()
    callbacks: list[Callback] = [
        record,  # before the checkpoints, so that metrics.json is never behind them
        Finite(run),
        checkpoint.Checkpoints(run, record, cfg.checkpoint, start),
    ]
    if cfg.optim.schedule == "one_cycle":
        callbacks.append(OneCycle())
    if cfg.optim.adversarial is not None:
        callbacks.append(Adversarial(cfg.optim.adversarial))
    if cfg.optim.average is not None:
        callbacks.append(Averaging(decay=cfg.optim.average))
    if options["early_stopping"] is not None:
        patience = options["early_stopping"]
        callbacks.append(EarlyStopping("val/acc", mode="max", patience=patience))
    if on_terminal:
        callbacks.append(Bar(refresh_rate=10, leave=False))
    return lightning.Trainer(
        **arguments,
        callbacks=callbacks,
        plugins=[checkpoint.Sealed()],
        logger=False,  # `record` writes TensorBoard's file itself, into the run directory
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=on_terminal,
        default_root_dir=run.path,
    )


class Bar(TQDMProgressBar):
    """A progress bar that counts epochs from 1, as all else here does."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}")


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What a run is, known before it starts."""
    return {
        "dataset": cfg.data.name,
        "model": cfg.model.name,
        **({"pretrain": cfg.pretrain.name} if "pretrain" in cfg else {}),
        "seed": cfg.seed,
        "test_checkpoint": cfg.test_checkpoint,
        "versions": {
            "python": platform.python_version(),
            "imdb-lightning": __version__,  # the checkout may run without an installation
            **{name: version(name) for name in ("torch", "lightning")},
            **{name: version(name) for name in ("hydra-core", "datasets", "tokenizers")},
        },
        "git": git_commit(),
    }


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from, "-dirty" with changes; None elsewhere."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def quiet() -> None:
    """Lightning's advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Reviews are encoded beforehand: loader workers cost more than they bring (2026-11).
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # trainer=cpu is what was asked for.
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    # A run here is one process: started by srun or not is all the same to it.
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")
    # Lightning 2.6.6 asks torch 2.13 in a way that it will drop (2026-11).
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
