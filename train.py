#!/usr/bin/env python
"""Fine-tune an editor on the pairs that anonymize.py wrote, or train any other task=...

python train.py editor=tiny                               # LoRA on the sample photographs
python train.py editor=tiny editor.trainable=full trainer.max_steps=500
python train.py experiment=tiny_autoencoder               # the tiny editor's parts, from nothing
python train.py experiment=tiny_base_words                # then tiny_base, which begins from it
python train.py experiment=tiny_finetune                  # LoRA on scenes of another world
python train.py mode=plan plan.model=kontext              # what a training would take
python train.py -m editor.rank=4,8,16                     # a sweep
"""

from unsafe2safe.jobs.command_line import main

if __name__ == "__main__":
    main("train")
