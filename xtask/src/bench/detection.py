"""The peers' side of suite `detection`: anomaly scores of other people's detectors on the same rows, and the measures of all.

Called with the matrices' directory, a directory with scores made elsewhere, and the number of seeds. Prints one JSON object a
line: set, method, seed and measures. Scores made elsewhere are in SET/METHOD.SEED.txt, one a line.
"""

import csv
import json
import pathlib
import sys

import isotree
import numpy
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

TREES = 100
SAMPLE = 256


def table(path):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    return numpy.array([[float(value) for value in row] for row in rows[1:]])


def labels(path):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    return numpy.array([float(row[-1]) for row in rows[1:]]) > 0.5


def scikit_learn(train, test, seed):
    forest = IsolationForest(n_estimators=TREES, max_samples=min(SAMPLE, len(train)), random_state=seed, n_jobs=1)
    return -forest.fit(train).score_samples(test)


def of_isotree(dimensions):
    def scores(train, test, seed):
        forest = isotree.IsolationForest(
            ntrees=TREES, sample_size=min(SAMPLE, len(train)), ndim=dimensions, random_seed=seed, nthreads=1,
            missing_action="fail",
        )
        return forest.fit(train).predict(test)

    return scores


def knn5(train, test, _seed):
    low, high = train.min(axis=0), train.max(axis=0)
    width = numpy.where(high > low, high - low, 1.0)
    neighbours = NearestNeighbors(n_neighbors=min(5, len(train))).fit((train - low) / width)
    return neighbours.kneighbors((test - low) / width)[0].mean(axis=1)


def hbos(train, test, _seed, bins=10, blur=0.1):
    """Histogram-based outlier score (Goldstein and Dengel, 2012): sum of the logarithms of static bins' densities."""
    total = numpy.zeros(len(test))
    for column in range(train.shape[1]):
        counts, edges = numpy.histogram(train[:, column], bins=bins, density=False)
        density = counts / max(counts.max(), 1)
        place = numpy.searchsorted(edges, test[:, column], side="right") - 1
        place = numpy.where(test[:, column] == edges[-1], bins - 1, place)
        inside = (place >= 0) & (place < bins)
        value = numpy.where(inside, density[numpy.clip(place, 0, bins - 1)], 0.0)
        total -= numpy.log(value + blur)
    return total


PEERS = {
    "scikit-learn": scikit_learn,
    "isotree ndim=1": of_isotree(1),
    "isotree ndim=2": of_isotree(2),
    "KNN5": knn5,
    "HBOS": hbos,
}


def report(name, method, seed, truth, scores):
    false, true, _ = roc_curve(truth, scores)
    print(json.dumps({
        "set": name,
        "method": method,
        "seed": seed,
        "auroc": float(roc_auc_score(truth, scores)),
        "auprc": float(average_precision_score(truth, scores)),
        "recall_at_1pct": float(true[false <= 0.01].max()),
    }))


def main():
    matrices, elsewhere, seeds = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
    for directory in sorted(matrices / scored.name for scored in elsewhere.iterdir()):
        train, test = table(directory / "train.csv"), table(directory / "test.csv")
        truth = labels(directory / "labels.csv")
        for seed in range(1, seeds + 1):
            for method, scores in PEERS.items():
                report(directory.name, method, seed, truth, scores(train, test, seed))
            for scores in sorted((elsewhere / directory.name).glob(f"*.{seed}.txt")):
                report(directory.name, scores.name.split(".")[0], seed, truth, numpy.loadtxt(scores, ndmin=1))


main()
