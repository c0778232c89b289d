"""Published weights in: python -m advcloak_jax.recognizers.import_weights FILE --architecture NAME"""

from advcloak_jax import cli, commands

if __name__ == "__main__":
    cli.run_main(commands.import_weights)
