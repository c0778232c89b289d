"""Measure protection and recognisers: python evaluate.py table|verify|targets --help"""

from advcloak_jax import commands, process

if __name__ == "__main__":
    process.run_main(commands.evaluate)
