"""mogupload and mogfetch: whole files in and out, streamed.

Upload: a file may be sent again to another node when one fails; a pipe cannot be read twice, so there the first failure is final (nothing
is stored then). Fetch: the bytes go to a draft beside the target, which takes the target's name only when all of them are there: a failed
fetch neither truncates nor half-writes an existing file (the original does). Standard output and devices are written as bytes arrive; a
copy that fails half-way is continued from another one at the byte reached.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from mogile_cli.classic import connection, program
from mogile_cli.classic.program import Call, Died, Utility
from mogile_cli.classic.text import file_name
from mogile_core.client import TrackerClient
from mogile_core.errors import MogError
from mogile_core.model import DEFAULT_CLASS

PIECE_BYTES = 256 * 1024
STANDARD_STREAM = "-"


class _Pipe:
    """Standard input as a source: its bytes exist once."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._begun = False
        self.asked_again = False

    def __call__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        self.asked_again = self.asked_again or self._begun
        if self._begun:
            raise Died("standard input cannot be read a second time")
        self._begun = True
        while piece := await _read(self._stream):
            yield piece


async def _read(stream: BinaryIO) -> bytes:
    """The next bytes of a stream that nobody has read from yet, waiting in a way that Ctrl-C can end (a thread in read() cannot be)."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no descriptor: bytes in memory
        return stream.read(PIECE_BYTES)
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # an ordinary file is always ready
        return await asyncio.to_thread(os.read, descriptor, PIECE_BYTES)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, PIECE_BYTES)


async def _upload(call: Call) -> None:
    domain, key, name = call.need("domain"), call.need("key"), call.need("file")
    class_name = call.values.get("class", "")
    if class_name == DEFAULT_CLASS:
        class_name = ""
    async with connection.connect(call.trackers, call.values) as tracker:
        if name == STANDARD_STREAM:
            await _upload_stream(tracker.client, domain, key, class_name, call.console.stdin)
            return
        path = Path(file_name(name))
        if not await asyncio.to_thread(path.is_file):
            raise Died(
                f"Could not open {name}: no such file" if not path.exists() else f"{name} is not a file; use --file=-"
            )
        with program.doing("writing file"):
            await tracker.client.upload(domain, key, path, class_name=class_name)


async def _upload_stream(client: TrackerClient, domain: str, key: str, class_name: str, stdin: BinaryIO) -> None:
    pipe = _Pipe(stdin)
    with program.doing("writing file"):
        try:
            await client.upload(domain, key, pipe, class_name=class_name)
        except MogError as error:
            if pipe.asked_again:
                raise Died(
                    "Error writing file: the upload failed and standard input cannot be read a second time; "
                    "nothing was stored, try again or upload from a file"
                ) from error
            raise


async def _fetch(call: Call) -> None:
    domain, key, name = call.need("domain"), call.need("key"), call.need("file")
    async with connection.connect(call.trackers, call.values) as tracker:
        with program.doing("fetching file"):
            pieces = tracker.client.download(domain, key)
            if name == STANDARD_STREAM:
                await _write(pieces, call.console.stdout)
            elif _is_special(file_name(name)):
                with open(file_name(name), "wb") as stream:  # noqa: ASYNC230 - a device or pipe; written to in a thread
                    await _write(pieces, stream)
            else:
                await _write_whole(pieces, file_name(name))


def _is_special(name: str) -> bool:
    """Whether `name` exists and is no ordinary file: nothing can take the place of a device."""
    try:
        return not stat.S_ISREG(os.stat(name).st_mode)
    except FileNotFoundError:
        return False


async def _write(pieces: AsyncIterator[bytes], stream: BinaryIO) -> None:
    async for piece in pieces:
        await asyncio.to_thread(stream.write, piece)
    await asyncio.to_thread(stream.flush)


async def _write_whole(pieces: AsyncIterator[bytes], name: str) -> None:
    """All bytes under a name of their own first, with the mode of what they replace."""
    target = os.path.realpath(name)  # a symbolic link keeps pointing where it points
    draft = f"{target}.{secrets.token_hex(6)}.part"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            await _write(pieces, stream)
            if os.path.exists(target):
                os.fchmod(stream.fileno(), stat.S_IMODE(os.stat(target).st_mode))
        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)
        raise


UPLOAD = Utility(
    name="mogupload",
    usage=("Usage: mogupload --trackers=host --domain=foo --class=bar --key='/hello.jpg' --file='./hello.jpg'",),
    options=("class=s", "key=s", "file=s"),
    run=_upload,
)
FETCH = Utility(
    name="mogfetch",
    usage=("Usage: mogfetch --trackers=host --domain=foo --key='/hello.jpg' --file='./output'",),
    options=("key=s", "file=s"),
    run=_fetch,
)


def main_upload() -> int:
    """Entry point of `mogupload`."""
    return program.launch_utility(UPLOAD)


def main_fetch() -> int:
    """Entry point of `mogfetch`."""
    return program.launch_utility(FETCH)
