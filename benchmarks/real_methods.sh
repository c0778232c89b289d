#!/usr/bin/env bash
# Every method against published recognisers, each tried on recognisers that it was not made against; then the ablations.
# 50 persons of FACES/celeba are protected; generators learn on others of it; everybody else distracts.
# Run it again after an interruption: it goes on, and computes only what is missing.
# usage: benchmarks/real_methods.sh FACES MODELS OUT
set -euo pipefail
cd "$(dirname "$0")/.."
faces=$1 models=$2 out=$3
python=${PYTHON:-.venv/bin/python}
data=(--data "folder:$faces/celeba" "folder:$faces/lfw_grey" --split.protected 50 --split.protected-from "celeba/*"
  --split.generator 85 --split.generator-from "celeba/*" --split.validation 12 --split.surrogate 0)
common=(--cache "$out/cache" --resume --steps-per-dispatch 1 --log-every 10 --checkpoint-every 50)
stage_two=("${common[@]}" --lambda-norm 8 --lambda-adversarial 60 --warmup-epochs 0.5)
networks=(--generator-width 16 --discriminator-width 16)

import() {
  [ -d "$out/$1" ] || "$python" -m advcloak_jax.recognizers.import_weights "$models/$2" --run "$out/$1" --name "$3"
}
import y1 mobilefacenet_y1/model-symbol.json "MobileFaceNet y1 (MS1M)"
import v2 mobileface_v2/MobileFace_Identification_V2-symbol.json "MobileFace V2"
import v3 mobileface_v3/MobileFace_Identification_V3-symbol.json "MobileFace V3"
import casia mobilefacenet_casia/068.ckpt "MobileFaceNet (CASIA)"
import imagenet mobilefacenet_imagenet_norm/mobilefacenet.pt "MobileFaceNet (ImageNet scale)"

for s in y1 casia; do
  "$python" train.py image --surrogate "$out/$s" "${data[@]}" "${common[@]}" "${networks[@]}" --run "$out/image-$s" \
    --steps 400 --learning-rate 5e-4 --lambda-norm 8 --lambda-adversarial 40
  for subspace in convex-hull plain class-centre affine-hull; do
    "$python" train.py person --generator "$out/image-$s" "${stage_two[@]}" --run "$out/$subspace-$s" \
      --subspace $subspace --steps 150 --learning-rate 5e-5
  done
  "$python" train.py universal --surrogate "$out/$s" "${data[@]}" "${common[@]}" --run "$out/universal-$s" \
    --generator-width 16 --steps 200
done
targets=("onnx:$models/edgeface_xxs/edgeface_xxs.onnx,mean=127.5,std=127.5,name=EdgeFace-XXS"
  "$out/v2" "$out/v3" "$out/imagenet" "$out/casia" "$out/y1")
trained=()
for s in y1 casia; do
  for kind in image universal plain affine-hull class-centre convex-hull; do trained+=("$out/$kind-$s"); done
done
"$python" evaluate.py table --cloaks "${trained[@]}" --surrogates "$out/y1" "$out/casia" \
  --methods fi-uap opom-convex-hull opom-class-centre opom-affine-hull fi-uap-plus fim lowkey \
  hybrid:start=AdvCloak-ConvexHull --baseline AdvFaces+ OPOM-ConvexHull AdvCloak AdvCloak-ConvexHull \
  --targets "${targets[@]}" --timed 0 --cache "$out/cache" --out "$out/methods"
# What masks cost: one black box will do. For figures that mean something nothing else may run.
"$python" evaluate.py table --cloaks "$out/image-y1" "$out/universal-y1" "$out/convex-hull-y1" --surrogates "$out/y1" \
  --methods fi-uap opom-class-centre opom-convex-hull fim hybrid:start=AdvCloak-ConvexHull --targets "$out/v2" \
  --timed 4 --cache "$out/cache" --out "$out/costs"
# What costs several times as much, for ten persons: DFANet, gradient aggregation, and an ensemble of both source models.
ten=("${data[@]}" --split.protected 10 --timed 0 --cache "$out/cache")
"$python" evaluate.py table "${ten[@]}" --surrogates "$out/y1" --targets "${targets[@]:0:5}" --out "$out/costly" \
  --methods fi-uap opom-convex-hull opom-convex-hull-dfanet sga-uap --baseline FI-UAP OPOM-ConvexHull
# The same from both source models and with every variant, for six persons.
six=("${data[@]}" --split.protected 6 --timed 0 --cache "$out/cache")
"$python" evaluate.py table "${six[@]}" --surrogates "$out/y1" "$out/casia" --targets "${targets[@]}" --out "$out/dfanet" \
  --methods fi-uap fi-uap-plus opom-class-centre opom-affine-hull opom-convex-hull fi-uap-dfanet fi-uap-plus-dfanet \
  opom-class-centre-dfanet opom-affine-hull-dfanet opom-convex-hull-dfanet sga-uap \
  --baseline FI-UAP FI-UAP+ OPOM-ClassCenter OPOM-AffineHull OPOM-ConvexHull
"$python" evaluate.py table "${ten[@]}" --surrogates "$out/y1" "$out/casia" "$out/y1+$out/casia" \
  --methods opom-convex-hull --targets "${targets[@]:0:4}" --out "$out/ensemble"

few=(--cloaks "$out/image-y1" "$out/plain-y1" "$out/convex-hull-y1" --surrogates "$out/y1" --methods fi-uap opom-convex-hull
  --targets "${targets[@]:0:5}" --cache "$out/cache" --out "$out/ablations")
"$python" evaluate.py ablation norm "${few[@]}" --norms 300 600 900 1200 1800 2400
"$python" evaluate.py ablation n-inference "${few[@]}" --methods opom-convex-hull --n-inference 1 2 4 7 10

# The stages, at half the length (stage II: two thirds): stage I, as many steps without it at its rate, and stage II by image and by person.
half="$out/half"
"$python" train.py image --surrogate "$out/casia" "${data[@]}" "${common[@]}" "${networks[@]}" --run "$half/image-casia" \
  --steps 200 --learning-rate 5e-4 --lambda-norm 8 --lambda-adversarial 40
for masks in person image; do
  "$python" train.py person --generator "$half/image-casia" "${stage_two[@]}" --run "$half/per-$masks-casia" \
    --subspace plain --masks $masks --steps 100 --learning-rate 5e-5
done
"$python" train.py person --generator none --surrogate "$out/casia" "${data[@]}" "${stage_two[@]}" "${networks[@]}" \
  --run "$half/none-casia" --subspace plain --steps 300 --learning-rate 5e-4
"$python" evaluate.py ablation stages --targets "${targets[@]:0:4}" "$out/y1" --cache "$out/cache" --out "$out/ablations" \
  --cloaks "$half/image-casia" "$half/none-casia" "$half/per-image-casia" "$half/per-person-casia"
