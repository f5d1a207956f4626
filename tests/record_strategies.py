"""Records and logs of all sorts for hypothesis, and plain ones for hand-worked tests."""

from hypothesis import strategies as st

from steer_tasks.analysis.record import Log, Message, Record, Source

# Every code point, lone surrogates too: that is what models and command lines give.
any_text = st.text(st.characters(codec=None), max_size=12)
clean_text = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)


def records(texts=any_text):
    """Any record whose texts are of `texts`."""
    maybe, number = st.none() | texts, st.none() | numbers
    return st.builds(
        Record,
        source=texts,
        run=maybe,
        model=texts,
        arm=texts,
        method=maybe,
        fingerprint=maybe,
        source_fingerprint=maybe,
        coefficient=number,
        dose=number,
        draw=st.integers(0, 2**40),
        sample_index=st.integers(0, 2**40),
        behavior=maybe,
        question=texts,
        subject=maybe,
        messages=st.none() | st.lists(st.builds(Message, texts, texts), max_size=2).map(tuple),
        completion=maybe,
        proof=maybe,
        measured_dose=number,
        accuracy=number,
        answered=number,
        behavior_score=number,
        coherence_score=number,
        signals=st.dictionaries(texts, number, max_size=2),
        missing=st.dictionaries(texts, texts, max_size=2),
        question_set=maybe,
        protocol=maybe,
        prompts=st.none() | st.lists(texts, max_size=2).map(tuple),
        prompted_by=maybe,
    )


def logs(texts=any_text):
    """A few logs, some without records."""
    about = st.dictionaries(texts, st.none() | st.integers(0, 9) | texts, max_size=2)
    sources = st.builds(
        Source,
        path=texts,
        kind=st.sampled_from(["lm_eval", "inspect", "study", "records"]),
        model=st.none() | texts,
        task=st.none() | texts,
        questions=about,
        protocol=about,
        judge=st.none() | texts,
        rubrics=about,
        versions=st.dictionaries(texts, st.none() | texts, max_size=2),
        started=st.none() | texts,
        remarks=st.lists(texts, max_size=2).map(tuple),
    )
    return st.lists(st.builds(Log, sources, st.lists(records(texts), max_size=3).map(tuple)), max_size=3)


def record(**given):
    """A plain record of one answer; what is given wins."""
    plain = {
        **{"source": "a.json", "run": "r", "model": "m", "arm": "control", "method": "control", "fingerprint": "f"},
        **{"source_fingerprint": None, "coefficient": None, "dose": None, "draw": 0, "sample_index": 0},
        **{"behavior": "funny", "question": "q/0", "subject": None, "messages": None, "completion": "An answer."},
        **{"proof": None, "measured_dose": None, "accuracy": 1.0, "answered": 1.0},
        **{"behavior_score": 3.0, "coherence_score": 4.0},
    }
    return Record(**{**plain, **given})
