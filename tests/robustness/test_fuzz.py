"""200 damaged slides, each read by every reader: no hang, no crash, only our own errors.

``make fuzz`` reads 2,000. A case that fails here is repeated with
``python -m tests.robustness.fuzz_reading --seed 7 --only NUMBER``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.robustness.fuzz_reading import GOOD, Case, make_case, readers_of, run_cases
from tests.robustness.fuzz_slides import KINDS, write_all

CASES, SEED = 200, 7
OPENSLIDE_LACKS = {"webp.tif", "stripes.tif"}


@pytest.mark.slow
def test_damaged_slides_are_read_or_refused(tmp_path: Path) -> None:
    slides = write_all(tmp_path)
    cases = (make_case(slides, SEED, number) for number in range(CASES))
    outcomes = list(run_cases(cases, tmp_path))
    assert [str(outcome) for outcome in outcomes if outcome.kind not in GOOD] == []
    assert {outcome.number for outcome in outcomes} == set(range(CASES))
    whole = {(o.slide, o.reader) for o in outcomes if o.damage == "undamaged" and o.kind == "read"}
    expected = {(kind, reader) for kind in KINDS for reader in readers_of(kind)}
    assert expected - whole == {(kind, "openslide") for kind in OPENSLIDE_LACKS}
    # The damage is neither such that all is refused at once nor such that it does not matter.
    kinds = Counter(o.kind for o in outcomes if o.reader == "auto")
    assert all(kinds[kind] > CASES // 20 for kind in GOOD)


def test_a_case_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    slides, same = (write_all(tmp_path / name) for name in ("one", "two"))
    for number in range(2 * len(slides)):
        case = make_case(slides, 1, number)
        assert case == make_case(same, 1, number)
        if case.damage != "undamaged":
            assert case.content != make_case(slides, 2, number).content


def misbehave(path: Path, reader: str) -> tuple[str, str]:
    """Do what `reader` says."""
    if reader == "hang":
        while True:  # busy: it is CPU time that is bounded
            pass
    if reader == "abort":
        os.abort()
    if reader == "use memory":
        held = [np.ones(1 << 25) for _ in range(5)]  # 1.25 GiB
        time.sleep(5)
        return "read", str(len(held))
    if reader == "ask for memory":
        np.empty(3 << 30, np.uint8)
    if reader == "other error":
        raise ZeroDivisionError
    return "read", ""


@pytest.mark.slow
def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path) -> None:
    """And goes on with the next reader in a new child."""
    expected = {
        "hang": "timeout",
        "abort": "crash",
        "use memory": "memory",
        "ask for memory": "untyped error",
        "other error": "untyped error",
        "nothing": "read",
    }
    case = Case(0, "a.tif", "none", b"", tuple(expected))
    outcomes = list(run_cases([case], tmp_path, misbehave, cpu_seconds=4))
    assert {o.reader: o.kind for o in outcomes} == expected
    assert "misbehave" in outcomes[0].detail  # where it hung
    assert "Fatal Python error: Aborted" in outcomes[1].detail
    assert "ZeroDivisionError" in outcomes[4].detail
