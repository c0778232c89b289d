# Sourced by demo.sh and test.sh: makes the virtual environment .venv and keeps it in step with a requirements file.
# usage: . ./environment.sh REQUIREMENTS_FILE
requirements=$1
python=""
for candidate in python3.13 python3.12 python3.11 python3 python; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not sys.version_info >= (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: Python 3.11 or newer is needed; install it (Debian, Ubuntu: apt install python3 python3-venv)." >&2
  exit 2
fi
stamp=.venv/.installed-$(cat requirements*.txt | cksum | cut -d' ' -f1)-$(basename "$requirements" .txt)
if [ ! -f "$stamp" ]; then
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1 && ! "$python" -m venv --clear .venv; then
    echo "error: $python cannot make a virtual environment; install its venv module (Debian, Ubuntu: apt install python3-venv)." >&2
    exit 2
  fi
  echo "Installing $requirements into .venv ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
  touch "$stamp"
fi
