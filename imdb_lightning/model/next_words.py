"""A model of the next words with the classifier's embedding and backbone, to pretrain both.

Dimensions: T tokens, B reviews, E embedding size, H hidden size, V rows of the embedding, N words
to predict, S sampled words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .backbones import Backbone
from .classifier import Batch, adam
from .dropout import FeatureDropout, WordDropout
from .embedding import Embedding
from .network import layer_maker
from .passes import Passes


CHUNK = 2048  # words at a time whose probabilities over the whole vocabulary are in memory
PADDING, START = 0, 1  # never predicted
FREQUENT = 1e-4  # share of all words above which a word is at times left out (Mikolov et al. 2013)


class NextWords(Passes):
    """Each direction of the backbone predicts the word that it comes to next, or one of the next.

    With a `window` of more than one word, the word is drawn from the next `window` of them, anew
    each time, and frequent words are left out as skip-gram leaves them out: what is learned is the
    bag of the words that follow (Johnson and Zhang 2016), at the price of one word.

    The score of a word is its embedding times a projection of the hidden state (Press and Wolf
    2017, tied weights). While training, the words that are not next are a sample, drawn anew for
    each batch (`sampled_loss`); on val the loss is that over the whole vocabulary, so that
    exp(loss) is the perplexity.
    """

    def __init__(
        self,
        make_layer: Callable[[int, int], nn.Module],
        *,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        bidirectional: bool,
        dropout: float,
        word_dropout: float,
        embedding_dropout: float,
        window: int,
        samples: int,
        lr: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        rows = vocab_size + 1
        self.embedding = Embedding(rows, embedding_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)  # scores begin near 0
        self.word_dropout = WordDropout(word_dropout, rows)
        self.feature_dropout = FeatureDropout(embedding_dropout)
        self.backbone = Backbone(make_layer, embedding_size, hidden_size, 1, bidirectional, dropout)
        self.dropout = nn.Dropout(dropout)
        directions = self.backbone.directions
        self.project = nn.ModuleList(
            nn.Linear(hidden_size, embedding_size) for _ in range(directions)
        )
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(rows)) for _ in range(directions))
        self.window = window
        self.samples = samples
        self.lr = lr
        self.weight_decay = weight_decay
        self.share_V = torch.ones(rows) / rows  # on the CPU, where draws are the same everywhere
        self.kept_V = torch.ones(rows)  # probability that a word is predicted where it comes up

    @classmethod
    def from_config(
        cls, model: Mapping[str, Any], optim: Mapping[str, Any], window: int, samples: int
    ) -> NextWords:
        """With the sizes, the layer and the dropouts of the groups `model` and `optim`."""
        sizes = ("vocab_size", "embedding_size", "hidden_size", "bidirectional")
        dropouts = ("dropout", "word_dropout", "embedding_dropout")
        options = {name: model[name] for name in (*sizes, *dropouts)}
        learning = {name: optim[name] for name in ("lr", "weight_decay")}
        return cls(layer_maker(model), window=window, samples=samples, **options, **learning)

    def count(self, tokens: Tensor) -> None:
        """Draw samples by how often words stand in these int64 tokens, to the power of 3/4."""
        counts_V = torch.bincount(tokens, minlength=len(self.share_V)).double()
        counts_V[[PADDING, START]] = 0
        weight_V = counts_V**0.75
        self.share_V = (weight_V / weight_V.sum()).float()
        if self.window > 1:
            rare_V = FREQUENT * counts_V.sum() / counts_V.clamp(min=1)
            self.kept_V = (rare_V.sqrt() + rare_V).clamp(max=1).float()

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states h_TB(H*D)."""
        x_TBE = self.word_dropout(self.embedding(tokens_BT.T), tokens_BT.T)
        return self.backbone(self.feature_dropout(x_TBE), lengths_B)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, _: int) -> None:
        self._step(batch, "val")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        tokens_BT, lengths_B, *_ = batch
        tokens_TB = tokens_BT.T
        hidden = self(tokens_BT, lengths_B)
        # On val the same words each time, on the CPU the same for all devices.
        random = None if stage == "train" else torch.Generator().manual_seed(0)
        total = hidden.new_zeros(())
        words = 0
        for direction, h_TBH in enumerate(hidden.chunk(self.backbone.directions, dim=2)):
            ahead_TB = torch.randint(1, self.window + 1, tokens_TB.shape, generator=random)
            t_T1 = torch.arange(len(tokens_TB))[:, None]
            place_TB = (t_T1 - ahead_TB if direction else t_T1 + ahead_TB).to(self.device)
            # A direction starts at a review's own token, and START, the first, is no word.
            own_TB = t_T1.to(self.device) < lengths_B
            there_TB = own_TB & (place_TB >= 1) & (place_TB < lengths_B)
            words_TB = tokens_TB.gather(0, place_TB.clamp(0, len(tokens_TB) - 1))
            if stage == "train" and self.window > 1:
                drawn_TB = torch.rand(tokens_TB.shape, generator=random).to(self.device)
                there_TB &= drawn_TB < self.kept_V.to(self.device)[words_TB]
            words_N = words_TB[there_TB]
            out_NE = self.project[direction](self.dropout(h_TBH[there_TB]))
            loss = self.sampled_loss if stage == "train" else self.whole_loss
            total = total + loss(out_NE, words_N, self.bias[direction])
            words += len(words_N)
        count = torch.tensor([words], device=self.device)
        self._passes[stage].add(total.detach()[None], count)
        return total / max(words, 1)

    def sampled_loss(self, out_NE: Tensor, words_N: Tensor, bias_V: Tensor) -> Tensor:
        """Sum over the words of -log softmax over the word itself and a sample: (), nats.

        Each score is lessened by the logarithm of how often its word is expected in the sample, so
        that the scores which are best here are best over the whole vocabulary (Jean et al. 2015).
        """
        drawn_S = torch.multinomial(self.share_V, self.samples, replacement=True).unique()
        drawn_S = drawn_S.to(self.device)
        # Expected number of times that a word is among `samples` draws, once at most.
        expected_V = -torch.expm1(self.samples * torch.log1p(-self.share_V))
        log_V = expected_V.clamp(min=1e-9).log().to(bias_V)
        place_V = words_N.new_full(self.share_V.shape, -1)
        place_V[drawn_S] = torch.arange(len(drawn_S), device=self.device)
        own_N = (out_NE * self.embedding(words_N)).sum(1) + (bias_V - log_V)[words_N]
        weight_SE, bias_S = self.embedding(drawn_S), (bias_V - log_V)[drawn_S]
        with torch.autocast(out_NE.device.type, enabled=False):
            return Sampled.apply(
                out_NE, own_N.to(bias_V.dtype), weight_SE, bias_S, place_V[words_N]
            )

    def whole_loss(self, out_NE: Tensor, words_N: Tensor, bias_V: Tensor) -> Tensor:
        """Sum over the words of -log softmax over the whole vocabulary: (), nats."""
        total = out_NE.new_zeros(())
        for out_CE, words_C in zip(out_NE.split(CHUNK), words_N.split(CHUNK), strict=True):
            scores_CV = torch.addmm(bias_V, out_CE, self.embedding.weight.T)
            scores_CV[:, [PADDING, START]] = -torch.inf
            total = total + nn.functional.cross_entropy(scores_CV, words_C, reduction="sum")
        return total

    def measures(self, stage: str) -> dict[str, float]:
        """Of the latest pass over "train" or "val": nats per word."""
        losses, words = self.rows(stage)
        return {"loss": losses.double().sum().item() / max(int(words.sum()), 1)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self)


class Sampled(torch.autograd.Function):
    """-log softmax of a word's own score beside those of a sample, with its gradients at once.

    Some words at a time, so that their scores stay in the cache: a third of the time of PyTorch's
    own functions over all of them, which go through memory for each.
    """

    @staticmethod
    def forward(
        ctx: Any, out_NE: Tensor, own_N: Tensor, weight_SE: Tensor, bias_S: Tensor, place_N: Tensor
    ) -> Tensor:
        """`place_N`: where in the sample the word itself stands, to be left out; -1 nowhere.

        The products are in the type of `out_NE`, which is autocast's.
        """
        total = own_N.new_zeros(())
        grad_out, grad_own, grad_weight, grad_bias = map(
            torch.zeros_like, (out_NE, own_N, weight_SE, bias_S)
        )
        factor_SE = weight_SE.to(out_NE.dtype)
        for start in range(0, len(own_N), CHUNK):
            part = slice(start, start + CHUNK)
            out_CE, own_C, place_C = out_NE[part], own_N[part], place_N[part]
            scores_CS = (out_CE @ factor_SE.T).to(bias_S.dtype).add_(bias_S)
            (itself,) = torch.where(place_C >= 0)
            scores_CS[itself, place_C[itself]] = -torch.inf
            highest_C = torch.maximum(scores_CS.amax(1), own_C)
            share_CS = scores_CS.sub_(highest_C[:, None]).exp_()
            share_C = (own_C - highest_C).exp()
            sum_C = share_CS.sum(1) + share_C
            total += (sum_C.log() + highest_C - own_C).sum()
            share_CS /= sum_C[:, None]
            grad_own[part] = share_C / sum_C - 1
            grad_bias += share_CS.sum(0)
            factor_CS = share_CS.to(out_NE.dtype)
            torch.mm(factor_CS, factor_SE, out=grad_out[part])
            grad_weight += factor_CS.T @ out_CE
        ctx.save_for_backward(grad_out, grad_own, grad_weight, grad_bias)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * kept for kept in ctx.saved_tensors), None
