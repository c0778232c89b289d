#!/usr/bin/env bash
# Makes the environment if needed and runs the tests in two processes, a module in one of them; arguments go to pytest
# (-n 0: in one process).
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh requirements-dev.txt
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
