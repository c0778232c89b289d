"""Measure protection and recognisers: python evaluate.py table|verify|targets --help"""

from advcloak_jax import cli
from advcloak_jax.jobs import evaluate

if __name__ == "__main__":
    cli.run_main(evaluate.main)
