"""Train a face recogniser, or either stage of the mask generator: python train.py recognizer|image|person --help"""

from advcloak_jax import commands, process

if __name__ == "__main__":
    process.run_main(commands.train)
