"""Faces to a data set on disk: python -m advcloak_jax.data.prepare folder:PATH|recordio:PATH OUT"""

from advcloak_jax import cli
from advcloak_jax.jobs import prepare

if __name__ == "__main__":
    cli.run_main(prepare.main)
