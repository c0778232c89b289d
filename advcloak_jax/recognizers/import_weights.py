"""Published weights in: python -m advcloak_jax.recognizers.import_weights FILE --architecture NAME"""

from advcloak_jax import commands, process

if __name__ == "__main__":
    process.run_main(commands.import_weights)
