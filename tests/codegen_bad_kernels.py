"""Kernels that act out what can go wrong in one. Tests give this module to their workers as the table of jobs."""

from codegen.build import compile_object
from codegen.jobs import FAILURES, Build
from codegen.jobs import JOBS as REAL_JOBS
from codegen.kernel import Argument, Code
from codegen.protocol import Answer

# Kernels of the task below by the name of their "sketch": what they do in place of c = a * b. %a, %b, %c are pointers to the
# only element of each tensor, %w is the workspace of 16 elements, %right is the right result.
SMALLEST = "matmul:m=1,n=1,k=1"
KERNELS = {
    "act_right": "store float %right, ptr %c",
    "act_nothing": "",
    "act_wrong": "%twice = fadd float %right, %right  store float %twice, ptr %c",
    "act_after": "store float %right, ptr %c  %p = getelementptr float, ptr %c, i64 1  store float %right, ptr %p",
    "act_before": "store float %right, ptr %c  %p = getelementptr float, ptr %c, i64 -1  store float %right, ptr %p",
    "act_workspace": "store float %right, ptr %c  %p = getelementptr float, ptr %w, i64 16  store float %right, ptr %p",
    "act_once": "%old = load float, ptr %w  %new = fcmp uno float %old, 0.0  %y = select i1 %new, float %right, float 0.0"
    "  store float %y, ptr %c  store float 0.0, ptr %w",
    "act_segfault": "%p = inttoptr i64 8 to ptr  store volatile float 0.0, ptr %p",
    "act_trap": "call void @llvm.trap()",
    "act_loop": "br label %again again: br label %again dead:",
}
MODULE = """
declare void @llvm.trap()
define void @kernel(ptr %arguments) noinline {{
  %a = load ptr, ptr %arguments
  %at_b = getelementptr ptr, ptr %arguments, i64 1
  %b = load ptr, ptr %at_b
  %at_c = getelementptr ptr, ptr %arguments, i64 2
  %c = load ptr, ptr %at_c
  %at_w = getelementptr ptr, ptr %arguments, i64 3
  %w = load ptr, ptr %at_w
  %left = load float, ptr %a
  %factor = load float, ptr %b
  %right = fmul float %left, %factor
  {body}
  ret void
}}
define void @repeat(ptr %arguments, i64 %times) {{
  br label %loop
loop:
  %i = phi i64 [0, %0], [%next, %loop]
  call void @kernel(ptr %arguments)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %times
  br i1 %more, label %loop, label %after
after:
  ret void
}}
"""


class ActingBuild(Build):
    """Builds the kernels above, and otherwise what a real one builds."""

    def run(self) -> Answer:
        if self.sketch not in KERNELS:
            return super().run()
        text = MODULE.format(body=KERNELS[self.sketch].replace("  ", "\n"))
        arguments = (Argument("a", (1,), "input"), Argument("b", (1,), "input"), Argument("c", (1,), "output"))
        code = Code(self.task, arguments, 64, 0, self.target, compile_object(text, self.target))
        return Answer(code.header(), code.object_code)


JOBS = {**REAL_JOBS, ActingBuild.name: ActingBuild}

__all__ = ["FAILURES", "JOBS", "KERNELS", "SMALLEST"]
