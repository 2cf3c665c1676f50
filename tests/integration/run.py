# SPDX-License-Identifier: Apache-2.0
"""Runs the integration tests and says in one line what came of them.

    run.py [--backend kvm|process] [--build DIR] [-k PATTERN] [-v] [--keep-going]

The last line is `RESULT passed=N failed=N skipped=N`; before it stands a line `SKIP test: reason`
for every test that was skipped, or one for all of them. The exit status is 1 when any failed.
"""

import argparse
import fcntl
import os
import sys
import time
import unittest


class Result(unittest.TextTestResult):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.passed = 0
        self.begun = 0.0
        self.times = []
        self.sub_failed = set()

    def startTest(self, test):
        self.begun = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        self.times.append((time.monotonic() - self.begun, test.id()))
        super().stopTest(test)

    def addSuccess(self, test):
        self.passed += 1
        super().addSuccess(test)


KVM_GET_API_VERSION, KVM_CREATE_VM = 0xAE00, 0xAE01


def kvm_unusable():
    """Why a machine of this kernel's own cannot be made here, or None."""
    try:
        with open("/dev/kvm", "r+b", buffering=0) as kvm:
            if fcntl.ioctl(kvm, KVM_GET_API_VERSION) != 12:
                return "/dev/kvm speaks another version"
            os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=("kvm", "process"))
    parser.add_argument("--build")
    parser.add_argument("-k", dest="pattern", action="append")
    parser.add_argument("-v", dest="verbose", action="store_true")
    parser.add_argument("--times", action="store_true", help="list the slowest tests")
    options = parser.parse_args()
    if options.backend:
        os.environ["HLD_TEST_BACKEND"] = options.backend
    if options.build:
        os.environ["HLD_BUILD_DIR"] = options.build

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    sys.dont_write_bytecode = True
    loader = unittest.TestLoader()
    if options.pattern:
        loader.testNamePatterns = [f"*{pattern}*" for pattern in options.pattern]
    suite = loader.discover(here, top_level_dir=here)
    reason = kvm_unusable() if os.environ.get("HLD_TEST_BACKEND", "kvm") == "kvm" else None
    if reason:
        count = suite.countTestCases()
        print(f"SKIP all {count} integration tests on kvm: {reason}")
        print(f"RESULT passed=0 failed=0 skipped={count}")
        return 0
    runner = unittest.TextTestRunner(stream=sys.stdout, resultclass=Result,
                                     verbosity=2 if options.verbose else 1)
    result = runner.run(suite)
    if options.times:
        for seconds, name in sorted(result.times, reverse=True)[:15]:
            print(f"{seconds:8.2f} s  {name}")
    for test, reason in result.skipped:
        print(f"SKIP {test.id()}: {reason}")
    failed = len({test.id().partition(" ")[0] for test, _ in result.failures + result.errors})
    failed += len(result.unexpectedSuccesses)
    print(f"RESULT passed={result.passed} failed={failed} skipped={len(result.skipped)}")
    if result.passed + failed + len(result.skipped) == 0:
        print("no test was found", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
