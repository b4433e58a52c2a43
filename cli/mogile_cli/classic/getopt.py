"""Command lines as Perl's Getopt::Long takes them, which is what fifteen years of scripts around the classic tools rely on.

`--name=value`, `--name value`, the same with one dash, names in any case, unique abbreviations, `--` ends the options, a value may begin
with a dash (keys do). argparse cannot be talked into the last one, nor into stopping at the first word that is none of ours, so this is
written out; it is a page. One deliberate widening: `--name=` is an empty value, where Getopt::Long complains.

Pure: words in, values out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mogile_cli.errors import UsageError


class OptionError(UsageError):
    """The command line cannot be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """`values` by full option name (a flag has the value "1"; the last of several wins); `words` are what is left."""

    values: Mapping[str, str]
    words: tuple[str, ...]


def parse(argv: Sequence[str], specs: Sequence[str], *, in_order: bool = False, pass_through: bool = False) -> Parsed:
    """Read `argv` by `specs`: `help` is a flag, `key=s` takes text, `port=i` a whole number.

    `in_order`: stop at the first word that is no option (mogadm: what follows belongs to the command). `pass_through`: an unknown option
    is such a word too instead of an error. OptionError says what is wrong.
    """
    kinds = {name: kind for name, _, kind in (spec.partition("=") for spec in specs)}
    values: dict[str, str] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        name, separator, given = word.lstrip("-").partition("=") if _is_option(word) else ("", "", "")
        known = _resolve(name, kinds) if name else ()
        if not name or (pass_through and len(known) != 1):
            words.append(word)
            if in_order:
                words += rest
                break
            continue
        if not known:
            raise OptionError(f"Unknown option: {name}")
        if len(known) > 1:
            raise OptionError(f"Option {name} is ambiguous ({', '.join(known)})")
        value = given if separator else None
        values[known[0]] = _value(known[0], kinds[known[0]], value, rest)
    return Parsed(values=values, words=tuple(words))


def _is_option(word: str) -> bool:
    """`-` alone is a word (standard input), and three dashes are no prefix of Getopt::Long's."""
    return word.startswith("-") and not word.startswith("---") and len(word.lstrip("-")) > 0


def _resolve(name: str, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """The options `name` can mean: itself, or all it abbreviates."""
    folded = name.lower()
    exact = [known for known in kinds if known.lower() == folded]
    return tuple(exact or sorted(known for known in kinds if known.lower().startswith(folded)))


def _value(name: str, kind: str, given: str | None, rest: list[str]) -> str:
    if not kind:
        if given is not None:
            raise OptionError(f"Option {name} does not take an argument")
        return "1"
    if given is None:
        if not rest:
            raise OptionError(f"Option {name} requires an argument")
        given = rest.pop(0)
    digits = given[1:] if given[:1] in ("-", "+") else given
    if kind == "i" and not (digits.isascii() and digits.isdigit()):
        raise OptionError(f'Value "{given}" invalid for option {name} (number expected)')
    return given
