"""Faces to a data set on disk: python -m advcloak_jax.data.prepare folder:PATH|recordio:PATH OUT"""

from advcloak_jax import commands, process

if __name__ == "__main__":
    process.run_main(commands.prepare)
