"""Leaks planted in splits are caught, and slides that are merely alike are not called leaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from mil_models.leaks import (
    Fold,
    Tiles,
    classes_missing,
    independence,
    near_duplicates,
    patients_on_two_sides,
    same_slide,
    site_confounded,
)


@dataclass(frozen=True)
class Slide:
    slide_id: str
    patient_id: str
    stratum: str = "x"
    site: str = ""
    split: str = ""


SLIDES = [Slide(f"s{i}", f"p{i}") for i in range(6)]
FOLDS: list[Fold] = [("fold 0", {"train": (0, 1, 2), "val": (3,), "test": (4, 5)})]


def grid(tiles: int) -> NDArray[np.float64]:
    """Return the places of tiles in rows of 12."""
    index = np.arange(tiles)
    return np.stack([index % 12, index // 12], axis=1) * 1.0


def tissue(seed: int, tiles: int = 80, dim: int = 64, types: int = 5) -> Tiles:
    """Return a slide's tiles, scattered around tissue types that all slides share."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(types, dim))
    stain = rng.normal(0, 0.1, dim)
    bag = centres[rng.integers(0, types, tiles)] + stain + rng.normal(0, 0.3, (tiles, dim))
    # As of an encoder whose embeddings all point one way.
    return Tiles((bag + 3).astype(np.float32), grid(tiles))


def saved_again(slide: Tiles, noise: float) -> Tiles:
    shape = slide.embeddings.shape
    more = np.random.default_rng(7).normal(0, noise, shape).astype(np.float32)
    return Tiles(slide.embeddings + more, slide.places)


def test_a_patient_on_two_sides() -> None:
    slides = [*SLIDES[:5], Slide("again", "p0")]
    [found] = patients_on_two_sides(slides, FOLDS)
    assert (found.kind, found.where) == ("same-patient", "fold 0")
    assert found.message == "patient p0 is in train and test"
    assert found.slides == ("s0", "again")
    assert patients_on_two_sides(SLIDES, FOLDS) == []


def test_one_file_under_two_names() -> None:
    hashes = ["a", "b", "c", "d", "a", ""]
    [found] = same_slide(SLIDES, hashes, FOLDS)
    assert found.message == "s0 and s4 are one file, in train and test"
    assert same_slide(SLIDES, ["a", "a", "c", "d", "", ""], FOLDS) == []  # both are trained on
    [unsplit] = same_slide(SLIDES, ["a", "a", "c", "d", "", ""], [])
    assert unsplit.message == "s0 and s1 are one file, of patients p0 and p1"


def test_a_slide_named_in_two_parts() -> None:
    folds: list[Fold] = [("fold 1", {"train": (0, 1), "test": (1, 2)})]
    [found] = same_slide(SLIDES, [""] * 6, folds)
    assert (found.message, found.where) == ("s1 is in train and test", "fold 1")


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("tiles", [10, 80, 300])
def test_a_slide_saved_again_is_a_near_duplicate(noise: float, tiles: int) -> None:
    """Noise of up to half the spread within a tissue type: measured for JPEG of quality 40."""
    bags = [tissue(i, tiles) for i in range(5)]
    copy = saved_again(bags[1], noise)
    order = np.random.default_rng(0).permutation(tiles)[: max(6, tiles * 2 // 3)]
    bags.append(Tiles(copy.embeddings[order], copy.places[order] - [2.3, 0.7]))  # cropped, moved
    [found] = near_duplicates(SLIDES, bags.__getitem__, FOLDS)
    assert found.slides == ("s1", "s5")
    assert "look alike" in found.message
    assert found.message.endswith("in train and test")


@pytest.mark.parametrize("tiles", [1, 2, 5, 6, 7, 80])
@pytest.mark.parametrize("types", [1, 5])
def test_slides_of_the_same_tissue_are_not_near_duplicates(tiles: int, types: int) -> None:
    bags = [tissue(i, tiles, types=types) for i in range(6)]
    assert near_duplicates(SLIDES, bags.__getitem__, FOLDS) == []


def test_background_that_is_everywhere_proves_nothing() -> None:
    blank = np.tile(tissue(50, 1).embeddings, (100, 1))
    bags = [Tiles(np.concatenate([tissue(i, 10).embeddings, blank]), grid(110)) for i in range(6)]
    shuffled = [Tiles(bag.embeddings[np.random.default_rng(i).permutation(110)], bag.places)
                for i, bag in enumerate(bags)]  # fmt: skip
    assert near_duplicates(SLIDES, shuffled.__getitem__, FOLDS) == []


def test_a_single_tile_saved_twice() -> None:
    bags = [tissue(i, 1) for i in range(5)]
    bags.append(saved_again(bags[0], 1e-3))
    [found] = near_duplicates(SLIDES, bags.__getitem__, FOLDS)
    assert found.slides == ("s0", "s5")
    assert "100% of the few tiles are all but identical" in found.message


def test_empty_slides_and_known_doubles_are_passed_over() -> None:
    empty = Tiles(np.empty((0, 64), np.float32), np.empty((0, 2)))
    bags = [tissue(0), empty, *(tissue(i) for i in range(2, 5)), tissue(0)]
    known = ["h", "", "", "", "", "h"]
    assert near_duplicates(SLIDES, bags.__getitem__, FOLDS, known=known) == []
    assert len(near_duplicates(SLIDES, bags.__getitem__, FOLDS)) == 1


def test_many_slides_are_compared_by_their_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mil_models.leaks.ALL_PAIRS", 10)
    slides = [Slide(f"s{i}", f"p{i}") for i in range(40)]
    bags = [tissue(i, 30) for i in range(39)]
    bags.append(saved_again(bags[3], 0.1))
    folds: list[Fold] = [("f", {"train": range(20), "test": range(20, 40)})]
    [found] = near_duplicates(slides, bags.__getitem__, folds)
    assert found.slides == ("s3", "s39")


def of_sites(counts: dict[str, tuple[int, int]]) -> list[Slide]:
    return [
        Slide(f"{site}{label}{k}", f"{site}{label}{k}", label, site)
        for site, pair in counts.items()
        for label, count in zip(("benign", "tumour"), pair, strict=True)
        for k in range(count)
    ]


def test_a_site_that_tells_the_label() -> None:
    """2 x 2 of 10, 0 and 0, 10: V is 1, Fisher's p 2 / C(20, 10) = 1.08e-5."""
    [found] = site_confounded(of_sites({"A": (10, 0), "B": (0, 10)}))
    assert found.kind == "site-confounded"
    assert "Cramér's V 1.00, p 1.1e-05" in found.message
    assert "A has benign only, B has tumour only" in found.message


@pytest.mark.parametrize(
    "counts", [{"A": (10, 9), "B": (8, 10)}, {"A": (1, 0), "B": (0, 1)}, {"A": (20, 0)}, {}]
)
def test_sites_that_tell_little_or_cannot_be_judged(counts: dict[str, tuple[int, int]]) -> None:
    assert site_confounded(of_sites(counts)) == []


def test_patients_are_counted_not_slides() -> None:
    """Twenty slides of two patients are two observations."""
    patients = ("p", "x", "A"), ("q", "y", "B")
    slides = [Slide(f"{p}{k}", p, label, site) for p, label, site in patients for k in range(10)]
    assert site_confounded(slides) == []


def test_independence_of_larger_tables() -> None:
    """A 3 x 2 table of small counts by permutations: within 1 % of Fisher-Freeman-Halton's."""
    table = np.array([[6, 1], [2, 4], [1, 5]])
    assert independence(table) == pytest.approx(fisher_exact(table).pvalue, abs=0.015)
    even = np.array([[20, 20], [20, 20], [20, 20]])
    assert independence(even) == pytest.approx(1.0)


def test_a_part_without_a_class() -> None:
    slides = [Slide(f"s{i}", f"p{i}", "y" if i in (2, 3) else "x") for i in range(6)]
    messages = [found.message for found in classes_missing(slides, FOLDS)]
    assert messages == ["val has no slide of class x", "test has no slide of class y"]
