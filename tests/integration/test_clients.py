# SPDX-License-Identifier: Apache-2.0
"""Clients that are not hlctl: programs on libhlclient, and one in Go that nobody here wrote."""

import os
import shutil
import subprocess
import unittest

import harness

WORK = os.path.join(harness.BUILD, "tests", f"clients-{harness.BACKEND}")


def build(command, **keywords):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, **keywords)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}:\n{result.stdout}")


class LibhlclientTest(harness.DaemonTest):
    images = ("echo", "adder", "hostile")

    def check(self, kind):
        program = os.path.join(WORK, f"client_test-{kind}")
        os.makedirs(WORK, exist_ok=True)
        # Only public headers, found as a user would find them.
        include = os.path.join(WORK, "include")
        shutil.rmtree(include, ignore_errors=True)
        os.mkdir(include)
        for header in ("base/hltypes.h", "client/hlclient.h", "client/hlmanage.h", "client/hlsession.h"):
            shutil.copy(os.path.join(harness.SOURCE, header), include)
        library = {"shared": ["-L" + os.path.join(harness.BUILD, ".libs"), "-lhlclient",
                              "-Wl,-rpath," + os.path.join(harness.BUILD, ".libs")],
                   "static": [os.path.join(harness.BUILD, "libhlclient.a"), "-lprotobuf-c",
                              "-pthread"]}[kind]
        sanitize = ["-fsanitize=address,undefined"] if harness.SANITIZED else []
        build([os.environ.get("CC", "gcc"), "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g",
               *sanitize, f"-I{include}",
               os.path.join(harness.SOURCE, "tests", "integration", "client_test.c"), *library,
               "-o", program])
        result = subprocess.run([program, self.daemon.socket], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=300)
        self.assertEqual(result.stderr, "")
        self.assertEqual((result.returncode, result.stdout), (0, "ok\n"))

    def test_shared_library(self):
        self.check("shared")

    def test_static_library(self):
        self.check("static")

    def test_only_public_symbols(self):
        """What the shared library exports is what its headers declare, and no more."""
        library = os.path.join(harness.BUILD, ".libs", "libhlclient.so")
        output = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                                capture_output=True, text=True).stdout
        headers = ""
        for header in ("base/hltypes.h", "client/hlclient.h", "client/hlmanage.h", "client/hlsession.h"):
            with open(os.path.join(harness.SOURCE, header), encoding="utf-8") as file:
                headers += file.read()
        names = [line.split()[2].partition("@")[0] for line in output.splitlines()
                 if line.split()[1] in "TDRB"]
        self.assertIn("hl_client_invoke", names)
        for name in names:
            self.assertIn(f"{name}(", headers)


@unittest.skipUnless(shutil.which("go"), "no Go compiler")
class GoTest(harness.DaemonTest):
    images = ("echo",)

    def test_containerds_ttrpc(self):
        """Built from containerd's library as Debian ships it and messages that protoc generates."""
        if not os.path.isdir("/usr/share/gocode/src/github.com/containerd/ttrpc"):
            self.skipTest("golang-github-containerd-ttrpc-dev is not installed")
        path = os.path.join(WORK, "go")
        program = os.path.join(WORK, "go-client")
        shutil.rmtree(os.path.join(path, "src"), ignore_errors=True)
        os.makedirs(os.path.join(path, "src", "client"))
        build(["protoc", "-I", os.path.join(harness.SOURCE, "proto"),
               "--gogo_out=" + os.path.join(path, "src"), "hl.proto"])
        shutil.copy(os.path.join(harness.SOURCE, "tests", "go", "main.go"),
                    os.path.join(path, "src", "client"))
        build(["go", "build", "-o", program, "client"], cwd=path,
              env={**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off",
                   "GOPATH": f"{path}:/usr/share/gocode",
                   "GOCACHE": os.path.join(path, "cache")})
        result = subprocess.run([program, self.daemon.socket], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=120)
        self.assertEqual((result.returncode, result.stdout), (0, "ok\n"), result.stderr)
