"""Reviewing what a model said: regions, verdicts, agreement, worklist. Nothing here is Qt."""
