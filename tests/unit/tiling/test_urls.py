from __future__ import annotations

import logging
import pickle

import pytest

from tiling.errors import SlideAccessError, SlideOpenError, SlideReadError, WSIError
from tiling.slide import SlideRef
from tiling.urls import file_name, public_url, redacted

SECRETS = [
    "https://ann:hunter2@host/a.svs",
    "https://ann:hun/ter2@host:8080/a.svs",
    "https://host/a.svs?X-Amz-Credential=AKIA&X-Amz-Signature=hunter2&X-Amz-Expires=9",
    "https://host/my slide.svs?sig=hunter2&se=2026",
    "https://account.blob.core.windows.net/c/a.svs?sv=1&sig=hunter2%3D",
    "https://host/a.svs?token=hunter2#part",
    "HTTPS://host/a.svs?anything=hunter2",
    "simplecache::https://ann:hunter2@host/a.svs?k=hunter2",
    "sftp://ann:hunter2@host/folder/a.svs",
    "s3://AKIA:hunter2@bucket/a.svs",
]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("text", ["{}", "{}: no such file", "<{}>", "url='{}', 403", "({})."])
def test_no_secret_is_left_in_a_message(url: str, text: str) -> None:
    shown = redacted(text.format(url))
    assert "hun" not in shown
    assert "AKIA:" not in shown
    assert "host" in shown or "bucket" in shown or "windows.net" in shown
    assert redacted(shown) == shown
    for kind in (SlideOpenError, SlideReadError, SlideAccessError, WSIError):
        error = kind(text.format(url))
        assert "hun" not in f"{error} {error!r} {error.args}"
        assert "hun" not in str(pickle.loads(pickle.dumps(error)))  # noqa: S301 (our own bytes)


@pytest.mark.parametrize("url", SECRETS)
def test_no_secret_is_left_in_a_stored_url_or_a_name(url: str) -> None:
    assert "hun" not in public_url(url)
    assert file_name(url) in ("a.svs", "my slide.svs")
    assert "hun" not in repr(SlideRef(url, storage_options={"secret": "hunter2"}))


@pytest.mark.parametrize(
    "path",
    [
        "/data/a b/slide?.svs", "C:\\slides\\a.svs", "s3://bucket/a?b=c#1.svs",
        "https://host:8080/@scope/a.svs", "gs://bucket/x@2x/a.svs", "file:///data/a.svs",
        "https://host/a.svs",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(path: str) -> None:
    """In an object's key `?`, `#` and `@` are letters like others."""
    assert public_url(path) == path
    assert redacted(f"{path}: broken") == f"{path}: broken"


def test_the_sentence_around_a_url_stays() -> None:
    text = "https://h/a.svs?x=1, https://h/b.svs?y=2; and (https://h/c.svs?z=3)."
    assert redacted(text) == "https://h/a.svs, https://h/b.svs; and (https://h/c.svs)."


def test_log_lines_show_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The command line's handler; fsspec logs every URL at its debug level."""
    from wsi_pipeline.cli import _PublicFormatter

    record = logging.LogRecord("fsspec", logging.DEBUG, "", 0, "get %s", (SECRETS[2],), None)
    assert _PublicFormatter().format(record) == "get https://host/a.svs"
