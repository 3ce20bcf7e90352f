"""Which encoders there are: ours, and the user's. Nothing here needs torch."""

from __future__ import annotations

import functools
import importlib.resources
import os
from pathlib import Path

from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import EncoderSpecError
from mil_models.spec_file import read_spec

DEFAULT_ENCODER = "tf_efficientnet_lite0"
SPEC_FOLDER_VARIABLE = "WSI_ENCODERS"
"""Environment variable: a folder of your own TOML files, one an encoder."""


def specs() -> dict[str, EncoderSpec]:
    """Return the encoders that have a file: ours, and those in the folder WSI_ENCODERS names.

    Raises
    ------
    EncoderSpecError
        The folder is not there, a file in it is wrong, or it has the name of one of ours.
    """
    found = dict(_our_specs())
    folder = os.environ.get(SPEC_FOLDER_VARIABLE)
    if not folder:
        return found
    if not Path(folder).is_dir():
        raise EncoderSpecError(f"{SPEC_FOLDER_VARIABLE}={folder}: no such folder")
    for path in sorted(Path(folder).glob("*.toml")):
        if path.stem in found:
            raise EncoderSpecError(
                f"{path}: there is an encoder {path.stem} already; name the file otherwise"
            )
        found[path.stem] = read_spec(path)
    return found


@functools.cache
def _our_specs() -> dict[str, EncoderSpec]:
    with importlib.resources.as_file(importlib.resources.files("mil_models")) as package:
        paths = sorted((package / "encoder_specs").glob("*.toml"))
        return {path.stem: read_spec(path) for path in paths}
