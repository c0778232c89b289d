#!/usr/bin/env bash
# Makes the environment if needed and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh requirements-dev.txt
.venv/bin/python -m pytest "$@"
