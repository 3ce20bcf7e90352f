"""An encoder as data: a TOML file, read and checked key by key. Nothing here needs torch."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mil_models.encoder_spec import EncoderSpec, Proof, WeightsSource
from mil_models.errors import EncoderSpecError

TABLES = ("build", "input", "output", "weights", "licence", "proof")
LIBRARIES = ("timm", "plugin")
INTERPOLATIONS = ("bilinear", "bicubic")
POOLINGS = ("timm", "cls", "mean", "cls+mean", "plugin")
PRECISIONS = ("float32", "float16", "bfloat16")
FORBIDDEN_ARGUMENTS = (
    "cache_dir", "checkpoint_path", "num_classes", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay", "scriptable",
)  # fmt: skip
"""What would load weights past our checks, or is ours to decide."""

_T = TypeVar("_T")
_MISSING: Any = object()


class _Section:
    """One table of the file; what is not taken from it is an unknown key."""

    def __init__(self, path: Path, name: str, content: dict[str, Any]) -> None:
        self.path, self.name = path, name
        self._left = content
        self._known: list[str] = []

    def take(
        self, key: str, check: Callable[[Any], _T], wanted: str, default: Any = _MISSING
    ) -> _T:
        """Return the checked value of `key`, or its default.

        `check` returns the value as it is kept, or raises ValueError; `wanted` says what fits.
        """
        self._known.append(key)
        if key not in self._left:
            if default is _MISSING:
                raise EncoderSpecError(f"{self.path}: [{self.name}] lacks the key {key} ({wanted})")
            return default  # type: ignore[no-any-return]
        value = self._left.pop(key)
        try:
            return check(value)
        except ValueError as err:
            raise EncoderSpecError(
                f"{self.path}: [{self.name}] {key} = {value!r}: must be {wanted}"
            ) from err

    def close(self) -> None:
        """Refuse keys that nobody asked for."""
        if self._left:
            key = sorted(self._left)[0]
            raise EncoderSpecError(
                f"{self.path}: [{self.name}] has no key {key}; allowed: "
                f"{', '.join(sorted(self._known))}"
            )


def read_spec(path: Path) -> EncoderSpec:
    """Return the encoder that a TOML file describes; the file's stem is its name.

    Raises
    ------
    EncoderSpecError
        Not readable, or a key is missing, unknown or wrong; the message names it and what fits.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise EncoderSpecError(f"{path}: {err}") from err
    unknown = sorted(set(content) - {"summary", *TABLES})
    if unknown:
        raise EncoderSpecError(
            f"{path}: no key or table {unknown[0]}; allowed: summary, {', '.join(TABLES)}"
        )
    tables = {name: _Section(path, name, _table(path, content, name)) for name in TABLES}
    top = _Section(path, "top level", content)
    summary = top.take("summary", _text, "a sentence", "")
    spec = EncoderSpec(
        name=path.stem,
        summary=summary,
        **_build(tables["build"]),
        **_input(tables["input"]),
        **_output(tables["output"]),
        **_licence(tables["licence"]),
        weights=_weights(tables["weights"]),
        proof=_proof(tables["proof"]),
    )
    for table in tables.values():
        table.close()
    _check_whole(path, spec)
    return spec


def _table(path: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise EncoderSpecError(f"{path}: {name} = {table!r}: must be a table, [{name}]")
    return dict(table)


def _build(table: _Section) -> dict[str, Any]:
    library = table.take("library", _one_of(*LIBRARIES), " or ".join(LIBRARIES), "timm")
    default = "" if library == "plugin" else _MISSING
    return {
        "library": library,
        "architecture": table.take(
            "architecture", _architecture, "a model name of timm, not of a hub", default
        ),
        "arguments": table.take(
            "arguments",
            _arguments,
            "a table of timm's build arguments, without " + ", ".join(FORBIDDEN_ARGUMENTS),
            {},
        ),
    }


def _input(table: _Section) -> dict[str, Any]:
    size = "a number of pixels > 0"
    return {
        "tile_px": table.take(
            "tile_px",
            lambda value: None if value == "range" else _count(value),
            'a number of pixels > 0, or "range": any multiple of 32 from 96',
        ),
        "trained_mpp": table.take("mpp", _lengths, "a list of µm per pixel, empty for any", ()),
        "mpp_tolerance": table.take("mpp_tolerance", _fraction, "a part between 0 and 1", 0.1),
        "mean": table.take("mean", _mean, "three numbers from 0 to 1, for RGB"),
        "std": table.take("std", _std, "three numbers above 0 up to 1, for RGB"),
        "resize_px": table.take("resize_px", _count, size, None),
        "interpolation": table.take(
            "interpolation", _one_of(*INTERPOLATIONS), " or ".join(INTERPOLATIONS), "bilinear"
        ),
        "crop_px": table.take("crop_px", _count, size, None),
    }


def _output(table: _Section) -> dict[str, Any]:
    return {
        "pooling": table.take("pooling", _one_of(*POOLINGS), "one of " + ", ".join(POOLINGS)),
        "projection": table.take("projection", _widths, "a list of two widths > 0", ()),
        "unit_length": table.take("unit_length", _flag, "true or false", False),
        "width": table.take("width", _count, "the length of an embedding, > 0"),
        "precision": table.take(
            "precision", _one_of(*PRECISIONS), "one of " + ", ".join(PRECISIONS), "float32"
        ),
    }


def _licence(table: _Section) -> dict[str, Any]:
    return {
        "licence": table.take("name", _text, "the licence's name"),
        "commercial": table.take("commercial", _flag, "true or false", None),
    }


def _weights(table: _Section) -> WeightsSource:
    empty = WeightsSource()
    names = "a list of names"
    return WeightsSource(
        repository=table.take("repository", _repository, "owner/name on the hub", ""),
        files=table.take("files", _names, "a list of file names, best first", empty.files),
        gated=table.take("gated", _flag, "true or false", False),
        package=table.take("package", _text, "an importable package", ""),
        install=table.take("install", _text, "what pip installs", ""),
        sha256=table.take("sha256", _sha256, "64 hexadecimal digits", ""),
        rename=table.take("rename", _renames, 'a table of names, "from" = "to"', {}),
        drop=table.take("drop", _names, names, ()),
        in_order=table.take("in_order", _flag, "true or false", False),
        obtain=table.take("obtain", _text, "where to get the weights", ""),
    )


def _proof(table: _Section) -> Proof:
    return Proof(
        parameters=table.take(
            "parameters", _published, 'a number of parameters, such as "303.4M" or "1134953984"', ""
        ),
        not_built=table.take("not_built", _natural, "a number of parameters", 0),
        source=table.take("source", _text, "who published the number", ""),
        golden=table.take("golden", _flag, "true or false", False),
    )


def _check_whole(path: Path, spec: EncoderSpec) -> None:
    """Refuse keys that are right by themselves and do not fit one another."""
    if (spec.pooling == "plugin") != (spec.library == "plugin"):
        raise EncoderSpecError(
            f'{path}: [output] pooling = "plugin" goes with [build] library = "plugin" only'
        )
    if spec.tile_px is None and (spec.resize_px or spec.crop_px):
        raise EncoderSpecError(
            f'{path}: [input] tile_px = "range" cannot have resize_px or crop_px; give one size'
        )
    seen = spec.resize_px or spec.tile_px
    if spec.crop_px and seen and spec.crop_px > seen:
        raise EncoderSpecError(
            f"{path}: [input] crop_px = {spec.crop_px}: larger than the {seen} px it is cut from"
        )
    if spec.projection and spec.library == "plugin":
        raise EncoderSpecError(f"{path}: [output] projection is not for plug-ins; theirs is final")
    if spec.projection and spec.projection[-1] != spec.width:
        raise EncoderSpecError(
            f"{path}: [output] projection = {list(spec.projection)}: must end with width, "
            f"{spec.width}"
        )
    if spec.proof.parameters and not spec.proof.source:
        raise EncoderSpecError(f"{path}: [proof] parameters needs a source")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return float(value)


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _count(value: Any) -> int:
    if _natural(value) == 0:
        raise ValueError
    return int(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError
    return value


def _lengths(value: Any) -> tuple[float, ...]:
    found = tuple(_number(v) for v in _list(value))
    if any(v <= 0 for v in found):
        raise ValueError
    return found


def _fraction(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError
    return float(value)


def _mean(value: Any) -> tuple[float, float, float]:
    found = tuple(_fraction(v) for v in _list(value))
    if len(found) != 3:
        raise ValueError
    return found[0], found[1], found[2]


def _std(value: Any) -> tuple[float, float, float]:
    found = _mean(value)
    if min(found) == 0:
        raise ValueError
    return found


def _widths(value: Any) -> tuple[int, ...]:
    found = tuple(_count(v) for v in _list(value))
    if len(found) != 2:
        raise ValueError
    return found


def _names(value: Any) -> tuple[str, ...]:
    return tuple(_text(v) for v in _list(value))


def _renames(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError
    return dict(value)


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return check


def _matching(pattern: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return check


_architecture = _matching(r"[A-Za-z0-9_.]+")
_repository = _matching(r"[\w.-]+/[\w.-]+")
_sha256 = _matching(r"[0-9a-f]{64}")
_published = _matching(r"\d+|\d+(\.\d+)?[MB]")


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) & set(FORBIDDEN_ARGUMENTS):
        raise ValueError
    return dict(value)
