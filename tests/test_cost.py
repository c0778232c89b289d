"""Table 3: what a first call and a second one cost, and on whom it is laid."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.evaluation import cost


def slow(kind: str) -> Cloak:
    """Takes 0.2 s at first, as if it compiled, and 0.02 s afterwards."""
    waits = [0.2, 0.02]

    def make_masks(faces: jax.Array, key: jax.Array) -> jax.Array:
        time.sleep(waits.pop(0))
        return jnp.zeros(faces.shape)

    return Cloak("slow", kind, make_masks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "per_person", "per_image"),
    [("person", 0.01, 0.001), ("image", 0.0, 0.004 + 0.001), ("universal", 0.0, 0.001)],
)
def test_a_cost_is_of_persons_or_of_images(kind: str, per_person: float, per_image: float) -> None:
    cloak = slow(kind)
    making = cost.time_making(cloak, np.zeros((2, 3, 4, 4, 3), np.uint8), jax.random.key(0))
    assert (making.persons, making.images) == (2, 3)
    assert making.first > 0.2 > making.again >= 0.02
    row = cost.cost("net", cloak, making._replace(again=0.02 if kind != "image" else 0.024), 0.001)
    assert row.first_call == making.first
    assert row.per_person == pytest.approx(per_person)
    assert row.per_image == pytest.approx(per_image)


def test_the_table_groups_by_type_and_shows_what_was_not_timed() -> None:
    rows = [
        cost.Cost("net", "OPOM", "person", 3.0, 0.25, 0.0001),
        cost.Cost("net", "FIM", "image", 3.0, 0.0, 0.5),
        cost.cost("net", slow("person"), None, 0.1),
    ]
    lines = cost.text_table(rows).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["FIM", "OPOM", "slow"]
    assert lines[2].split()[-3:] == ["3.0000", "0.2500", "0.0001"]
    assert lines[3].split()[-3:] == ["-", "-", "-"]
