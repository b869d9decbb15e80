"""From a loop nest to LLVM IR.

A function takes one pointer to an array of pointers: the buffers of scope input, output and prepared in the nest's order, then the
workspace (shared buffers first, then one private part a thread). A parallel loop becomes a function of its own that `GOMP_parallel`
calls in every thread; each thread takes a contiguous share. Register tiles are vector `alloca`s with constant indices, which LLVM
turns into registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir

from codegen.control import declare
from codegen.functions import erf, exponential, logarithm, sigmoid, tanh
from codegen.integers import ELEMENTS, cast, integer_function, is_not_zero
from codegen.power import power
from codegen.vectors import I8, I32, I64, fma, intrinsic, mangled, splat
from ir.errors import InternalError
from ir.expression import Expr, Op, Symbol, add, apply, mul, symbols_of
from ir.nest import Across, Buffer, Call, For, Guarded, If, Load, Nest, NestValue, Statement, Store, Turn, type_of
from ir.program import CASTS, FLOAT, REDUCTIONS, Constant

POINTER = ir.PointerType()
ALIGNMENT = 64  # bytes, of every buffer in the workspace: a cache line and the widest vector

TRANSCENDENTAL: dict[str, Callable[..., ir.Value]] = {"exp": exponential, "log": logarithm, "tanh": tanh, "erf": erf, "sigmoid": sigmoid, "pow": power}

# Address of element = constant + sum of factor * atom; an atom is a symbol or an operation that is not linear.
Linear = tuple[int, dict[Expr, int]]
AddressKey = tuple[int, tuple[tuple[Expr, int], ...]]  # the same with the unrolled variables put in


@dataclass(frozen=True)
class WorkspaceLayout:
    """Byte offsets of workspace buffers: shared ones from the start, private ones from the start of a thread's part."""

    offsets: Mapping[str, int]
    shared_bytes: int
    private_bytes: int

    def total_bytes(self, threads: int) -> int:
        return self.shared_bytes + threads * self.private_bytes


def workspace_layout(nest: Nest) -> WorkspaceLayout:
    offsets: dict[str, int] = {}
    ends = {"shared": 0, "private": 0}
    for scope in ends:
        for buffer in nest.in_scope(scope):
            offsets[buffer.name] = ends[scope]
            ends[scope] += -(-buffer.n_bytes // ALIGNMENT) * ALIGNMENT
        # An odd number of lines between threads' parts keeps them from falling on the same cache sets.
        ends[scope] += ALIGNMENT if ends[scope] else 0
    return WorkspaceLayout(offsets, ends["shared"], ends["private"])


def argument_buffers(nest: Nest) -> tuple[Buffer, ...]:
    """The buffers whose pointers a caller passes, in order."""
    return tuple(buffer for buffer in nest.buffers if buffer.scope in ("input", "output", "prepared"))


def emit(nests: Sequence[Nest], lanes: int, threads: int) -> str:
    """LLVM IR of one module with a function a nest, named as the nest, and `repeat`, which calls the first one n times for timing."""
    module = ir.Module(name=nests[0].name)
    for nest in nests:
        _emit_function(module, nest, lanes, threads)
    _emit_repeat(module, nests[0].name)
    return str(module)


def _emit_function(module: ir.Module, nest: Nest, lanes: int, threads: int) -> None:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), nest.name)
    function.attributes.add("noinline")  # a small kernel inlined into `repeat` could be moved out of its loop
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    for number, statement in enumerate(nest.body):
        if not isinstance(statement, For) or statement.kind != "parallel" or not isinstance(statement.extent, int):
            raise InternalError(f"{nest.name}: only parallel loops of constant extent stand at the outermost level")
        worker = _emit_worker(module, nest, statement, f"{nest.name}_{number}", lanes, threads > 1)
        if threads > 1 and statement.extent > 1:
            parallel = declare(module, "GOMP_parallel", ir.VoidType(), [POINTER, POINTER, I32, I32])
            builder.call(parallel, [worker, function.args[0], I32(min(threads, statement.extent)), I32(0)])
        else:
            builder.call(worker, [function.args[0]])
    builder.ret_void()


def _emit_worker(module: ir.Module, nest: Nest, loop: For, name: str, lanes: int, threaded: bool) -> ir.Function:
    """What one thread does of a parallel loop."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    shared = threaded and isinstance(loop.extent, int) and loop.extent > 1
    thread: ir.Value = I64(0)
    low: ir.Value = I64(0)
    high: ir.Value = I64(loop.extent)
    if shared:
        thread = builder.zext(builder.call(declare(module, "omp_get_thread_num", I32, []), []), I64)
        team = builder.zext(builder.call(declare(module, "omp_get_num_threads", I32, []), []), I64)
        low = builder.udiv(builder.mul(thread, I64(loop.extent)), team)
        high = builder.udiv(builder.mul(builder.add(thread, I64(1)), I64(loop.extent)), team)
    body = _Body(module, function, builder, lanes)
    body.bind_buffers(nest, function.args[0], thread)
    body.loop(low, high, loop.variable, lambda: body.statements(loop.body))
    if body.streams:  # what went past the caches is seen by the other threads only after this
        body.builder.fence("seq_cst")
    body.builder.ret_void()
    return function


def _emit_repeat(module: ir.Module, name: str) -> None:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I64]), "repeat")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    body = _Body(module, function, builder, 1)
    body.loop(I64(0), function.args[1], Symbol("repetition"), lambda: body.builder.call(module.get_global(name), [function.args[0]]))
    body.builder.ret_void()


class _Body:
    """Emits statements at the end of the builder's block.

    `values` maps symbols to numbers (unrolled) or LLVM integers; `known` remembers expressions and addresses that dominate the
    current block, `loaded` the loads since the last store to memory.
    """

    def __init__(self, module: ir.Module, function: ir.Function, builder: ir.IRBuilder, lanes: int) -> None:
        self.module, self.function, self.builder, self.lanes = module, function, builder, lanes
        self.entry = function.entry_basic_block
        self.pointers: dict[str, ir.Value] = {}
        self.values: dict[Symbol, int | ir.Value] = {}
        self.known: dict[object, ir.Value] = {}
        self.loaded: dict[object, ir.Value] = {}
        self.registers: dict[tuple[str, int], ir.Value] = {}
        self.streams = False  # whether something was stored past the caches
        self.linears: dict[object, Linear] = {}
        self.vector: tuple[Symbol, int] | None = None  # variable of the vector loop and how many of its lanes are used
        self.kinds: dict[str, ir.Type] = {dtype: ir.VectorType(element, lanes) for dtype, element in ELEMENTS.items()}
        self.kind = self.kinds[FLOAT]

    def bind_buffers(self, nest: Nest, arguments: ir.Value, thread: ir.Value) -> None:
        builder, outer = self.builder, argument_buffers(nest)
        for position, buffer in enumerate(outer):
            self.pointers[buffer.name] = builder.load(builder.gep(arguments, [I64(position)], source_etype=POINTER), typ=POINTER)
        layout = workspace_layout(nest)
        if layout.offsets:
            base = builder.load(builder.gep(arguments, [I64(len(outer))], source_etype=POINTER), typ=POINTER)
            start = builder.add(I64(layout.shared_bytes), builder.mul(thread, I64(layout.private_bytes)))
            own = builder.gep(base, [start], source_etype=I8)
            for buffer in (*nest.in_scope("shared"), *nest.in_scope("private")):
                origin = base if buffer.scope == "shared" else own
                self.pointers[buffer.name] = builder.gep(origin, [I64(layout.offsets[buffer.name])], source_etype=I8)

    # -- statements

    def statements(self, body: Sequence[Statement]) -> None:
        for statement in body:
            match statement:
                case For(variable, int(extent), inner, "unrolled"):
                    for i in range(extent):
                        self.values[variable] = i
                        self.statements(inner)
                    del self.values[variable]
                case For(variable, int(extent), inner, "vector"):
                    for start in range(0, extent, self.lanes):
                        self.values[variable] = start
                        self.vector = (variable, min(self.lanes, extent - start))
                        self.statements(inner)
                    self.vector = None
                    del self.values[variable]
                case For(variable, extent, inner, "serial"):
                    self.serial(variable, extent, inner)
                case If(condition, then, otherwise):
                    self.branch(condition, then, otherwise)
                case Store():
                    self.store(statement)
                case Turn():
                    self.turn(statement)
                case _:
                    raise InternalError(f"cannot emit {statement!r}")

    def serial(self, variable: Symbol, extent: Expr, body: Sequence[Statement]) -> None:
        high = self.integer(extent)
        if isinstance(high, int):
            if high == 1:
                self.values[variable] = 0
                self.statements(body)
                del self.values[variable]
            elif high > 1:
                self.loop(I64(0), I64(high), variable, lambda: self.statements(body))
        else:
            self.loop(I64(0), high, variable, lambda: self.statements(body))

    def loop(self, low: ir.Value, high: ir.Value, variable: Symbol, body: Callable[[], object]) -> None:
        """`body` for low <= variable < high, tested before the first iteration unless both are constants."""
        builder = self.builder
        head, after = self.function.append_basic_block("loop"), self.function.append_basic_block("after")
        if isinstance(low, ir.Constant) and isinstance(high, ir.Constant) and low.constant < high.constant:
            builder.branch(head)
        else:
            builder.cbranch(builder.icmp_signed("<", low, high), head, after)
        before = builder.block
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(low, before)
        self.values[variable] = index
        known, self.known, self.loaded = self.known, dict(self.known), {}
        body()
        del self.values[variable]
        self.known, self.loaded = known, {}
        following = builder.add(index, I64(1))
        index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, high), head, after)
        builder.position_at_end(after)

    def branch(self, condition: Expr, then: Sequence[Statement], otherwise: Sequence[Statement]) -> None:
        value = self.integer(condition)
        if isinstance(value, int):
            self.statements(then if value else otherwise)
            return
        builder = self.builder
        yes, no, after = (self.function.append_basic_block(name) for name in ("then", "otherwise", "after"))
        builder.cbranch(builder.icmp_signed("!=", value, I64(0)), yes, no)
        known = self.known
        for block, body in ((yes, then), (no, otherwise)):
            builder.position_at_end(block)
            self.known, self.loaded = dict(known), {}
            self.statements(body)
            builder.branch(after)
        self.known, self.loaded = known, {}
        builder.position_at_end(after)

    def store(self, statement: Store) -> None:
        if statement.buffer.scope == "register":
            self.accumulate(statement)
            return
        if statement.reduction is not None:
            raise InternalError(f"{statement.buffer.name}: only register tiles are combined in place")
        value = self.value(statement.value)
        stride, active = self.stride(statement.buffer, statement.indices), 1 if self.vector is None else self.vector[1]
        if stride is None:
            raise InternalError(f"{statement.buffer.name}: what is stored has an index that is not linear")
        pointer = self.address(statement.buffer, statement.indices)
        if statement.guard != 1 and statement.streamed:
            raise InternalError(f"{statement.buffer.name}: what is guarded cannot be streamed")
        if statement.guard != 1 and self.vector is None:
            with self.builder.if_then(self.holds(statement.guard)):
                self.builder.store(value, pointer, align=statement.buffer.element_bytes)
        elif statement.guard != 1:
            mask = self.builder.and_(self.guard_mask(statement.guard), self.lane_mask(active))
            if stride == 1:
                self.masked_store(statement.buffer, value, pointer, mask)
            else:
                self.scatter(statement.buffer, value, pointer, stride, mask)
        elif self.vector is None or (stride == 1 and (active == self.lanes or statement.buffer.whole_vectors)):
            self.store_whole(value, pointer, statement)
        elif stride == 1 and active > 1:  # of one lane LLVM makes a scalar store, which is too wide where a cast made the element narrow
            self.masked_store(statement.buffer, value, pointer, self.lane_mask(active))
        else:
            for lane in range(active):
                element = self.builder.extract_element(value, I32(lane))
                place = self.builder.gep(pointer, [I64(lane * stride)], source_etype=element.type)
                self.builder.store(element, place, align=statement.buffer.element_bytes)
        self.loaded = {}

    def store_whole(self, value: ir.Value, pointer: ir.Value, statement: Store) -> None:
        """All lanes of a vector, or one element. The result of a kernel that streams is aligned (`codegen.kernel`), so its whole vectors are."""
        element_bytes = statement.buffer.element_bytes
        if not statement.streamed or self.vector is None:
            self.builder.store(value, pointer, align=element_bytes)
            return
        stored = self.builder.store(value, pointer, align=min(ALIGNMENT, element_bytes * self.lanes))
        stored.set_metadata("nontemporal", self.module.add_metadata([I32(1)]))
        self.streams = True

    def accumulate(self, statement: Store) -> None:
        register = self.register(statement)
        match statement:
            case Store(value=Call("mul", (a, b)), reduction="sum"):
                result = fma(self.builder, self.value(a), self.value(b), self.builder.load(register, typ=self.kind))
            case Store(value=value, reduction=None):
                result = self.value(value)
            case Store(value=value, reduction=str(reduction)):
                function, _ = REDUCTIONS[reduction]
                result = self.apply(function, [self.builder.load(register, typ=self.kind), self.value(value)])
        if self.vector is not None and self.vector[1] < self.lanes and not statement.buffer.whole_vectors:
            result = self.builder.select(self.lane_mask(self.vector[1]), result, self.builder.load(register, typ=self.kind))
        self.builder.store(result, register)

    def turn(self, statement: Turn) -> None:
        """Square blocks of as many vectors as a vector has lanes: halves of blocks change places, then halves of those, down to single lanes."""
        *leading, rows, columns = statement.source.shape
        lanes = self.lanes
        for at in itertools.product(*map(range, leading), range(0, rows, lanes), range(0, columns, lanes)):
            *outer, row, column = at
            block = [self.builder.load(self.register(Load(statement.source, (*outer, row + i, column))), typ=self.kind) for i in range(lanes)]
            distance = lanes
            while distance > 1:
                distance //= 2
                for i in (i for i in range(lanes) if not i & distance):
                    upper, lower = block[i], block[i + distance]
                    block[i] = self.shuffled(upper, lower, [j - distance + lanes if j & distance else j for j in range(lanes)])
                    block[i + distance] = self.shuffled(upper, lower, [j + lanes if j & distance else j + distance for j in range(lanes)])
            for i, vector in enumerate(block):
                self.builder.store(vector, self.register(Load(statement.target, (*outer, column + i, row))))

    def shuffled(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, self.lanes), list(lanes)))

    def across(self, value: Across) -> ir.Value:
        """A number, by halves: first of the vectors, then of the one that is left."""
        function, _ = REDUCTIONS[value.reduction]
        rows = [(*value.indices, start) for start in range(0, value.buffer.shape[-1], self.lanes)]
        parts = [self.builder.load(self.register(Load(value.buffer, row)), typ=self.kind) for row in rows]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [self.apply(function, [a, b]) for a, b in pairs] + parts[len(parts) // 2 * 2 :]
        (total,), undefined = parts, ir.Constant(self.kind, ir.Undefined)
        width = self.lanes
        while width > 1:
            width //= 2
            lanes = [lane + width if lane < width else lane for lane in range(self.lanes)]
            total = self.apply(function, [total, self.builder.shuffle_vector(total, undefined, ir.Constant(ir.VectorType(I32, self.lanes), lanes))])
        return self.builder.extract_element(total, I32(0))

    def register(self, access: Store | Load) -> ir.Value:
        """The alloca of one vector of the register tile."""
        constant, atoms = self.linear(access.buffer, access.indices)
        at = constant
        for atom, factor in atoms.items():
            index = self.integer(atom)
            if not isinstance(index, int):
                raise InternalError(f"{access.buffer.name}: a register tile is indexed by {atom}, which is not unrolled")
            at += factor * index
        key = (access.buffer.name, at)
        found = self.registers.get(key)
        if found is None:
            with self.builder.goto_block(self.entry):
                found = self.registers[key] = self.builder.alloca(self.kind)
        return found

    # -- values

    def value(self, value: NestValue) -> ir.Value:
        match value:
            case Constant(number, dtype):
                return splat(self.kinds[dtype] if self.vector else ELEMENTS[dtype], number)
            case Load():
                return self.load(value)
            case Across():
                return self.across(value)
            case Guarded(guarded, guard, outside):
                found = self.value(guarded)
                return self.builder.select(self.guard_mask(guard) if self.vector else self.holds(guard), found, splat(found.type, outside))
            case Call("add", (Call("mul", (a, b)), c)) | Call("add", (c, Call("mul", (a, b)))) if type_of(c) == FLOAT:
                return fma(self.builder, self.value(a), self.value(b), self.value(c))
            case Call(function, args):
                values, dtype = [self.value(arg) for arg in args], type_of(args[-1])
                if function in ("max", "min") and dtype == FLOAT:
                    return self.extreme(function, args, values)
                return self.apply(function, values, dtype)
        raise InternalError(f"cannot emit {value!r}")

    def apply(self, function: str, args: list[ir.Value], dtype: str = FLOAT) -> ir.Value:
        """`dtype`: of the last argument."""
        builder = self.builder
        if function in CASTS:
            return cast(builder, args[0], dtype, CASTS[function])
        if dtype != FLOAT:
            return integer_function(builder, function, args, dtype)
        match function:
            case "add":
                return builder.fadd(*args)
            case "sub":
                return builder.fsub(*args)
            case "mul":
                return builder.fmul(*args)
            case "div":
                return builder.fdiv(*args)
            case "max" | "min":
                first, second = args
                return builder.select(builder.fcmp_unordered(">" if function == "max" else "<", first, second), first, second)
            case "less" | "equal":
                holds = builder.fcmp_ordered("<" if function == "less" else "==", args[0], args[1])
                return builder.select(holds, splat(args[0].type, 1.0), splat(args[0].type, 0.0))
            case "select":
                return builder.select(is_not_zero(builder, args[0]), args[1], args[2])
            case "abs":
                return intrinsic(builder, "llvm.fabs", *args)
            case "sqrt":
                return intrinsic(builder, "llvm.sqrt", *args)
        if function in TRANSCENDENTAL:
            return TRANSCENDENTAL[function](builder, *args)
        raise InternalError(f"no code for the function {function}")

    def extreme(self, function: str, args: Sequence[NestValue], values: list[ir.Value]) -> ir.Value:
        """NaN where either value is. One instruction sees to the first value; one more comparison to a second one that is no number known here.
        (Reductions do without: a NaN among what is reduced may be lost.)"""
        if isinstance(args[0], Constant):
            args, values = args[::-1], values[::-1]
        found, second = self.apply(function, values), values[1]
        if isinstance(args[1], Constant):
            return found
        return self.builder.select(self.builder.fcmp_unordered("uno", second, second), second, found)

    def load(self, load: Load) -> ir.Value:
        if load.buffer.scope == "register":
            return self.builder.load(self.register(load), typ=self.kind)
        stride, active = self.stride(load.buffer, load.indices), 1 if self.vector is None else self.vector[1]
        if stride is None:
            return self.load_lane_by_lane(load)
        address = self.address_key(load.buffer, load.indices)
        key = (load.buffer.name, address, stride, active, load.guard, self.vector if load.guard != 1 else self.vector is not None, self.here(load, address))
        found = self.loaded.get(key)
        if found is None:
            found = self.loaded[key] = self.fresh_load(load, stride, active)
        return found

    def fresh_load(self, load: Load, stride: int, active: int) -> ir.Value:
        builder, buffer = self.builder, load.buffer
        element, kind, align = ELEMENTS[buffer.dtype], self.kinds[buffer.dtype], buffer.element_bytes
        pointer = self.address(load.buffer, load.indices)
        if self.vector is None:
            if load.guard == 1:
                return builder.load(pointer, align=align, typ=element)
            holds, before = self.holds(load.guard), builder.block
            with builder.if_then(holds):
                inside, found = builder.block, builder.load(pointer, align=align, typ=element)
            result = builder.phi(element)
            result.add_incoming(splat(element, load.outside), before)
            result.add_incoming(found, inside)
            return result
        if load.guard != 1 and stride in (0, 1) and self.vector[0] not in symbols_of(load.guard):
            pointer = builder.select(self.holds(load.guard), pointer, self.constants(kind, load.outside))
        elif load.guard != 1:
            mask = self.guard_mask(load.guard)
            if active < self.lanes:
                mask = builder.and_(mask, self.lane_mask(active))
            if stride == 1:
                return self.masked_load(buffer, pointer, mask, load.outside)
            return self.gather(buffer, pointer, stride, mask, load.outside)
        if stride == 0:
            return self.broadcast(builder.load(pointer, align=align, typ=element))
        if stride == 1 and (active == self.lanes or buffer.whole_vectors):
            return builder.load(pointer, align=align, typ=kind)
        if stride == 1:
            return self.masked_load(buffer, pointer, self.lane_mask(active))
        if stride == -1 and active == self.lanes:
            first = builder.gep(pointer, [I64(1 - active)], source_etype=element)
            vector = builder.load(first, align=align, typ=kind)
            return self.shuffled(vector, vector, range(active)[::-1])
        result = splat(kind, 0)
        for lane in range(active):
            place = builder.gep(pointer, [I64(lane * stride)], source_etype=element)
            result = builder.insert_element(result, builder.load(place, align=align, typ=element), I32(lane))
        return result

    def constants(self, kind: ir.Type, number: float) -> ir.Value:
        """Where a vector of the same number lies, which is read instead of elements that are not there."""
        name = f"{mangled(kind)}_of_{number}"
        found = self.module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(self.module, kind, name)
            found.linkage, found.global_constant, found.initializer, found.align = "private", True, splat(kind, number), ALIGNMENT
        return found

    def here(self, load: Load, address: AddressKey) -> frozenset[tuple[Symbol, int | ir.Value]]:
        """What decides which element it is besides its address and its guard as they are written: the variables inside of them."""
        folded = [atom for atom, _ in address[1] if isinstance(atom, Op)]
        inside = symbols_of(load.guard, *folded) if folded or load.guard != 1 else ()
        return frozenset((symbol, self.values[symbol]) for symbol in inside)

    def load_lane_by_lane(self, load: Load) -> ir.Value:
        """A vector whose elements lie wherever their indices say."""
        assert self.vector is not None
        if load.guard != 1:
            raise InternalError(f"{load.buffer.name}: a guarded load whose indices are not linear")
        (variable, active), start = self.vector, self.values[self.vector[0]]
        assert isinstance(start, int)
        kind = ELEMENTS[load.buffer.dtype]
        result: ir.Value = splat(ir.VectorType(kind, self.lanes), 0)
        for lane in range(active):
            self.values[variable] = start + lane
            element = self.builder.load(self.address(load.buffer, load.indices), align=load.buffer.element_bytes, typ=kind)
            result = self.builder.insert_element(result, element, I32(lane))
        self.values[variable] = start
        return result

    def broadcast(self, scalar: ir.Value) -> ir.Value:
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(self.builder.insert_element(undefined, scalar, I32(0)), undefined, zeros)

    # -- masks

    def lane_mask(self, active: int) -> ir.Value:
        return ir.Constant(ir.VectorType(ir.IntType(1), self.lanes), [int(lane < active) for lane in range(self.lanes)])

    def holds(self, guard: Expr) -> ir.Value:
        """Whether the guard of a single element holds."""
        value = self.integer(guard)
        return ir.Constant(ir.IntType(1), value) if isinstance(value, int) else self.builder.icmp_signed("!=", value, I64(0))

    def guard_mask(self, guard: Expr) -> ir.Value:
        match guard:
            case int():
                return ir.Constant(ir.VectorType(ir.IntType(1), self.lanes), [guard] * self.lanes)
            case Op("both", (a, b)):
                return self.builder.and_(self.guard_mask(a), self.guard_mask(b))
            case Op("less", (a, b)):
                return self.builder.icmp_signed("<", self.lane_indices(a), self.lane_indices(b))
        raise InternalError(f"cannot make a mask of {guard}")

    def lane_indices(self, index: Expr) -> ir.Value:
        """The index in every lane of the vector loop, as i32."""
        assert self.vector is not None
        kind = ir.VectorType(I32, self.lanes)
        variable = self.vector[0]
        factor = _linear(index)[1].get(variable, 0)
        base = self.integer(index)
        steps = ir.Constant(kind, [factor * lane for lane in range(self.lanes)])
        if isinstance(base, int):
            return ir.Constant(kind, [base + factor * lane for lane in range(self.lanes)])
        undefined = ir.Constant(kind, ir.Undefined)
        start = self.builder.insert_element(undefined, self.builder.trunc(base, I32), I32(0))
        start = self.builder.shuffle_vector(start, undefined, ir.Constant(kind, [0] * self.lanes))
        return self.builder.add(start, steps)

    def masked_load(self, buffer: Buffer, pointer: ir.Value, mask: ir.Value, otherwise: float = 0.0) -> ir.Value:
        kind = self.kinds[buffer.dtype]
        function = declare(self.module, f"llvm.masked.load.{mangled(kind)}.p0", kind, [POINTER, I32, mask.type, kind])
        return self.builder.call(function, [pointer, I32(buffer.element_bytes), mask, splat(kind, otherwise)])

    def masked_store(self, buffer: Buffer, value: ir.Value, pointer: ir.Value, mask: ir.Value) -> None:
        function = declare(self.module, f"llvm.masked.store.{mangled(value.type)}.p0", ir.VoidType(), [value.type, POINTER, I32, mask.type])
        self.builder.call(function, [value, pointer, I32(buffer.element_bytes), mask])

    def gather(self, buffer: Buffer, pointer: ir.Value, stride: int, mask: ir.Value, otherwise: float) -> ir.Value:
        kind, pointers = self.kinds[buffer.dtype], self.lane_pointers(buffer, pointer, stride)
        function = declare(self.module, f"llvm.masked.gather.{mangled(kind)}.v{self.lanes}p0", kind, [pointers.type, I32, mask.type, kind])
        return self.builder.call(function, [pointers, I32(buffer.element_bytes), mask, splat(kind, otherwise)])

    def scatter(self, buffer: Buffer, value: ir.Value, pointer: ir.Value, stride: int, mask: ir.Value) -> None:
        pointers = self.lane_pointers(buffer, pointer, stride)
        name = f"llvm.masked.scatter.{mangled(value.type)}.v{self.lanes}p0"
        function = declare(self.module, name, ir.VoidType(), [value.type, pointers.type, I32, mask.type])
        self.builder.call(function, [value, pointers, I32(buffer.element_bytes), mask])

    def lane_pointers(self, buffer: Buffer, pointer: ir.Value, stride: int) -> ir.Value:
        """The address of every lane."""
        kind, undefined = ir.VectorType(I64, self.lanes), ir.Constant(ir.VectorType(I64, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.ptrtoint(pointer, I64), I32(0))
        start = self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))
        steps = ir.Constant(kind, [lane * stride * buffer.element_bytes for lane in range(self.lanes)])
        return self.builder.inttoptr(self.builder.add(start, steps), ir.VectorType(POINTER, self.lanes))

    # -- addresses and integers

    def linear(self, buffer: Buffer, indices: tuple[Expr, ...]) -> Linear:
        """The flat element index as a constant and factors of atoms."""
        key = (buffer.name, indices)
        found = self.linears.get(key)
        if found is None:
            found = self.linears[key] = _linear(add(*(mul(index, stride) for index, stride in zip(indices, buffer.strides, strict=True))))
        return found

    def stride(self, buffer: Buffer, indices: tuple[Expr, ...]) -> int | None:
        """Along the vector loop, in elements; None where the address is not linear in its variable."""
        if self.vector is None:
            return 0
        variable, _ = self.vector
        _, atoms = self.linear(buffer, indices)
        if any(isinstance(atom, Op) and variable in symbols_of(atom) for atom in atoms):
            return None
        return atoms.get(variable, 0)

    def address_key(self, buffer: Buffer, indices: tuple[Expr, ...]) -> AddressKey:
        """(constant part, dynamic parts) of the flat index with the unrolled variables put in."""
        constant, atoms = self.linear(buffer, indices)
        dynamic: list[tuple[Expr, int]] = []
        for atom, factor in atoms.items():
            value = self.values.get(atom) if isinstance(atom, Symbol) else self.integer(atom)
            if isinstance(value, int):
                constant += factor * value
            else:
                dynamic.append((atom, factor))
        return constant, tuple(dynamic)

    def address(self, buffer: Buffer, indices: tuple[Expr, ...]) -> ir.Value:
        constant, dynamic = self.address_key(buffer, indices)
        key = (buffer.name, dynamic)
        base = self.known.get(key)
        if base is None:
            base = self.pointers[buffer.name]
            offset: ir.Value | None = None
            for atom, factor in dynamic:
                value = self.integer(atom)
                term = value if factor == 1 else self.builder.mul(value, I64(factor), flags=("nsw",))
                offset = term if offset is None else self.builder.add(offset, term, flags=("nsw",))
            if offset is not None:
                base = self.builder.gep(base, [offset], source_etype=ELEMENTS[buffer.dtype])
            if not any(isinstance(atom, Op) for atom, _ in dynamic):
                self.known[key] = base
        return base if constant == 0 else self.builder.gep(base, [I64(constant)], source_etype=ELEMENTS[buffer.dtype])

    def integer(self, expression: Expr) -> int | ir.Value:
        """The value of an integer expression: a number if it is known while emitting."""
        match expression:
            case int():
                return expression
            case Symbol():
                return self.values[expression]
            case Op(name, args):
                return self.operation(name, [self.integer(arg) for arg in args])
        raise InternalError(f"not an expression: {expression!r}")

    def operation(self, name: str, args: list[int | ir.Value]) -> int | ir.Value:
        if all(isinstance(arg, int) for arg in args):
            return apply(name, *args)
        key = (name, *(arg if isinstance(arg, int) else id(arg) for arg in args))
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = _EMIT[name](self.builder, *(I64(arg) if isinstance(arg, int) else arg for arg in args))
        return found


def _linear(expression: Expr) -> Linear:
    match expression:
        case int():
            return expression, {}
        case Op("add" | "sub" as name, (a, b)):
            (left, left_atoms), (right, right_atoms) = _linear(a), _linear(b)
            sign = 1 if name == "add" else -1
            atoms = dict(left_atoms)
            for atom, factor in right_atoms.items():
                atoms[atom] = atoms.get(atom, 0) + sign * factor
            return left + sign * right, {atom: factor for atom, factor in atoms.items() if factor}
        case Op("mul", (a, int(factor))):
            constant, atoms = _linear(a)
            return constant * factor, {atom: old * factor for atom, old in atoms.items()}
    return 0, {expression: 1}


def _comparison(sign: str) -> Callable[..., ir.Value]:
    return lambda builder, a, b: builder.zext(builder.icmp_signed(sign, a, b), I64)


def _select(sign: str) -> Callable[..., ir.Value]:
    return lambda builder, a, b: builder.select(builder.icmp_signed(sign, a, b), a, b)


# All indices in a nest are non-negative where they are divided, so unsigned division is exact and cheaper.
_EMIT: dict[str, Callable[..., ir.Value]] = {
    "add": lambda builder, a, b: builder.add(a, b, flags=("nsw",)),
    "sub": lambda builder, a, b: builder.sub(a, b, flags=("nsw",)),
    "mul": lambda builder, a, b: builder.mul(a, b, flags=("nsw",)),
    "floor_div": lambda builder, a, b: builder.udiv(a, b),
    "ceil_div": lambda builder, a, b: builder.udiv(builder.add(a, builder.sub(b, I64(1))), b),
    "mod": lambda builder, a, b: builder.urem(a, b),
    "min": _select("<"),
    "max": _select(">"),
    "less": _comparison("<"),
    "equal": _comparison("=="),
    "both": lambda builder, a, b: builder.and_(a, b),
}
