"""What a comparison is made of unless told otherwise. Imports nothing: flags and their help are made of it."""

CRITERIA = ("magnitude", "hsic_lasso", "reconstruction", "random")
MAX_MAP_DROP = 0.02  # of the mAP50-95 that counts most
BACKENDS = ("serial", "ray")
