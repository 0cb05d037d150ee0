"""Experiments, runs, results and verdicts: knows no paper."""

import os

# numpy's BLAS threads spin against the workers of a reproduction (seven seconds instead of one for ten claims on a
# busy machine), and the matrices here are small. It counts only if it stands before numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
