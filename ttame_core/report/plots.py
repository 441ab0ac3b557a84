"""Plots of a report: SVG by matplotlib, in the page's colours, with a panel for each backbone.

The colour of a series is a custom property of the page (--s1 … --s6), so that the dark theme can
change it. A series without a colour of its own is grey, and has its name at its end.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ttame_core.lake.schemas import RIVAL
from ttame_core.stages.roles import Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Rows = Sequence[Mapping[str, Any]]

COLOURS = 6  # number of explainers with a colour of their own
BACKBONES = 12  # number of backbones with panels, at most
MARKERS = "os^DvP"
GLYPHS = "●■▲◆▼✚"
# Colours in matplotlib's SVG that are replaced by the page's.
INK, SOFT, LINE = "#a000f0", "#a000f1", "#a000f2"
SERIES = [f"#a0000{i}" for i in range(1, COLOURS + 1)]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ttame",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
}
PANEL = (3.7, 2.7)  # width and height in inches
WIDE = (7.4, 2.4)
SQUARE = (4.6, 3.6)
ENDS = ("oracle", "random")  # methods of the yardsticks at the ends of the scale
DASHES = {"oracle": (0, (5, 2)), "random": (0, (1, 1.5))}


@dataclass(frozen=True)
class Look:
    """The colour, line and marker of an explainer in all plots of a report.

    Attributes:
        name: name of the explainer.
        place: position among the explainers with a colour, from 0; None for others.
        role: RIVAL, YARDSTICK or CONTROL.
        method: method of the explainer; "" for rivals, for which it does not matter.
    """

    name: str
    place: int | None
    role: str = RIVAL
    method: str = ""

    @property
    def colour(self) -> str:
        """The colour of the series; a soft grey for the ends of the scale."""
        return SOFT if self.place is None else SERIES[self.place]

    @property
    def glyph(self) -> str:
        """The character that stands for the series' marker in text."""
        return "" if self.place is None else GLYPHS[self.place]

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of matplotlib's `plot` for the series."""
        if self.place is None:
            dashes = "solid" if self.role == RIVAL else DASHES.get(self.method, (0, (1, 1.5)))
            return {"color": SOFT, "linewidth": 0.9, "linestyle": dashes, "alpha": 0.75}
        return {"color": self.colour, "marker": MARKERS[self.place], "zorder": 5 - self.place / 10}


def looks(order: Sequence[str], roles: Mapping[str, Role]) -> dict[str, Look]:
    """Return the looks of explainers: T-TAME has the first colour, the best others the next ones.

    Args:
        order: names of the rivals, the best one first.
        roles: roles of the explainers that are drawn, by name; rivals may be missing.
    """
    first = [name for name in order if name == "ttame"]
    ranked = [*first, *(name for name in order if name != "ttame")]
    coloured = {n: Look(n, i if i < COLOURS else None) for i, n in enumerate(ranked)}
    return coloured | {
        name: Look(name, None, role.role, role.method)
        for name, role in roles.items()
        if name not in coloured
    }


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: visible title of the figure.
        svg: SVG that can be put into a page as it is.
    """

    title: str
    svg: str


class Plots:
    """A drawer of a report's plots, which gives each plot its own id.

    Args:
        looks: looks of the explainers, by name; others are not drawn.
    """

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self._looks = looks
        self._drawn = 0

    # ---- over a percentage -----------------------------------------------------------------

    def kept(self, board: Rows, metric: str) -> list[Plot]:
        """Draw AD or IC (y-axis, %) over the percentage of pixels that are kept (x-axis).

        Args:
            board: rows of the leaderboard, whose 95 % intervals are drawn as bands.
            metric: `AD` or `IC`.

        Returns:
            A plot for each backbone, with a line for each explainer.
        """
        rows = [
            {**row, "x": float(row["metric"].partition("@")[2])}
            for row in board
            if re.fullmatch(rf"{metric}@[\d.]+", row["metric"])
        ]
        better = {"AD": "lower", "IC": "higher"}[metric]
        words = {"AD": "average drop", "IC": "increase in confidence"}[metric]
        return self._lines(
            rows,
            f"{metric}, {words}",
            "% of the pixels kept",
            f"%, {better} is better",
            lambda r: (r["ci_low"], r["ci_high"]),
        )

    def removal(self, rows: Rows, order: str) -> list[Plot]:
        """Draw the steps of ROAD in one order: the classifier's probability as pixels are removed.

        The x-axis is the percentage of removed pixels, the y-axis the probability of the explained
        class in percent, its mean over the images. In the order MoRF (most relevant first) lower is
        better, because a good map's pixels are missed at once; in the order LeRF (least relevant
        first) higher is better.

        Args:
            rows: rows of the series `removal` (report/sql/removal.sql), whose 95 % intervals are
                drawn as bands.
            order: `MoRF` or `LeRF`.

        Returns:
            A plot for each backbone, with a line for each explainer.
        """
        which, better = {
            "MoRF": ("most", "lower"),
            "LeRF": ("least", "higher"),
        }[order]
        return self._lines(
            [{**r, "x": r["removed"]} for r in rows if r["order"] == order],
            f"{order}: the {which} relevant removed first",
            "% of the pixels removed",
            f"probability, %; {better} is better",
            _band,
        )

    def steps(self, rows: Rows, curve: str) -> list[Plot]:
        """Draw the steps of insertion or deletion.

        The x-axis is the percentage of pixels that are inserted or deleted so far, the y-axis the
        probability of the explained class in percent, its mean over the images. Higher is better
        for insertion, lower for deletion.

        Args:
            rows: rows of the series `steps` (report/sql/steps.sql), whose 95 % intervals are drawn
                as bands.
            curve: `insertion` or `deletion`.

        Returns:
            A plot for each backbone, with a line for each explainer.
        """
        done = {"insertion": "inserted", "deletion": "deleted"}[curve]
        better = {"insertion": "higher", "deletion": "lower"}[curve]
        return self._lines(
            [{**r, "x": r["moved"]} for r in rows if r["curve"] == curve],
            curve.capitalize(),
            f"% of the pixels {done}",
            f"probability, %; {better} is better",
            _band,
            markevery=8,
        )

    def training(self, rows: Rows, metric: str) -> list[Plot]:
        """Draw how the training of heads went: a metric (y-axis) over the steps taken (x-axis).

        Args:
            rows: rows of the series `training` (report/sql/training.sql).
            metric: `loss` (logarithmic axis); or `AD@15` or `IC@15`, in percent, on images of the
                validation split.

        Returns:
            A plot for each backbone, with a line for each explainer.
        """
        label = "loss (log)" if metric == "loss" else "%, of the validation split"
        return self._lines(
            [{**r, "x": r["step"]} for r in rows if r["metric"] == metric],
            {"loss": "Training loss"}.get(metric, f"{metric} in training"),
            "steps",
            label,
            None,
            log=metric == "loss",
            markevery=1 if metric != "loss" else 20,
            share=metric != "loss",
        )

    def _lines(
        self,
        rows: Rows,
        title: str,
        x_label: str,
        y_label: str,
        band: Callable[[Mapping[str, Any]], tuple[float, float]] | None,
        *,
        log: bool = False,
        markevery: int = 1,
        share: bool = True,
    ) -> list[Plot]:
        """Draw a panel per backbone with a line per explainer; `share` gives all one y-axis."""
        drawn = [r for r in rows if r["value"] is not None and r["explainer"] in self._looks]
        if len({row["x"] for row in drawn}) < 2:
            return []
        ends = [end for row in drawn for end in (band(row) if band else (row["value"],))]
        room = 0.05 * (max(ends) - min(ends) or 1)
        panels = []
        for backbone in _backbones(drawn):

            def draw(axes: Axes, backbone: str = backbone) -> None:
                for look, own in self._series(drawn, backbone):
                    own = sorted(own, key=lambda r: r["x"])
                    x = [r["x"] for r in own]
                    (line,) = axes.plot(
                        x, [r["value"] for r in own], **look.line, markevery=markevery
                    )
                    line.set_gid(_gid(look))
                    if look.place is None:
                        _name_at_end(axes, look, x[-1], own[-1]["value"])
                    if band and look.place is not None:
                        low, high = zip(*map(band, own), strict=True)
                        axes.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0)
                axes.set(xlabel=x_label, ylabel=y_label)
                if log:
                    axes.set_yscale("log")
                    _plain(axes.yaxis, (1, 2, 5))
                if share:
                    axes.set_ylim(min(ends) - room, max(ends) + room)

            words = _ends(self._series(drawn, backbone), x_label)
            panels.append(self._draw(draw, backbone, f"{title}, {backbone}", words))
        return panels

    # ---- others ----------------------------------------------------------------------------

    def scale(self, board: Rows, metric: str) -> list[Plot]:
        """Draw an average drop of all explainers, a row for each.

        The x-axis is the percentage of the confidence that is lost. The best stands on top. Bars
        are 95 % intervals; dotted lines go through random maps and annotated objects, the two ends
        of the scale. Names and values stand beside the rows, where none can cover another.

        Args:
            board: rows of the leaderboard.
            metric: name of the average drop, such as AD@15.

        Returns:
            A plot for each backbone.
        """
        rows = [r for r in board if r["metric"] == metric and r["explainer"] in self._looks]
        top = max((r["ci_high"] for r in rows), default=0) or 1
        panels = []
        for backbone in _backbones(rows):
            own = sorted((r for r in rows if r["backbone"] == backbone), key=lambda r: r["value"])

            def draw(axes: Axes, own: Rows = own) -> None:
                for place, row in enumerate(own):
                    self._mark(axes, row, place)
                names = [row["explainer"] for row in own]
                axes.set_yticks(range(len(own)), names, color=INK)
                axes.set_ylim(len(own) - 0.5, -0.5)
                axes.set_xlim(-0.04 * top, 1.04 * top)
                axes.grid(False, axis="y")
                axes.set_xlabel(f"{metric}, %; lower is better")

            words = "; ".join(f"{r['explainer']} {r['value']:.1f}" for r in own)
            title = f"{metric} of every explainer, {backbone}"
            size = (PANEL[0], 0.55 + 0.2 * len(own))
            panels.append(self._draw(draw, backbone, title, words, size))
        return panels

    def _mark(self, axes: Axes, row: Mapping[str, Any], place: int) -> None:
        """Draw a row of `scale`, with the value at its right end."""
        look = self._looks[row["explainer"]]
        if look.role != RIVAL and look.method in ENDS:
            axes.axvline(row["value"], color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
        ends = [row["ci_low"], row["ci_high"]]
        axes.plot(ends, [place] * 2, color=look.colour, linewidth=5, alpha=0.3)
        marker = "o" if look.place is None else MARKERS[look.place]
        size = 4.5 if look.place is None else 7
        marked: dict[str, Any] = {"color": look.colour, "markersize": size, "gid": _gid(look)}
        axes.plot([row["value"]], [place], marker, **marked)
        axes.annotate(
            f"{row['value']:.1f}",
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center_baseline",
        )

    def cost(self, board: Rows, metric: str) -> list[Plot]:
        """Draw an average drop (y-axis, %) over the seconds that a map takes (x-axis, logarithmic).

        Each rival is a point; the best ones are at the lower left.

        Args:
            board: rows of the leaderboard.
            metric: name of the average drop, such as AD@15.

        Returns:
            A plot for each backbone; none where fewer than two rivals have both values.
        """
        values = {(r["backbone"], r["explainer"], r["metric"]): r["value"] for r in board}
        rows = [
            {**r, "x": values[r["backbone"], r["explainer"], "seconds"]}
            for r in board
            if r["metric"] == metric
            and values.get((r["backbone"], r["explainer"], "seconds"), 0) > 0
            and r["role"] == RIVAL
        ]
        if len({r["explainer"] for r in rows}) < 2:
            return []
        left, right = (f(r["x"] for r in rows) for f in (min, max))
        top = max(r["value"] for r in rows)
        panels = []
        for backbone in _backbones(rows):

            def draw(axes: Axes, backbone: str = backbone) -> None:
                axes.set_xscale("log")
                _plain(axes.xaxis, (1, 3))
                axes.set_xlim(left / 1.6, right * 8)
                axes.set_ylim(-0.05 * top, 1.12 * top)
                for name in (look.name for look in self._looks.values() if look.method in ENDS):
                    level = values.get((backbone, name, metric))
                    if level is not None and level < 1.12 * top:
                        axes.axhline(level, color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)))
                        axes.text(right * 7.5, level, name, color=SOFT, ha="right", va="bottom")
                points = []
                for look, (row,) in self._series(rows, backbone):
                    marker = "o" if look.place is None else MARKERS[look.place]
                    size = 4.5 if look.place is None else 7
                    axes.plot(
                        [row["x"]],
                        [row["value"]],
                        marker,
                        color=look.colour,
                        markersize=size,
                        gid=_gid(look),
                    )
                    points.append((row["x"], row["value"], look))
                axes.set(xlabel="seconds per map (log)", ylabel=f"{metric}, %; lower is better")
                _label(axes, points)

            words = ", ".join(
                f"{r['explainer']} {r['x']:.2g} s {r['value']:.1f} %"
                for r in rows
                if r["backbone"] == backbone
            )
            title = f"Cost against {metric}, {backbone}"
            panels.append(self._draw(draw, backbone, title, words, SQUARE))
        return panels

    def sizes(self, rows: Rows, metric: str) -> list[Plot]:
        """Draw a metric of localisation (y-axis, %) for small, medium and large objects (x-axis).

        Args:
            rows: rows of the series `sizes` (report/sql/sizes.sql).
            metric: name of the metric.

        Returns:
            A plot for each backbone, with a line for each explainer.
        """
        sizes = [s for s in ("small", "medium", "large") if any(r["size"] == s for r in rows)]
        objects = {look.name for look in self._looks.values() if look.method == "oracle"}
        placed = [
            {**r, "x": sizes.index(r["size"])}
            for r in rows
            if r["metric"] == metric and r["explainer"] not in objects
        ]
        if len(sizes) < 2 or not placed:
            return []
        panels = []
        for backbone in _backbones(placed):

            def draw(axes: Axes, backbone: str = backbone) -> None:
                for look, own in self._series(placed, backbone):
                    own = sorted(own, key=lambda r: r["x"])
                    (line,) = axes.plot(
                        [r["x"] for r in own], [r["value"] for r in own], **look.line
                    )
                    line.set_gid(_gid(look))
                    if look.place is None:
                        _name_at_end(axes, look, own[-1]["x"], own[-1]["value"])
                counts = {r["x"]: r["images"] for r in placed if r["backbone"] == backbone}
                ticks = [f"{s}\n{counts.get(i, 0):,}" for i, s in enumerate(sizes)]
                axes.set_xticks(range(len(sizes)), ticks)
                axes.set_xlim(-0.3, len(sizes) - 0.7)
                axes.set_ylim(0, 104)
                axes.set(xlabel="objects, and images with them", ylabel="%, higher is better")

            title = f"{metric} by object size, {backbone}"
            panels.append(
                self._draw(draw, backbone, title, _ends(self._series(placed, backbone), "size"))
            )
        return panels

    def ranks(self, rows: Rows) -> Plot | None:
        """Draw the mean rank of each explainer (y-axis, 1 at the top) in each audit of one name.

        Args:
            rows: rows of the series `ranks` (report/sql/ranks.sql), of audits at different times.

        Returns:
            The plot; None where there is only one audit.
        """
        times = sorted({row["timestamp"] for row in rows})
        if len(times) < 2:
            return None

        def draw(axes: Axes) -> None:
            points = []
            for name in dict.fromkeys(row["explainer"] for row in rows):
                own = [row for row in rows if row["explainer"] == name]
                look = self._looks.get(name) or Look(name, None)
                x = [times.index(row["timestamp"]) for row in own]
                (line,) = axes.plot(x, [row["value"] for row in own], **look.line)
                line.set_gid(_gid(look))
                if x[-1] == len(times) - 1:
                    points.append((x[-1], own[-1]["value"], look))
            axes.set_xlim(-0.1, (len(times) - 1) * 1.18)
            axes.set_ylim(max(row["value"] for row in rows) + 0.3, 0.7)
            every = max(1, len(times) // 6)
            ticks = range(0, len(times), every)
            axes.set_xticks(ticks, [_date(times[i]) for i in ticks])
            axes.set_ylabel("mean rank, 1 is best")
            _label(axes, points)

        words = "; ".join(
            f"{r['explainer']} {r['value']:.2f}" for r in rows if r["timestamp"] == times[-1]
        )
        return self._draw(draw, "", "Mean rank over audits", f"At last: {words}", WIDE)

    # ---- drawing ---------------------------------------------------------------------------

    def _series(self, rows: Rows, backbone: str) -> list[tuple[Look, list[Mapping[str, Any]]]]:
        """Return a backbone's rows by explainer; coloured ones come last and are drawn on top."""
        by_explainer: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["backbone"] == backbone:
                by_explainer.setdefault(row["explainer"], []).append(row)
        ordered = sorted(by_explainer, key=lambda n: self._looks[n].place is not None)
        return [(self._looks[name], by_explainer[name]) for name in ordered]

    def _draw(
        self,
        draw: Callable[[Axes], None],
        heading: str,
        title: str,
        words: str,
        size: tuple[float, float] = PANEL,
    ) -> Plot:
        import matplotlib  # takes half a second, which only processes that draw spend
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._drawn += 1
        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=size, dpi=72)  # the dpi of SVG, for the positions of names
            FigureCanvasSVG(figure)
            draw(figure.add_subplot())
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(buffer, format="svg", metadata=nothing)
        svg = _inline(buffer.getvalue(), f"plot{self._drawn}", title, words)
        return Plot(heading, svg)


def _backbones(rows: Rows) -> list[str]:
    return sorted({row["backbone"] for row in rows})[:BACKBONES]


def _band(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["value"] - row["half"], row["value"] + row["half"]


def _plain(axis: Axis, steps: tuple[int, ...]) -> None:
    """Write plain numbers on a logarithmic axis, at these steps of every decade."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def _gid(look: Look) -> str:
    return f"explainer:{look.name}"


def _date(timestamp: str) -> str:
    """Write a record's time, such as 20260131T101500Z, in two lines."""
    parts = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)\d\dZ", timestamp)
    return "{}-{}-{}\n{}:{}".format(*parts.groups()) if parts else timestamp


def _ends(series: Sequence[tuple[Look, list[Mapping[str, Any]]]], x_label: str) -> str:
    """Describe every line by its first and last value, for people who cannot see the plot."""
    texts = []
    for look, own in series:
        first, *_, last = [*(sorted(own, key=lambda r: r["x"]) * 2)]
        texts.append(f"{look.name} from {first['value']:.3g} to {last['value']:.3g}")
    return f"Over {x_label}: " + "; ".join(texts) + "."


def _name_at_end(axes: Axes, look: Look, x: float, y: float) -> None:
    """Write a grey line's name at its right end, for paper and phones, which have no pointer.

    That of the annotated objects is below the line, so that the two ends of the scale do not meet.
    """
    below = look.method == "oracle"
    axes.annotate(
        look.name,
        (x, y),
        xytext=(0, -2 if below else 2),
        textcoords="offset points",
        color=SOFT,
        ha="right",
        va="top" if below else "bottom",
        fontsize=8,
    )


Box = tuple[float, float, float, float]  # left, bottom, right, top


def _label(axes: Axes, points: Sequence[tuple[float, float, Look]]) -> None:
    """Write names beside points, to the right, left, above or below, where they meet no other.

    A name without room is left out; the point's own title has it.
    """
    figure = axes.get_figure(root=True)
    if figure and (layout := figure.get_layout_engine()):
        layout.execute(figure)
        figure.set_layout_engine("none")  # names move nothing
    extent = axes.get_window_extent()
    frame = (extent.x0, extent.y0, extent.x1, extent.y1)
    spots = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
    # Names of coloured points come first and get the best places.
    order = sorted(range(len(points)), key=lambda i: points[i][2].place is None)
    for i in order:
        look, others = points[i][2], taken[:i] + taken[i + 1 :]
        x, y = spots[i]
        boxes = _places(x, y, 5.4 * len(look.name))
        free = (p for p in boxes if _within(p, frame) and not any(_meet(p, o) for o in others))
        if place := next(free, None):
            taken.append(place)
            axes.annotate(
                look.name,
                (place[0], (place[1] + place[3]) / 2),
                xycoords="figure pixels",
                color=look.colour,
                va="center",
                fontweight="normal" if look.place is None else "bold",
                fontsize=8 if look.place is None else 9,
            )


def _places(x: float, y: float, width: float, height: float = 10) -> Iterable[Box]:
    """Yield places for a name of the given size beside the point (x, y), the best place first."""
    right, left, middle = 7, -7 - width, -width / 2
    steps = [(right, 0), (left, 0)]
    steps += [(middle, up) for up in (10, -10, 14, -14, 24, -24)]
    steps += [(side, up) for up in (14, -14, 24, -24) for side in (right, left)]
    for dx, dy in steps:
        yield x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2


def _within(a: Box, frame: Box) -> bool:
    return frame[0] <= a[0] and a[2] <= frame[2] and frame[1] <= a[1] and a[3] <= frame[3]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inline(svg: str, name: str, title: str, words: str) -> str:
    """Prepare an SVG for a page: with its own ids, the page's colours, title and description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace('xlink:href="#', 'href="#')
    svg = re.sub(r'<g id="explainer:([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    colours = {INK: "--ink", SOFT: "--soft", LINE: "--line"}
    colours |= {colour: f"--s{i}" for i, colour in enumerate(SERIES, 1)}
    for colour, variable in colours.items():
        svg = svg.replace(colour, f"var({variable})")
    viewed = re.search(r'viewBox="[^"]*"', svg)
    head = (
        f'<svg {viewed[0] if viewed else ""} role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(words)}</desc>'
    )
    return re.sub(r"\n\s*", "\n", head + svg[svg.index(">") + 1 :])
