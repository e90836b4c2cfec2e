"""What runs the two loops over time of a plan.

Dimensions: T steps, B reviews, H hidden size, S saved groups.
"""

from __future__ import annotations

from torch import Tensor

from .plan import Plan


class Loops:
    """Base of the ways to run them: what they have in common is where they keep what is saved."""

    plan: Plan

    def new_saved(self, like: Tensor, T: int, B: int, H: int) -> Tensor:
        """Room for what the backward loop reads of the forward one: (T, B, S, H)."""
        return like.new_empty(T, B, len(self.plan.saved), H)

    def saved_group(self, saved: Tensor, s: int, B: int, H: int) -> Tensor:
        """Group `s` of it, (T * B, H)."""
        return saved[:, :, s].flatten(0, 1)
