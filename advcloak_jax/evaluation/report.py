"""The report of a run: one HTML file that needs nothing else, readable on a phone, in light and dark."""

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from advcloak_jax.evaluation.cost import Cost
from advcloak_jax.evaluation.layouts import KINDS, grouped
from advcloak_jax.evaluation.tables import MEANS, Difference, Estimate, ProtectionRow, number, targets_of

NO_GUARANTEE = (
    "The rates hold for these recognisers, these people and this number of distractors. A stronger recogniser, one "
    "trained on cloaked faces, or a smaller crowd may still let the person be found.",
    "A photo that is already public without a cloak stays findable, and can be the gallery image of every later one.",
    "Resizing, heavy JPEG compression, filters and screenshots weaken a mask; what was not tried above is not covered.",
    "The protocol asks whether one clean photo comes first among the distractors. Not being first is not being "
    "anonymous: among the first ten more people are found, and a human still recognises the face.",
    "Clothes, places, captions and metadata identify people too; a cloak does nothing about them.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of the run beside the published value it replaces."""

    name: str
    value: str
    paper: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG or SVG file's bytes, with a caption and, for those who cannot see it, a description."""

    image: bytes
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecognizerRow:
    """Verification of one recogniser on people it never saw: `summary` is `verification.summary`'s."""

    name: str
    role: str
    """"surrogate" or "black box"."""
    summary: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page shows, top to bottom; empty parts are left out.

    `facts` are short pairs for the head of the page (persons, distractors, trials, device, time); `notes` are
    paragraphs below the protection table.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]] = ()
    protection: Sequence[ProtectionRow] = ()
    differences: Sequence[Difference] = ()
    costs: Sequence[Cost] = ()
    notes: Sequence[str] = ()
    faces: Sequence[Picture] = ()
    recognizers: Sequence[RecognizerRow] = ()
    histograms: Sequence[Picture] = ()
    curves: Sequence[Picture] = ()
    settings: Sequence[Setting] = ()
    no_guarantee: Sequence[str] = NO_GUARANTEE


def build_report(report: Report) -> str:
    """The page as one HTML text: inline style, pictures as data URIs, no request to anywhere. All text is escaped."""
    facts = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in report.facts)
    parts = [
        _section("Protection", _protection(report.protection) + _paragraphs(report.notes)) if report.protection else "",
        _section("Differences", _differences(report.differences)) if report.differences else "",
        _section("Cost", _costs(report.costs)) if report.costs else "",
        _section("Faces", _pictures(report.faces)) if report.faces else "",
        _section("What a cloak does not guarantee", _list(report.no_guarantee)) if report.no_guarantee else "",
        _section("Recognisers", _recognizers(report.recognizers) + _pictures(report.histograms, "plots"))
        if report.recognizers or report.histograms
        else "",
        _section("Training", _pictures(report.curves, "plots")) if report.curves else "",
        _section("Settings that differ from the paper", _settings(report.settings)) if report.settings else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(report.title)}</title><style>{_STYLE}</style></head>\n<body><main>"
        f"<h1>{_text(report.title)}</h1><p class=lead>{_text(report.lead)}</p>"
        + (f"<dl>{facts}</dl>" if facts else "")
        + "\n".join(parts)
        + "</main></body></html>\n"
    )


def _protection(rows: Sequence[ProtectionRow]) -> str:
    columns = {name: ks for row in rows for name, ks in row.rates.items()}
    columns = {name: columns[name] for name in (*MEANS, *targets_of(rows)) if name in columns}
    quality = any(row.ssim is not None or row.psnr is not None for row in rows)
    names = "".join(
        f'<th colspan={len(per_k)} class="group{" average" * (name in MEANS)}">{_text(name)}</th>'
        for name, per_k in columns.items()
    )
    ranks = "".join(
        f'<th class="{"first" * (i == 0)}{" average" * (name in MEANS)}">top-{k}</th>'
        for name, per_k in columns.items()
        for i, k in enumerate(per_k)
    )
    head = f"<tr><th rowspan=2>Method</th>{names}"
    head += "<th rowspan=2 class=first>SSIM</th><th rowspan=2>PSNR, dB</th>" * quality + f"</tr><tr>{ranks}</tr>"
    body = ""
    for source, kind, found in grouped(rows):
        body += f'<tr><th class="source">{_text(source)}, {KINDS[kind]}</th></tr>' if source else ""
        body += "".join(_protection_row(row, columns, quality) for row in found)
    missing = any(name not in row.rates for row in rows for name in columns)
    return (
        _table(head, body, "rates")
        + "<p class=small>Protection success rate in percent (100 &minus; top-k accuracy of the "
        "recogniser): higher protects better. In brackets: 95 % bootstrap interval over persons."
        + (
            " A dash: the recogniser is the row&#39;s own surrogate and counts in no average of its; rows of different "
            "source models are compared by the average over the black boxes of all rows."
            if missing
            else ""
        )
        + "</p>"
    )


def _protection_row(row: ProtectionRow, columns: Mapping[str, Mapping[int, Estimate]], quality: bool) -> str:
    cells = "".join(
        f'<td class="{"first" * (i == 0)}{" average" * (name in MEANS)}">'
        f"{_estimate(row.rates[name][k]) if name in row.rates else '-'}</td>"
        for name, per_k in columns.items()
        for i, k in enumerate(per_k)
    )
    cells += f"<td class=first>{number(row.ssim, 3)}</td><td>{number(row.psnr, 1)}</td>" * quality
    return f"<tr><th>{_text(row.method)}</th>{cells}</tr>"


def _differences(rows: Sequence[Difference]) -> str:
    """A line per comparison and rank; the targets side by side, the average first."""
    found: dict[tuple[str, str, str, int], dict[str, Estimate]] = {}
    for row in rows:
        found.setdefault((row.source, row.method, row.baseline, row.k), {})[row.target] = row.estimate
    targets = list(dict.fromkeys(row.target for row in rows))
    sources = any(row.source for row in rows)
    head = "<tr><th>Compared</th>" + "<th>Source model</th>" * sources + "<th>Rank</th>"
    head += "".join(f"<th>{_text(target)}</th>" for target in targets) + "</tr>"
    body = ""
    for (source, method, baseline, k), estimates in found.items():
        cells = f"<td>{_text(source)}</td>" * sources + f"<td>top-{k}</td>"
        cells += "".join(
            f"<td>{_estimate(estimates[target], '+.1f') if target in estimates else '-'}</td>" for target in targets
        )
        body += f"<tr><th>{_text(method)} &minus; {_text(baseline)}</th>{cells}</tr>"
    return _table(head, body) + (
        "<p class=small>Percentage points, paired over the same persons. Where the interval includes 0, the data do "
        "not tell the two apart.</p>"
    )


def _costs(rows: Sequence[Cost]) -> str:
    head = "<tr><th>Type of mask</th><th>Method</th><th>Source model</th><th>First call, s</th>"
    head += "<th>Per person, s</th><th>Per image, s</th></tr>"
    body = ""
    for kind, title in KINDS.items():
        for row in (row for row in rows if row.kind == kind):
            cells = "".join(f"<td>{number(x, 4)}</td>" for x in (row.first_call, row.per_person, row.per_image))
            body += f"<tr><th>{title}</th><td>{_text(row.method)}</td><td>{_text(row.source)}</td>{cells}</tr>"
    return _table(head, body) + (
        "<p class=small>The first call makes the masks of a few persons and compiles; the others are the same call "
        "again, per person, and putting a mask on a photo, for image-specific masks with making it.</p>"
    )


def _recognizers(rows: Sequence[RecognizerRow]) -> str:
    if not rows:
        return ""
    rates = list(rows[0].summary["tar"])
    head = "<tr><th>Recogniser</th><th>Role</th><th>AUC</th><th>Best accuracy</th><th>Threshold</th>"
    head += "".join(f"<th>TAR at FAR {rate}</th>" for rate in rates) + "<th>Rank-1</th><th>Pairs</th></tr>"
    body = ""
    for row in rows:
        result = row.summary
        figures = [
            number(result["auc"], 4),
            number(result["accuracy"], 3),
            number(result["threshold"], 2),
            *(number(result["tar"][rate], 3) for rate in rates),
            number(result["rank1"], 3),
            f"{result['same_pairs']:,} + {result['different_pairs']:,}",
        ]
        cells = "".join(f"<td>{figure}</td>" for figure in figures)
        body += f"<tr><th>{_text(row.name)}</th><td>{_text(row.role)}</td>{cells}</tr>"
    return _table(head, body) + (
        "<p class=small>Verification on persons that the recogniser never saw, cosine similarity; pairs: same + "
        "different persons. The threshold is the one of the best accuracy. Rank-1: one gallery image per person. A "
        "dash: too few pairs to measure that rate.</p>"
    )


def _settings(rows: Sequence[Setting]) -> str:
    body = "".join(
        f"<tr><th>{_text(row.name)}</th><td>{_text(row.value)}</td><td>{_text(row.paper)}</td></tr>" for row in rows
    )
    return _table("<tr><th>Setting</th><th>Here</th><th>Paper</th></tr>", body)


def _pictures(pictures: Sequence[Picture], kind: str = "") -> str:
    shown = "".join(_picture(one) for one in pictures)
    return f'<div class="pictures {kind}">{shown}</div>' if pictures else ""


def _picture(picture: Picture) -> str:
    kind = "png" if picture.image.startswith(b"\x89PNG") else "svg+xml"
    data = base64.b64encode(picture.image).decode()
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{_text(picture.alt)}">'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _estimate(estimate: Estimate, form: str = ".1f") -> str:
    # A true minus sign, so that the columns of digits line up.
    value, low, high = (f"{part:{form}}".replace("-", "&minus;") for part in estimate)
    return f"<b>{value}</b> <small>[{low}, {high}]</small>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _table(head: str, body: str, kind: str = "") -> str:
    return f'<div class=scroll><table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{_text(text)}</p>" for text in texts)


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in texts)}</ul>"


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)


_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #1d1f24; --soft: #5f646d; --line: #d9dadd; --card: #ffffff;
  --mark: #2458a6; --tint: #eef2f9; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e7e8ea; --soft: #a2a7b0; --line: #363a42;
  --card: #1d2026; --mark: #8fb6f5; --tint: #222a38; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .8rem; }
.lead { max-width: 46rem; margin: 0 0 1rem; }
p, ul { max-width: 46rem; }
li { margin: .35rem 0; }
.small, figcaption, dt, small { color: var(--soft); font-size: .82rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; }
th, td { padding: .45rem .7rem; text-align: left; border-top: 1px solid var(--line); vertical-align: top; }
thead tr:first-child th { border-top: 0; }
thead th { font-size: .82rem; color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--card); min-width: 8rem; }
thead th:first-child:not(.first) { position: sticky; left: 0; background: var(--card); }
.rates td { text-align: right; }
.rates thead th { text-align: right; }
.rates thead tr:first-child th:first-child { text-align: left; }
.rates thead th.group { text-align: center; color: var(--ink); }
.rates th.source { color: var(--mark); padding-top: .8rem; }
.rates small { display: block; }
.group, .first { border-left: 1px solid var(--line); }
.average { background: var(--tint); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
figure { margin: 0; flex: 0 1 auto; max-width: 100%; }
figure img { display: block; max-width: 100%; max-height: 60rem; height: auto; background: #fff;
  border: 1px solid var(--line);  border-radius: .5rem; }
.plots figure { flex: 1 1 17rem; max-width: 25rem; }
figcaption { margin-top: .4rem; max-width: 46rem; }
b { font-weight: 600; }
@media (max-width: 40rem) { body { font-size: 15px; } th, td { padding: .4rem .5rem; } tbody th { min-width: 6.5rem; } }
@media print { .scroll { overflow: visible; } }
"""
