#!/usr/bin/env bash
# Whole photos of people, protected by protect.py against a published recogniser and tried on others.
# PHOTOS/PERSON/*.jpg are protected; the generator learns on the other people of FACES/celeba, named alike.
# Run it again after an interruption: it goes on, and computes only what is missing.
# usage: benchmarks/own_photos.sh FACES PHOTOS MODELS OUT
set -euo pipefail
cd "$(dirname "$0")/.."
faces=$1 photos=$2 models=$3 out=$4
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out/others"
for person in "$faces"/celeba/*/; do
  [ -d "$photos/$(basename "$person")" ] || ln -sfn "$(realpath "$person")" "$out/others/$(basename "$person")"
done
[ -d "$out/y1" ] || "$python" -m advcloak_jax.recognizers.import_weights "$models/mobilefacenet_y1/model-symbol.json" \
  --run "$out/y1" --name "MobileFaceNet y1 (MS1M)"
common=(--cache "$out/cache" --resume --steps-per-dispatch 1 --log-every 10 --checkpoint-every 50)
"$python" train.py image --surrogate "$out/y1" --run "$out/image" --data "folder:$out/others" "folder:$faces/lfw_grey" \
  --split.protected 1 --split.generator 85 --split.generator-from "others/*" --split.validation 12 --split.surrogate 0 \
  "${common[@]}" --generator-width 16 --discriminator-width 16 --steps 400 --learning-rate 5e-4 --lambda-norm 8 \
  --lambda-adversarial 40
"$python" train.py person --generator "$out/image" --run "$out/person" "${common[@]}" --lambda-norm 8 \
  --lambda-adversarial 60 --warmup-epochs 0.5 --steps 150 --learning-rate 5e-5

scale=mean=123.675/116.28/103.53,std=58.395/57.12/57.375
given=(--detector "$models/detectors/scrfd_2.5g_bnkps.onnx" --distractors "folder:$faces/lfw_grey" --targets
  "onnx:$models/edgeface_xxs/edgeface_xxs.onnx,mean=127.5,std=127.5,name=EdgeFace-XXS"
  "onnx:$models/mobileface_v2/mobileface_v2.onnx,mean=0,std=1,name=MobileFace V2"
  "onnx:$models/mobilefacenet_imagenet_norm/mobilefacenet.onnx,$scale,name=MobileFaceNet (ImageNet scale)"
  "onnx:$models/mobilefacenet_casia/xiaoccer_casia.onnx,mean=127.5,std=128,size=112x96,name=MobileFaceNet (CASIA)")
try() { # what was measured of a person is kept beside the figures and taken again
  "$python" -m benchmarks.own_photos "$photos" --cache "$out/cache" --out "$out/$1.json" -- "${given[@]}" "${@:2}"
}
try advcloak --cloak "$out/person"
try advcloak-jpeg75 --cloak "$out/person" --upload-quality 75
try hybrid --cloak "$out/person" --method hybrid
try opom --method opom-convex-hull --surrogate "$out/y1"
