#!/usr/bin/env bash
# Replaces the reference's script of this name:
#   mode=sparse thresholds=t_0,t_1,... bash scripts/eval_entrance.sh MODEL_DIR NUM_GPUS task1,task2 ppl|gen
# Results go to MODEL_DIR/eval_results/<time>/.
exec "${PYTHON:-python3}" -m sparsing.reference.eval_entrance "$@"
