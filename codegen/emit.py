"""From a loop nest to LLVM IR.

A function takes one pointer to an array of pointers: the buffers of scope input, output and prepared in the nest's order, then the
workspace (shared buffers first, then one private part a thread). A parallel loop becomes a function of its own that `GOMP_parallel`
calls in every thread; each thread takes a contiguous share. Register tiles are vector `alloca`s with constant indices, which LLVM
turns into registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from llvmlite import ir

from codegen.addresses import Addresses, AddressKey, linear
from codegen.arithmetic import apply_function
from codegen.control import declare
from codegen.integers import ELEMENTS
from codegen.lanes import POINTER, broadcast, gather, lane_mask, lane_pointers, masked_load, masked_store, scatter, shuffled
from codegen.vectors import I8, I32, I64, fma, mangled, splat
from codegen.workspace import ALIGNMENT, argument_buffers, workspace_layout
from ir.errors import InternalError
from ir.expression import Expr, Op, Symbol, symbols_of
from ir.nest import Across, Buffer, Call, For, Guarded, If, Load, Nest, NestValue, Prefetch, Statement, Store, Turn, type_of
from ir.program import FLOAT, REDUCTIONS, Constant


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
            # Always all threads, though some have nothing to do: libgomp ends those that a smaller team leaves out, and makes new ones for the next larger.
            builder.call(parallel, [worker, function.args[0], I32(threads), I32(0)])
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
    """Emits statements at the end of the builder's block. `loaded` remembers the loads since the last store to memory."""

    def __init__(self, module: ir.Module, function: ir.Function, builder: ir.IRBuilder, lanes: int) -> None:
        self.module, self.function, self.builder, self.lanes = module, function, builder, lanes
        self.entry = function.entry_basic_block
        self.addresses = Addresses(builder)
        self.loaded: dict[object, ir.Value] = {}
        self.registers: dict[tuple[str, int], ir.Value] = {}
        self.streams = False  # whether something was stored past the caches
        self.vector: tuple[Symbol, int] | None = None  # variable of the vector loop and how many of its lanes are used
        self.kinds: dict[str, ir.Type] = {dtype: ir.VectorType(element, lanes) for dtype, element in ELEMENTS.items()}
        self.kind = self.kinds[FLOAT]

    def bind_buffers(self, nest: Nest, arguments: ir.Value, thread: ir.Value) -> None:
        builder, outer = self.builder, argument_buffers(nest)
        for position, buffer in enumerate(outer):
            self.addresses.pointers[buffer.name] = builder.load(builder.gep(arguments, [I64(position)], source_etype=POINTER), typ=POINTER)
        layout = workspace_layout(nest)
        if layout.offsets:
            base = builder.load(builder.gep(arguments, [I64(len(outer))], source_etype=POINTER), typ=POINTER)
            start = builder.add(I64(layout.shared_bytes), builder.mul(thread, I64(layout.private_bytes)))
            own = builder.gep(base, [start], source_etype=I8)
            for buffer in (*nest.in_scope("shared"), *nest.in_scope("private")):
                origin = base if buffer.scope == "shared" else own
                self.addresses.pointers[buffer.name] = builder.gep(origin, [I64(layout.offsets[buffer.name])], source_etype=I8)

    # -- statements

    def statements(self, body: Sequence[Statement]) -> None:
        for statement in body:
            match statement:
                case For(variable, int(extent), inner, "unrolled"):
                    for i in range(extent):
                        self.addresses.values[variable] = i
                        self.statements(inner)
                    del self.addresses.values[variable]
                case For(variable, int(extent), inner, "vector"):
                    for start in range(0, extent, self.lanes):
                        self.addresses.values[variable] = start
                        self.vector = (variable, min(self.lanes, extent - start))
                        self.statements(inner)
                    self.vector = None
                    del self.addresses.values[variable]
                case For(variable, extent, inner, "serial"):
                    self.serial(variable, extent, inner)
                case If(condition, then, otherwise):
                    self.branch(condition, then, otherwise)
                case Store():
                    self.store(statement)
                case Turn():
                    self.turn(statement)
                case Prefetch():
                    self.prefetch(statement)
                case _:
                    raise InternalError(f"cannot emit {statement!r}")

    def serial(self, variable: Symbol, extent: Expr, body: Sequence[Statement]) -> None:
        high = self.addresses.integer(extent)
        if isinstance(high, int):
            if high == 1:
                self.addresses.values[variable] = 0
                self.statements(body)
                del self.addresses.values[variable]
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
        self.addresses.values[variable] = index
        self.loaded = {}
        with self.addresses.in_block():
            body()
        del self.addresses.values[variable]
        self.loaded = {}
        following = builder.add(index, I64(1))
        index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, high), head, after)
        builder.position_at_end(after)

    def branch(self, condition: Expr, then: Sequence[Statement], otherwise: Sequence[Statement]) -> None:
        value = self.addresses.integer(condition)
        if isinstance(value, int):
            self.statements(then if value else otherwise)
            return
        builder = self.builder
        yes, no, after = (self.function.append_basic_block(name) for name in ("then", "otherwise", "after"))
        builder.cbranch(builder.icmp_signed("!=", value, I64(0)), yes, no)
        for block, body in ((yes, then), (no, otherwise)):
            builder.position_at_end(block)
            self.loaded = {}
            with self.addresses.in_block():
                self.statements(body)
            builder.branch(after)
        self.loaded = {}
        builder.position_at_end(after)

    def store(self, statement: Store) -> None:
        if statement.buffer.scope == "register":
            self.accumulate(statement)
            return
        if statement.reduction is not None:
            raise InternalError(f"{statement.buffer.name}: only register tiles are combined in place")
        value, align = self.value(statement.value), statement.buffer.element_bytes
        stride, active = self.stride(statement.buffer, statement.indices), 1 if self.vector is None else self.vector[1]
        if stride is None:
            raise InternalError(f"{statement.buffer.name}: what is stored has an index that is not linear")
        pointer = self.addresses.pointer(statement.buffer, statement.indices)
        if statement.guard != 1 and statement.streamed:
            raise InternalError(f"{statement.buffer.name}: what is guarded cannot be streamed")
        if statement.guard != 1 and self.vector is None:
            with self.builder.if_then(self.holds(statement.guard)):
                self.builder.store(value, pointer, align=align)
        elif statement.guard != 1:
            mask = self.builder.and_(self.guard_mask(statement.guard), lane_mask(active, self.lanes))
            if stride == 1:
                masked_store(self.builder, value, pointer, mask, align)
            else:
                scatter(self.builder, value, lane_pointers(self.builder, pointer, stride * align, self.lanes), mask, align)
        elif self.vector is None or (stride == 1 and (active == self.lanes or statement.buffer.whole_vectors)):
            self.store_whole(value, pointer, statement)
        elif stride == 1 and active > 1:  # of one lane LLVM makes a scalar store, which is too wide where a cast made the element narrow
            masked_store(self.builder, value, pointer, lane_mask(active, self.lanes), align)
        else:
            for lane in range(active):
                element = self.builder.extract_element(value, I32(lane))
                place = self.builder.gep(pointer, [I64(lane * stride)], source_etype=element.type)
                self.builder.store(element, place, align=align)
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
                result = apply_function(self.builder, function, [self.builder.load(register, typ=self.kind), self.value(value)])
        if self.vector is not None and self.vector[1] < self.lanes and not statement.buffer.whole_vectors:
            result = self.builder.select(lane_mask(self.vector[1], self.lanes), result, self.builder.load(register, typ=self.kind))
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
                    block[i] = shuffled(self.builder, upper, lower, [j - distance + lanes if j & distance else j for j in range(lanes)])
                    block[i + distance] = shuffled(self.builder, upper, lower, [j + lanes if j & distance else j + distance for j in range(lanes)])
            for i, vector in enumerate(block):
                self.builder.store(vector, self.register(Load(statement.target, (*outer, column + i, row))))

    def prefetch(self, statement: Prefetch) -> None:
        """Once a cache line: vectors may be shorter than lines."""
        start = 0 if self.vector is None else self.addresses.values[self.vector[0]]
        assert isinstance(start, int)
        if start * statement.buffer.element_bytes % ALIGNMENT:
            return
        function = declare(self.module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, I32, I32, I32])
        pointer = self.addresses.pointer(statement.buffer, statement.indices)
        writes, locality, data = I32(int(statement.writes)), I32(4 - statement.level), I32(1)
        self.builder.call(function, [pointer, writes, locality, data])

    def across(self, value: Across) -> ir.Value:
        """A number, by halves: first of the vectors, then of the one that is left."""
        function, _ = REDUCTIONS[value.reduction]
        rows = [(*value.indices, start) for start in range(0, value.buffer.shape[-1], self.lanes)]
        parts = [self.builder.load(self.register(Load(value.buffer, row)), typ=self.kind) for row in rows]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [apply_function(self.builder, function, [a, b]) for a, b in pairs] + parts[len(parts) // 2 * 2 :]
        (total,), undefined = parts, ir.Constant(self.kind, ir.Undefined)
        width = self.lanes
        while width > 1:
            width //= 2
            lanes = [lane + width if lane < width else lane for lane in range(self.lanes)]
            total = apply_function(self.builder, function, [total, shuffled(self.builder, total, undefined, lanes)])
        return self.builder.extract_element(total, I32(0))

    def register(self, access: Store | Load) -> ir.Value:
        """The alloca of one vector of the register tile."""
        constant, atoms = self.addresses.flat(access.buffer, access.indices)
        at = constant
        for atom, factor in atoms.items():
            index = self.addresses.integer(atom)
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
                return apply_function(self.builder, function, values, dtype)
        raise InternalError(f"cannot emit {value!r}")

    def extreme(self, function: str, args: Sequence[NestValue], values: list[ir.Value]) -> ir.Value:
        """NaN where either value is. One instruction sees to the first value; one more comparison to a second one that is no number known here.
        (Reductions do without: a NaN among what is reduced may be lost.)"""
        if isinstance(args[0], Constant):
            args, values = args[::-1], values[::-1]
        found, second = apply_function(self.builder, function, values), values[1]
        if isinstance(args[1], Constant):
            return found
        return self.builder.select(self.builder.fcmp_unordered("uno", second, second), second, found)

    def load(self, load: Load) -> ir.Value:
        if load.buffer.scope == "register":
            return self.builder.load(self.register(load), typ=self.kind)
        stride, active = self.stride(load.buffer, load.indices), 1 if self.vector is None else self.vector[1]
        if stride is None:
            return self.load_lane_by_lane(load)
        address = self.addresses.key(load.buffer, load.indices)
        key = (load.buffer.name, address, stride, active, load.guard, self.vector if load.guard != 1 else self.vector is not None, self.here(load, address))
        found = self.loaded.get(key)
        if found is None:
            found = self.loaded[key] = self.fresh_load(load, stride, active)
        return found

    def fresh_load(self, load: Load, stride: int, active: int) -> ir.Value:
        builder, buffer = self.builder, load.buffer
        element, kind, align = ELEMENTS[buffer.dtype], self.kinds[buffer.dtype], buffer.element_bytes
        pointer = self.addresses.pointer(load.buffer, load.indices)
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
                mask = builder.and_(mask, lane_mask(active, self.lanes))
            if stride == 1:
                return masked_load(builder, kind, pointer, mask, align, load.outside)
            return gather(builder, kind, lane_pointers(builder, pointer, stride * align, self.lanes), mask, align, load.outside)
        if stride == 0:
            return broadcast(self.builder, builder.load(pointer, align=align, typ=element), self.lanes)
        if stride == 1 and (active == self.lanes or buffer.whole_vectors):
            return builder.load(pointer, align=align, typ=kind)
        if stride == 1:
            return masked_load(builder, kind, pointer, lane_mask(active, self.lanes), align)
        if stride == -1 and active == self.lanes:
            first = builder.gep(pointer, [I64(1 - active)], source_etype=element)
            vector = builder.load(first, align=align, typ=kind)
            return shuffled(self.builder, vector, vector, range(active)[::-1])
        result = splat(kind, 0)
        for lane in range(active):
            place = builder.gep(pointer, [I64(lane * stride)], source_etype=element)
            result = builder.insert_element(result, builder.load(place, align=align, typ=element), I32(lane))
        return result

    def stride(self, buffer: Buffer, indices: tuple[Expr, ...]) -> int | None:
        """Along the vector loop, in elements, 0 outside of one; None where the address is not linear in its variable."""
        return 0 if self.vector is None else self.addresses.stride(buffer, indices, self.vector[0])

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
        return frozenset((symbol, self.addresses.values[symbol]) for symbol in inside)

    def load_lane_by_lane(self, load: Load) -> ir.Value:
        """A vector whose elements lie wherever their indices say."""
        assert self.vector is not None
        if load.guard != 1:
            raise InternalError(f"{load.buffer.name}: a guarded load whose indices are not linear")
        (variable, active), start = self.vector, self.addresses.values[self.vector[0]]
        assert isinstance(start, int)
        kind = ELEMENTS[load.buffer.dtype]
        result: ir.Value = splat(ir.VectorType(kind, self.lanes), 0)
        for lane in range(active):
            self.addresses.values[variable] = start + lane
            element = self.builder.load(self.addresses.pointer(load.buffer, load.indices), align=load.buffer.element_bytes, typ=kind)
            result = self.builder.insert_element(result, element, I32(lane))
        self.addresses.values[variable] = start
        return result

    # -- masks

    def holds(self, guard: Expr) -> ir.Value:
        """Whether the guard of a single element holds."""
        value = self.addresses.integer(guard)
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
        factor = linear(index)[1].get(variable, 0)
        base = self.addresses.integer(index)
        steps = ir.Constant(kind, [factor * lane for lane in range(self.lanes)])
        if isinstance(base, int):
            return ir.Constant(kind, [base + factor * lane for lane in range(self.lanes)])
        return self.builder.add(broadcast(self.builder, self.builder.trunc(base, I32), self.lanes), steps)
