"""Segmentation of whole slides: training on what is annotated, maps and outlines, figures."""
