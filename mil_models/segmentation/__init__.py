"""Segmentation: U-Nets on timm encoders, their training and inference, and what masks measure."""
