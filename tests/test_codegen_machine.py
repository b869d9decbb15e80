import json
import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen import machine
from codegen.machine import (
    ASSUMED_CACHES,
    Cache,
    allowed_cpus,
    check_cpu,
    choose_threads,
    cpu_model,
    cpu_quota,
    detect_machine,
    host_cpu,
    memory_bytes,
    memory_limit_bytes,
    parse_cpus,
    parse_size,
    read_caches,
    usable_threads,
)
from codegen.openmp import PINNING
from data.record import machine_id
from ir.errors import UserError
from schedule.target import Target
from tilewright.this_machine import machine_record

CPUS = st.sets(st.integers(0, 300), min_size=1)
V2_MOUNT = "31 23 0:28 {mounted} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU_MOUNT = "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY_MOUNT = "35 31 0:32 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
OTHER_MOUNT = "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw"


def tree(root: Path, files: dict[str, str]) -> Path:
    """`root` with files of these names and texts in it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def version_2(root: Path, group: str, files: dict[str, str], mounted: str = "/") -> Path:
    """A machine with control groups of version 2, and `files` below their mount."""
    mounts = "\n".join((OTHER_MOUNT, V2_MOUNT.format(mounted=mounted)))
    below = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    return tree(root, {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": mounts} | below)


def cache_files(cpu: int, *caches: tuple[int, str, str, str]) -> dict[str, str]:
    """Of (level, type, size, shared list)."""
    folder = f"sys/devices/system/cpu/cpu{cpu}/cache"
    return {
        f"{folder}/index{i}/{name}": str(value)
        for i, cache in enumerate(caches)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), cache, strict=True)
    }


def target(cpu: str = "znver5", features: str = "+avx2,-avx512f,+sse2", threads: int = 1) -> Target:
    return Target(cpu, features, 8, 16, 32 << 10, 512 << 10, 8 << 20, threads)


@given(CPUS)
def test_cpu_lists_are_read_back(cpus: set[int]) -> None:
    ordered = sorted(cpus)
    starts = [c for c in ordered if c - 1 not in cpus]
    ends = [c for c in ordered if c + 1 not in cpus]
    spans = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    assert parse_cpus(",".join(spans) + "\n") == cpus


def test_an_empty_cpu_list() -> None:
    assert parse_cpus("\n") == set()


@pytest.mark.parametrize(("text", "size"), [("48K", 49152), ("32768K", 32 << 20), ("2M", 2 << 20), ("1G", 1 << 30), ("512", 512)])
def test_cache_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(1, 512), st.none() | st.floats(0.01, 600))
def test_usable_threads_fit_affinity_and_quota(allowed: int, quota: float | None) -> None:
    usable = usable_threads(allowed, quota)
    assert 1 <= usable <= allowed
    if quota is not None:
        assert usable == 1 or usable - 1 < quota
        assert usable == allowed or usable >= quota


def test_affinity_is_the_process_s(tmp_path: Path) -> None:
    assert allowed_cpus(tree(tmp_path, {"proc/self/status": "Name:\tpython\nCpus_allowed:\tf0\nCpus_allowed_list:\t4-7,9\nMems_allowed_list:\t0"})) == {
        4,
        5,
        6,
        7,
        9,
    }


def test_cpus_that_a_library_takes_from_the_main_thread_count_where_it_may_do_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As libgomp does, which the cost model's library loads, where its variables ask for pinned threads."""
    for name in PINNING:
        monkeypatch.delenv(name, raising=False)
    before = allowed_cpus()
    monkeypatch.setattr("codegen.machine._AT_START", {*before, 4095})
    assert allowed_cpus() == before
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert allowed_cpus() == {*before, 4095}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_a_pinned_library_takes_no_cpu_from_who_tunes() -> None:
    """The library comes with the cost model, long before anybody asks."""
    code = "import os; before = os.sched_getaffinity(0); import tilewright.api; from codegen.machine import allowed_cpus; print(allowed_cpus() == before)"
    environment = {**os.environ, "OMP_PROC_BIND": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_affinity_without_proc_is_asked_of_the_system(tmp_path: Path) -> None:
    process = psutil.Process()
    expected = set(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else set(range(psutil.cpu_count()))
    assert allowed_cpus(tmp_path) == expected


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("50000 100000", 0.5), ("800000 100000", 8.0)])
def test_quota_of_version_2(tmp_path: Path, text: str, quota: float | None) -> None:
    assert cpu_quota(version_2(tmp_path, "/job", {"job/cpu.max": text})) == quota


def test_the_least_quota_of_all_levels_counts(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/slice/job", {"slice/cpu.max": "200000 100000", "slice/job/cpu.max": "300000 100000"})
    assert cpu_quota(root) == 2.0


def test_a_container_sees_its_group_as_the_top(tmp_path: Path) -> None:
    assert cpu_quota(version_2(tmp_path, "/docker/4711", {"cpu.max": "250000 100000"}, mounted="/docker/4711")) == 2.5


def test_a_group_outside_of_what_is_mounted(tmp_path: Path) -> None:
    assert cpu_quota(version_2(tmp_path, "/../other", {"cpu.max": "250000 100000", "../other/cpu.max": "100000 100000"})) == 2.5


NAMELESS_MOUNT = "99 22 0:44 / /mnt/odd rw - tmpfs  rw"  # what it is mounted from is empty


@pytest.mark.parametrize("mounted", ["/", "/docker/4711"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("350000", 3.5)])
def test_quota_of_version_1(tmp_path: Path, mounted: str, quota: str, expected: float | None) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct" + ("/docker/4711" if mounted == "/" else "")
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/4711\n4:memory:/docker/4711\n1:name=systemd:/\n0::/",
            "proc/self/mountinfo": "\n".join((OTHER_MOUNT, NAMELESS_MOUNT, V1_CPU_MOUNT.format(mounted=mounted))),
            f"{folder}/cpu.cfs_quota_us": quota,
            f"{folder}/cpu.cfs_period_us": "100000",
        },
    )
    assert cpu_quota(root) == expected


def test_both_versions_at_once(tmp_path: Path) -> None:
    mounts = (V1_CPU_MOUNT.format(mounted="/"), V1_MEMORY_MOUNT.format(mounted="/"), V2_MOUNT.format(mounted="/").replace("cgroup rw", "cgroup/unified rw"))
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n0::/job",
            "proc/self/mountinfo": "\n".join(mounts),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/unified/job/cpu.max": "300000 100000",
            "sys/fs/cgroup/unified/job/memory.max": "max",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1073741824",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert cpu_quota(root) == 3.0
    assert memory_limit_bytes(root) == 1 << 30


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit_bytes(tmp_path) is None


def test_a_limit_above_the_memory_is_none(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/", {"memory.max": str(8 << 30)})
    assert detect_machine(root=tree(root, {"proc/meminfo": "MemTotal:        4194304 kB\nMemFree: 7 kB"})).memory_limit_bytes is None
    assert detect_machine(root=tree(root, {"proc/meminfo": "MemTotal:       16777216 kB"})).memory_limit_bytes == 8 << 30


def test_memory_without_proc_is_asked_of_the_system(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path) == psutil.virtual_memory().total


def test_the_smallest_cache_of_the_allowed_cpus(tmp_path: Path) -> None:
    fast = ((1, "Data", "48K", "0"), (1, "Instruction", "8K", "0"), (2, "Unified", "2048K", "0-1"), (3, "Unified", "32M", "0-7"))
    slow = ((1, "Data", "32K", "4"), (1, "Instruction", "64K", "4"), (2, "Unified", "4096K", "4-7"), (3, "Unified", "32M", "0-7"))
    root = tree(tmp_path, cache_files(0, *fast) | cache_files(4, *slow))
    assert read_caches({0}, root) == (Cache(1, 48 << 10, 1), Cache(2, 2 << 20, 2), Cache(3, 32 << 20, 8))
    assert read_caches({0, 4}, root) == (Cache(1, 32 << 10, 1), Cache(2, 2 << 20, 2), Cache(3, 32 << 20, 8))


def test_a_machine_without_a_third_level(tmp_path: Path) -> None:
    root = tree(tmp_path, cache_files(0, (1, "Data", "128K", "0"), (2, "Unified", "12288K", "0-3")) | {"proc/self/status": "Cpus_allowed_list: 0"})
    assert read_caches({0}, root) == (Cache(1, 128 << 10, 1), Cache(2, 12 << 20, 4))
    target = detect_machine(root=root).target
    assert (target.l2_bytes, target.l3_bytes) == (3 << 20, 12 << 20)  # four cores share the second level


def test_hyperthreads_share_the_caches_of_a_core(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/status": "Cpus_allowed_list: 0-3"} | {
        name: text for cpu in range(4)
        for name, text in cache_files(cpu, (1, "Data", "32K", f"{cpu % 2},{cpu % 2 + 2}"), (2, "Unified", "1024K", f"{cpu % 2},{cpu % 2 + 2}")).items()
    })  # fmt: skip
    found = detect_machine(root=root)
    assert (found.cores, found.target.threads, found.target.l2_bytes) == (2, 4, 1 << 20)


def test_names_in_no_encoding_are_no_obstacle(tmp_path: Path) -> None:
    root = tree(version_2(tmp_path, "/job", {"job/cpu.max": "250000 100000"}), {"proc/self/status": "Cpus_allowed_list:\t0-7"})
    mounts = root / "proc/self/mountinfo"
    mounts.write_bytes(b"50 23 8:1 / /media/d\xe9j\xe0 rw - vfat /dev/sdb1 rw\n" + mounts.read_bytes())
    assert detect_machine(root=root).cpu_quota == 2.5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_cpus_that_are_switched_off_are_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though /proc may name them: the system is asked."""
    for name in PINNING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda number: {2, 5000} if number == os.getpid() else set())
    assert allowed_cpus() == {2, 5000}


def test_unknown_caches_are_assumed_and_said_so(tmp_path: Path) -> None:
    assert read_caches({0, 1}, tmp_path) == tuple(Cache(level, size, 2 if level == 3 else 1, assumed=True) for level, size in ASSUMED_CACHES.items())
    # Some ARM machines have the folders, without sizes.
    root = tree(tmp_path, {"sys/devices/system/cpu/cpu0/cache/index0/level": "1", "sys/devices/system/cpu/cpu0/cache/index0/type": "Data"})
    assert all(cache.assumed for cache in read_caches({0}, root))
    root = tree(tmp_path, cache_files(0, (1, "Data", "64K", "0")))
    assert [cache.assumed for cache in read_caches({0}, root)] == [False, True, True]


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 64))
def test_last_level_bytes_cover_all_allowed_cpus(cpus: int, shared: int, mib: int) -> None:
    own = detect_machine()
    acted = machine.Machine("", "", "", cpus, cpus, None, 1, None, (Cache(1, 1, 1), Cache(2, 2, 1), Cache(3, mib << 20, shared)), own.target)
    assert acted.last_level_bytes == math.ceil(cpus / shared) * (mib << 20)


@pytest.mark.parametrize("asked", [-1, 0, 3, 1000])
def test_unusable_thread_counts_are_refused(asked: int) -> None:
    with pytest.raises(UserError, match=rf"^{asked} threads asked for, but 1 to 2 are usable here \(4 of 8 CPUs allowed, CPU quota 1.5\)$"):
        choose_threads(asked, 8, 4, 1.5)


def test_threads_are_all_usable_ones_by_default(tmp_path: Path) -> None:
    root = tree(version_2(tmp_path, "/job", {"job/cpu.max": "250000 100000"}), {"proc/self/status": "Cpus_allowed_list:\t0-7"})
    assert detect_machine(root=root).target.threads == 3
    assert detect_machine(2, root=root).target.threads == 2
    with pytest.raises(UserError, match=r"4 threads asked for, but 1 to 3 are usable"):
        detect_machine(4, root=root)


def test_the_model_s_name(tmp_path: Path) -> None:
    assert cpu_model(tmp_path) is None
    assert cpu_model(tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel\t\t: 6\nmodel name\t: A CPU: 5 GHz\nflags\t: fpu"})) == "A CPU: 5 GHz"


def test_this_machine_is_plain_json() -> None:
    found = detect_machine()
    data = found.to_json()
    assert json.loads(json.dumps(data)) == data
    assert data["usable_threads"] == found.target.threads <= found.cpus_allowed <= found.cpus_present
    assert Target.from_json(found.target.to_json()) == found.target
    assert found.target == detect_machine().target
    assert found.cpu_model
    assert found.llvm.count(".") == 2


def test_wide_vectors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.llvm, "get_host_cpu_features", lambda: {"avx512f": True, "sse2": True, "sgx": False})
    found = detect_machine().target
    assert "-prefer-256-bit" in found.features.split(",")
    assert {"+avx512f", "+sse2", "-sgx"} <= set(found.features.split(","))
    assert (found.lanes, found.vector_registers) == (16, 32)
    monkeypatch.setattr(machine.llvm, "get_host_cpu_features", lambda: {"avx": True, "avx512f": False})
    found = detect_machine().target
    assert "prefer-256-bit" not in found.features
    assert (found.lanes, found.vector_registers) == (8, 16)


def test_what_hosts_hide_or_show_makes_no_other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    features = {"avx": True, "avx2": False, "pku": False, "wbnoinvd": False}
    monkeypatch.setattr(machine.llvm, "get_host_cpu_features", lambda: features)
    before = machine_id(machine_record(detect_machine()))
    features |= {"pku": True, "wbnoinvd": True}
    assert machine_id(machine_record(detect_machine())) == before
    features |= {"avx2": True}
    assert machine_id(machine_record(detect_machine())) != before


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin25"])
def test_arm_has_neon_whether_listed_or_not(monkeypatch: pytest.MonkeyPatch, triple: str) -> None:
    monkeypatch.setattr(machine.llvm, "get_process_triple", lambda: triple)
    monkeypatch.setattr(machine.llvm, "get_host_cpu_features", dict)
    assert host_cpu()[1] == {"neon": True}
    assert detect_machine().target.vector_registers == 32


def test_macos_is_asked_by_sysctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.l1dcachesize": "65536",
        "hw.perflevel0.l2cachesize": "16777216",
        "hw.perflevel0.cpusperl2": "4",
        "machdep.cpu.brand_string": "Apple M9",
    }
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine, "sysctl", told.get)
    assert read_caches({0}, tmp_path) == (Cache(1, 128 << 10, 1), Cache(2, 16 << 20, 4))
    assert cpu_model(tmp_path) == "Apple M9"


@pytest.mark.parametrize(("name", "value"), [("lanes", 0), ("vector_registers", 1), ("threads", 0), ("l1_bytes", -1), ("l2_bytes", 0.5)])
def test_a_target_that_no_code_can_be_made_for(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{name} of a target is {value}; expected a whole number of at least \d$"):
        Target.from_json(detect_machine().target.to_json() | {name: value})


def test_code_runs_where_all_its_features_are() -> None:
    check_cpu(target(), target())
    check_cpu(target("haswell", "+avx2,+sse2"), target("znver5", "+avx2,+avx512f,+sse2"))
    check_cpu(target("skylake", "+avx2,+sse2,-avx512f"), target("haswell", "+avx2,+sse2,-sgx"))
    check_cpu(detect_machine().target, detect_machine().target)


def test_code_for_features_that_are_missing_is_refused() -> None:
    words = "^code built for the CPU znver5 cannot run on this haswell, which lacks the CPU features avx512bf16, avx512f$"
    with pytest.raises(UserError, match=words):
        check_cpu(target("znver5", "+avx512f,+avx2,+sse2,+avx512bf16,-sgx"), target("haswell", "+avx2,+sse2,-avx512f,+sgx"))
    with pytest.raises(UserError, match="lacks the CPU features avx2, sse2"):
        check_cpu(target(), target("neoverse-v2", "+neon"))


def test_beyond_x86_the_cpu_must_be_the_same() -> None:
    check_cpu(target("neoverse-v1", "+neon"), target("neoverse-v1", "+neon"))
    with pytest.raises(UserError, match=r"^code built for the CPU neoverse-v2 cannot run on this neoverse-n1: "):
        check_cpu(target("neoverse-v2", "+neon"), target("neoverse-n1", "+neon"))
