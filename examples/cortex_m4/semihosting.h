/* Calls of the debugger or emulator that a Cortex-M processor runs under (Arm, "Semihosting for AArch32 and AArch64"). */

#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

static inline int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* Prints text. */
static inline void print(const char *text)
{
    semihosting(0x04, text); /* SYS_WRITE0 */
}

/* Ends the program, with success or as after a failure. */
static inline void leave(int success)
{
    semihosting(0x18, (const void *)(success ? 0x20026 : 0x20023)); /* SYS_EXIT: the end of the program, or an error */
    for (;;) {
    }
}

#endif
