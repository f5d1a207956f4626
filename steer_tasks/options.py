"""Reading multiple choice off log-likelihoods: one rule for every harness. Standard library only."""

from collections.abc import Sequence


def score_options(totals: Sequence[float], choices: Sequence[str], answer: int) -> dict[str, float]:
    """`acc` and `acc_norm`: the right option is the likeliest, as it is and per character. `margin`: its
    log-probability per character minus that of the best wrong one, in nats per character.

    `totals` are the options' log-probabilities in order, `answer` the index of the right one. Per character rather
    than per token, so that tokenizers compare (lm-eval's `acc_norm`).
    """
    rates = [total / len(choice) for total, choice in zip(totals, choices, strict=True)]
    return {
        "acc": float(first_of_largest(totals) == answer),
        "acc_norm": float(first_of_largest(rates) == answer),
        "margin": rates[answer] - max(rate for index, rate in enumerate(rates) if index != answer),
    }


def first_of_largest(values: Sequence[float]) -> int:
    """Index of the largest value; of equal ones the first."""
    return max(range(len(values)), key=lambda index: (values[index], -index))
