"""Command lines in the forms of Perl's Getopt::Long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mogile_cli.classic.getopt import OptionError, parse

SPECS = ("trackers=s", "domain=s", "key=s", "key_prefix=s", "fid=i", "verbose", "version", "help")


@pytest.mark.parametrize(
    "argv",
    [
        ["--trackers=a,b"],
        ["--trackers", "a,b"],
        ["-trackers=a,b"],
        ["-trackers", "a,b"],
        ["--track=a,b"],
        ["-t", "a,b"],
        ["--TRACKERS=a,b"],
        ["--trackers=x", "--trackers=a,b"],
    ],
)
def test_all_forms_mean_the_same(argv: list[str]) -> None:
    assert dict(parse(argv, SPECS).values) == {"trackers": "a,b"}


def test_an_exact_name_wins_over_a_longer_one_it_abbreviates() -> None:
    assert dict(parse(["--key", "a", "--key_prefix", "b"], SPECS).values) == {"key": "a", "key_prefix": "b"}


def test_values_may_begin_with_a_dash_or_contain_equal_signs() -> None:
    parsed = parse(["--key", "-x", "--domain=a=b", "--trackers", "--help"], SPECS)
    assert dict(parsed.values) == {"key": "-x", "domain": "a=b", "trackers": "--help"}


def test_words_may_stand_anywhere_and_a_single_dash_is_one() -> None:
    parsed = parse(["one", "--key=k", "-", "--", "--domain=d"], SPECS)
    assert (dict(parsed.values), parsed.words) == ({"key": "k"}, ("one", "-", "--domain=d"))


def test_in_order_leaves_everything_after_the_first_word_alone() -> None:
    parsed = parse(["--verbose", "host", "--key=k"], SPECS, in_order=True, pass_through=True)
    assert (dict(parsed.values), parsed.words) == ({"verbose": "1"}, ("host", "--key=k"))


def test_pass_through_stops_at_what_it_does_not_know() -> None:
    parsed = parse(["--verbose", "--nope", "--key=k"], SPECS, in_order=True, pass_through=True)
    assert (dict(parsed.values), parsed.words) == ({"verbose": "1"}, ("--nope", "--key=k"))


def test_an_empty_value_is_one() -> None:
    assert dict(parse(["--domain=", "--key", ""], SPECS).values) == {"domain": "", "key": ""}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "Unknown option: nope"),
        (["--ver"], "Option ver is ambiguous (verbose, version)"),
        (["--key"], "Option key requires an argument"),
        (["--fid=x"], 'Value "x" invalid for option fid (number expected)'),
        (["--fid", "--key"], 'Value "--key" invalid for option fid (number expected)'),
        (["--help=1"], "Option help does not take an argument"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError, match="^" + __import__("re").escape(message) + "$"):
        parse(argv, SPECS)


@given(st.dictionaries(st.sampled_from(["trackers", "domain", "key"]), st.text(max_size=20)), st.booleans())
def test_every_value_comes_through_unchanged(values: dict[str, str], joined: bool) -> None:
    argv = [
        word for name, value in values.items() for word in ([f"--{name}={value}"] if joined else [f"--{name}", value])
    ]
    parsed = parse(argv, SPECS)
    assert (dict(parsed.values), parsed.words) == (values, ())


@given(st.lists(st.text(alphabet="-=abkey\0é1 ", max_size=8), max_size=6), st.booleans(), st.booleans())
def test_no_command_line_does_anything_but_parse_or_complain(
    argv: list[str], in_order: bool, pass_through: bool
) -> None:
    try:
        parsed = parse(argv, SPECS, in_order=in_order, pass_through=pass_through)
    except OptionError:
        return
    assert set(parsed.values) <= {spec.partition("=")[0] for spec in SPECS}
