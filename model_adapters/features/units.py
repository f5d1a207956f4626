"""How large an edit's unit is in a dictionary's own. numpy only."""

import numpy as np

from model_adapters.errors import SteerError

QUANTILE = 0.99
"""Our choice: a feature's strong activations lie above nearly all others, and one outlier doesn't set the unit."""


def measured_factor(activations: np.ndarray) -> float:
    """Dictionary units per unit of value, from activations `(tokens, features)` on ordinary text.

    The median over active features of the `QUANTILE` quantile of their activations where they are active: an edit of
    1.0 then adds about what a typical feature shows at its strongest. Goodfire's 9 and 12 were published as constants;
    for other dictionaries this is our definition. Raises SteerError where no feature is active.
    """
    strong = [np.quantile(column[column > 0], QUANTILE) for column in np.asarray(activations).T if (column > 0).any()]
    if not strong:
        raise SteerError("no feature is active on these texts; measure the factor on the model's own residuals")
    return float(np.median(strong))
