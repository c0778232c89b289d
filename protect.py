"""Put one person's cloak on all of their photos: python protect.py PHOTOS OUT --help"""

from advcloak_jax import commands, process

if __name__ == "__main__":
    process.run_main(commands.protect)
