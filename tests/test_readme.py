"""What the README and docs/methods.md list is what the package has."""

from pathlib import Path

from advcloak_jax.cloaks import methods
from advcloak_jax.recognizers import zoo

ROOT = Path(__file__).parents[1]


def test_the_zoo_table_is_the_zoo() -> None:
    """Printed by `python -c "from advcloak_jax.recognizers import zoo; print(zoo.markdown())"`."""
    assert zoo.markdown() in (ROOT / "README.md").read_text()


def test_the_table_of_methods_is_the_list_of_methods() -> None:
    """Printed by `python -c "from advcloak_jax.cloaks import methods; print(methods.markdown())"`."""
    assert methods.markdown() in (ROOT / "docs" / "methods.md").read_text()
