"""A trained network for use elsewhere: python -m advcloak_jax.export RUN OUT --help"""

from advcloak_jax import cli
from advcloak_jax.jobs import export

if __name__ == "__main__":
    cli.run_main(export.main)
