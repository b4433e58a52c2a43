"""Counters, gauges and histograms that several processes can add up: each has a Registry, the parent renders the sum of their snapshots.

Small on purpose: label values must come from closed sets (command names, device ids), so series stay few. A registry belongs to one
thread (the event loop). `Registry.snapshot()` is plain JSON data; `render(snapshots)` is the Prometheus text form: counters and histograms
are summed, gauges too unless made with `merge="max"`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

M = TypeVar("M", bound="_Metric")
Labels = tuple[str, ...]
Snapshot = dict[str, dict[str, Any]]


class _Metric:
    kind = ""

    def __init__(self, name: str, help_text: str, labels: Labels, merge: str = "sum") -> None:
        self.name, self.help_text, self.labels, self.merge = name, help_text, labels, merge
        self.values: dict[Labels, Any] = {}

    def _key(self, labels: Mapping[str, object]) -> Labels:
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, got {tuple(labels)}")
        return tuple(str(labels[name]) for name in self.labels)

    def clear(self) -> None:
        """Forget all series (gauges that are rebuilt from a snapshot)."""
        self.values.clear()


class Counter(_Metric):
    """Only grows."""

    kind = "counter"

    def inc(self, amount: float = 1, **labels: object) -> None:
        key = self._key(labels)
        self.values[key] = self.values.get(key, 0) + amount

    def inc_key(self, key: Labels) -> None:
        """`inc` for paths that run ten thousand times a second: label values in order."""
        self.values[key] = self.values.get(key, 0) + 1

    def total(self) -> float:
        """The sum over all labels."""
        return float(sum(self.values.values()))


class Gauge(_Metric):
    """Goes up and down."""

    kind = "gauge"

    def set(self, value: float, **labels: object) -> None:
        self.values[self._key(labels)] = value

    def add(self, amount: float, **labels: object) -> None:
        key = self._key(labels)
        self.values[key] = self.values.get(key, 0) + amount


class Histogram(_Metric):
    """Observations counted in buckets."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Labels, buckets: tuple[float, ...]) -> None:
        super().__init__(name, help_text, labels)
        self.buckets = buckets

    def observe(self, value: float, **labels: object) -> None:
        self.observe_key(self._key(labels), value)

    def observe_key(self, key: Labels, value: float) -> None:
        """`observe` with label values in order."""
        series = self.values.get(key)
        if series is None:
            series = self.values[key] = [0.0] * (len(self.buckets) + 3)  # buckets, +Inf, sum, count
        series[bisect_left(self.buckets, value)] += 1
        series[-2] += value
        series[-1] += 1


class Registry:
    """The metrics of one process. Names without the prefix `mogile_` get it."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}
        self._collectors: list[Callable[[], None]] = []

    def counter(self, name: str, help_text: str, labels: Iterable[str] = ()) -> Counter:
        return self._add(Counter(_full(name), help_text, tuple(labels)))

    def gauge(self, name: str, help_text: str, labels: Iterable[str] = (), merge: str = "sum") -> Gauge:
        return self._add(Gauge(_full(name), help_text, tuple(labels), merge))

    def histogram(
        self,
        name: str,
        help_text: str,
        labels: Iterable[str] = (),
        buckets: tuple[float, ...] = LATENCY_BUCKETS_SECONDS,
    ) -> Histogram:
        return self._add(Histogram(_full(name), help_text, tuple(labels), buckets))

    def on_collect(self, collector: Callable[[], None]) -> None:
        """Called before every snapshot, to set gauges that are cheaper to read than to keep."""
        self._collectors.append(collector)

    def snapshot(self) -> Snapshot:
        """All series as JSON data."""
        for collector in self._collectors:
            collector()
        return {
            m.name: {
                "kind": m.kind,
                "help": m.help_text,
                "labels": list(m.labels),
                "merge": m.merge,
                "buckets": list(getattr(m, "buckets", ())),
                "values": [[list(k), v] for k, v in m.values.items()],
            }
            for m in self._metrics.values()
        }

    def _add(self, metric: M) -> M:
        known = self._metrics.get(metric.name)
        if known is not None:
            if type(known) is not type(metric) or known.labels != metric.labels:
                raise ValueError(f"metric {metric.name} exists with another kind or other labels")
            return known
        self._metrics[metric.name] = metric
        return metric


def render(snapshots: Iterable[Snapshot]) -> str:
    """Prometheus text of the sum of several processes' snapshots."""
    merged: Snapshot = {}
    for snapshot in snapshots:
        for name, metric in snapshot.items():
            target = merged.setdefault(name, {**metric, "values": {}})
            values: dict[Labels, Any] = target["values"]
            for labels, value in metric["values"]:
                key = tuple(labels)
                values[key] = _merge(values[key], value, metric["merge"]) if key in values else value
    lines: list[str] = []
    for name in sorted(merged):
        metric = merged[name]
        lines += [f"# HELP {name} {metric['help']}", f"# TYPE {name} {metric['kind']}"]
        for key in sorted(metric["values"]):
            lines += _series(name, metric, key, metric["values"][key])
    return "\n".join(lines) + "\n"


def _full(name: str) -> str:
    return name if name.startswith("mogile_") else f"mogile_{name}"


def _merge(a: Any, b: Any, how: str) -> Any:
    if isinstance(a, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    return max(a, b) if how == "max" else a + b


def _series(name: str, metric: Mapping[str, Any], key: Labels, value: Any) -> list[str]:
    labels = list(zip(metric["labels"], key, strict=True))
    if metric["kind"] != "histogram":
        return [f"{name}{_label_text(labels)} {_number(value)}"]
    lines, running = [], 0.0
    for bound, count in zip([*metric["buckets"], "+Inf"], value, strict=False):
        running += count
        lines.append(f"{name}_bucket{_label_text([*labels, ('le', str(bound))])} {_number(running)}")
    return [
        *lines,
        f"{name}_sum{_label_text(labels)} {_number(value[-2])}",
        f"{name}_count{_label_text(labels)} {_number(value[-1])}",
    ]


def _label_text(labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(
        '{}="{}"'.format(k, v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for k, v in labels
    )
    return f"{{{text}}}" if text else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
