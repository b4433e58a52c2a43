"""Where the bytes of a fid lie on a device: `/dev<devid>/<b>/<mmm>/<ttt>/<fid, at least 10 digits>.fid`. No I/O."""

from __future__ import annotations

from mogile_core.model import DevId, Fid

FID_MAX = 2**63 - 1
DEVID_MAX = 32767  # file_on.devid is a smallint


def fid_path(devid: int, fid: int) -> str:
    """The URL path of a copy."""
    digits = f"{fid:010d}"
    return f"/dev{devid}/{digits[0]}/{digits[1:4]}/{digits[4:7]}/{digits}.fid"


def parse_fid_path(path: str) -> tuple[DevId, Fid]:
    """(devid, fid) of a copy's path; ValueError unless it is exactly what `fid_path` makes."""
    parts = path.split("/")
    if len(parts) == 6 and parts[1].startswith("dev") and parts[5].endswith(".fid"):
        dev_digits, fid_digits = parts[1][3:], parts[5][:-4]
        if dev_digits.isascii() and dev_digits.isdigit() and fid_digits.isascii() and fid_digits.isdigit():
            devid, fid = int(dev_digits), int(fid_digits)
            if devid <= DEVID_MAX and fid <= FID_MAX and fid_path(devid, fid) == path:
                return DevId(devid), Fid(fid)
    raise ValueError(f"not the path of a copy: {path!r}")


def base_url(address: str, port: int) -> str:
    """`http://address:port`, with brackets around an IPv6 address."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def fid_url(address: str, port: int, devid: int, fid: int) -> str:
    """The URL of a copy."""
    return base_url(address, port) + fid_path(devid, fid)
