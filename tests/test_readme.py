"""What the README says of the recognisers is what the package has."""

from pathlib import Path

from advcloak_jax.recognizers import zoo

README = Path(__file__).parents[1] / "README.md"


def test_the_zoo_table_is_the_zoo() -> None:
    """Printed by `python -c "from advcloak_jax.recognizers import zoo; print(zoo.markdown())"`."""
    assert zoo.markdown() in README.read_text()
