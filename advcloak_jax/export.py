"""A trained network for use elsewhere: python -m advcloak_jax.export RUN OUT --help"""

from advcloak_jax import commands, process

if __name__ == "__main__":
    process.run_main(commands.export)
