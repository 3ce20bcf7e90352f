"""URLs that may carry credentials: what of them may be shown, written down or made a name of."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

_USER = re.compile(
    r"(?<=://)(?:[^\s/?#@'\"<>]*|[^\s/?#@:'\"<>]+:(?!\d+/|:)(?:(?!://)[^\s@'\"<>])*)@"
)
"""``user:password@`` after ``://``; also with a slash in the password, if that is no port."""
_QUERY = re.compile(r"(https?://[^\s?'\"<>]*)\?[^\s'\"<>]*?(?=[:;,.)\]]*(?:[\s'\"<>]|$))", re.I)
"""The query of a web address, but for punctuation at its end that belongs to the sentence."""
_SIGNED = re.compile(
    r"([?&](?:x-(?:amz|goog|ms)-[\w-]+|awsaccesskeyid|access_?token|api_?key|credential|key|"
    r"password|pwd|secret|sig|signature|token)=)[^\s&'\"<>]+",
    re.IGNORECASE,
)
"""What is left of a signed query where a space in the address hid its beginning."""


def is_url(path: str) -> bool:
    """Whether `path` is an fsspec URL such as ``s3://bucket/slide.svs``.

    Examples
    --------
    >>> is_url("s3://bucket/a.svs"), is_url("/data/a.svs"), is_url("C:/a.svs")
    (True, False, False)
    """
    return "://" in path


def redacted(text: str) -> str:
    """Return a message with every URL in it free of credentials.

    User names and passwords go, and the whole query of a web address: a signature can have any
    name there. What is left still says which file is meant.

    Examples
    --------
    >>> redacted("https://ann:pw@host/a.svs?X-Amz-Signature=12: no such file")
    'https://host/a.svs: no such file'
    """
    if "://" not in text and "?" not in text:
        return text
    return _SIGNED.sub(r"\1***", _QUERY.sub(r"\1", _USER.sub("", text)))


def public_url(path: str) -> str:
    """Return a path or URL as it may be written down: without credentials.

    Examples
    --------
    >>> public_url("https://ann:pw@host/my slide.svs?sig=12"), public_url("s3://bucket/a?1.svs")
    ('https://host/my slide.svs', 's3://bucket/a?1.svs')
    """
    web = re.search("https?://", path, re.IGNORECASE)
    if web is not None:
        path = path[: web.end()] + path[web.end() :].partition("?")[0]
    return _USER.sub("", path)


def file_name(path: str) -> str:
    """Return the file name at the end of a path or URL.

    Examples
    --------
    >>> file_name("https://host/folder/a.svs?sig=12")
    'a.svs'
    """
    clean = public_url(path)
    return PurePosixPath(clean if "://" in clean else Path(clean).as_posix()).name
