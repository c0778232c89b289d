"""Measure protection and recognisers: python evaluate.py table|verify|targets --help"""

from advcloak_jax import cli, commands

if __name__ == "__main__":
    cli.run_main(commands.evaluate)
