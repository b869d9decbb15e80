"""The machine in front of us: its CPU, its caches, and how much of it this process may use.

On Linux everything comes from files under /sys and /proc, found below `root`, so that a test can act out any machine; elsewhere from sysctl
and psutil. A container's limits are honoured: threads are counted from the CPUs that the affinity allows and the CPU time that control groups grant.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import psutil
from llvmlite import binding as llvm

from codegen.openmp import PINNING
from ir.errors import UserError
from schedule.target import Target, vector_unit

ROOT = Path("/")

# Bytes of the data caches of a machine that does not tell. Small for this decade, so that what is made to fit them fits the real ones too.
ASSUMED_CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
SIZE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Instructions for operating systems and hypervisors, which hide them or do not from one host of the same CPU to the next. No code of ours has any, so they
# count as absent: what was tuned on one virtual machine counts on the next.
NOT_FOR_KERNELS = ("enqcmd", "hreset", "kl", "pconfig", "pku", "ptwrite", "rdpru", "sgx", "uintr", "usermsr", "waitpkg", "wbnoinvd", "widekl")


@dataclass(frozen=True)
class Cache:
    """A data (or unified) cache of one core. `shared_by` logical CPUs use it. `assumed`: the machine does not tell, the size is a guess."""

    level: int
    size_bytes: int
    shared_by: int
    assumed: bool = False


@dataclass(frozen=True)
class Machine:
    """What the machine has and what this process may use of it. CPUs are logical ones; a quota or limit of None is none at all.

    Where the allowed CPUs differ (performance and efficiency cores), `caches` holds the smallest of each level, on macOS those of the fastest kind; a machine
    without a third level has two caches, and its `target.l3_bytes` is the second's.
    """

    cpu_model: str
    system: str
    llvm: str
    cpus_present: int
    cpus_allowed: int
    cpu_quota: float | None  # CPUs' worth of time granted by control groups
    memory_bytes: int
    memory_limit_bytes: int | None  # granted by control groups, where it is less than the memory
    caches: tuple[Cache, ...]
    target: Target

    @property
    def last_level_bytes(self) -> int:
        """Of as few last-level caches as the allowed CPUs could share."""
        last = self.caches[-1]
        return last.size_bytes * math.ceil(self.cpus_allowed / last.shared_by)

    @property
    def cores(self) -> int:
        """How many cores the allowed CPUs are at least: the hyperthreads of a core share its first-level cache."""
        return math.ceil(self.cpus_allowed / self.caches[0].shared_by)

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"caches": [asdict(cache) for cache in self.caches], "usable_threads": usable_threads(self.cpus_allowed, self.cpu_quota)}


def detect_machine(threads: int | None = None, root: Path = ROOT) -> Machine:
    """The machine this process runs on. `threads`: how many to use, by default all that are usable; else `UserError`."""
    allowed = allowed_cpus(root)
    quota = cpu_quota(root)
    caches = read_caches(allowed, root)
    cpu, features = host_cpu()
    lanes, registers = vector_unit(features)
    memory = memory_bytes(root)
    limit = memory_limit_bytes(root)
    present = max(len(present_cpus(root)), len(allowed))
    return Machine(
        cpu_model=cpu_model(root) or cpu,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        llvm=".".join(str(part) for part in llvm.llvm_version_info),
        cpus_present=present,
        cpus_allowed=len(allowed),
        cpu_quota=quota,
        memory_bytes=memory,
        memory_limit_bytes=limit if limit is not None and limit < memory else None,
        caches=caches,
        target=Target(
            cpu=cpu,
            features=",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(features.items())),
            lanes=lanes,
            vector_registers=registers,
            l1_bytes=caches[0].size_bytes,
            l2_bytes=max(caches[1].size_bytes * caches[0].shared_by // caches[1].shared_by, 1),  # a core's part, where several share one
            l3_bytes=caches[-1].size_bytes,
            threads=choose_threads(threads, present, len(allowed), quota),
        ),
    )


def check_cpu(built: Target, host: Target) -> None:
    """`UserError` if code built for `built` could meet an instruction that `host` does not have."""
    needed, there = (enabled_features(target) for target in (built, host))
    missing = sorted(needed - there)
    if missing:
        raise UserError(f"code built for the CPU {built.cpu} cannot run on this {host.cpu}, which lacks the CPU features {', '.join(missing)}")
    # For x86 LLVM lists every feature; elsewhere a CPU's name can stand for features that the list leaves out.
    if "sse2" not in needed and built.cpu != host.cpu:
        raise UserError(f"code built for the CPU {built.cpu} cannot run on this {host.cpu}: features can be compared by the CPU's name only")


def enabled_features(target: Target) -> set[str]:
    return {feature[1:] for feature in target.features.split(",") if feature.startswith("+")}


def host_cpu() -> tuple[str, dict[str, bool]]:
    """LLVM's name for this CPU, and whether it has each feature that LLVM knows, but for those that kernels have no use for."""
    features = {name: on and name not in NOT_FOR_KERNELS for name, on in llvm.get_host_cpu_features().items()}
    if llvm.get_process_triple().startswith(("aarch64", "arm64")):
        features["neon"] = True  # part of the architecture; LLVM does not list it on every system
    if features.get("avx512f"):
        features["prefer-256-bit"] = False  # LLVM's tuning for some Intel CPUs would cut 512-bit vectors in two
    return llvm.get_host_cpu_name(), features


def usable_threads(n_allowed: int, quota: float | None) -> int:
    """Threads that can run at once: no more than allowed CPUs, nor than the quota, rounded up; where that is no whole number, long kernels are stopped now and
    then."""
    return n_allowed if quota is None else max(1, min(n_allowed, math.ceil(quota)))


def choose_threads(asked: int | None, n_present: int, n_allowed: int, quota: float | None) -> int:
    usable = usable_threads(n_allowed, quota)
    if asked is None:
        return usable
    if not 1 <= asked <= usable:
        granted = "" if quota is None else f", CPU quota {quota:g}"
        raise UserError(f"{asked} threads asked for, but 1 to {usable} are usable here ({n_allowed} of {n_present} CPUs allowed{granted})")
    return asked


def allowed_cpus(root: Path = ROOT) -> set[int]:
    """The CPUs on which the main thread may run. An OpenMP library that pins its threads narrows them as it is loaded (see `codegen.openmp`), so where one
    may do that those count, too, on which it might run when this module was imported."""
    return _mask(root) | (_AT_START if root == ROOT and any(name in os.environ for name in PINNING) else set())


def _mask(root: Path) -> set[int]:
    if root == ROOT and hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(os.getpid())  # of the main thread; the file below names CPUs, too, that are switched off or might be plugged in
    for line in (read_text(root / "proc/self/status") or "").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpus(line.partition(":")[2])
    process = psutil.Process()
    return set(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else set(range(psutil.cpu_count()))  # macOS has no affinity


def present_cpus(root: Path = ROOT) -> set[int]:
    online = read_text(root / "sys/devices/system/cpu/online")
    return set(range(psutil.cpu_count())) if online is None else parse_cpus(online)


def parse_cpus(text: str) -> set[int]:
    """`0-2,5` is {0, 1, 2, 5}."""
    spans = [[int(end) for end in span.split("-")] for span in text.split(",") if span.strip()]
    return {cpu for span in spans for cpu in range(span[0], span[-1] + 1)}


def read_caches(cpus: set[int], root: Path = ROOT) -> tuple[Cache, ...]:
    """The data caches that one of `cpus` has, level 1 first, the smallest of each level; two or three, assumed ones where nothing is told."""
    found = sysctl_caches() if platform.system() == "Darwin" else sysfs_caches(cpus, root)
    levels = [level for level in ASSUMED_CACHES if level < 3 or level in found or 2 not in found]  # told of a second level but no third: there is none
    return tuple(found.get(level, Cache(level, ASSUMED_CACHES[level], len(cpus) if level == 3 else 1, assumed=True)) for level in levels)


def sysfs_caches(cpus: set[int], root: Path) -> dict[int, Cache]:
    """By level."""
    found: dict[int, Cache] = {}
    for cpu in cpus:
        for folder in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            level, kind, size, shared = (read_text(folder / name) for name in ("level", "type", "size", "shared_cpu_list"))
            if level is None or size is None or kind == "Instruction":
                continue
            cache = Cache(int(level), parse_size(size), len(parse_cpus(shared or "")) or 1)
            found[cache.level] = min(cache, found.get(cache.level, cache), key=lambda each: each.size_bytes)
    return found


def parse_size(text: str) -> int:
    """`48K` is 49152."""
    return int(text[:-1]) * SIZE_UNITS[text[-1]] if text[-1] in SIZE_UNITS else int(text)


def sysctl_caches() -> dict[int, Cache]:
    """By level, of macOS's fastest kind of core."""
    names = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}
    sizes = {level: sysctl(f"hw.perflevel0.{name}") or sysctl(f"hw.{name}") for level, name in names.items()}
    shared = {2: sysctl("hw.perflevel0.cpusperl2"), 3: sysctl("hw.logicalcpu")}
    return {level: Cache(level, int(size), int(shared.get(level) or 1)) for level, size in sizes.items() if size and int(size) > 0}


def sysctl(name: str) -> str | None:
    """A value of macOS's sysctl; None if it has no such name."""
    answer = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def cpu_model(root: Path = ROOT) -> str | None:
    """As the maker writes it; None where only LLVM's name is known, as on many ARM machines."""
    if platform.system() == "Darwin":
        return sysctl("machdep.cpu.brand_string")
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def memory_bytes(root: Path = ROOT) -> int:
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return int(psutil.virtual_memory().total)


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that the control groups of this process grant, the least of all levels; None if unlimited."""
    quotas = []
    for folder in control_groups("cpu", root):
        pair = (read_text(folder / "cpu.max") or "").split()  # version 2: "150000 100000" or "max 100000"
        if not pair:
            pair = [read_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]  # version 1: -1 means unlimited
        if len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit():
            quotas.append(int(pair[0]) / int(pair[1]))
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The least memory limit of the control groups of this process; None if there is none."""
    texts = [read_text(folder / name) or "" for folder in control_groups("memory", root) for name in ("memory.max", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text.isdigit()), default=None)


def control_groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """The folders, version 1 or 2, of the groups that hold this process, innermost first, up to each mount's top.

    A container often sees only its own group, mounted as if it were the top: paths are taken relative to what is mounted.
    """
    groups: dict[str, str] = {}
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, rest = right.partition(" ")  # what else stands there of other kinds may be anything
        if kind not in ("cgroup", "cgroup2"):
            continue
        (_, _, _, mounted, mount_point, *_), options = left.split(), rest.partition(" ")[2]
        if kind == "cgroup2":
            name = ""
        elif controller in options.split(","):
            name = controller
        else:
            continue
        group = PurePosixPath(groups.get(name, mounted))
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) and ".." not in group.parts else PurePosixPath()
        yield from (root / mount_point.lstrip("/") / each for each in (inside, *inside.parents))


def read_text(path: Path) -> str | None:
    """None if the file is absent or not ours to read: the caller then has another source, or says that it assumes."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()  # a mount point may have any name
    except OSError:
        return None


_AT_START = _mask(ROOT)  # once all that it takes is there
