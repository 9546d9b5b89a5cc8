"""Compares weft with the Python tools for metrics and datasets. `make test-python` runs it, in an environment of its own
(scripts/python/environment data)."""
import argparse
import sys

import dataset_cases
import metric_cases
from checks import Checks


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--weft", required=True)
    p.add_argument("--only", default="", help="expression: the checks to make")
    a = p.parse_args()
    check = Checks(a.only)
    dataset_cases.run(check, a)
    metric_cases.run(check, a)
    print(f"test-python: {check.passed} passed, {check.failed} failed, of metrics and datasets")
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
