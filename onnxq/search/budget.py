"""The budget of the search: runs of the model on a sample.

Runs are counted and not timed, so the same command spends the same and writes the same bytes. A pass is one
run over all given samples. Measurements of single nodes, validation samples and rounds of mixed precision are
as many as the budget allows, within the least and the most that the settings name.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from onnxq.runtime.progress import progress
from onnxq.runtime.status import current_activity

FEW_SAMPLES, FEW_MACS = 100, 8e11
"""Fewer samples count as so many, as far as this number of MACs goes: they make every measurement harder."""
SHOWN = "search: {percentage:.1f}% of its budget, {elapsed}, {desc}"
IN_FRONT = len("search: 100.0% of its budget, 1:00:00, ")
"""Columns of the progress line in front of what is being tried."""


@dataclass(eq=False)
class Budget:
    """Runs that the search may take, and the runs that it has taken.

    total  number of runs; without a limit by default
    spent  number of runs so far
    """

    total: float = math.inf
    spent: int = 0
    _bar: Any = field(default=None, repr=False)

    @property
    def left(self) -> float:
        """Number of runs that are left, at least 0."""
        return max(0.0, self.total - self.spent)

    def spend(self, runs: int = 1) -> None:
        """Count runs, and show on a terminal how many of the budget are left."""
        self.spent += runs
        if math.isinf(self.total):
            return
        if self._bar is None:
            self._bar = progress(total=int(self.total), bar_format=SHOWN, leave=False, dynamic_ncols=True)
        columns = self._bar.format_dict.get("ncols")
        # tqdm 4.67 does not cut such a line
        left = max(0, columns - IN_FRONT) if isinstance(columns, int) else None
        self._bar.set_description_str(current_activity("")[:left], refresh=False)
        self._bar.update(min(runs, max(0, int(self.total) - self._bar.n)))

    def close(self) -> None:
        """Remove the progress line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def search_budget(samples: int, macs: int, passes: float, least_macs: float) -> Budget:
    """Return the budget of a search.

    Args:
        samples: number of all given samples.
        macs: MACs of the model on one sample.
        passes: number of passes over them.
        least_macs: MACs that any search may take: small models run fast, and a few samples are few runs.
    """
    as_many = min(passes * FEW_SAMPLES, FEW_MACS / max(macs, 1))
    return Budget(max(passes * samples, as_many, least_macs / max(macs, 1)))
