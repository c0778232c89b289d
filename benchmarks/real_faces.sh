#!/usr/bin/env bash
# Protection of real people against recognisers that no cloak was trained on, scaled to two CPU cores.
# 50 persons of FACES/celeba are protected; the generator learns on others of it, the surrogate on the rest and on
# FACES/lfw_grey, whose single-image persons distract; one black box is trained here, five are published. Run it again after an interruption: it goes on.
# usage: benchmarks/real_faces.sh FACES MODELS OUT
set -euo pipefail
cd "$(dirname "$0")/.."
faces=$1 models=$2 out=$3
python=${PYTHON:-.venv/bin/python}
data=(--data "folder:$faces/celeba" "folder:$faces/lfw_grey" --split.protected 50 --split.protected-from "celeba/*"
  --split.generator 85 --split.generator-from "celeba/*" --split.validation 12 --split.surrogate 880 --split.target 0)
recogniser=(--width 0.25 --embedding-size 256 --margin cosface --margin-scale 30 --margin-value 0.2 --batch 64
  --schedule cosine --warmup-steps 50 --steps-per-dispatch 1 --log-every 20 --checkpoint-every 250)
gan=(--generator-width 16 --discriminator-width 16)
stage=(--steps-per-dispatch 1 --log-every 10)
common=(--cache "$out/cache" --resume)

"$python" train.py recognizer "${data[@]}" "${recogniser[@]}" "${common[@]}" --run "$out/surrogate" \
  --architecture ir18 --steps 1000
"$python" train.py image --surrogate "$out/surrogate" "${gan[@]}" "${stage[@]}" "${common[@]}" --run "$out/image" \
  --checkpoint-every 50 --lambda-adversarial 40 --lambda-norm 8 --steps 200 --learning-rate 5e-4
"$python" train.py person --generator "$out/image" "${stage[@]}" "${common[@]}" --run "$out/person" \
  --checkpoint-every 50 --lambda-adversarial 60 --lambda-norm 8 --steps 300 --learning-rate 5e-5 --warmup-epochs 2
"$python" train.py recognizer "${data[@]}" "${recogniser[@]}" "${common[@]}" --run "$out/target" \
  --architecture senet18 --steps 1000
"$python" evaluate.py table --cloaks "$out/image" "$out/person" --cache "$out/cache" --out "$out/table" --targets "$out/target" \
  "onnx:$models/mobilefacenet_casia/xiaoccer_casia.onnx,mean=127.5,std=128,name=MobileFaceNet (CASIA)" \
  "onnx:$models/mobilefacenet_y1/y1_insightface.onnx,mean=0,std=1,name=MobileFaceNet y1 (MS1M)" \
  "onnx:$models/mobileface_v2/mobileface_v2.onnx,mean=0,std=1,name=MobileFace V2" \
  "onnx:$models/edgeface_xxs/edgeface_xxs.onnx,mean=127.5,std=127.5,name=EdgeFace-XXS" \
  "onnx:$models/mobilefacenet_imagenet_norm/mobilefacenet.onnx,mean=123.675/116.28/103.53,std=58.395/57.12/57.375,name=MobileFaceNet (ImageNet scale)"
