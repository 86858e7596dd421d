#!/usr/bin/env python
"""Measure privacy and fidelity of anonymized images, beside reference rows, with intervals.

python evaluate.py                                        # the newest run of anonymize.py
python evaluate.py runs=[outputs/anonymize/A,outputs/anonymize/B]
python evaluate.py originals=DIR edited=DIR               # folders made by any tool
python evaluate.py suite=truth runs=[outputs/train/RUN]   # adapters, on scenes whose truth is known
"""

from unsafe2safe.jobs.command_line import main

if __name__ == "__main__":
    main("evaluate")
