"""What a backend is: one tensor to named tensors, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Backend(Protocol):
    """One loaded network. Several threads may call ``infer`` at the same time."""

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """(n, 3, h, w) float32 RGB as the card scales it → ``{"boxes": (n, a, 4), "scores": (n, a, c)}`` float32.

        Raises ``ValueError`` for another shape or dtype than the card's.
        """

    def close(self) -> None:
        """Frees the memory; safe twice."""
