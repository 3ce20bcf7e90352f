"""What `wsi encoders` shows: which there are, whether they can be used here, on what terms."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from mil_models.encoder_spec import EncoderSpec
from mil_models.plugins import has_plugin
from mil_models.registry import DEFAULT_ENCODER, specs
from mil_models.weight_files import find_weights, weights_state

STATES = {
    "available offline": "here",
    "in the hub's cache": "here",
    "on the hub": "hub",
    "gated, missing": "gated",
    "missing": "missing",
    "needs a plug-in": "plug-in",
}
COLUMNS = {
    "name": "encoder",
    "state": "state",
    "commercial": "use",
    "tile_px": "tile",
    "mpp": "µm/px",
    "width": "width",
    "proof": "proof",
    "licence": "licence",
}
LEGEND = """\
here: needs no network · hub: fetched when used · gated: accept its terms first
plug-in: its authors' code must be installed · 96+: any multiple of 32 px
proof: golden vector, counted (the published number of parameters), unproven
`wsi encoders NAME` shows one in full; any other timm model works by its name"""


def encoder_list() -> list[dict[str, Any]]:
    """Return one row an encoder: the default first, then pathology's, then photographs'."""
    found = sorted(
        specs().values(), key=lambda s: (s.name != DEFAULT_ENCODER, not s.trained_mpp, s.name)
    )
    return [_row(spec) for spec in found]


def describe(name: str) -> dict[str, Any]:
    """Return all there is to say of one encoder: ours, a TOML file, or any timm model.

    Raises
    ------
    UnknownEncoderError, EncoderSpecError
        There is none, or its file is wrong.
    """
    spec = specs().get(name)
    if spec is None:
        from mil_models.network import find_spec  # not at the top: it brings torch

        spec = find_spec(name)
    path = None if _lacks_plugin(spec) else find_weights(spec)
    source = spec.weights
    return {
        **_row(spec),
        "summary": spec.summary,
        "library": spec.library,
        "architecture": spec.architecture,
        "arguments": spec.arguments,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "resize_px": spec.resize_px,
        "interpolation": spec.interpolation if spec.resize_px else None,
        "crop_px": spec.crop_px,
        "mpp_tolerance": spec.mpp_tolerance,
        "pooling": spec.pooling,
        "projection": list(spec.projection),
        "unit_length": spec.unit_length,
        "authors_precision": spec.precision,
        "weights_source": source.repository or source.package or source.obtain or "unknown",
        "weights_files": list(source.files) if source.repository or source.package else [],
        "weights_here": None if path is None else str(path),
        "parameters": spec.proof.parameters or None,
        "parameters_source": spec.proof.source or None,
    }


def encoder_table(rows: list[dict[str, Any]]) -> Table:
    """Return the list as it is printed."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", caption=LEGEND)
    table.caption_justify, table.caption_style = "left", "dim"
    cells = [[_text(key, row[key]) for key in COLUMNS] for row in rows]
    for index, (key, title) in enumerate(COLUMNS.items()):
        longest = max(len(title), *(len(line[index]) for line in cells))
        # Where the window is narrow, the licence is cut short and nothing else.
        table.add_column(title, no_wrap=True, min_width=6 if key == "licence" else longest)
    for line in cells:
        table.add_row(*line)
    return table


def _row(spec: EncoderSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "state": "needs a plug-in" if _lacks_plugin(spec) else weights_state(spec),
        "licence": spec.licence,
        "commercial": spec.commercial,
        "gated": spec.weights.gated,
        "tile_px": spec.tile_px,
        "mpp": list(spec.trained_mpp),
        "width": spec.width,
        "proof": _proof(spec),
    }


def _lacks_plugin(spec: EncoderSpec) -> bool:
    return spec.library == "plugin" and not has_plugin(spec.name)


def _proof(spec: EncoderSpec) -> str:
    if spec.proof.golden:
        return "golden"
    if spec.library == "timm" and spec.proof.parameters:
        return "counted"
    return "unproven"


def _text(key: str, value: Any) -> str:
    if key == "tile_px":
        return "96+" if value is None else str(value)
    if key == "mpp":
        return f"{min(value):g}-{max(value):g}" if len(value) > 1 else "".join(map(str, value))
    if key == "commercial":
        return {True: "any", False: "research", None: "unknown"}[value]
    return STATES.get(value, str(value))
