"""Encoders whose authors ship their own code: it is run only if the user installs it.

Nothing here needs torch.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import MissingPluginError

PLUGIN_GROUP = "wsi_pipeline.encoders"
"""Group of entry points named as encoders: callables from `EncoderSpec` to `nn.Module`."""


def has_plugin(name: str) -> bool:
    """Whether an installed package brings the plug-in of the encoder called `name`."""
    return bool(importlib.metadata.entry_points(group=PLUGIN_GROUP, name=name))


def find_plugin(spec: EncoderSpec) -> importlib.metadata.EntryPoint:
    """Return the installed plug-in of an encoder; none of its code is run.

    Raises
    ------
    MissingPluginError
        None is installed, or several.
    """
    found = list(importlib.metadata.entry_points(group=PLUGIN_GROUP, name=spec.name))
    if not found:
        raise MissingPluginError(
            f"{spec.name}: its authors ship their own code, which runs only if you install it: "
            f"install {spec.weights.install or 'their package'}, and a package with an entry point "
            f"{spec.name!r} in the group {PLUGIN_GROUP!r} (CONTRIBUTING.md shows one)"
        )
    if len(found) > 1:
        raise MissingPluginError(
            f"{spec.name}: several installed packages bring its plug-in "
            f"({', '.join(sorted(point.value for point in found))}); keep one"
        )
    return found[0]


def build_plugin(spec: EncoderSpec) -> Any:
    """Return the module that the installed plug-in builds for `spec`, with random weights.

    Raises
    ------
    MissingPluginError
        None is installed, or several.
    """
    return find_plugin(spec).load()(spec)
