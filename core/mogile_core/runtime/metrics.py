"""Counters, gauges and histograms that several processes can add up: each has a Registry, the parent renders the sum of their snapshots.

The library's own metrics are not used while counting: its multi-process mode keeps files per process, and its locks and label look-ups
cost more than some of the commands that are counted. It renders: `Registry.snapshot()` is plain JSON data that a child sends its parent,
and `render(snapshots)` makes the library's metric families of their sum (gauges made with `merge="max"`: of the largest). Label values must
come from closed sets (command names, device ids), so that series stay few. A registry belongs to one thread (the event loop).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, TypeVar

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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
        """A counter; by Prometheus' convention its name must end in `_total`."""
        if not name.endswith("_total"):
            raise ValueError(f"the counter {name} must be called {name}_total")
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
    return generate_latest(_Families(merged)).decode()


class _Families(Collector):
    """Merged series as the library's metric families, by name."""

    def __init__(self, merged: Snapshot) -> None:
        self._merged = merged

    def collect(self) -> Iterator[Metric]:
        for name, metric in sorted(self._merged.items()):
            series = sorted(metric["values"].items())
            if metric["kind"] == "histogram":
                yield _histogram(name, metric, series)
                continue
            family = CounterMetricFamily if metric["kind"] == "counter" else GaugeMetricFamily
            plain = family(name, metric["help"], labels=metric["labels"])
            for key, value in series:
                plain.add_metric(key, value)
            yield plain


def _histogram(name: str, metric: Mapping[str, Any], series: Iterable[tuple[Labels, list[float]]]) -> Metric:
    family = HistogramMetricFamily(name, metric["help"], labels=metric["labels"])
    bounds = [*map(str, metric["buckets"]), "+Inf"]
    for key, value in series:
        counts = accumulate(value[: len(bounds)])
        family.add_metric(key, list(zip(bounds, counts, strict=True)), sum_value=value[-2])
    return family


def _full(name: str) -> str:
    return name if name.startswith("mogile_") else f"mogile_{name}"


def _merge(a: Any, b: Any, how: str) -> Any:
    if isinstance(a, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    return max(a, b) if how == "max" else a + b
