"""What stands in a folder of predictions, by name: who writes it and who reads it.

`wsi camelyon predict` writes ``detections/<slide>.csv``, ``maps/<slide>.npz`` and the tables; `wsi
segment predict` the same files, maps apart, below its own output. `froc`, `auc`, `stage`,
`evaluate` and `report` read them.
"""

from __future__ import annotations

DETECTIONS = "detections"
"""Folder of ``<slide>.csv``: probability,x,y, no header."""
MAPS = "maps"
"""Folder of ``<slide>.npz``, see :mod:`wsi_pipeline.camelyon.maps`."""
SCORES = "scores.csv"
NODES, SUBMISSION = "nodes.csv", "submission.csv"
"""Of slides that are named as CAMELYON17's nodes."""
SETTINGS = "predict.json"
"""What the predictions were made with."""
SEGMENTATION = "segmentation.json"
"""Of `wsi segment evaluate`; shown in the report where it is in the folder."""
FIGURES, PAGE = "figures.json", "report.html"
"""What `evaluate` and `report` make of the folder."""
LABELS, MASKS = "labels", "masks"
"""Folders of `wsi camelyon labels`: ``<slide>.csv`` and masks."""
