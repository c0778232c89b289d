#!/usr/bin/env bash
# Verification of published recognisers, imported and as ONNX files: pairs drawn from FACES/celeba, and FACES/lfw_pairs.csv.
# usage: benchmarks/verify_published.sh FACES MODELS OUT
set -euo pipefail
cd "$(dirname "$0")/.."
faces=$1 models=$2 out=$3
python=${PYTHON:-.venv/bin/python}
imported=()
import() {
  [ -d "$out/$1" ] || "$python" -m advcloak_jax.recognizers.import_weights "$models/$2" --run "$out/$1" --name "$3, imported"
  imported+=("$out/$1")
}
import casia mobilefacenet_casia/068.ckpt "MobileFaceNet (CASIA)"
import y1 mobilefacenet_y1/model-symbol.json "MobileFaceNet y1"
import v2 mobileface_v2/MobileFace_Identification_V2-symbol.json "MobileFace V2"
import v3 mobileface_v3/MobileFace_Identification_V3-symbol.json "MobileFace V3"
import imagenet mobilefacenet_imagenet_norm/mobilefacenet.pt "MobileFaceNet (ImageNet scale)"
onnx=(
  "onnx:$models/mobilefacenet_casia/xiaoccer_casia.onnx,mean=127.5,std=128,name=MobileFaceNet (CASIA)"
  "onnx:$models/mobilefacenet_y1/y1_insightface.onnx,mean=0,std=1,name=MobileFaceNet y1"
  "onnx:$models/mobileface_v2/mobileface_v2.onnx,mean=0,std=1,name=MobileFace V2"
  "onnx:$models/mobilefacenet_imagenet_norm/mobilefacenet.onnx,mean=123.675/116.28/103.53,std=58.395/57.12/57.375,name=MobileFaceNet (ImageNet scale)"
  "onnx:$models/edgeface_xxs/edgeface_xxs.onnx,mean=127.5,std=127.5,name=EdgeFace-XXS"
)
"$python" evaluate.py verify --targets "${imported[@]}" "${onnx[@]}" --data "folder:$faces/celeba" --cache "$out/cache" \
  --out "$out/verify"
"$python" evaluate.py verify --targets "${imported[@]}" "${onnx[4]}" --pairs "$faces/lfw_pairs.csv" --pairs-root "$faces/lfw_grey" \
  --cache "$out/cache" --out "$out/verify-lfw"
