"""Train a face recogniser, or either stage of the mask generator: python train.py recognizer|image|person --help"""

from advcloak_jax import cli, commands

if __name__ == "__main__":
    cli.run_main(commands.train)
