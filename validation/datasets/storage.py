"""Where files are stored, and how patiently remote storage is asked: a bounded number of times, keys never printed."""

from __future__ import annotations

import datetime
import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

ATTEMPTS = 4
"""Times that remote storage is asked before an error is final."""

FIRST_PAUSE = 0.2
"""Seconds before the second attempt; doubled each time."""

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 30.0
SECRETS = frozenset(("access_key", "secret_key", "session_token"))
OPTIONS = {
    "s3": SECRETS | {"region", "endpoint_override", "scheme", "role_arn", "tls_ca_file_path"},
    "gs": frozenset(("endpoint_override", "scheme", "project_id")),
}
FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "SIGNATURE", "INVALID_ACCESS_KEY", "redential", "uthenticat")
"""Words of failures that will not pass."""

ENVIRONMENT_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

T = TypeVar("T")


class DatasetError(ValueError):
    """A dataset that cannot be read: one line that names the file, the place and what was expected.

    Names of columns and files are in it as they are, but for line ends and other control characters, which are shown as Python
    escapes: a dataset must not write lines of its own into a log.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(one if one.isprintable() else ascii(one)[1:-1] for one in message))


def one_line(text: object) -> str:
    """A library's message on one line, shortened."""
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:297] + "..."


@dataclass(frozen=True)
class Storage:
    """The local disk, or a file system behind a URI.

    Attributes:
      scheme: "" for the local disk, else the URI's.
      options: of the file system, such as `endpoint_override`, `access_key`, `secret_key`, `region`.
    """

    scheme: str = ""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def local(self) -> bool:
        """Whether files lie on the local disk."""
        return not self.scheme

    def printed(self, path: str) -> str:
        """A path as people write it, without keys."""
        return path if self.local else f"{self.scheme}://{path}"

    def filesystem(self) -> pafs.FileSystem:
        """The Arrow file system, connected once per process."""
        return _connect(self)

    def attempt(self, what: str, ask: Callable[[], T]) -> T:
        """Asks remote storage again after failures that may pass.

        Args:
          what: begins the error: the place and what was tried.
          ask: raises OSError when it fails.

        Raises:
          DatasetError: every attempt failed, or one failed in a way that will not pass.
        """
        pause = FIRST_PAUSE
        for tried in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except (OSError, pa.ArrowException) as error:
                reason = self.without_secrets(error)
                final = isinstance(error, FileNotFoundError | PermissionError) or any(word in reason for word in FINAL)
                if final or tried == ATTEMPTS:
                    times = f" ({tried} attempts)" if tried > 1 else ""
                    hint = "; expected other keys (storage options or AWS_… variables)" if "DENIED" in reason else ""
                    raise DatasetError(f"{what}{times}: {reason}{hint}") from None
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def without_secrets(self, text: object) -> str:
        """A message on one line in which no key of ours is left."""
        line = " ".join(str(text).split())
        hidden = [value for name, value in self.options if name in SECRETS]
        hidden += [os.environ.get(name, "") for name in ENVIRONMENT_SECRETS]
        for value in filter(None, hidden):
            line = line.replace(value, "***")
        return one_line(line)


LOCAL = Storage()


def split_uri(uri: str) -> SplitResult:
    """Parts of a URI; a question mark without options behind it is a wildcard of the path."""
    parts = urlsplit(uri)
    if parts.query and "=" not in parts.query:
        return parts._replace(path=f"{parts.path}?{parts.query}", query="")
    return parts


def parse_uri(uri: str, given: Mapping[str, str] | None) -> tuple[Storage, str]:
    """Storage and path of a URI such as `s3://bucket/folder?region=…`.

    Args:
      uri: scheme, host and path; options of the file system may follow as a query.
      given: further options, which win over those of the URI.

    Raises:
      DatasetError: the scheme or an option is unknown.
    """
    parts = split_uri(uri)
    scheme = parts.scheme.lower()
    host = parts.netloc.rpartition("@")[2]
    options = dict(parse_qsl(parts.query))
    if parts.username and scheme == "s3":
        options |= {"access_key": unquote(parts.username), "secret_key": unquote(parts.password or "")}
    options |= given or {}
    shown = f"{scheme}://{host}{parts.path}"
    if unknown := sorted(set(options) - OPTIONS.get(scheme, set(options))):
        known = ", ".join(sorted(OPTIONS[scheme]))
        raise DatasetError(f"{shown}: unknown option {unknown[0]!r}; known: {known}")
    if scheme in OPTIONS:
        if not host:
            raise DatasetError(f"{shown}: no bucket; expected {scheme}://bucket/path")
        return Storage(scheme, tuple(sorted(options.items()))), unquote(f"{host}{parts.path}").rstrip("/")
    if scheme == "file":
        return LOCAL, unquote(parts.path)
    try:
        _, path = pafs.FileSystem.from_uri(_without_pattern(uri))
    except (pa.ArrowException, OSError) as error:
        reason = one_line(str(error).replace(uri, shown).replace(_without_pattern(uri), shown))
        raise DatasetError(f"{shown}: not a place that can be opened: {reason}") from None
    return Storage(scheme, (("uri", _without_pattern(uri)),)), path + uri[len(_without_pattern(uri)) :].partition("?")[
        0
    ]


def _without_pattern(uri: str) -> str:
    """The folder before the first wildcard: file systems do not know patterns."""
    places = [at for at in (uri.find(mark) for mark in "*[") if at >= 0]
    return uri[: uri.rfind("/", 0, min(places))] if places else uri


@functools.lru_cache(maxsize=16)
def _connect(storage: Storage) -> pafs.FileSystem:
    options: dict[str, Any] = dict(storage.options)
    try:
        if storage.scheme == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            if endpoint and "endpoint_override" not in options:
                scheme, _, options["endpoint_override"] = endpoint.rstrip("/").rpartition("://")
                options.setdefault("scheme", scheme or "https")
            return pafs.S3FileSystem(
                connect_timeout=CONNECT_SECONDS,
                request_timeout=REQUEST_SECONDS,
                retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=2),
                **options,
            )
        if storage.scheme == "gs":
            return pafs.GcsFileSystem(retry_time_limit=datetime.timedelta(seconds=CONNECT_SECONDS), **options)
        return pafs.FileSystem.from_uri(options["uri"])[0]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{storage.scheme}://: cannot be opened: {storage.without_secrets(error)}") from None
