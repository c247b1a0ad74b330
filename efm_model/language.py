"""Instruction words -> role vectors: which words name the thing to move, which the goal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROLES = 3
"""Role vectors read from an instruction: referent A, referent B, and one free role."""


class RoleReader(nn.Module):
    """Attention over word embeddings, one query per role.

    Where to look is decided from context (two convolutions over the words), what is read are the
    bare word embeddings: "red" means the same in every sentence, so that pairs of words never seen
    together still add up.
    """

    def __init__(self, vocabulary: int, max_tokens: int, words: int, language: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, words, padding_idx=0)
        self.position = nn.Parameter(torch.randn(max_tokens, words) * 0.3)
        self.context1 = nn.Conv1d(words, 64, 3, padding=1)
        self.context2 = nn.Conv1d(64, 64, 3, padding=1)
        self.sentence = nn.Linear(64, 64)
        self.look = nn.Linear(64, ROLES)
        self.value = nn.Linear(words, language)

    def forward(self, tokens: Tensor) -> Tensor:
        """Word ids int64 (B, L), 0 = padding -> role vectors float32 (B, ROLES, language)."""
        present = (tokens != 0).unsqueeze(-1).float()
        words = self.embedding(tokens)
        x = ((words + self.position) * present).transpose(1, 2)
        x = functional.relu(self.context1(x)) * present.transpose(1, 2)
        x = (functional.relu(self.context2(x)).transpose(1, 2)) * present
        mean = x.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp_min(1.0)
        x = functional.relu(x + self.sentence(mean))
        scores = self.look(x) - 1e4 * (1.0 - present)
        attention = torch.softmax(scores, dim=1)
        return torch.einsum("blr,blc->brc", attention, self.value(words))
