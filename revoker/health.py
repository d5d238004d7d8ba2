"""What probes and scrapers are told, for the service and for nodes alike: text, without a web framework.

``/livez`` and ``/readyz`` follow the Kubernetes API server: machines read the status alone, 200 or 503; ``?verbose``
lists the checks for people. Metrics follow the Prometheus naming rules; none has an identifier for a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

import revoker

__all__ = ["Check", "Family", "build_info", "expose", "readyz"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of ``/readyz?verbose``. ``detail`` says why it fails, or what it found."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric. ``values``: by label values, in the order of ``labels``; without labels, under the empty tuple.

    ``name`` without ``_total``, which counters get when written.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge"] = "gauge"
    labels: tuple[str, ...] = ()
    values: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def readyz(checks: Iterable[Check], *, verbose: bool) -> tuple[int, str]:
    """Status and text: 200 if every check passes, else 503. Failed checks are always listed, others if ``verbose``."""
    checks = tuple(checks)
    ready = all(check.ok for check in checks)
    lines = []
    for check in checks:
        if verbose or not check.ok:
            words = f"[{'+' if check.ok else '-'}]{check.name} {'ok' if check.ok else 'failed'}"
            lines.append(f"{words}: {check.detail}" if check.detail else words)
    if verbose or ready:
        lines.append("ok" if ready else "not ready")
    return (200 if ready else 503), "\n".join(lines) + "\n"


def build_info() -> Family:
    """``revoker_build_info``, always 1."""
    return Family(
        name="revoker_build_info", help="Version of revoker.", labels=("version",), values={(revoker.__version__,): 1.0}
    )


def expose(families: Iterable[Family], *, accept: str = "") -> tuple[str, bytes]:
    """Content type and body of ``/metrics``, in the format the scraper's ``Accept`` header prefers."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(tuple(families)))
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)


class _Snapshot:
    def __init__(self, families: tuple[Family, ...]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = made(family.name, family.help, labels=family.labels)
            for labels, value in family.values.items():
                metric.add_metric(labels, value)
            yield metric
