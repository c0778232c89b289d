"""A trained network for use elsewhere: python -m advcloak_jax.export RUN OUT --help"""

from advcloak_jax import cli, commands

if __name__ == "__main__":
    cli.run_main(commands.export)
