"""The study's own public answers: which differences survive clustering, worked out here in plain loops first.

Nothing of the package is used until the comparison: the file is read with csv, sums are loops, p comes from scipy's t.
"""

import csv
import math
from collections import defaultdict
from fractions import Fraction

import pytest
from scipy.stats import t

from steer_tasks.analysis.conclude import conclude
from steer_tasks.analysis.logs import read_logs

ARMS = ("Combined Approach", "AutoSteer", "Agentic", "Simple Prompting")
OUTCOMES = {"behavior_score": "behavior", "coherence_score": "coherence"}


@pytest.fixture(scope="module")
def differences(study_70b):
    """Of each arm and outcome, arm minus control by (prompt, behavior)."""
    with study_70b.open(encoding="utf-8", newline="") as file:
        rows = {(row["steering_method"], row["user_prompt"], row["query"]): row for row in csv.DictReader(file)}
    found = {}
    for arm in ARMS:
        for outcome, column in OUTCOMES.items():
            found[arm, outcome] = {
                (prompt, query): int(row[column]) - int(rows["Control", prompt, query][column])
                for (method, prompt, query), row in rows.items()
                if method == arm and ("Control", prompt, query) in rows
            }
    return found


@pytest.fixture(scope="module")
def records(study_70b):
    return [record for log in read_logs([study_70b]) for record in log.records]


def clustered(held, place):
    """G / (G - 1) · Σ (cluster sum of residuals)² / n², clusters being the key's parts at `place`; and G."""
    mean, sums = sum(held.values()) / len(held), defaultdict(float)
    for key, value in held.items():
        sums[tuple(key[one] for one in place)] += value - mean
    groups = len(sums)
    return groups / (groups - 1) * sum(one * one for one in sums.values()) / len(held) ** 2, groups


def by_hand(held, target):
    """Standard error, degrees of freedom, and two-sided p of the mean difference."""
    mean = sum(held.values()) / len(held)
    by_prompt, prompts = clustered(held, (0,))
    by_prompt += 1 / (2 * prompts * (prompts - 1))
    if target == "fixed":
        stderr, df = math.sqrt(by_prompt), prompts - 1
        return stderr, df, max(flipped(held), 2 * t.sf(abs(mean) / stderr, df))
    by_query, queries = clustered(held, (1,))
    both = by_prompt + by_query - clustered(held, (0, 1))[0]
    stderr, df = math.sqrt(max(both, by_prompt, by_query)), min(prompts, queries) - 1
    by_t, by_hall = (2 * t.sf(abs(one), df) for one in (mean / stderr, without_skew(held, mean / stderr)))
    return stderr, df, max(by_t, min(by_hall, 2 * t.sf(abs(mean) / stderr / 1.5, df)))


def without_skew(held, statistic):
    """Hall's cubic of the statistic, with the skewness of the behaviors' means."""
    groups = defaultdict(list)
    for (_, query), value in held.items():
        groups[query].append(value)
    means = [sum(group) / len(group) for group in groups.values()]
    n, centre = len(means), sum(means) / len(means)
    spread = math.sqrt(sum((one - centre) ** 2 for one in means) / (n - 1))
    skew = sum(((one - centre) / spread) ** 3 for one in means) * n / ((n - 1) * (n - 2))
    w = statistic / math.sqrt(n)
    return math.sqrt(n) * (w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / (6 * n))


def flipped(held):
    """Share of sign patterns of whole prompts whose sum is at least as far from 0, counted exactly."""
    sums = defaultdict(int)
    for (prompt, _), value in held.items():
        sums[prompt] += value
    ways = {0: 1}
    for size in sums.values():
        wider = defaultdict(int)
        for total, count in ways.items():
            wider[total + size] += count
            wider[total - size] += count
        ways = wider
    observed = abs(sum(sums.values()))
    return float(Fraction(sum(count for total, count in ways.items() if abs(total) >= observed), sum(ways.values())))


def surviving(p_values):
    """What Holm's steps keep at 5%."""
    kept = set()
    for rank, (p, name) in enumerate(sorted((p, name) for name, p in p_values.items())):
        if p * (len(p_values) - rank) >= 0.05:
            break
        kept.add(name)
    return kept


SURVIVE = {
    "fixed": {
        ("Combined Approach", "behavior_score"),
        ("Agentic", "behavior_score"),
        ("Agentic", "coherence_score"),
        ("Simple Prompting", "behavior_score"),
        ("Simple Prompting", "coherence_score"),
        ("AutoSteer", "coherence_score"),
    },
    "random": set(),
}
"""For these ten behaviors six of eight differences are shown. For behaviors like them none is, once eight are asked."""


@pytest.mark.parametrize("target", SURVIVE)
def test_what_survives_clustering_by_prompt_and_behavior(target, differences, records):
    """Effects, standard errors, p and what Holm keeps equal those worked out in plain loops from the file."""
    worked = {name: by_hand(held, target) for name, held in differences.items()}
    assert surviving({name: p for name, (_, _, p) in worked.items()}) == SURVIVE[target]
    findings = conclude(records, target=target)
    found = {(one.arm, one.outcome): one for one in findings.effects if one.behavior is None}
    assert set(found) == set(worked)
    for name, (stderr, df, p) in worked.items():
        held = differences[name].values()
        assert found[name].pairs == len(held) == 299
        assert found[name].estimate.value == pytest.approx(sum(held) / len(held))
        assert found[name].estimate.stderr == pytest.approx(stderr)
        assert found[name].estimate.df == df
        assert found[name].p == pytest.approx(p, rel=1e-6)
    assert {name for name, one in found.items() if one.p_adjusted < 0.05} == SURVIVE[target]


def test_both_targets_are_shown_where_they_disagree(records):
    """By default behaviors like these are meant; the six that hold for these ten only are listed beside."""
    findings = conclude(records)
    assert findings.target == "random"
    assert {(one.arm, one.outcome) for one in findings.other_target} == SURVIVE["fixed"]


def test_the_answer_that_the_control_lacks_is_listed(records):
    """The control has no answer to one prompt of the technical behavior: each arm lists one unpaired answer."""
    findings = conclude(records)
    assert [(one.arm, one.behavior, one.count) for one in findings.unpaired] == [(arm, "technical", 1) for arm in ARMS]
    assert {one.unpaired for one in findings.effects if one.behavior in (None, "technical")} == {1}
    assert findings.leaks == ()
