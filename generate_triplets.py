#!/usr/bin/env python
"""Stage 1: look at each image; write its privacy flag, captions, regions and edit instruction.

python generate_triplets.py                                    # the sample photographs
python generate_triplets.py dataset=folder dataset.root=DIR    # any folder of images
python generate_triplets.py dataset=coco dataset.limit=100     # a trial on COCO
"""

from unsafe2safe.jobs.command_line import main

if __name__ == "__main__":
    main("generate_triplets")
