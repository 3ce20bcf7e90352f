"""``python -m wsi_pipeline`` is ``wsi``."""

from wsi_pipeline.cli import main

if __name__ == "__main__":
    main()
