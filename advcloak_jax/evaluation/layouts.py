"""Protection rows as a reader sees them: the paper's Tables 1 and 2, for a terminal and in Markdown, and intervals."""

import string
from collections.abc import Iterator, Sequence

from advcloak_jax.evaluation.tables import AVERAGE, MEANS, Difference, Estimate, ProtectionRow, number, targets_of

SHOWN = (1, 5)
"""Ranks of the paper's tables; the files have more."""
KINDS = {"image": "image-specific masks", "universal": "universal mask", "person": "person-specific masks"}


def grouped(rows: Sequence[ProtectionRow]) -> Iterator[tuple[str, str, list[ProtectionRow]]]:
    """(source model, kind, rows) in the paper's order: rows without a source, then each source's kinds."""
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        for kind in ("", *KINDS) if source == "" else KINDS:
            if found := [row for row in own if (row.kind if source else "") == kind]:
                yield source, kind if source else "", found


def in_order(rows: Sequence[ProtectionRow]) -> list[ProtectionRow]:
    """The rows in the order in which the tables show them."""
    return [row for _, _, found in grouped(rows) for row in found]


def text_table(rows: Sequence[ProtectionRow]) -> str:
    """Aligned columns: a row per source model and method; Top-1 and Top-5 of each target, the averages with intervals.

    Targets are lettered, with their names above the table; a dash: the target is the row's own surrogate.
    """
    targets = targets_of(rows)
    means = [name for name in MEANS if any(name in row.rates for row in rows)]
    letters = dict(zip(targets, _letters(), strict=False))
    spread = {name: letters[name] for name in targets} if means else {}
    shown = means or targets
    lines = [["", *(f"{letter} top-{k}" for letter in spread.values() for k in SHOWN)]]
    lines[0] += [f"{_short(name)} top-{k}" for name in shown for k in SHOWN] + ["SSIM", "PSNR, dB"]
    for source, kind, found in grouped(rows):
        if source:
            lines.append([f"{source}, {KINDS[kind]}"])
        for row in found:
            cells = [_rate(row, name, k) for name in spread for k in SHOWN]
            cells += [_interval(row, name, k) for name in shown for k in SHOWN]
            lines.append([f"{'  ' * bool(source)}{row.method}", *cells, number(row.ssim, 3), number(row.psnr, 1)])
    head = ["Protection rate, %; in brackets: 95 % interval over persons"]
    head += [f"  {letter}  {name}" for name, letter in spread.items()]
    if any(name not in row.rates for row in rows for name in targets):
        head.append("  -  the row's own surrogate, which counts in no average of its")
    return "\n".join([*head, "", *_aligned(lines)])


def interval_table(rows: Sequence[ProtectionRow]) -> str:
    """Aligned columns, one block a target: every rank's rate with its interval."""
    ks = list(next(iter(rows[0].rates.values())))
    lines = [["Protection rate, %", *(f"top-{k}" for k in ks)]]
    for target in dict.fromkeys(name for row in rows for name in row.rates):
        lines.append([target])
        for row in in_order(rows):
            if target in row.rates:
                name = f"{row.method}, {row.source}" if row.source else row.method
                lines.append([f"  {name}", *(_interval(row, target, k) for k in ks)])
    return "\n".join(_aligned(lines))


def difference_table(differences: Sequence[Difference]) -> str:
    """Aligned columns: a row per source model and method, the points gained over each baseline on average."""
    on_average = [one for one in differences if one.target == AVERAGE]
    columns = list(dict.fromkeys((one.baseline, one.k) for one in on_average))
    found = {(one.source, one.method, one.baseline, one.k): one.estimate for one in on_average}
    lines = [["Points gained over", *(f"{baseline}, top-{k}" for baseline, k in columns)]]
    for source, method in dict.fromkeys((one.source, one.method) for one in on_average):
        cells = [
            interval(found[source, method, *column], "+.1f") if (source, method, *column) in found else "-"
            for column in columns
        ]
        lines.append([f"{method}, {source}" if source else method, *cells])
    return "\n".join(_aligned(lines))


def markdown_table(rows: Sequence[ProtectionRow]) -> str:
    """The table of `text_table` in Markdown, with a column for the source model and one for Top-1 and Top-5 each."""
    targets, means = targets_of(rows), [name for name in MEANS if any(name in row.rates for row in rows)]
    columns = [(name, k) for name in (*targets, *means) for k in SHOWN]
    head = ["Source model", "Masks", "Method", *(f"{name}, top-{k}" for name, k in columns), "SSIM"]
    lines = [head, ["---"] * 3 + ["---:"] * (len(columns) + 1)]
    for source, kind, found in grouped(rows):
        for row in found:
            cells = [_interval(row, name, k) if name in MEANS else _rate(row, name, k) for name, k in columns]
            lines.append([source, KINDS.get(kind, ""), row.method, *cells, number(row.ssim, 3)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(estimate: Estimate, form: str = ".1f") -> str:
    """A rate with its interval."""
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _rate(row: ProtectionRow, target: str, k: int) -> str:
    return f"{row.rates[target][k].value:.1f}" if target in row.rates else "-"


def _interval(row: ProtectionRow, target: str, k: int) -> str:
    return interval(row.rates[target][k]) if target in row.rates else "-"


def _short(name: str) -> str:
    return {AVERAGE: "average"}.get(name, "common" if name in MEANS else name)


def _letters() -> Iterator[str]:
    yield from string.ascii_uppercase
    yield from (a + b for a in string.ascii_uppercase for b in string.ascii_uppercase)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells under each other; a line of one cell is a heading and widens no column."""
    full = [line for line in lines if len(line) > 1]
    widths = [max(len(line[i]) for line in full) for i in range(len(full[0]))]
    texts = [
        "  ".join(f"{cell:{'>' if i else '<'}{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=False)))
        for line in lines
    ]
    return [text.rstrip() for text in texts]
