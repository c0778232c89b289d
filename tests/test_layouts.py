"""The tables as they are read: order, dashes for a row's own surrogate, averages over the same targets."""

import numpy as np
import pytest

from advcloak_jax.evaluation import identification, layouts, tables

A, B, C = "net one", "net two", "net three"


def ranks(seed: int, *targets: str) -> dict[str, np.ndarray]:
    found = {}
    for target in targets:
        drawn = np.random.default_rng([seed, *target.encode()]).integers(0, 12, (20, 4, 4)).astype(np.int32)
        drawn[:, range(4), range(4)] = -1
        found[target] = drawn
    return found


def row(method: str, seed: int, targets: tuple[str, ...], **options: str) -> tables.ProtectionRow:
    return tables.protection_row(method, ranks(seed, *targets), common=(B, C), ssim=0.9, psnr=32.0, **options)


ROWS = [
    row("Random mask", 0, (A, B, C)),
    row("OPOM", 1, (B, C), source=A, kind="person"),
    row("AdvFaces", 2, (B, C), source=A, kind="image"),
    row("OPOM", 3, (A, B, C), source="another", kind="person"),
    row("GAP", 4, (B, C), source=A, kind="universal"),
]


def test_the_common_average_is_over_the_same_targets_for_all() -> None:
    for one, targets in zip(ROWS, ((A, B, C), (B, C), (B, C), (A, B, C), (B, C)), strict=True):
        assert [name for name in one.rates if name not in tables.MEANS] == list(targets)
        values = {name: one.rates[name][1].value for name in targets}
        assert one.rates[tables.AVERAGE][1].value == pytest.approx(np.mean(list(values.values())))
        assert one.rates[tables.COMMON][1].value == pytest.approx((values[B] + values[C]) / 2)
    # A row with one black box still has an average where others have several.
    assert tables.AVERAGE in tables.protection_row("x", ranks(0, B), common=(B,)).rates


def test_rows_stand_in_the_papers_order() -> None:
    order = [(source, kind, [one.method for one in found]) for source, kind, found in layouts.grouped(ROWS)]
    assert order == [
        ("", "", ["Random mask"]),
        (A, "image", ["AdvFaces"]),
        (A, "universal", ["GAP"]),
        (A, "person", ["OPOM"]),
        ("another", "person", ["OPOM"]),
    ]


def test_text_has_a_dash_where_the_target_is_the_surrogate_and_columns_align() -> None:
    lines = layouts.text_table(ROWS).splitlines()
    assert lines[1:4] == [f"  A  {A}", f"  B  {B}", f"  C  {C}"]
    assert "own surrogate" in lines[4]
    table = lines[6:]
    cells = {line.split("  ")[0] or line.split()[0]: line for line in table}
    assert cells["GAP"].split()[1:3] == ["-", "-"]
    assert f"{ROWS[0].rates[A][1].value:.1f}" == cells["Random mask"].split()[2]
    assert len({len(line) for line in table if line.endswith("32.0")}) == 1
    assert f"{A}, image-specific masks" in table
    for one in ROWS:
        assert layouts.interval(one.rates[tables.COMMON][5]) in "\n".join(table)


def test_without_own_surrogates_there_is_one_average_and_no_dash() -> None:
    text = layouts.text_table([tables.protection_row("x", ranks(0, A, B), ssim=0.9, psnr=30.0)])
    assert "own surrogate" not in text
    assert "common" not in text
    single = layouts.text_table([tables.protection_row("x", ranks(0, A), ssim=0.9, psnr=30.0)])
    assert "average" not in single
    assert f"{A} top-1" in single


def test_markdown_has_every_column_in_every_row() -> None:
    lines = layouts.markdown_table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert {line.count("|") for line in lines} == {3 + 2 * 5 + 1 + 1}


def test_interval_table_has_every_rank() -> None:
    text = layouts.interval_table(ROWS)
    for one in ROWS:
        for per_k in one.rates.values():
            assert layouts.interval(per_k[10]) in text


def test_differences_use_the_targets_that_both_have() -> None:
    one, other = ranks(1, A, B, C), ranks(2, B, C)
    found = tables.difference("a", one, "b", other, k=5)
    expected = np.mean(
        [identification.protection(one[t], 5).mean() - identification.protection(other[t], 5).mean() for t in (B, C)]
    )
    assert found.estimate.value == pytest.approx(expected)
    text = layouts.difference_table([found, tables.difference("a", one, "c", other, k=1)])
    assert text.splitlines()[0].split("  ")[-2:] == ["b, top-5", "c, top-1"] or "b, top-5" in text
    assert layouts.interval(found.estimate, "+.1f") in text
