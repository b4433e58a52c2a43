"""`mog put get ls rm info`: whole files by domain and key, bytes straight to and from storage nodes."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mogile_cli import output
from mogile_cli.errors import CliError, UsageError
from mogile_cli.progress import COUNT, Progress
from mogile_cli.session import (
    DomainOption,
    JsonOption,
    TrackersOption,
    complete_class,
    complete_key,
    domain_or_only,
    with_client,
)
from mogile_core.client import FileInfo, TrackerClient
from mogile_core.client.transfer import PIECE_BYTES
from mogile_core.errors import CommandError
from mogile_core.model import KEY_BYTES_MAX

app = typer.Typer()
KeyArgument = Annotated[str, typer.Argument(help="The file's key.", autocompletion=complete_key)]
ClassOption = Annotated[
    str,
    typer.Option("--class", help="Class, which decides how many copies are kept.", autocompletion=complete_class),
]
QUESTIONS_AT_ONCE = 16


@app.command("put")
def put(
    sources: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files to store; - reads standard input.")],
    key: Annotated[str, typer.Option("--key", "-k", help="Key of a single file; else the file's name.")] = "",
    prefix: Annotated[str, typer.Option("--prefix", help="Put before every file's name to make its key.")] = "",
    class_name: ClassOption = "",
    domain: DomainOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Store files. When the command returns they are on disk and in the database."""
    if key and (len(sources) != 1 or prefix):
        raise UsageError("--key names one file; use --prefix for several")
    if "-" in sources and not key:
        raise UsageError("standard input has no name; give it one with --key")
    for source in sources:
        if source != "-" and not Path(source).is_file():
            raise UsageError(f"{source} is not a file that can be read")

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        stored = []
        for source in sources:
            name = key or f"{prefix}{Path(source).name}"
            _check_key(name)
            with tempfile.TemporaryDirectory(prefix="mog-") as folder:
                path = _spooled(Path(folder)) if source == "-" else Path(source)
                size = path.stat().st_size
                with Progress(name, total=size) as bar:
                    info = await client.upload(chosen, name, _pieces(path, bar), class_name=class_name, size=size)
            stored.append(info)
            if not as_json:
                output.say_plain(f"{chosen}:{name}  {output.size(info.length)}")
        if as_json:
            output.say_json([{"domain": i.domain, "key": i.key, "fid": i.fid, "length": i.length} for i in stored])

    with_client(trackers, work)


@app.command("get")
def get(
    key: KeyArgument,
    target: Annotated[
        str, typer.Argument(help="File to write; - is standard output.", show_default="the key's last part")
    ] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite an existing file.")] = False,
    domain: DomainOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Fetch a file. A half-read file never appears under its name."""
    if target == "-" and as_json:
        raise UsageError("--json and the file itself cannot both go to standard output")
    path = Path(target or key.rsplit("/", 1)[-1] or "file")
    if path.is_dir():
        path /= key.rsplit("/", 1)[-1] or "file"
    if target != "-" and path.exists() and not force:
        raise UsageError(f"{path} exists; --force overwrites it")

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        with _named_errors(chosen, key):
            total = (await client.file_info(chosen, key)).length if output.remarks.is_terminal else None
            with Progress(key, total=total) as bar:
                if target == "-":
                    async for piece in client.download(chosen, key):
                        sys.stdout.buffer.write(piece)
                        bar.advance(len(piece))
                    sys.stdout.buffer.flush()
                    return
                length = await _save(client.download(chosen, key), path, bar)
        if as_json:
            output.say_json({"domain": chosen, "key": key, "path": str(path), "length": length})

    try:
        with_client(trackers, work)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror or error}") from error


@app.command("ls")
def ls(
    prefix: Annotated[str, typer.Argument(help="Only keys that begin so.", autocompletion=complete_key)] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many keys.")] = 1000,
    long: Annotated[bool, typer.Option("--long", "-l", help="With size, class and devices.")] = False,
    domain: DomainOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """List keys in byte order."""

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        names: list[str] = []
        with Progress("keys", columns=COUNT) as bar:
            async for name in client.keys(chosen, prefix=prefix):
                if len(names) == limit:
                    output.remark(f"there are more than {limit} keys; --limit shows more")
                    break
                names.append(name)
                bar.advance()
        if not long:
            if as_json:
                output.say_json(names)
                return
            for name in names:
                output.say_plain(name)
            return
        found = await _infos(client, chosen, names)
        if as_json:
            output.say_json(found)
            return
        rows = [(output.size(i.length), i.class_name, ",".join(map(str, i.devids)), i.key) for i in found]
        output.say_table(("size", "class", "devices", "key"), rows, right=("size",))

    with_client(trackers, work)


@app.command("rm")
def rm(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys to remove.", autocompletion=complete_key)],
    ignore_missing: Annotated[
        bool, typer.Option("--ignore-missing", help="A key that is not there is no error.")
    ] = False,
    domain: DomainOption = "",
    trackers: TrackersOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove files. Their bytes are deleted a little later."""

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        removed = []
        with Progress("removed", total=len(keys), columns=COUNT) as bar:
            for key in keys:
                try:
                    with _named_errors(chosen, key):
                        await client.delete(chosen, key)
                    removed.append(key)
                except MissingFileError:
                    if not ignore_missing:
                        raise
                bar.advance()
        if as_json:
            output.say_json({"domain": chosen, "removed": removed})

    with_client(trackers, work)


@app.command("info")
def info(
    key: KeyArgument, domain: DomainOption = "", trackers: TrackersOption = "", as_json: JsonOption = False
) -> None:
    """What the trackers know about a file, and where its copies lie."""

    async def work(client: TrackerClient) -> None:
        chosen = await domain_or_only(client, domain)
        with _named_errors(chosen, key):
            found = await client.file_info(chosen, key, devices=True)
            paths = await client.get_paths(chosen, key)
        if as_json:
            output.say_json({**output.plain(found), "paths": paths})
            return
        rows: list[tuple[str, object]] = [
            ("key", output.cell(found.key)),
            ("domain", found.domain),
            ("class", found.class_name),
            ("fid", found.fid),
            ("length", f"{found.length} ({output.size(found.length)})"),
            ("checksum", found.checksum),
            ("devices", ", ".join(map(str, found.devids))),
            *(("path" if i == 0 else " ", path) for i, path in enumerate(paths)),
        ]
        output.say_table(("file", ""), rows)

    with_client(trackers, work)


class MissingFileError(CliError):
    """There is no such file."""


class _named_errors:  # noqa: N801 - reads as a statement
    """Turns the tracker's `unknown_key` into a sentence that names the file."""

    def __init__(self, domain: str, key: str) -> None:
        self._domain, self._key = domain, key

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CommandError) and error.wire_code == "unknown_key":
            raise MissingFileError(f"there is no file {self._key!r} in domain {self._domain}") from error


async def _infos(client: TrackerClient, domain: str, names: Sequence[str]) -> list[FileInfo]:
    """What is known about files, those left out that were removed meanwhile; several questions at a time."""
    gate, bar = asyncio.Semaphore(QUESTIONS_AT_ONCE), Progress("files", total=len(names), columns=COUNT)

    async def one(name: str) -> FileInfo | None:
        async with gate:
            found = await _info_or_none(client, domain, name)
            bar.advance()
            return found

    with bar:
        return [found for found in await asyncio.gather(*map(one, names)) if found is not None]


async def _info_or_none(client: TrackerClient, domain: str, key: str) -> FileInfo | None:
    """None for a file that was removed between the list and the question."""
    try:
        return await client.file_info(domain, key, devices=True)
    except CommandError as error:
        if error.wire_code == "unknown_key":
            return None
        raise


def _pieces(path: Path, bar: Progress) -> Callable[[], AsyncIterator[bytes]]:
    """The content of a file, counted by the bar; asked for again when an upload begins anew."""

    async def read() -> AsyncIterator[bytes]:
        bar.restart()
        with await asyncio.to_thread(path.open, "rb") as stream:
            while piece := await asyncio.to_thread(stream.read, PIECE_BYTES):
                yield piece
                bar.advance(len(piece))

    return read


async def _save(pieces: AsyncIterator[bytes], path: Path, bar: Progress) -> int:
    """Write a file under its name when all of it is there; its length."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    length = 0
    try:
        with draft.open("xb") as stream:
            async for piece in pieces:
                stream.write(piece)
                length += len(piece)
                bar.advance(len(piece))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return length


def _check_key(key: str) -> None:
    if not key or len(key.encode("utf-8", "surrogateescape")) > KEY_BYTES_MAX:
        raise UsageError(f"a key has 1 to {KEY_BYTES_MAX} bytes, this one has {len(os.fsencode(key))}: {key[:60]!r}")


def _spooled(folder: Path) -> Path:
    """Standard input as a file: an upload may have to read its source twice."""
    path = folder / "stdin"
    with path.open("wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    return path
