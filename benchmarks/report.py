"""How every benchmark reports: rows of one form, a table, a JSON file and SVG plots.

A row is what one line of the bars says: a value, what it is compared with in the same run, the bar and whether it was met. Without a
reference the bar is held against the value itself, without a bar the row only informs. `met` is never decided anywhere else.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "out"
FIELDS = ("name", "value", "unit", "better", "reference", "ratio", "bar", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. Make it with `row`, which computes `ratio` and `met`."""

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    reference: float | None
    ratio: float | None
    bar: float | None
    met: bool | None


def row(
    name: str,
    value: float,
    unit: str,
    *,
    better: Literal["higher", "lower"] = "higher",
    reference: float | None = None,
    bar: float | None = None,
) -> Row:
    """A figure and its verdict: the bar is held against value / reference, or against the value when there is no reference."""
    ratio = None if reference is None else value / reference if reference else 0.0
    judged = value if ratio is None else ratio
    met = None if bar is None else judged >= bar if better == "higher" else judged <= bar
    return Row(name=name, value=value, unit=unit, better=better, reference=reference, ratio=ratio, bar=bar, met=met)


@dataclass(kw_only=True)
class Report:
    """The figures of one run. `add` as they come, `finish` prints and writes."""

    part: str  # file name in benchmarks/out
    about: dict[str, object] = field(default_factory=dict)  # sizes and settings of the run
    rows: list[Row] = field(default_factory=list)
    costs: dict[str, Mapping[str, float]] = field(default_factory=dict)  # operation -> part -> CPU ms per operation
    _load: tuple[float, ...] = field(default_factory=os.getloadavg)

    def add(self, *rows: Row) -> None:
        """Keep figures, and show them at once: a long run is watched."""
        for each in rows:
            self.rows.append(each)
            print(line(each), flush=True)

    def cost(self, operation: str, parts: Mapping[str, float]) -> None:
        """CPU time per operation (ms) of each part; also kept as rows."""
        self.costs[operation] = parts
        self.rows += [row(f"{operation}: CPU of {part}", ms, "ms/op", better="lower") for part, ms in parts.items()]

    def finish(self) -> bool:
        """Print the tables, write benchmarks/out/<part>.json; whether every bar was met."""
        print(f"\n{HEAD}\n{'-' * len(HEAD)}")
        for each in self.rows:
            if ": CPU of " not in each.name:
                print(line(each))
        if self.costs:
            print(self._cost_table())
        OUT.mkdir(exist_ok=True)
        result = {"part": self.part, **circumstances(self._load), **self.about, "rows": [_plain(r) for r in self.rows]}
        (OUT / f"{self.part}.json").write_text(json.dumps(result, indent=1) + "\n")
        missed = [each.name for each in self.rows if each.met is False]
        if missed:
            print(f"\n{len(missed)} bars missed: {'; '.join(missed)}")
        elif any(each.bar is not None for each in self.rows):
            print("\nevery bar met")
        return not missed

    def _cost_table(self) -> str:
        parts = list(dict.fromkeys(part for cost in self.costs.values() for part in cost))
        wide = max(len(operation) for operation in [*self.costs, "CPU ms per operation"]) + 2
        heads = [f"{part:>{max(9, len(part) + 2)}}" for part in [*parts, "together"]]
        lines = ["", f"{'CPU ms per operation':{wide}}" + "".join(heads)]
        for operation, cost in self.costs.items():
            figures = [f"{cost[p]:.3f}" if p in cost else "" for p in parts] + [f"{sum(cost.values()):.3f}"]
            cells = [f"{figure:>{len(head)}}" for figure, head in zip(figures, heads, strict=True)]
            lines.append(f"{operation:{wide}}" + "".join(cells))
        return "\n".join(lines)


HEAD = f"{'':88}{'value':>10} {'unit':10}{'reference':>10}{'ratio':>8}{'bar':>10}"


def line(each: Row) -> str:
    """A row as one line of the table."""
    reference = "" if each.reference is None else _short(each.reference)
    ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
    bar = "" if each.bar is None else f"{'>=' if each.better == 'higher' else '<='} {each.bar:g}"
    verdict = {None: "", True: "  met", False: "  MISSED"}[each.met]
    return f"{each.name:88}{_short(each.value):>10} {each.unit:10}{reference:>10}{ratio:>8}{bar:>10}{verdict}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _plain(each: Row) -> dict[str, object]:
    plain = asdict(each)
    return {name: round(plain[name], 5) if isinstance(plain[name], float) else plain[name] for name in FIELDS}


def circumstances(load_before: Sequence[float]) -> dict[str, object]:
    """When, what and where: figures without them cannot be compared."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
        "loadBefore": [round(x, 2) for x in load_before],
        "loadAfter": [round(x, 2) for x in os.getloadavg()],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One diagram of a plot: named lines of (x, y)."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def plot(name: str, panels: Sequence[Panel]) -> Path:
    """Diagrams side by side in benchmarks/out/<name>.svg; logarithmic in x, from 0 in y."""
    import matplotlib as mpl  # noqa: PLC0415 - a second of start-up that runs without plots need not pay

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for label, points in panel.lines.items():
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
        ticks = sorted({x for points in panel.lines.values() for x, _ in points})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:,.0f}".replace(",", " ") for tick in ticks])
        axis.minorticks_off()
        axis.set_ylim(0, 1.1 * max(y for points in panel.lines.values() for _, y in points))
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axis.grid(visible=True, alpha=0.3)
        axis.legend()
    figure.tight_layout()
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
