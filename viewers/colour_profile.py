"""A scanner's colours as the screen shows them: its ICC profile to sRGB."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from viewers.errors import ViewerError


def to_srgb(profile: bytes) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return what turns pixels ``(h, w, 3)`` of `profile` into sRGB, relative colorimetric.

    Safe in several threads.

    Raises
    ------
    ViewerError
        `profile` is no ICC profile of RGB.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.getOpenProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as err:
        raise ViewerError(f"the slide's ICC profile cannot be used: {err}") from err

    def convert(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        found = transform.apply(Image.fromarray(pixels))
        return np.asarray(found, np.uint8)

    return convert
