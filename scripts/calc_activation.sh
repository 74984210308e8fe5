#!/usr/bin/env bash
# Replaces the reference's script of this name. Set its four variables here or in the environment.
model_path="${model_path:?set model_path to a checkpoint folder}"
input_file="${input_file:-input.txt}"
prune_strategy="${prune_strategy:-pplp}" # fat, topk, cett or pplp
prune_arg="${prune_arg:-1.01}"

exec "${PYTHON:-python3}" -m sparsing.calc_activation \
  --from-pretrained "${model_path}" \
  --input-file "${input_file}" \
  --prune-strategy "${prune_strategy}" \
  --prune-arg "${prune_arg}" \
  --output-image
