"""`python prune.py --pretrained yolov8n-seg.pt --cfg default.yaml`: the command line from a checkout."""

import sys

from depgraph_hsic_only.cli import main

if __name__ == "__main__":
    sys.exit(main())
