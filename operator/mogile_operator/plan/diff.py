"""Is a live object what we want? The first difference in words, or None.

Two questions: was the last thing we applied the same intent (its hash is on the object), and does the live object still cover
it (someone may have edited it)? Covering tolerates everything the API server fills in: a wanted value must be there, more may be.
"""

from typing import Any

from mogile_operator import naming

Obj = dict[str, Any]


def difference(wanted: Obj, live: Obj | None) -> str | None:
    """Why `wanted` has to be applied; None when it need not be."""
    if live is None:
        return "it does not exist"
    meta = live.get("metadata", {})
    seen = (meta.get("annotations") or {}).get(naming.INTENT)
    if seen != wanted["metadata"]["annotations"][naming.INTENT]:
        return "the intent has changed" if seen else "it was not made by this operator"
    # Items of a list come without kind and version: they were asked for by them.
    return uncovered({k: v for k, v in wanted.items() if k not in {"apiVersion", "kind"}}, live, "")


def uncovered(wanted: Any, live: Any, path: str) -> str | None:
    """The first place where live lacks what is wanted."""
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return None if not wanted and live is None else f"{path} is gone"
        for key, value in wanted.items():
            # An empty value and an absent one are the same to the API server.
            if key not in live and value in ({}, [], "", None, False):
                continue
            found = uncovered(value, live.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return None
    if isinstance(wanted, list):
        if not isinstance(live, list) or len(wanted) != len(live):
            return f"{path} has another length"
        for index, (one, other) in enumerate(zip(wanted, live, strict=True)):
            found = uncovered(one, other, f"{path}[{index}]")
            if found:
                return found
        return None
    if wanted == live or same_quantity(path, wanted, live):
        return None
    return f"{path} is {live!r} instead of {wanted!r}"


_SUFFIX = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}


def quantity(text: str) -> float | None:
    """A Kubernetes quantity as a number; None for what is not one."""
    digits = text.rstrip("KMGTPEkmi")
    factor = _SUFFIX.get(text[len(digits) :])
    try:
        return float(digits) * factor if factor is not None else None
    except ValueError:
        return None


def same_quantity(path: str, wanted: Any, live: Any) -> bool:
    """0.5 and 500m are the same amount; only where amounts are expected."""
    if not any(part in path for part in ("requests", "limits", "sizeLimit")):
        return False
    one, other = quantity(str(wanted)), quantity(str(live))
    return one is not None and one == other
