"""Published weights in: python -m advcloak_jax.recognizers.import_weights FILE --architecture NAME"""

from advcloak_jax import cli
from advcloak_jax.jobs import import_weights

if __name__ == "__main__":
    cli.run_main(import_weights.main)
