"""What napari calls: reader, sample slides, docks; `napari.yaml` beside this file names them."""
