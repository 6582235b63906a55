"""A tagger of words: an embedding, an LSTM in both directions, and scores a word."""

import torch
from torch import nn
from torch.nn import functional as F

from tasks.grammar import TAGS, VOCABULARY


class Tagger(nn.Module):
    """Takes int64 [N, LENGTH], numbers of words; returns scores [N, LENGTH, tags]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), width)
        self.reading = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.scores = nn.Linear(2 * width, len(TAGS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        read, _ = self.reading(self.words(tokens))
        scores: torch.Tensor = self.scores(read)
        return scores


def tagger_loss(scores: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the words, the filling left out.

    Args:
        scores: from `Tagger`.
        tags: as in `Sentences`.
    """
    return F.cross_entropy(scores.transpose(1, 2), tags, ignore_index=-1)
