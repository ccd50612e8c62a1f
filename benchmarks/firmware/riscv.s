# A RISC-V processor begins here, with nothing but a stack, and goes on as the Arm processors do.
.section .vectors, "ax"
.globl _start
_start:
    la sp, stack_end
    j reset
