"""The figures of the CAMELYON16 and CAMELYON17 challenges, from the challenges' own files.

In the order in which they are used:

- `challenges`, `archive_files`, `archive`: what was published, what of it a folder holds (check).
- `labels`, `masks`: outlines to labels of tiles and to masks; masks read (labels).
- `training`, `forest`: weak and strong training, the winners' forest (train).
- `predictions`, `maps`, `files`: a model's maps, detections and scores in a folder (predict).
- `detections`, `lesion_scores`: FROC (froc). `slide_scores`: AUROC (auc).
- `stages`: CAMELYON17's stages and kappa (stage, kappa).
- `evaluation`, `misses`, `report`: all figures of a folder, and a page of them (evaluate, report).
- `cli`, `chain_cli`, `options`: the commands. `tables`, `errors`: what all of them read and raise.

What is computed rather than read stands in `mil_models` (`lesions`, `froc`, `staging`, `detection`,
`tile_training`, `tile_scores`, `heatmap_features`, `heatmap_forest`) and `tiling.annotations`.
"""
