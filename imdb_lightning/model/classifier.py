"""The sentiment classifier: the network as a LightningModule, with loss, optimizer and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn

from . import ranks
from .epoch_outputs import EpochOutputs
from .losses import LOSSES
from .network import LAYER_KEYS, Network, layer_factory, logit_difference
from .optimizers import make_optimizer
from .schedules import make_schedule, plateaus
from .step_graphs import StepGraphs


Batch = tuple[Tensor, Tensor, Tensor, Tensor]
COPY = 2**62  # the index of a row that counts for nothing (data.batches.COPY)


class EvalOutput(NamedTuple):
    """The outputs of one epoch over a split: means over reviews, and one row for each review."""

    loss: float  # nats per review
    accuracy: float  # fraction 0..1
    index_N: Tensor  # int64, the review's row in its split
    labels_N: Tensor  # int64, 0 negative, 1 positive
    logit_N: Tensor  # float32, logit of positive minus logit of negative


class Classifier(Network, lightning.LightningModule):
    """The network with its loss, its optimizer, and its outputs of each epoch.

    `optim` and `schedule` are the groups of these names. `soft_labels_N` (float32) are a teacher's
    P(positive) of the unlabelled reviews. `pretrained` are weights by their names in the
    state_dict; they learn at `optim.pretrained_lr_scale` times the rate.

    There are no saved hyperparameters: a checkpoint is plain tensors, and a model is built from the
    run's configuration (`imdb_lightning.load`), not with `load_from_checkpoint`.
    """

    def __init__(
        self,
        make_layer: Callable[[int, int], nn.Module],
        *,
        loss: str,
        optim: Mapping[str, Any],
        schedule: Mapping[str, Any] | None = None,
        soft_labels_N: Tensor | None = None,
        pretrained: Mapping[str, Tensor] | None = None,
        **network: Any,
    ) -> None:
        super().__init__(make_layer, **network)
        self.loss = loss
        self.optim = dict(optim)
        self.schedule = dict(schedule or {"name": "constant"})
        self.pretrained_names = frozenset(pretrained or ())
        self.step_graphs = StepGraphs()
        self.loss_of_step = torch.empty(())
        self._outputs = {stage: EpochOutputs() for stage in ("train", "val", "test")}
        self.soft_labels_N: Tensor | None
        self.register_buffer("soft_labels_N", soft_labels_N, persistent=False)
        if pretrained:
            own = self.state_dict()
            with torch.no_grad():
                for name, weights in pretrained.items():
                    own[name].copy_(weights)

    def __getstate__(self) -> dict[str, Any]:
        """Without CUDA graphs, which cannot be pickled."""
        return {**super().__getstate__(), "step_graphs": StepGraphs()}

    @classmethod
    def from_config(  # type: ignore[override]
        cls,
        model: Mapping[str, Any],
        optim: Mapping[str, Any],
        schedule: Mapping[str, Any] | None = None,
        soft_labels_N: Tensor | None = None,
        pretrained: Mapping[str, Tensor] | None = None,
    ) -> Classifier:
        """The classifier that these groups of a configuration describe."""
        options = {k: v for k, v in model.items() if k not in LAYER_KEYS}
        return cls(
            layer_factory(model),
            optim=optim,
            schedule=schedule,
            soft_labels_N=soft_labels_N,
            pretrained=pretrained,
            **options,
        )

    # Steps

    def training_step(self, batch: Batch, _: int) -> Tensor:
        if ranks.world_size() == 1 and self.step_graphs.is_supported(self):
            found = self.step_graphs(self, batch)
            if found is not None:
                loss, loss_B, logit_B = found
                self._outputs["train"].add(loss_B, logit_B, *batch[2:])
                self.loss_of_step = loss
                return loss
        self.loss_of_step = self._step(batch, "train")
        return self.loss_of_step

    def validation_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        loss_B, logit_B = self.losses(batch)
        if ranks.world_size() == 1:
            self._outputs[stage].add(loss_B.detach(), logit_B, *batch[2:])
        else:
            own_B = batch[3] != COPY
            self._outputs[stage].add(
                *(column[own_B] for column in (loss_B.detach(), logit_B, *batch[2:]))
            )
        return self.mean(loss_B, batch) if stage == "train" else loss_B.mean()

    def mean(self, loss_B: Tensor, batch: Batch) -> Tensor:
        """The mean over a batch; of several processes, this one's part of that sum."""
        if ranks.world_size() == 1:
            return loss_B.mean()
        own_B = batch[3] != COPY
        return torch.where(own_B, loss_B, 0.0).sum() / ranks.total(int(own_B.sum()))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Every `log_every_n_steps`: scalars of other steps would be computed for nothing.
        trainer = self._trainer
        if trainer is not None and trainer.loggers and trainer._logger_connector.should_update_logs:
            self.log_scalars(self.loss_of_step, optimizer)

    def log_scalars(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Loss, gradient norm and learning rate of the step that is being taken."""
        if not self.trainer.loggers:
            return
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        scalars: dict[str, Any] = {"train/loss_step": loss.detach()}
        scalars["grad_norm"] = torch.nn.utils.get_total_norm(gradients)
        for name, group in zip(("lr", "lr_pretrained"), optimizer.param_groups, strict=False):
            scalars[name] = group["lr"]
        self.log_dict(scalars, on_step=True, on_epoch=False, batch_size=1)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Nats (B,) and logit difference (B,), which carries no gradient."""
        tokens_BT, lengths_B, labels_B, index_B = batch
        logits_B2 = self(tokens_BT, lengths_B)
        loss_B = LOSSES[self.loss](logits_B2, self.targets(labels_B, index_B))
        return loss_B, logit_difference(logits_B2).detach()

    def targets(self, labels_B: Tensor, index_B: Tensor) -> Tensor:
        """Class labels (B,), or soft labels (B, 2) if there is a teacher.

        Unlabelled review n has index -1 - n; `soft_labels_N[n]` is its P(positive).
        """
        if self.soft_labels_N is None:
            return labels_B
        soft_B = self.soft_labels_N[(-1 - index_B).clamp(min=0)]
        positive_B = torch.where(index_B < 0, soft_B, labels_B.to(soft_B))
        return torch.stack([1 - positive_B, positive_B], dim=1)

    # Outputs of an epoch

    def on_train_epoch_start(self) -> None:
        self._outputs["train"].clear()
        self._outputs["val"].clear()

    def on_validation_epoch_start(self) -> None:
        self._outputs["val"].clear()

    def on_test_epoch_start(self) -> None:
        self._outputs["test"].clear()

    def on_train_epoch_end(self) -> None:
        self._log_means("train")
        for plateau in plateaus(self.trainer.lr_scheduler_configs):
            plateau.step(self.metrics("val")["acc"])

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def _log_means(self, stage: str) -> None:
        means = {f"{stage}/{name}": value for name, value in self.metrics(stage).items()}
        # A last validation, before the test, is of weights that have been validated already.
        logged = bool(self.trainer.loggers) and (stage != "val" or self.trainer.state.fn == "fit")
        self.log_dict(means, logger=logged, batch_size=1)

    def outputs_state(self, stage: str) -> list[Tensor]:
        """The per-review outputs of the latest epoch, which may be unfinished: tensors (N,)."""
        return ranks.concatenated(self._outputs[stage].state())

    def load_outputs_state(self, stage: str, columns: list[Tensor]) -> None:
        """Continue an epoch that an earlier process has started."""
        if ranks.rank() > 0:
            return  # the first process has all rows
        self._outputs[stage].load_state([column.to(self.device) for column in columns])

    def has_outputs(self, stage: str) -> bool:
        """True if there was an epoch over this split."""
        return ranks.total(self._outputs[stage].count) > 0

    def metrics(self, stage: str) -> dict[str, float]:
        """Loss (nats per review) and accuracy (0..1) of the latest epoch over a split."""
        output = self.eval_output(stage)
        return {"loss": output.loss, "acc": output.accuracy}

    def means_so_far(self, stage: str) -> dict[str, float]:
        """Loss and accuracy of this process's rows; empty before the first batch."""
        if self._outputs[stage].count == 0:
            return {}
        loss_N, logit_N, labels_N, _ = self._outputs[stage].state()
        accuracy = ((logit_N > 0) == (labels_N == 1)).double().mean()
        return {"loss": loss_N.double().mean().item(), "acc": accuracy.item()}

    def eval_output(self, stage: str) -> EvalOutput:
        """The outputs of the latest epoch over "train", "val" or "test"."""
        loss_N, logit_N, labels_N, index_N = self.outputs_state(stage)
        correct_N = (logit_N > 0) == (labels_N == 1)
        return EvalOutput(
            loss=loss_N.double().mean().item(),
            accuracy=correct_N.double().mean().item(),
            index_N=index_N,
            labels_N=labels_N,
            logit_N=logit_N.float(),
        )

    # Optimizer

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        schedule = make_schedule(self.schedule, optimizer, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule} if schedule else optimizer

    def _optimizer(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": [*self.parameters()]}]
        if self.optim["pretrained_lr_scale"] != 1:
            named = [*self.named_parameters()]
            groups = [
                {"params": [p for name, p in named if name not in self.pretrained_names]},
                {
                    "params": [p for name, p in named if name in self.pretrained_names],
                    "lr": self.optim["lr"] * self.optim["pretrained_lr_scale"],
                },
            ]
        # Lightning cannot clip gradients for a fused optimizer under mixed precision.
        fused = True
        if self._trainer is not None and "mixed" in str(self.trainer.precision):
            on_gpu = self.device.type == "cuda" and self.trainer.precision == "bf16-mixed"
            fused = on_gpu and not self.trainer.gradient_clip_val
        return make_optimizer(self.optim, groups, self.device.type == "cpu", fused)

    def _steps(self) -> int:
        """Steps of the optimizer, of the whole run."""
        self.trainer.fit_loop.setup_data()  # or else Lightning logs that it does that
        return int(self.trainer.estimated_stepping_batches)
