"""An optimizer as it began: for a trainer that sets its adapter back and starts over within a run."""

from __future__ import annotations

from copy import deepcopy

from torch.optim import Optimizer


class Blank:
    """What an optimizer was before its first step: options of its groups, and no state yet."""

    def __init__(self, optimizer: Optimizer) -> None:
        # a copy: schedule-free's state is there before its first step, empty, and filled later
        self.optimizer, self.began = optimizer, deepcopy(optimizer.state_dict())

    def back(self) -> None:
        """As it began, but for the learning rates, which the schedule decides."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(self.began)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
