"""Times one peer's isolation forest on tables of numbers: mean time to train and rows scored a second.

Arguments: the peer's name, rows to score, then pairs of CSV files, one to train on and one to score. 100 trees from 256 rows
each, one thread, reading the files not timed.
"""

import json
import sys
import time

import numpy as np


def make(peer: str, rows: int):
    sample = min(256, rows)
    if peer == "scikit-learn":
        from sklearn.ensemble import IsolationForest

        model = IsolationForest(n_estimators=100, max_samples=sample, random_state=1, n_jobs=1)
        return model, model.score_samples
    from isotree import IsolationForest

    model = IsolationForest(ndim=1, ntrees=100, sample_size=sample, random_seed=1, nthreads=1)
    return model, model.predict


def read(path: str) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def main() -> None:
    peer, wanted, files = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    train_s = score_s = 0.0
    scored = 0
    for train_file, test_file in zip(files[::2], files[1::2]):
        train, test = read(train_file), read(test_file)
        model, score = make(peer, len(train))
        started = time.perf_counter()
        model.fit(train)
        train_s += time.perf_counter() - started
        rows = np.resize(test, (wanted, test.shape[1]))
        started = time.perf_counter()
        score(rows)
        score_s += time.perf_counter() - started
        scored += wanted
    print(json.dumps({"train_ms": train_s * 1e3 / (len(files) // 2), "rows_per_s": scored / score_s}))


if __name__ == "__main__":
    main()
