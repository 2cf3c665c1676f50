# SPDX-License-Identifier: Apache-2.0
"""What machine this is, and what it was busy with: a figure without that says little."""

import fcntl
import os
import platform
import re

KVM_GET_API_VERSION, KVM_CREATE_VM = 0xAE00, 0xAE01


def kvm_unusable():
    """Why a VM cannot be made here, or None."""
    try:
        with open("/dev/kvm", "r+b", buffering=0) as kvm:
            if fcntl.ioctl(kvm, KVM_GET_API_VERSION) != 12:
                return "/dev/kvm speaks another version"
            os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


def read(path, default=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return default


def meminfo():
    """/proc/meminfo in bytes."""
    return {name: int(value) * 1024
            for name, value in re.findall(r"^(\w+(?:\(\w+\))?): +(\d+) kB", read("/proc/meminfo"),
                                          re.MULTILINE)}


def kernel_memory():
    """What the kernel holds for itself, as far as it says."""
    info = meminfo()
    return sum(info.get(name, 0) for name in ("Slab", "KernelStack", "PageTables", "SecPageTables",
                                              "Percpu"))


def rollup(pid):
    """Rss and Pss of a process in bytes; None without the right to see them."""
    text = read(f"/proc/{pid}/smaps_rollup")
    found = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.MULTILINE))
    if "Rss" not in found:
        return None
    return {name: int(value) * 1024 for name, value in found.items()}


def load_average():
    return read("/proc/loadavg").split()[:3]


def describe():
    model = re.search(r"^model name\s*: (.*)$", read("/proc/cpuinfo"), re.MULTILINE)
    virtual = "hypervisor" in read("/proc/cpuinfo")
    return {
        "cpu": model.group(1) if model else "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": meminfo().get("MemTotal", 0),
        "kernel": platform.release(),
        "virtual": virtual,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        "huge_pages": read("/sys/kernel/mm/transparent_hugepage/enabled").strip() or None,
        "load_before": load_average(),
    }
