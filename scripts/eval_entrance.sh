#!/usr/bin/env bash
# The reference's script: bash scripts/eval_entrance.sh MODEL_DIR NUM_GPUS task1,task2 ppl|gen
# with mode=sparse and thresholds=t_0,t_1,... from the environment. Results: MODEL_DIR/eval_results/<time>/.
exec "${PYTHON:-python3}" -m sparsing.reference.eval_entrance "$@"
