"""Splits by patient and by site, and the files that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_models.errors import SplitError
from mil_models.options import SplitOptions
from mil_models.splits import (
    Split,
    choose_splits,
    leave_one_site_out,
    make_splits,
    read_splits,
    repeated_splits,
    site_folds,
    write_splits,
)


@dataclass(frozen=True)
class Slide:
    slide_id: str
    patient_id: str
    stratum: str
    site: str = ""
    split: str = ""


def slides(patients: int = 24, each: int = 2, sites: int = 6) -> list[Slide]:
    """Return slides whose patients alternate in label; a site has neighbouring patients."""
    per_site = patients // sites
    return [
        Slide(f"s{p}_{k}", f"p{p}", "tumour" if p % 2 else "benign", f"site{p // per_site}")
        for p in range(patients)
        for k in range(each)
    ]


def assert_sound(found: list[Split], all_slides: list[Slide]) -> None:
    for split in found:
        parts = [{all_slides[i].patient_id for i in part} for part in split.parts().values()]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert {all_slides[i].stratum for i in split.train} == {"tumour", "benign"}


def test_repeats_test_every_slide_once_each_and_differ() -> None:
    everyone = slides()
    found = repeated_splits(everyone, 4, seed=0, repeats=3)
    assert_sound(found, everyone)
    assert len(found) == 12
    for repeat in range(3):
        own = [s for s in found if s.repeat == repeat]
        assert sorted(i for s in own for i in s.test) == list(range(48))
    assert {s.test for s in found if s.repeat == 0} != {s.test for s in found if s.repeat == 1}
    assert [s.test for s in found[:4]] == [s.test for s in make_splits(everyone, 4, seed=0)]
    assert [s.name for s in found[:5:4]] == ["repeat 0 fold 0", "repeat 1 fold 0"]
    assert repeated_splits(everyone, 4, 0, repeats=1) == make_splits(everyone, 4, 0)


def test_nothing_to_repeat() -> None:
    with pytest.raises(SplitError, match="--folds is 0"):
        repeated_splits(slides(), 0, 0, repeats=2)
    own = [Slide("a", "p", "x", split="train"), Slide("b", "q", "y", split="train")]
    with pytest.raises(SplitError, match="a split of its own"):
        repeated_splits(own, 5, 0, repeats=2)
    with pytest.raises(ValueError, match="repeats=0"):
        repeated_splits(slides(), 5, 0, repeats=0)


def test_one_site_is_left_out_at_a_time() -> None:
    everyone = slides()
    found = leave_one_site_out(everyone, seed=0)
    assert_sound(found, everyone)
    assert [s.name for s in found] == [f"site site{k}" for k in range(6)]
    for k, split in enumerate(found):
        assert {everyone[i].site for i in split.test} == {f"site{k}"}
        assert f"site{k}" not in {everyone[i].site for i in (*split.train, *split.validation)}
        assert len(split.train) + len(split.validation) + len(split.test) == 48


def test_a_tested_patients_slides_elsewhere_are_not_trained_on() -> None:
    everyone = [*slides(), Slide("elsewhere", "p0", "benign", "site5")]
    with pytest.warns(UserWarning, match="left out of training"):
        found = leave_one_site_out(everyone, seed=0)
    assert_sound(found, everyone)
    assert 48 not in (*found[0].train, *found[0].validation, *found[0].test)
    assert 48 in found[5].test


def test_sites_stay_together_and_labels_are_shared_out() -> None:
    everyone = slides()
    found = site_folds(everyone, 3, seed=0)
    assert_sound(found, everyone)
    assert sorted(i for s in found for i in s.test) == list(range(48))
    for split in found:
        inside = {everyone[i].site for i in split.test}
        outside = {everyone[i].site for i in (*split.train, *split.validation)}
        assert len(inside) == 2
        assert not inside & outside
        assert np.mean([everyone[i].stratum == "tumour" for i in split.test]) == 0.5


def test_fewer_sites_than_folds() -> None:
    with pytest.warns(UserWarning, match="2 sites: 2 folds, not 5"):
        assert len(site_folds(slides(sites=2), 5, seed=0)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([Slide("x", "px", "benign", "")], r"1 slides have no site \(first: x\)"),
        ([Slide("x", "p0", "benign", "site5")], "patient 'p0' has slides at site0, site5"),
    ],
)
def test_sites_that_cannot_be_kept_together(change: list[Slide], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        site_folds([*slides(), *change], 3, seed=0)


def test_one_site_only() -> None:
    with pytest.raises(SplitError, match="one site only"):
        leave_one_site_out(slides(sites=1), seed=0)


def test_a_class_of_one_site_cannot_be_learned_without_it() -> None:
    everyone = [*slides(8, 1, 2), Slide("rare", "r", "odd", "site0"),
                Slide("rare2", "r2", "odd", "site0")]  # fmt: skip
    with pytest.raises(SplitError, match="without site 'site0' a class is missing"):
        leave_one_site_out(everyone, seed=0)


def test_splits_survive_a_file(tmp_path: Path) -> None:
    everyone = slides()
    made = repeated_splits(everyone, 3, seed=1, repeats=2)
    write_splits(tmp_path / "splits.csv", everyone, made)
    lines = (tmp_path / "splits.csv").read_text().splitlines()
    assert lines[0] == "slide_id,repeat,fold,part"
    assert len(lines) == 1 + 48 * 6
    again = read_splits(tmp_path / "splits.csv", everyone)
    assert [(s.name, s.repeat, set(s.train), set(s.validation), set(s.test)) for s in again] == [
        (s.name, s.repeat, set(s.train), set(s.validation), set(s.test)) for s in made
    ]


def test_a_table_with_a_column_for_each_part(tmp_path: Path) -> None:
    """CLAM's form: slide names under train, val and test, the columns of different length."""
    everyone = [Slide(n, n, "x" if n in "ac" else "y") for n in "abcde"]
    path = tmp_path / "splits_0.csv"
    path.write_text(",train,val,test\n0,a,c,e\n1,b,d,\n")
    [found] = read_splits(path, everyone)
    assert (found.train, found.validation, found.test) == ((0, 1), (2, 3), (4,))


HEADER = "slide_id,repeat,fold,part\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "needs the columns slide_id and part.*it has a, b"),
        ("", "it has none"),
        (HEADER, "no slide in it"),
        (HEADER + "a,0,0,exam\n", "line 2: part is 'exam'; use train, val, test"),
        (HEADER + ",0,0,train\n", "line 2: slide_id is empty"),
        (HEADER + "a,0,0,train\nz,0,0,test\n", "not in the table of labels: z"),
        (HEADER + "a,0,0,train\na,0,0,test\n", "line 3: a stands in two parts of fold 0"),
        (HEADER + "a,0,0,train\nb,0,0,train\na2,0,0,test\n",
         "patients on more than one side: 'pa' in train and test"),
        (HEADER + "a,0,0,train\nb,0,0,test\n", "training lacks class y"),
        (HEADER + "a,0,0,train\nb,0,0,train\nc,0,0,test\na,0,1,train\nb,0,1,train\nc,0,1,test\n",
         "c is tested by another fold of the same repeat"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*take no part")
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    everyone = [Slide("a", "pa", "x"), Slide("a2", "pa", "x"), Slide("b", "pb", "y"),
                Slide("c", "pc", "y")]  # fmt: skip
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(SplitError, match=message):
        read_splits(tmp_path / "s.csv", everyone)


def test_slides_that_a_fold_does_not_name(tmp_path: Path) -> None:
    everyone = [Slide(n, n, "x" if n in "ac" else "y") for n in "abc"]
    (tmp_path / "s.csv").write_text("slide_id,part\na,train\nb,train\n")
    with pytest.warns(UserWarning, match="1 labelled slides take no part"):
        [found] = read_splits(tmp_path / "s.csv", everyone)
    assert (found.train, found.test) == ((0, 1), ())


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(4, 15))
@settings(max_examples=25, deadline=None)
def test_no_patient_is_on_two_sides_whatever_the_seed(
    seed: int, folds: int, per_class: int
) -> None:
    rng = np.random.default_rng(seed)
    everyone = [
        Slide(f"{p}_{k}", f"p{p}", "tumour" if p % 2 else "benign")
        for p in range(2 * max(per_class, folds))
        for k in range(int(rng.integers(1, 4)))
    ]
    assert_sound(make_splits(everyone, folds, seed), everyone)


def test_what_is_asked_for_is_chosen(tmp_path: Path) -> None:
    everyone = slides()
    write_splits(tmp_path / "s.csv", everyone, site_folds(everyone, 3, 0))
    for options, expected in (
        (SplitOptions(), make_splits(everyone, 4, 0)),
        (SplitOptions(repeats=2), repeated_splits(everyone, 4, 0, repeats=2)),
        (SplitOptions(split_by="site"), leave_one_site_out(everyone, 0)),
        (SplitOptions(split_by="site-folds"), site_folds(everyone, 4, 0)),
    ):
        assert choose_splits(everyone, 4, 0, options) == expected
    assert len(choose_splits(everyone, 4, 0, SplitOptions(splits=tmp_path / "s.csv"))) == 3
    again = choose_splits(everyone, 3, 0, SplitOptions(split_by="site-folds", repeats=2))
    assert [s.repeat for s in again] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(SplitError, match="one way only"):
        choose_splits(everyone, 4, 0, SplitOptions(split_by="site", repeats=2))
    with pytest.raises(ValueError, match="goes with neither"):
        SplitOptions(splits=tmp_path / "s.csv", repeats=2)
