"""The baseline: an LSTM on IMDB as a plain PyTorch script trains it.

Reviews padded to one length in Python lists, a DataLoader that shuffles and stacks them, nn.LSTM,
Adam with its defaults; nothing of this project but the reviews.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..data.batches import EncodedReviews


class PaddedReviews(Dataset):
    def __init__(self, reviews: EncodedReviews, max_length: int) -> None:
        self.tokens: list[list[int]] = []
        self.labels: list[int] = reviews.labels.tolist()
        for start, end in zip(reviews.offsets[:-1], reviews.offsets[1:], strict=True):
            tokens = reviews.tokens[start:end].tolist()
            self.tokens.append(tokens + [0] * (max_length - len(tokens)))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.tokens[index]), torch.tensor(self.labels[index])


class PlainLSTM(nn.Module):
    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size + 1, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 2)
        )

    def forward(self, tokens_BT: Tensor) -> Tensor:
        h_BTH, _ = self.lstm(self.embedding(tokens_BT))
        return self.head(h_BTH.mean(dim=1))


class PlainScript:
    def __init__(
        self,
        reviews: EncodedReviews,
        vocab_size: int,
        max_length: int,
        batch_size: int,
        embedding_size: int,
        hidden_size: int,
    ) -> None:
        dataset = PaddedReviews(reviews, max_length)
        self.loader = DataLoader(dataset, batch_size=batch_size, shuffle=True)
        self.model = PlainLSTM(vocab_size, embedding_size, hidden_size)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.loss = nn.CrossEntropyLoss()

    def epoch(self) -> float:
        """Train for one epoch; seconds."""
        started = time.perf_counter()
        self.model.train()
        for tokens_BT, labels_B in self.loader:
            self.optimizer.zero_grad()
            self.loss(self.model(tokens_BT), labels_B).backward()
            self.optimizer.step()
        return time.perf_counter() - started
