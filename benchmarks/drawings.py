"""One picture for each benchmark, drawn from its figures. Only what the figures hold: names are taken apart, never
assumed, so that runs of other sizes are drawn as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.fleet_model import LAWS, Point, predict
from benchmarks.page import shown

__all__ = ["DRAWINGS"]

Figures = Mapping[str, float]

#: Ours are blue, everybody else's warm or grey.
COLOURS: Final[Mapping[str, str]] = {
    "shared": "#08519c",
    "outbox": "#08519c",
    "cached": "#08519c",
    "ours": "#08519c",
    "memory": "#4292c6",
    "snapshot": "#4292c6",
    "direct": "#4292c6",
    "uncached": "#4292c6",
    "bare": "#f16913",
    "verify": "#fdae6b",
    "pyjwt": "#f16913",
    "confluent": "#a63603",
    "redis": "#cb181d",
    "dict": "#969696",
    "ttlcache": "#636363",
    "none": "#d9d9d9",
}
_PEER: Final = "#f16913"


def groups(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Grouped bars with their values: one group for each of ``names``, one bar in it for each of ``series``."""
    width = 0.84 / len(series)
    for place, (label, values) in enumerate(series.items()):
        left = [number - 0.42 + width * (place + 0.5) for number in range(len(names))]
        bars = axes.bar(left, values, width=0.92 * width, label=label, color=COLOURS.get(label.split()[0], _PEER))
        axes.bar_label(bars, [shown(value) for value in values], fontsize=6, padding=1)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.14)
    axes.legend(fontsize=7, frameon=False)


def rows(axes: Axes, values: Mapping[str, float]) -> None:
    """Horizontal bars on a logarithmic axis, the first on top."""
    names = list(values)[::-1]
    colours = [COLOURS.get(name.split()[0].rstrip(","), _PEER) for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours, height=0.72)
    axes.bar_label(bars, [shown(values[name]) for name in names], fontsize=7, padding=2)
    axes.set_xscale("log")
    axes.margins(x=0.1)


def logarithmic(*axes: Axis) -> None:
    """Powers of ten alone are named: the numbers between them would stand on one another."""
    for axis in axes:
        axis.set_minor_formatter(NullFormatter())


def check(figure: Figure, figures: Figures) -> None:
    """Nanoseconds of one question, at the largest number of entries."""
    sizes = {name.split("_")[-2] for name in figures if name.startswith("dict_hot_")}
    size = max(sizes, key=number_of)
    values = {}
    for temperature in ("hot", "cold"):
        values[f"dict, {temperature}"] = figures[f"dict_{temperature}_{size}_ns"]
        values[f"ttlcache, {temperature}"] = figures[f"ttlcache_{temperature}_{size}_ns"]
        for store in ("memory", "shared"):
            for kinds in ("1kind", "3kinds"):
                if (name := f"{store}_{temperature}_{kinds}_{size}_ns") in figures:
                    words = "1 kind" if kinds == "1kind" else "3 kinds"
                    values[f"{store}, {temperature}, {words}"] = figures[name]
    values["verify, our Verifier"] = figures["verify_strict_ns"]
    values["pyjwt, RS256"] = figures["verify_pyjwt_ns"]
    values["redis EXISTS"] = figures["redis_sync_ns"]
    values["redis EXISTS, asyncio"] = figures["redis_asyncio_ns"]
    axes = figure.subplots()
    rows(axes, values)
    axes.set_xlabel("nanoseconds a call (logarithmic)")
    axes.set_title(f"One check at {size} entries: the whole guard, and what it is compared with")


def number_of(text: str) -> int:
    """``1m`` and ``10k`` as numbers."""
    text = text.lower()
    return int(text.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(text[-1], 1)


def memory(figure: Figure, figures: Figures) -> None:
    """Bytes per revocation on the whole host."""
    suffixes = sorted(
        {match[1] for name in figures if (match := re.fullmatch(r"shared_bytes_per_entry_(.*)", name))},
        key=lambda text: int(text.split("_")[0]),
    )
    stores = ("shared", "memory", "dict", "ttlcache")
    series = {
        store: [figures[f"{store}_bytes_per_entry_{suffix}"] for suffix in suffixes]
        for store in stores
        if f"{store}_bytes_per_entry_{suffixes[0]}" in figures
    }
    series["redis"] = [figures["redis_bytes_per_entry"]] * len(suffixes)
    axes = figure.subplots()
    groups(axes, [suffix.replace("_", " ") for suffix in suffixes], series)
    axes.set_yscale("log")
    axes.set_xlabel("worker processes of the host")
    axes.set_ylabel("bytes per revocation (logarithmic)")
    axes.set_title("Memory of the whole host per revocation in force")


def replay(figure: Figure, figures: Figures) -> None:
    """Records a second."""
    pattern = r"(\w+_\dp)_bare_records_per_s"
    cases = [match[1] for name in figures if (match := re.fullmatch(pattern, name))]
    readers = ("shared", "memory", "bare", "confluent")
    axes = figure.subplots()
    groups(
        axes,
        [case.replace("_", " records, ").replace("1p", "1 partition").replace("3p", "3 partitions") for case in cases],
        {one: [figures[f"{case}_{one}_records_per_s"] for case in cases] for one in readers},
    )
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("topic")
    axes.set_ylabel("records a second")
    axes.set_title("Replay of a topic: our node, bare aiokafka, librdkafka")


def restart(figure: Figure, figures: Figures) -> None:
    """Seconds until a node is ready."""
    names = {
        "warm": "shared table, after kill −9",
        "beside": "shared table, one more worker",
        "snapshot": "snapshot, as after a reboot",
        "replay": "bare topic: full replay",
    }
    values = {label: figures[f"{name}_ready_s"] for name, label in names.items() if f"{name}_ready_s" in figures}
    axes = figure.subplots()
    rows(axes, values)
    axes.set_xlabel("seconds from start to ready (logarithmic)")
    axes.set_title(f"Ready again with {shown(figures['entries'])} revocations in force")


def propagation(figure: Figure, figures: Figures) -> None:
    """Milliseconds to the last node."""
    nodes = sorted(int(name.split("_")[-1]) for name in figures if name.startswith("ours_p50_ms_"))
    axes = figure.subplots()
    for side, label in (("ours", "revoke() → refusal"), ("bare", "bare produce → fetch")):
        for percent, style in ((50, "-o"), (99, "--s")):
            values = [figures[f"{side}_p{percent}_ms_{count}"] for count in nodes]
            axes.plot(nodes, values, style, color=COLOURS[side], label=f"{label}, p{percent}", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(nodes, [str(count) for count in nodes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes (logarithmic)")
    axes.set_ylabel("milliseconds to the last node")
    axes.set_title("From the call to the last node of the fleet")
    axes.legend(fontsize=7, frameon=False)


def publish(figure: Figure, figures: Figures) -> None:
    """Rates, and how long one call takes."""
    callers = sorted(int(name.split("_")[-1]) for name in figures if name.startswith("bare_per_s_"))
    left, right = figure.subplots(1, 2)
    for axes, what, title in ((left, "per_s", "publications a second"), (right, "p50_ms", "milliseconds, p50")):
        series = {way: [figures[f"{way}_{what}_{count}"] for count in callers] for way in ("outbox", "direct", "bare")}
        groups(axes, [str(count) for count in callers], series)
        axes.set_yscale("log")
        logarithmic(axes.yaxis)
        axes.set_xlabel("callers at once")
        axes.set_ylabel(f"{title} (logarithmic)")
    figure.suptitle("Publishing, acknowledged by the broker; with the outbox on disk before", fontsize=10)


def requests(figure: Figure, figures: Figures) -> None:
    """Requests a second of whole handlers."""
    variants = ("none", "cached", "uncached", "verify", "pyjwt", "redis")
    frameworks = [name.removesuffix("_none_per_s") for name in figures if name.endswith("_none_per_s")]
    axes = figure.subplots()
    groups(axes, frameworks, {one: [figures[f"{name}_{one}_per_s"] for name in frameworks] for one in variants})
    axes.set_xlabel("framework")
    axes.set_ylabel("requests a second")
    axes.set_title("A handler under wrk, by what is asked before it answers")


def fleet(figure: Figure, figures: Figures) -> None:
    """What the model says beside what was measured."""
    model = {
        law.quantity: {name: figures[f"model_{law.quantity}_{name}"] for name in law.terms}
        for law in LAWS
        if all(f"model_{law.quantity}_{name}" in figures for name in law.terms)
    }
    units = {
        "egress_bytes_per_s": ("broker egress, MB/s", 1e-6),
        "broker_cpu": ("broker, cores", 1.0),
        "nodes_cpu": ("all nodes, cores", 1.0),
        "nodes_bytes": ("all nodes, MB", 1e-6),
        "p50_s": ("to the last node, ms p50", 1e3),
    }
    places = list(figure.subplots(2, 3).flat)
    laws = {law.quantity: law for law in LAWS}
    for axes, (quantity, coefficients) in zip(places, model.items(), strict=False):
        label, factor = units[quantity]
        pairs = [
            (predict(laws[quantity], coefficients, point) * factor, value * factor)
            for point, value in _measured(figures, quantity)
        ]
        low = 0.7 * min(min(pair) for pair in pairs)
        high = 1.4 * max(max(pair) for pair in pairs)
        axes.plot([low, high], [low, high], color="#969696", linewidth=0.8)
        axes.plot(*zip(*pairs, strict=True), "o", color=COLOURS["ours"], markersize=3)
        axes.set_title(label, fontsize=8)
        axes.set_xlabel("model", fontsize=7)
        axes.set_ylabel("measured", fontsize=7)
    for per_s, style in ((1, ":"), (10, "--"), (100, "-")):
        fleets = [Point(nodes=nodes, per_s=per_s, live=0) for nodes in (1, 10, 100, 1_000, 10_000)]
        cores = [predict(laws["broker_cpu"], model["broker_cpu"], point) for point in fleets]
        label = f"{per_s} a second"
        places[-1].plot([one.nodes for one in fleets], cores, style, color=COLOURS["ours"], label=label)
    places[-1].axhline(4, color=_PEER, linewidth=0.8, label="half of 8 cores")
    places[-1].set_title("where it ends: broker, cores", fontsize=8)
    places[-1].set_xlabel("nodes", fontsize=7)
    places[-1].set_ylabel("model", fontsize=7)
    places[-1].legend(fontsize=6, frameon=False)
    for axes in places:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.tick_params(labelsize=6)
        logarithmic(axes.xaxis, axes.yaxis)
    figure.suptitle("Fleets of 1 to 64 nodes: what the model says and what was measured, and beyond", fontsize=10)


def _measured(figures: Figures, quantity: str) -> list[tuple[Point, float]]:
    found = []
    for name, value in figures.items():
        match = re.fullmatch(rf"(\d+)n_(\d+)ps_(\d+)live_{quantity}", name)
        if match:
            before = name.removesuffix(quantity)
            nodes = int(match[1])
            point = Point(
                nodes=nodes,
                per_s=figures[f"{before}per_s"],
                live=round(figures[f"{before}live"]),
                processes=round(figures[f"{before}processes"]),
            )
            found.append((point, value))
    return found


DRAWINGS: Final[Mapping[str, Callable[[Figure, Any], None]]] = {
    "check": check,
    "memory": memory,
    "replay": replay,
    "restart": restart,
    "propagation": propagation,
    "publish": publish,
    "requests": requests,
    "fleet": fleet,
}
