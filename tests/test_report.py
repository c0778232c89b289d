"""The page and the tables: complete, self-contained, escaped, and the numbers that went in."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.evaluation import bootstrap, cost, figures, identification, tables, verification
from advcloak_jax.evaluation import report as reports

TARGETS = ("black <b>&", "other")


def ranks(seed: int, high: int = 12) -> dict[str, np.ndarray]:
    result = {}
    for i, target in enumerate(TARGETS):
        drawn = np.random.default_rng(seed + 100 * i).integers(0, high, (20, 4, 4)).astype(np.int32)
        drawn[:, range(4), range(4)] = -1
        result[target] = drawn
    return result


def rows() -> list[tables.ProtectionRow]:
    return [
        tables.protection_row("Unprotected", ranks(0, 3)),
        tables.protection_row("AdvCloak <i>", ranks(1), ssim=0.91234, psnr=33.456, source="net & more", kind="person"),
    ]


def test_rows_hold_the_rates_and_the_average_is_resampled_by_person() -> None:
    row = tables.protection_row("AdvCloak", ranks(1), ks=(1, 5), seed=3)
    assert list(row.rates) == [tables.AVERAGE, *TARGETS]
    per_person = {t: identification.protection(r, 5) for t, r in ranks(1).items()}
    for target, values in (per_person | {tables.AVERAGE: np.mean(list(per_person.values()), axis=0)}).items():
        assert row.rates[target][5] == pytest.approx((values.mean(), *bootstrap.interval(values, seed=3)))
    assert list(tables.protection_row("one", {"only": ranks(1)["other"]}).rates) == ["only"]


def test_difference_is_paired() -> None:
    one, two = ranks(1), ranks(0, 3)
    found = tables.difference("a", one, "b", two, k=5, target="other", seed=2)
    expected = bootstrap.paired_difference(
        identification.protection(one["other"], 5), identification.protection(two["other"], 5), seed=2
    )
    assert found.estimate == pytest.approx(expected)
    on_average = tables.difference("a", one, "b", two, k=5)
    each = [tables.difference("a", one, "b", two, k=5, target=t).estimate.value for t in TARGETS]
    assert on_average.estimate.value == pytest.approx(np.mean(each))


def test_csv_and_json_agree_with_the_rows() -> None:
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(rows()))))
    nested = json.loads(json.dumps(tables.to_json(rows()), allow_nan=False))
    assert len(lines) == 2 * 3 * 3
    for line in lines:
        row = next(row for row in rows() if row.method == line["method"])
        estimate = row.rates[line["target"]][int(line["k"])]
        assert [float(line[key]) for key in ("protection", "low", "high")] == pytest.approx(list(estimate))
        found = next(one for one in nested if one["method"] == row.method)["protection"]
        assert found[line["target"]][f"top{line['k']}"]["low"] == pytest.approx(estimate.low)


class Page(HTMLParser):
    """Checks that tags close and gathers what refers elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def full_report() -> reports.Report:
    identity = np.repeat(np.arange(20), 4)
    embeddings = np.eye(20)[identity] + 0.3 * np.random.default_rng(0).normal(size=(80, 20))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    summary = verification.summary(embeddings, identity)
    bars = summary["histogram"]
    histogram = figures.cosine_histogram(bars["edges"], bars["same"], bars["different"], title="t", threshold=0.3)
    curve = figures.loss_curves("stage I", [figures.Curve("loss", range(300), np.linspace(1, 0, 300))], form="svg")
    return reports.Report(
        title="A <title>",
        lead="Lead & more",
        facts=(("Persons", "20"),),
        protection=rows(),
        differences=[tables.difference("a", ranks(0), "b", ranks(1))],
        costs=[cost.Cost("net & more", "AdvCloak <i>", "person", 2.0, 0.125, None)],
        notes=("<note>",),
        recognizers=(reports.RecognizerRow(name="<net>", role="surrogate", summary=summary),),
        histograms=(reports.Picture(image=histogram, caption="<caption>", alt='"quoted"'),),
        curves=(reports.Picture(image=curve, caption="curve", alt="curve"),),
        settings=(reports.Setting(name="width", value="16", paper="64"),),
    )


def test_page_is_whole_escaped_and_needs_nothing_else() -> None:
    text = reports.build_report(full_report())
    page = Page()
    page.feed(text)
    assert page.open == []
    # No tag may come from the texts, all of which contain some.
    assert not {"b<", "i", "note", "net", "caption"} & set(page.seen)
    shown = " ".join(page.text)
    for expected in (
        "net & more, person-specific masks",
        "0.1250",
        "A <title>",
        "black <b>&",
        "AdvCloak <i>",
        "<note>",
        "<net>",
        "<caption>",
        "0.912",
        "33.5",
    ):
        assert expected in shown
    for expected in ("Protection", "Differences", "What a cloak does not guarantee", "Recognisers", "Training"):
        assert expected in page.text
    assert len(page.links) == 2
    assert all(link.startswith("data:image/") for link in page.links)
    assert "url(" not in text
    assert "@import" not in text
    assert page.seen.count("table") == 5


def test_pictures_arrive_as_they_were() -> None:
    report = full_report()
    found = re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', reports.build_report(report))
    assert [kind for kind, _ in found] == ["png", "svg+xml"]
    assert base64.b64decode(found[0][1]) == report.histograms[0].image
    Image.open(io.BytesIO(report.histograms[0].image)).verify()


def test_empty_parts_are_left_out() -> None:
    text = reports.build_report(reports.Report(title="t", lead="l", no_guarantee=()))
    assert "<h2>" not in text
    assert "<table" not in text


def test_grid_shows_the_amplified_mask_between_the_pictures() -> None:
    white, black = np.full((1, 8, 8, 3), 255, np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
    masks = np.full((1, 8, 8, 3), 0.05, np.float32)
    assert figures.amplification(masks) == 10
    assert figures.amplification(masks * 0) == 1
    png = figures.face_grid(white, masks, black, factor=4)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    middle, width = pixels[pixels.shape[0] * 2 // 3], pixels.shape[1]
    assert middle[width // 6].tolist() == [255] * 3
    assert middle[width // 2] == pytest.approx([0.7 * 255] * 3, abs=1)
    assert middle[width * 5 // 6].tolist() == [0] * 3
    assert figures.face_grid(white, masks, black, factor=4) == png
    with pytest.raises(ValueError, match="shapes differ"):
        figures.face_grid(white, masks[:, :4], black)
