#!/usr/bin/env bash
# One process per host of a Cloud TPU slice. The project and the runs lie on a file system that all hosts share (Filestore):
#   TPU=my-tpu ZONE=us-central2-b FOLDER=/mnt/shared/advcloak-jax cluster/tpu.sh train.py image --surrogate runs/surrogate --run runs/image
# Once before, on each host: pip install -U "jax[tpu]" into the project's .venv.
set -euo pipefail
: "${TPU:?name of the TPU}" "${ZONE:?its zone}" "${FOLDER:?folder of the project on every host}"
[ $# -gt 0 ] || { echo "usage: TPU=... ZONE=... FOLDER=... cluster/tpu.sh train.py JOB --flag value ..." >&2; exit 2; }
printf -v command 'cd %q && exec .venv/bin/python' "$FOLDER"
printf -v arguments ' %q' "$@" --distributed auto
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$command$arguments"
