"""What code is specialized to: the vector unit, the caches, the threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from ir.errors import UserError


@dataclass(frozen=True)
class Target:
    """The machine that candidates are made for. `cpu` and `features` are LLVM's words; sizes are of one core's caches, its part of a second level that cores
    share (l3 is whole)."""

    cpu: str
    features: str
    lanes: int  # fp32 elements in a vector register
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    threads: int

    def keeps(self, n_bytes: int) -> bool:
        """Whether a thread's share of a tensor of so many bytes stays in its L2 cache until the next run; half of the cache is for what else is used."""
        return n_bytes / self.threads <= self.l2_bytes / 2

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, str | int]) -> Target:
        names = {field.name for field in fields(Target)}
        if set(data) != names:
            raise UserError(f"a target has the fields {sorted(names)}, found {sorted(data)}")
        for name, value in data.items():
            if name in _TEXTS and not isinstance(value, str):
                raise UserError(f"{name} of a target is {value!r}; expected a text")
            least = _LEAST.get(name, 0)
            if name not in _TEXTS and (type(value) is not int or value < least):
                raise UserError(f"{name} of a target is {value!r}; expected a whole number of at least {least}")
        return Target(**data)  # type: ignore[arg-type]  # just checked


_TEXTS = ("cpu", "features")
_LEAST = {"lanes": 1, "vector_registers": 4, "threads": 1, "l1_bytes": 1, "l2_bytes": 1, "l3_bytes": 1}  # with fewer registers no tile of a product fits

# fp32 lanes and vector registers by LLVM feature name, best first.
VECTOR_UNITS = (("avx512f", 16, 32), ("avx", 8, 16), ("sse2", 4, 16), ("neon", 4, 32))


def vector_unit(features: dict[str, bool]) -> tuple[int, int]:
    """(lanes, vector registers) of a CPU with these LLVM features."""
    return next(((lanes, registers) for name, lanes, registers in VECTOR_UNITS if features.get(name)), (4, 16))
