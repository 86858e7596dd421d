#!/usr/bin/env python
"""Stage 2: edit what is sensitive, look again, and publish only what passes.

python anonymize.py                                       # after generate_triplets.py
python anonymize.py dataset=coco editor.method=mosaic
python anonymize.py editor=tiny adapter=outputs/train/RUN
"""

from unsafe2safe.jobs.command_line import main

if __name__ == "__main__":
    main("anonymize")
