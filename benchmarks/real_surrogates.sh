#!/usr/bin/env bash
# Protection of real people learnt against a published recogniser and tried on others, of other training sets.
# 50 persons of FACES/celeba are protected; the generator learns on others of it; everybody else distracts.
# Run it again after an interruption: it goes on.
# usage: benchmarks/real_surrogates.sh FACES MODELS OUT [y1|casia]
set -euo pipefail
cd "$(dirname "$0")/.."
faces=$1 models=$2 out=$3 surrogate=${4:-y1}
python=${PYTHON:-.venv/bin/python}
data=(--data "folder:$faces/celeba" "folder:$faces/lfw_grey" --split.protected 50 --split.protected-from "celeba/*"
  --split.generator 85 --split.generator-from "celeba/*" --split.validation 12 --split.surrogate 0)
common=(--cache "$out/cache" --resume --steps-per-dispatch 1 --log-every 10 --checkpoint-every 50 --lambda-norm 8)

import() {
  [ -d "$out/$1" ] || "$python" -m advcloak_jax.recognizers.import_weights "$models/$2" --run "$out/$1" --name "$3"
}
import y1 mobilefacenet_y1/model-symbol.json "MobileFaceNet y1 (MS1M)"
import v2 mobileface_v2/MobileFace_Identification_V2-symbol.json "MobileFace V2"
import casia mobilefacenet_casia/068.ckpt "MobileFaceNet (CASIA)"
import imagenet mobilefacenet_imagenet_norm/mobilefacenet.pt "MobileFaceNet (ImageNet scale)"

"$python" train.py image --surrogate "$out/$surrogate" "${data[@]}" "${common[@]}" --run "$out/image-$surrogate" \
  --generator-width 16 --discriminator-width 16 --steps 400 --learning-rate 5e-4 --lambda-adversarial 40
"$python" train.py person --generator "$out/image-$surrogate" "${common[@]}" --run "$out/person-$surrogate" \
  --steps 150 --learning-rate 5e-5 --lambda-adversarial 60 --warmup-epochs 0.5
targets=("onnx:$models/edgeface_xxs/edgeface_xxs.onnx,mean=127.5,std=127.5,name=EdgeFace-XXS" "$out/v2" "$out/imagenet")
for other in y1 casia; do [ "$other" = "$surrogate" ] || targets+=("$out/$other"); done
"$python" evaluate.py table --cloaks "$out/image-$surrogate" "$out/person-$surrogate" --cache "$out/cache" \
  --out "$out/table-$surrogate" --targets "${targets[@]}"
