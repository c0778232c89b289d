"""Train a face recogniser, or either stage of the mask generator: python train.py recognizer|image|person --help"""

from advcloak_jax import cli
from advcloak_jax.jobs import train

if __name__ == "__main__":
    cli.run_main(train.main)
