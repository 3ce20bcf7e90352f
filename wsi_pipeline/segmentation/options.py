"""What `wsi segment` can be told beyond the network's own options; imports nothing slow."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

Names = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)]


@dataclass(frozen=True, slots=True)
class TruthOptions:
    """What of the annotations is inside.

    Parameters
    ----------
    inside
        Groups (classes) of outlines that are inside; those of tumour of CAMELYON16 and 17 if not
        given.
    outside
        Groups of outlines, most of them holes, that are not inside; those of CAMELYON if not given.
    mask_value
        The value of what is inside in masks that are not 1-bit or 0 and 255.
    normal
        Slides that hold nothing inside and need no annotation, as patterns: 'normal_*'.
    """

    inside: Names = ()
    outside: Names = ()
    mask_value: int | None = None
    normal: Names = ()

    def is_normal(self, slide_id: str) -> bool:
        """Whether the slide is one of those that hold nothing."""
        return any(fnmatch.fnmatchcase(slide_id, pattern) for pattern in self.normal)
