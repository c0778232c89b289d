#!/usr/bin/env bash
# The whole pipeline on synthetic faces, from nothing to report.html. Run it again after an interruption: it goes on.
set -euo pipefail
cd "$(dirname "$0")"
runs=${1:-runs/demo}
. ./environment.sh requirements.txt

step() {
  echo >&2
  echo "== $1" >&2
}
common=(--preset demo --cache "$runs/cache" --resume)

step "1 of 6: the surrogate recogniser, a narrow IR-18"
.venv/bin/python train.py recognizer "${common[@]}" --run "$runs/surrogate"
step "2 of 6: a black box of another architecture, trained on other people: MobileNet"
.venv/bin/python train.py recognizer "${common[@]}" --run "$runs/mobilenet" --part target --architecture mobilenet \
  --steps 400 --checkpoint-every 200
step "3 of 6: a second black box: SENet"
.venv/bin/python train.py recognizer "${common[@]}" --run "$runs/senet" --part target --architecture senet18
step "4 of 6: stage I, one mask per image"
.venv/bin/python train.py image "${common[@]}" --run "$runs/image" --surrogate "$runs/surrogate"
step "5 of 6: stage II, one mask per person, away from the person's convex hull"
.venv/bin/python train.py person "${common[@]}" --run "$runs/person" --generator "$runs/image"
step "6 of 6: protection of people whom no training saw, against the two black boxes"
if [ -f "$runs/table/table.json" ] && [ -f report.html ]; then
  cat "$runs/table/table.txt"
else
  .venv/bin/python evaluate.py table --cloaks "$runs/image" "$runs/person" \
    --targets "$runs/mobilenet" "$runs/senet" --cache "$runs/cache" --out "$runs/table" --report report.html
fi
echo >&2
echo "Open report.html in a browser." >&2
