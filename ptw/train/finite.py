"""Is what a step computed a number? If not, on which samples?"""

import math
from collections.abc import Sequence

from torch import Tensor

from ptw.errors import PtwError
from ptw.train.feed import Batch
from ptw.train.group import Group

SAMPLES_NAMED = 8


def demand_finite(group: Group, step: int, losses: Sequence[tuple[Tensor, Batch]], **values: float) -> None:
    """PtwError names the value, and the samples of the passes whose own loss is no number, or of all."""
    what, value = next(((key, value) for key, value in values.items() if not math.isfinite(value)), ("", 0.0))
    if not what:
        return
    bad = [batch for share, batch in losses if not math.isfinite(share.item())]
    bad = bad or [batch for _, batch in losses]
    own = [sample for batch in bad for row in batch.rows for sample in row.samples]
    samples = [sample for part in group.by_batch(own) for sample in part]
    more = f" and {len(samples) - SAMPLES_NAMED} more" if len(samples) > SAMPLES_NAMED else ""
    raise PtwError(
        f"step {step}: the {what} is {value}, on the samples "
        f"{', '.join(samples[:SAMPLES_NAMED])}{more}; look at them, or lower learning_rate"
    )
