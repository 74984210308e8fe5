"""A training script for torchrun: `watched_on_two.py FOLDER plain|watched`. The main process prints the losses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tests.helpers.measuring import text_corpus
from tests.training.trainers import losses, tiny_trainer

from sparsing.training.l1 import L1Penalty, L1Schedule
from sparsing.training.sparsity_callback import SparsityCallback

torch.set_num_threads(1)
trainer = tiny_trainer(Path(sys.argv[1]), steps=4, ddp_backend="gloo")
L1Penalty(L1Schedule(factors=(1.0,), steps=(1,))).attach_to(trainer)
if sys.argv[2] == "watched":
    SparsityCallback(text_corpus(200), every=2).attach(trainer)
trainer.train()
if trainer.is_world_process_zero():
    sys.stdout.write(f"losses {json.dumps(losses(trainer))}\n")
