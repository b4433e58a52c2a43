"""Commands that change files: create_open, create_close, delete, rename, updateclass."""

from __future__ import annotations

from urllib.parse import urlsplit

from mogile_core.checksum import Checksum, HashType
from mogile_core.errors import CommandError, NodeError, StoreError
from mogile_core.model import Domain
from mogile_core.paths import DEVID_MAX, fid_path, fid_url, parse_fid_path
from mogile_tracker.commands.registry import NOTHING, Call, Pairs, Registry, Tracker, is_number, known_key
from mogile_tracker.commands.writecopies import discard_further_copies, make_further_copies
from mogile_tracker.policy.placement import MULTI_DEST_COUNT
from mogile_tracker.store.closing import Closing
from mogile_tracker.store.files import ClassOutcome, NewUpload, RenameOutcome, Upload

DEVIDS_TEXT_MAX = 60  # width of tempfile.devids
_ADDRESS_ENDS = frozenset("/?#[]\\\t\r\n")


def register(registry: Registry) -> None:
    """The commands of this module."""
    registry.add("create_open", create_open)
    registry.add("create_close", create_close)
    registry.add("delete", delete)
    registry.add("rename", rename)
    registry.add("updateclass", updateclass)


async def create_open(tracker: Tracker, call: Call) -> Pairs:
    """A fid and the places where its bytes may be put."""
    domain = await tracker.domain(call)
    file_class = await tracker.file_class(domain, call.get("class"), "unreg_class")
    await tracker.live.until_observed()
    multiple = call.flag("multi_dest")
    size = call.get("size")
    sites = tracker.placement.choose(
        tracker.random, count=MULTI_DEST_COUNT if multiple else 1, size=int(size) if is_number(size) else None
    )
    if not sites:
        raise CommandError("no_devices")
    key, fid = call.get("key"), call.get("fid")
    if not known_key(key):
        raise StoreError("the key is longer than 255 bytes")
    if fid and not is_number(fid):
        raise StoreError("fid is not a number")
    devids = tuple(site.devid for site in sites)
    new = NewUpload(classid=file_class.classid, dmid=domain.dmid, dkey=key, devids=devids, fid=int(fid or 0))
    number = await tracker.files.open(new)
    hosts = tracker.topology.hosts
    urls = [
        tracker.write_url(hosts[host.hostid], site.devid, number, call)
        for site in sites
        if (host := tracker.topology.host_of(site.devid)) is not None
    ]
    pairs: dict[str, object] = {"fid": number}
    if not multiple:
        pairs.update(devid=devids[0], path=urls[0])
    else:
        pairs["dev_count"] = len(urls)
        for i, (devid, url) in enumerate(zip(devids, urls, strict=True), 1):
            pairs[f"devid_{i}"], pairs[f"path_{i}"] = devid, url
    if call.flag("debug_profile"):
        pairs["profpoints"] = 0
    return pairs


async def create_close(tracker: Tracker, call: Call) -> Pairs:
    """Commit an upload after looking at its bytes."""
    domain = await tracker.domain(call)
    fid_text = call.need_true("fid", "no_fid")
    devid_text = call.need_true("devid", "no_devid")
    path = call.need("path", "no_path")
    checksum = _checksum(call)
    if not (is_number(fid_text) and is_number(devid_text)):
        raise CommandError("bogus_args")
    fid, devid = int(fid_text), int(devid_text)
    if not _path_matches(path, devid, fid):
        raise CommandError("bogus_args")
    upload = await tracker.files.upload(fid)
    if upload is None or upload.dmid != domain.dmid:
        raise CommandError("no_temp_file")
    key, length = call.get("key"), 0
    try:
        if devid not in upload.devids:
            valid = ", ".join(map(str, upload.devids))
            raise CommandError("invalid_destdev", f"File uploaded to invalid dest {devid}. Valid devices were: {valid}")
        if key:
            length = await _verified_length(tracker, call, upload, devid, checksum)
            if not known_key(key):
                raise StoreError("the key is longer than 255 bytes")
    except (CommandError, StoreError):
        await _abandon(tracker, fid, devid)
        raise
    if not key:
        await _abandon(tracker, fid, devid)
        return NOTHING
    return await _commit(tracker, domain, upload, key, length, devid, checksum)


async def _abandon(tracker: Tracker, fid: int, devid: int) -> None:
    """Give the upload up. Where another process has closed it, that is the answer: what was looked at here may be deleted by now."""
    if not await tracker.files.abandon(fid, devid):
        raise CommandError("no_temp_file") from None


async def _commit(
    tracker: Tracker, domain: Domain, upload: Upload, key: str, length: int, devid: int, checksum: Checksum | None
) -> Pairs:
    file_class = tracker.topology.class_by_id(domain.dmid, upload.classid)
    further = await make_further_copies(tracker, file_class, upload.fid, devid, length, checksum)
    if checksum is None and further.md5 and file_class.hashtype is HashType.MD5:
        checksum = Checksum(
            HashType.MD5, bytes.fromhex(further.md5)
        )  # found on the way: nobody has to read the file for it
    closing = Closing(
        fid=upload.fid,
        dmid=domain.dmid,
        dkey=key,
        length=length,
        devid=devid,
        checksum=checksum if checksum is not None and checksum.hashtype is file_class.hashtype else None,
        copies=further.devids,
        queue=not tracker.content(file_class, (devid, *further.devids)),
    )
    try:
        closed = await tracker.files.close(closing)
    except CommandError:  # nothing was written; when it is not known what was, the intents run out by themselves
        await discard_further_copies(tracker, upload.fid, further)
        raise
    if not closed:
        raise CommandError("no_temp_file")
    return NOTHING


def _checksum(call: Call) -> Checksum | None:
    text = call.get("checksum")
    if not text:
        return None
    try:
        return Checksum.parse(text)
    except ValueError as error:
        raise CommandError("invalid_checksum_format") from error


def _path_matches(path: str, devid: int, fid: int) -> bool:
    """Whatever address the client was given at open (the host may have moved since), the path must be that copy's."""
    if devid > DEVID_MAX:
        return False
    expected = fid_path(devid, fid)
    if path.startswith("http://") and path.endswith(expected):
        address = path[7 : -len(expected)]
        if address.isascii() and not _ADDRESS_ENDS.intersection(address):
            return True  # nearly always; the rest takes longer to tell
    try:
        parts = urlsplit(path)
        return parts.scheme == "http" and not parts.query and parse_fid_path(parts.path) == (devid, fid)
    except ValueError:
        return False


async def _verified_length(tracker: Tracker, call: Call, upload: Upload, devid: int, checksum: Checksum | None) -> int:
    """The length the node has, equal to the announced one; the digest too when asked for."""
    host = tracker.topology.host_of(devid)
    size = call.get("size")
    expected = (int(size) or -1) if is_number(size) else -1  # the original does not compare with 0 either
    if host is None:
        raise CommandError(
            "size_verify_error", f"Expected: {expected}; actual: 0 (cantreach); path: device {devid} is unknown"
        )
    try:
        length = await tracker.nodes.size(host, devid, upload.fid)
    except NodeError as error:
        url = fid_url(host.hostip, host.http_port, devid, upload.fid)
        text = f"Expected: {expected}; actual: 0 (cantreach); path: {url}; error: {error}"
        raise CommandError("size_verify_error", text) from error
    if length is not None and expected in (-1, length) and checksum is None:
        return length
    url = fid_url(host.hostip, host.http_port, devid, upload.fid)
    if length is None:
        text = f"Expected: {expected}; actual: 0 (missing); path: {url}; error: the node has no such file"
        raise CommandError("size_verify_error", text)
    if expected not in (-1, length):
        raise CommandError("size_mismatch", f"Expected: {expected}; actual: {length}; path: {url}")
    if checksum is not None and call.flag("checksumverify"):
        await _verify_digest(tracker, upload, devid, checksum, url)
    return length


async def _verify_digest(tracker: Tracker, upload: Upload, devid: int, checksum: Checksum, url: str) -> None:
    host = tracker.topology.host_of(devid)
    assert host is not None
    try:
        actual = await tracker.nodes.digest(host, devid, upload.fid, checksum.hashtype)
    except NodeError as error:
        text = f"Expected: {checksum}; actual: {checksum.hashtype.wire_name}:; path: {url}; error: {error}"
        raise CommandError("checksum_mismatch", text) from error
    if actual != checksum:
        name = checksum.hashtype.wire_name
        expected = f"Checksum[f={upload.fid};{name}={checksum.digest.hex()}]"
        raise CommandError("checksum_mismatch", f"Expected: {expected}; actual: {actual or 'missing'}; path: {url}")


async def delete(tracker: Tracker, call: Call) -> Pairs:
    """Remove a key; its bytes go later."""
    domain = await tracker.domain(call)
    key = call.need("key", "no_key")
    if not known_key(key) or not await tracker.files.delete(domain.dmid, key):
        raise CommandError("unknown_key")
    return NOTHING


async def rename(tracker: Tracker, call: Call) -> Pairs:
    """Give a file another key of the same domain."""
    domain = await tracker.domain(call)
    key = call.need("from_key", "no_key")
    new_key = call.need("to_key", "no_key")
    if not known_key(key):
        raise CommandError("unknown_key")
    if not known_key(new_key):
        raise StoreError("the new key is longer than 255 bytes")
    outcome = await tracker.files.rename(domain.dmid, key, new_key)
    if outcome is not RenameOutcome.DONE:
        raise CommandError(outcome.value)
    return NOTHING


async def updateclass(tracker: Tracker, call: Call) -> Pairs:
    """Move a file to another class."""
    domain = await tracker.domain(call)
    key = call.need("key", "no_key")
    file_class = await tracker.file_class(domain, call.need("class", "no_class"), "class_not_found")
    if not known_key(key):
        raise CommandError("invalid_key")
    outcome = await tracker.files.updateclass(domain.dmid, key, file_class.classid)
    if outcome is not ClassOutcome.DONE:
        raise CommandError(outcome.value)
    return NOTHING
