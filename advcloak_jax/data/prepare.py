"""Faces to a data set on disk: python -m advcloak_jax.data.prepare folder:PATH|recordio:PATH OUT"""

from advcloak_jax import cli, commands

if __name__ == "__main__":
    cli.run_main(commands.prepare)
