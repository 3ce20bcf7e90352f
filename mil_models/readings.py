"""What readers said of a slide: a row of the table of labels each, and what they agree on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mil_models.errors import LabelTableError

MISSING = ("", "nan", "na", "n/a")


@dataclass(frozen=True, slots=True)
class Reading:
    """One row: where it stands (file and line), of which slide it is, and its columns."""

    where: str
    slide: str
    values: Mapping[str, str]

    def known(self, column: str) -> str | None:
        """Return the column's text, or None where the row leaves it empty (or NaN, NA)."""
        text = (self.values.get(column) or "").strip()
        return None if text.lower() in MISSING else text

    def text(self, column: str) -> str:
        """Return the column's text.

        Raises
        ------
        LabelTableError
            It is empty.
        """
        text = self.known(column)
        if text is None:
            said = (self.values.get(column) or "").strip()
            raise self.error(f"{column} is {said or 'empty'}")
        return text

    def number(self, column: str) -> float:
        """Return the column as a finite number.

        Raises
        ------
        LabelTableError
            It is empty, or none.
        """
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{column} is {text!r}, not a number")
        return value

    def error(self, what: str) -> LabelTableError:
        """Return the error that says `what` is wrong with this row."""
        return LabelTableError(f"{self.where}: {what} (slide {self.slide})")


Answer = Sequence[Reading]
"""All readings of a bag, one or more."""


def majority(answer: Answer, votes: Sequence[str]) -> str:
    """Return what most readers said.

    Raises
    ------
    LabelTableError
        As many said something else.
    """
    ranked = Counter(votes).most_common()
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        tied = " and ".join(sorted(v for v, n in ranked if n == ranked[0][1]))
        raise answer[0].error(
            f"as many readers say {' as '.join(tied.split(' and '))}; pass --consensus soft, or "
            "add a reader"
        )
    return ranked[0][0]


def natural_order(classes: Sequence[str]) -> list[str]:
    """Return the distinct classes in order: numbers as numbers, else the alphabet.

    Examples
    --------
    >>> natural_order(["10", "9", "10"]), natural_order(["b", "10", "9"])
    (['9', '10'], ['10', '9', 'b'])
    """
    distinct = set(classes)
    try:
        return sorted(distinct, key=lambda text: (float(text), text))
    except ValueError:
        return sorted(distinct)
